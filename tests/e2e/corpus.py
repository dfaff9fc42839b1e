# SPDX-License-Identifier: GPL-2.0-or-later
"""Every promise of a pass for one case of the golden corpus, which the argument names: on the image in a store that is not
mounted, and through the mount. The cases that only make-corpus --big makes take minutes each: tests/run does without them."""
import os
import sys

from commands import MAKERS, ZCFS, defrag_report, unmount_on_termination, workspace
from guest import run
from host import digest, store_mounted
from proof import prove_pass
from tap import Cases, equal


def prove_through_mount(cases, name, store, point):
    image = os.path.join(point, os.path.basename(os.listdir(store)[0]))
    with store_mounted(ZCFS, store, point):
        before = digest(image)
        with cases.case(f'{name}: through the mount, there and back'):
            changed = defrag_report(image)['changed']
            equal(digest(image) != before, changed, 'the view being another one')
            if changed:
                defrag_report('--undo', '--wait=10', image)
            equal(digest(image), before, 'the view')


def main():
    unmount_on_termination()
    cases = Cases()
    case = sys.argv[1]
    with workspace() as directory:
        store, scratch, point = (os.path.join(directory, name) for name in ('store', 'scratch', 'mount'))
        os.mkdir(scratch)
        os.mkdir(point)
        for line in run(os.path.join(MAKERS, 'make-corpus'), '--only', case, store).splitlines():
            name, image, offsets = line.split('\t')[:3]
            with cases.case(f'{name}: its volumes are found'):
                found = [str(volume['off']) for volume in defrag_report('--analyze', image)['volumes']
                         if volume['result'] == 'done']
                equal(','.join(found), offsets, 'their offsets')
            prove_pass(cases, name, image, scratch)
            prove_through_mount(cases, name, store, point)
    cases.finish()


main()
