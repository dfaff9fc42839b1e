# SPDX-License-Identifier: GPL-2.0-or-later
"""--pack --order lays files out in that order, and keeps all that a pass promises. Names and times are what The Sleuth Kit
says, places what the independent checker reads."""
import os
import random

from commands import attribute_runs, defrag_report, scattered_volume, unmount_on_termination, workspace
from guest import ntfs_mounted, run
from host import write_view
from proof import prove_pass
from tap import Cases, holds

DATA = ('0x80', '-')  # type and name
SEED = 12


def spread_times(image):
    """Each file has times of its own, in no order."""
    numbers = random.Random(SEED)
    with ntfs_mounted(image, 'rw') as root:
        for directory, _, names in os.walk(root):
            for name in names:
                os.utime(os.path.join(directory, name), (numbers.randrange(10 ** 9), numbers.randrange(10 ** 9)),
                         follow_symlinks=False)


def keys_of(image):
    """MFT record -> path, time of access, time of change, as in the body file of mactime(1)."""
    keys = {}
    for line in run('fls', '-r', '-p', '-u', '-m', '', image).splitlines():
        _, path, inode, _, _, _, _, accessed, modified, *_ = line.split('|')
        number, kind, *_ = inode.split('-') + ['']
        if kind == '128' and '$' not in path:
            keys.setdefault(int(number), (path.split(':')[0].lower(), int(accessed), int(modified)))
    return keys


def out_of_order(runs, key):
    """How many files begin before the one that they should follow, and of how many."""
    files = sorted((key(attribute[0], pieces), pieces[0][1]) for attribute, pieces in runs.items()
                   if attribute[1:] == DATA and key(attribute[0], pieces) is not None)
    return sum(a[1] > b[1] and a[0] != b[0] for a, b in zip(files, files[1:])), len(files)


def main():
    unmount_on_termination()
    cases = Cases()
    with workspace() as directory:
        store, view = os.path.join(directory, 'store'), os.path.join(directory, 'view')
        os.mkdir(store)
        image = os.path.join(store, 'a.img')
        scattered_volume(image, fragments=1500, seed=SEED)
        spread_times(image)
        keys = keys_of(image)
        part = lambda i: lambda record, _: keys[record][i] if record in keys else None
        size = lambda record, pieces: sum(piece[2] for piece in pieces) if record in keys else None
        for order, key, sign in (('path', part(0), 1), ('-path', part(0), -1), ('size', size, 1), ('modified', part(2), 1),
                                 ('-accessed', part(1), -1)):
            with cases.case(f'--order={order}: the files lie in that order'):
                defrag_report('--pack', f'--order={order}', image)
                write_view(image, view)
                runs = {attribute: [(vcn, sign * lcn, length) for vcn, lcn, length in pieces]
                        for attribute, pieces in attribute_runs(view).items()}
                wrong, count = out_of_order(runs, key)
                holds(count > 100 and wrong < count / 20, f'{wrong} of {count} files are out of order')
                defrag_report('--undo', image)
    with workspace() as directory:
        for name in ('store', 'scratch'):
            os.mkdir(os.path.join(directory, name))
        image = os.path.join(directory, 'store', 'a.img')
        scattered_volume(image, fragments=1500, seed=SEED, what='all')
        prove_pass(cases, '--pack --order=-path', image, os.path.join(directory, 'scratch'), ['--pack', '--order=-path'])
    cases.finish()


main()
