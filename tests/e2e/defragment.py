# SPDX-License-Identifier: GPL-2.0-or-later
"""A pass over volumes of several kinds keeps every promise that can be checked from outside."""
import os

from commands import NTFS_POPULATE, NTFS_SCATTER, attribute_runs, defrag_report, scattered_volume, unmount_on_termination, \
    workspace
from guest import run
from host import write_view
from proof import ATTRIBUTE_LIST, prove_pass
from tap import Cases, equal, holds

PARTITION = 63 * 512  # where Windows XP put its first one: no multiple of 4096


def partitioned(path, volume):
    """An image with an MBR and the volume in its first partition."""
    size = os.path.getsize(volume)
    with open(path, 'xb') as image:
        image.truncate(PARTITION + size + (1 << 20))
    run('sh', '-c', 'echo "start=63, size=$2, type=7" | sfdisk --quiet --no-reread "$1"', 'sh', path, str(size // 512))
    run('dd', f'if={volume}', f'of={path}', f'seek={PARTITION}', 'oflag=seek_bytes', 'bs=1M', 'conv=notrunc,sparse',
        'status=none')


def prove(cases, name, options=(), in_partition=False, **volume):
    with workspace() as directory:
        store, scratch = os.path.join(directory, 'store'), os.path.join(directory, 'scratch')
        os.mkdir(store)
        os.mkdir(scratch)
        image = os.path.join(store, 'a.img')
        raw = os.path.join(scratch, 'raw') if in_partition else image
        scattered_volume(raw, **volume)
        if in_partition:
            partitioned(image, raw)
            os.unlink(raw)
        prove_pass(cases, name, image, scratch, options)


def lists_of(image, view):
    write_view(image, view)
    return [attribute for attribute in attribute_runs(view) if attribute[1] == ATTRIBUTE_LIST]


def prove_lists_go(cases):
    """Each file has dozens of extension records, and a list of them that has a cluster of its own."""
    with workspace() as directory:
        image, view = os.path.join(directory, 'a.img'), os.path.join(directory, 'view')
        with open(image, 'xb') as new:
            new.truncate(48 << 20)
        run('mkntfs', '--quiet', '--force', '--fast', '--cluster-size', '1024', image)
        run(NTFS_POPULATE, '--quiet', '--files', '6', '--file-size', '5M..5M', image)
        run(NTFS_SCATTER, '--quiet', '--max-run', '1', image)
        lists = len(lists_of(image, view))
        for options in [], ['--pack']:
            with cases.case(f'{" ".join(["a pass", *options])}: attribute lists go when none is needed, and leave no gaps'):
                holds(lists >= 6, 'a test of nothing')
                report = defrag_report(*options, image)['volumes'][0]
                equal(lists_of(image, view), [], 'attribute lists')
                holds(report['records_freed'] > lists, report)
                again = defrag_report(*options, image)
                equal((again['changed'], again['volumes'][0]['attributes_moved']), (False, 0), 'a second pass changes something:')
                defrag_report('--undo', image)


def main():
    unmount_on_termination()
    cases = Cases()
    prove(cases, 'files and directories', seed=1)
    prove(cases, 'everything scattered', seed=2, what='all')
    prove(cases, 'everything scattered, --pack', seed=3, what='all', options=['--pack'])
    prove(cases, 'a partition at sector 63', seed=4, in_partition=True)
    prove(cases, 'one cluster a fragment', seed=5, fragments=9000)
    prove_lists_go(cases)
    cases.finish()


main()
