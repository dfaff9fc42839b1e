# SPDX-License-Identifier: GPL-2.0-or-later
"""Stores on every kind of host file system, disks with large sectors among them: what O_DIRECT may ask of the host differs, what the guest
sees must not.

    test_hosts.py ZCFS MAP_IMAGE [TEST...]      SEED in the environment repeats a run, STEPS makes it longer
"""
import os
import sys

from disk import MIB, disk, mount_memory, serving, unmount
from mount import *
from test_coherence import test_direct_reads_of_every_shape as direct_reads, test_direct_writes_of_every_shape as direct_writes, \
    test_holes_of_the_view as holes, test_punched_is_seen as punched
import test_model

SECTOR_63 = 63 * 512


def model(store):
    twin = test_model.twin_of(store, store.bundle('a.img', noise(MIB, test_model.SEED), 1, '512-20480', first=SECTOR_63))
    test_model.play(store, 'a.img', twin, test_model.SEED)
    store.released('a.img')
    assert store.expected('a.img') == read_file(twin)


PARTS = {'O_DIRECT reads': direct_reads, 'O_DIRECT writes': direct_writes, 'punched holes': punched, 'SEEK_HOLE and SEEK_DATA': holes,
         'the model': model}


def every_part(store):
    store.start()
    for name, part in PARTS.items():
        try:
            part(store)
        except Exception as error:
            raise AssertionError(f'{name}, SEED={test_model.SEED}: {error}') from error


def on_a_disk(kind, size, sector_size):
    def test(outer):
        with disk(outer.top, kind, size, sector_size) as its_disk, serving(its_disk.point) as store:
            every_part(store)
    test.__name__ = f'{kind}, {sector_size}'
    test.__doc__ = f'{kind} on a disk with sectors of {sector_size} bytes'
    test.mounted = False
    return test


@unmounted
def in_memory(outer):
    """a memory file system"""
    point = os.path.join(outer.top, 'memory')
    os.mkdir(point)
    mount_memory(point, 64 * MIB)
    try:
        with serving(point) as store:
            every_part(store)
    finally:
        unmount(point)


if __name__ == '__main__':
    print(f'# SEED={test_model.SEED}')
    sys.exit(run([on_a_disk('ext4', 64 * MIB, 512), on_a_disk('ext4', 64 * MIB, 4096), on_a_disk('xfs', 320 * MIB, 512),
                  on_a_disk('xfs', 320 * MIB, 4096), on_a_disk('btrfs', 128 * MIB, 512), on_a_disk('btrfs', 128 * MIB, 4096), in_memory]))
