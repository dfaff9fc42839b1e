# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes past the host's cache and what through it: O_DIRECT of whatever shape, next to cached I/O; what is read ahead into it.

    test_direct.py ZCFS MAP_IMAGE [TEST...]     SEED in the environment repeats a run, SECONDS makes it longer
"""
import contextlib
import ctypes
import errno
import mmap
import os
import random
import sys
import threading
import time

from disk import MIB, command, disk, drop_cache, serving
from mount import *

SEED = int(os.environ.get('SEED', time.time_ns() % 10**9))
SECONDS = int(os.environ.get('SECONDS', 3))
SECTOR, PAGE = 512, 4096
SHARED_PAGES = 4
# What is mounted there, and what O_DIRECT must be aligned to: on a disk of large sectors sector 63 goes through the cache.
DISKS = {'ext4': {}, 'ext4, 4 KiB sectors': {'sector_size': 4096}, 'xfs': {'kind': 'xfs', 'size': 320 * MIB},
         'ext4, larger': {'size': 128 * MIB}}


def on_disks(*names):
    """Runs the test on a store on each of these disks."""
    def decorate(function):
        def wrapper(outer):
            for number, name in enumerate(names):
                top = os.path.join(outer.top, str(number))
                os.mkdir(top)
                with disk(top, **DISKS[name]) as its_disk, serving(its_disk.point) as store:
                    try:
                        function(store, its_disk)
                    except AssertionError as error:
                        raise AssertionError(f'{name}, SEED={SEED}: {error}') from error
        wrapper.__name__, wrapper.__doc__ = function.__name__, function.__doc__
        wrapper.mounted = False
        return wrapper
    return decorate


def pages_cached(path):
    """How many pages of a file the host has in memory."""
    size = os.path.getsize(path)
    state = (ctypes.c_ubyte * ((size + PAGE - 1) // PAGE))()
    with open(path, 'r+b') as file, mmap.mmap(file.fileno(), size) as memory:
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        check_call(libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), state), path)
    return sum(byte & 1 for byte in state)


def pwrite_aligned(fd, data, off):
    with mmap.mmap(-1, len(data)) as memory:
        memory[:] = data
        return os.pwrite(fd, memory, off)


@on_disks('ext4', 'xfs')
def test_past_the_cache(store, its_disk):
    """what is read and written with O_DIRECT is not left in the host's cache; what is read without is"""
    data = noise(4 * MIB)
    write_file(store.host('plain'), data)
    store.bundle('bundle', data, SEED, 65536)
    os.sync()
    for name in ('plain', 'bundle/data'):
        drop_cache(store.host(name))
    store.start('-o', 'passthrough=off')
    for name, host in (('plain', 'plain'), ('bundle', 'bundle/data')):
        before = read_file(store.path(name)) if name == 'bundle' else data
        drop_cache(store.host(host))
        fd = os.open(store.path(name), os.O_RDWR | os.O_DIRECT)
        with mmap.mmap(-1, MIB) as memory:
            assert os.preadv(fd, [memory], MIB) == MIB and memory[:] == before[MIB:2 * MIB]
        assert pwrite_aligned(fd, noise(MIB, 2), 2 * MIB) == MIB
        assert pages_cached(store.host(host)) == 0, f'{name}: in the cache'
        os.close(fd)
        assert read_file(store.path(name)) == before[:2 * MIB] + noise(MIB, 2) + before[3 * MIB:]
        assert pages_cached(store.host(host)) > 0


@on_disks('ext4', 'ext4, 4 KiB sectors', 'xfs')
def test_every_shape(store, its_disk):
    """by the sector, from sector 63 on, over extents of every length: what is written directly is what everybody reads"""
    rng = random.Random(SEED)
    data = noise(3 * MIB + 63 * SECTOR)
    write_file(store.host('a.img'), data)
    store.tool('scatter', 'a.img', SEED, '512-20000', 63 * SECTOR)
    model = bytearray(store.expected('a.img'))
    os.sync()
    store.start()
    handles = [os.open(store.path('a.img'), os.O_RDWR | flag) for flag in (os.O_DIRECT, os.O_DIRECT | os.O_DSYNC, 0)]
    with mmap.mmap(-1, 2 * MIB) as memory:
        for _ in range(300):
            length = rng.choice((1, 8, 8, 9, 64, 128, 2048, rng.randrange(1, 600))) * SECTOR
            off = rng.randrange((len(data) - length) // SECTOR + 1) * SECTOR
            start = rng.choice((0, 0, SECTOR, PAGE))    # in memory
            part, fd = memoryview(memory)[start:start + length], rng.choice(handles)
            if rng.random() < 0.5:
                part[:] = model[off:off + length] = rng.randbytes(length)
                assert os.pwrite(fd, part, off) == length
            else:
                assert os.preadv(fd, [part], off) == length
                assert part == model[off:off + length], f'[{off}, {off + length}) is not what was written'
            part.release()
    for fd in handles:
        os.close(fd)
    assert read_file(store.path('a.img')) == model
    store.released('a.img')
    assert store.expected('a.img') == model


class Writer(threading.Thread):
    """Writes to its own sectors of the pages that it shares with the others, again and again, each time something else."""

    def __init__(self, path, flags, length, number, count):
        super().__init__()
        self.path, self.flags, self.length, self.number, self.count = path, flags, length, number, count
        self.rng = random.Random(SEED + number)
        self.written, self.error, self.done = {}, None, False

    def run(self):
        try:
            fd = os.open(self.path, os.O_RDWR | self.flags)
            with mmap.mmap(-1, SECTOR) as mapping, memoryview(mapping)[:self.length] as memory:
                while not self.done:
                    self.write(fd, memory)
            os.close(fd)
        except OSError as error:
            self.error = error

    def write(self, fd, memory):
        own = range(self.number, PAGE // SECTOR, self.count)
        off = self.rng.randrange(SHARED_PAGES) * PAGE + self.rng.choice(own) * SECTOR
        memory[:] = self.rng.randbytes(self.length)
        assert os.pwrite(fd, memory, off) == self.length
        self.written[off] = bytes(memory)


def share_pages(store, name, modes):
    """Writers of these modes in the same few pages: each sector must keep what was written to it last."""
    writers = [Writer(store.path(name), *mode, number, len(modes)) for number, mode in enumerate(modes)]
    for writer in writers:
        writer.start()
    time.sleep(SECONDS / 4)
    for writer in writers:
        writer.done = True
    for writer in writers:
        writer.join()
        assert not writer.error, writer.error
    fd = os.open(store.path(name), os.O_RDWR)
    os.fsync(fd)    # a page that could not be forgotten would make this fail
    os.close(fd)
    store.released(name)
    seen = read_file(store.path(name))
    for writer in writers:
        for off, data in writer.written.items():
            assert seen[off:off + len(data)] == data, f'{name}: writer {writer.number} has lost what it wrote at {off}'


@on_disks('ext4', 'xfs')
def test_beside_the_cache(store, its_disk):
    """direct and cached writes to different sectors of the same pages, at the same time: none is lost, and no flush fails"""
    for name in ('plain', 'bundle'):
        write_file(store.host(name), noise(MIB))
    store.tool('scatter', 'bundle', SEED, '512-8192')
    os.sync()
    store.start()
    for name in ('plain', 'bundle'):
        # The kernel lets cached writers of an inode in one at a time, but those with O_DIRECT together; what is not of whole
        # sectors goes through the host's cache.
        share_pages(store, name, ((os.O_DIRECT, SECTOR), (os.O_DIRECT, SECTOR - 12), (os.O_DIRECT, SECTOR), (os.O_DIRECT, 100)))
        share_pages(store, name, ((os.O_DIRECT, SECTOR), (0, SECTOR), (os.O_DIRECT | os.O_DSYNC, SECTOR)))


@on_disks('ext4')
def test_error_is_told_at_once(store, its_disk):
    """a direct write that fails is an error, not of some later flush but itself; when the disk is well again all is as before"""
    size = 24 * MIB
    for name in ('plain', 'bundle'):
        fd = os.open(store.host(name), os.O_CREAT | os.O_RDWR, 0o644)
        fallocate(fd, 0, 0, size)
        os.fsync(fd)
        os.close(fd)
    store.tool('scatter', 'bundle', SEED, 65536)
    os.sync()
    store.start()
    for name in ('plain', 'bundle'):
        fd = os.open(store.path(name), os.O_RDWR | os.O_DIRECT)
        its_disk.fill_memory()
        failures = 0
        for off in range(0, size, MIB):
            try:
                pwrite_aligned(fd, noise(MIB), off)
            except OSError as error:
                assert error.errno in (errno.EIO, errno.ENOSPC), error
                failures += 1
        assert failures, f'{name}: the disk has taken it all'
        its_disk.release_memory()
        for off in range(0, 4 * MIB, MIB):
            assert pwrite_aligned(fd, noise(MIB, off), off) == MIB
        with contextlib.suppress(OSError):    # the disk may have refused metadata, too
            os.close(fd)
        store.released(name)
        with open(store.path(name), 'rb') as file:
            assert file.read(4 * MIB) == b''.join(noise(MIB, off) for off in range(0, 4 * MIB, MIB))


def bytes_read(process):
    """From disks."""
    with open(f'/proc/{process}/io') as file:
        return next(int(line.split()[1]) for line in file if line.startswith('read_bytes:'))


@on_disks('ext4, larger')
def test_read_ahead(store, its_disk):
    """a scattered image that is read in sequence takes from the disk what was asked for, whatever the disk likes to read ahead"""
    command('blockdev', '--setra', str(8 * MIB // SECTOR), its_disk.device)
    for name, piece in (('small.img', 4096), ('odd.img', 300032)):
        write_file(store.host(name), noise(24 * MIB))
        store.tool('scatter', name, SEED, piece)
    os.sync()
    store.start()
    for name in ('small.img', 'odd.img'):
        want = store.expected(name)[:8 * MIB]
        drop_cache(store.host(name, 'data'))
        with open(store.path(name), 'rb', buffering=0) as file:
            before = bytes_read(store.daemon)
            assert b''.join(file.read(65536) for _ in range(len(want) // 65536)) == want
            taken = bytes_read(store.daemon) - before
        assert len(want) <= taken < 1.5 * len(want) + 2 * MIB, f'{name}: {taken} bytes read for {len(want)}'


@on_disks('ext4, larger')
def test_no_read_ahead(store, its_disk):
    """what is not read in sequence is not read ahead"""
    write_file(store.host('odd.img'), noise(24 * MIB))
    store.tool('scatter', 'odd.img', SEED, 300032)
    os.sync()
    store.start()
    want = store.expected('odd.img')
    drop_cache(store.host('odd.img', 'data'))
    with open(store.path('odd.img'), 'rb', buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        before = bytes_read(store.daemon)
        for i in range(64):
            off = i * (7 * MIB + 64 * PAGE) % (22 * MIB)
            assert os.pread(file.fileno(), PAGE, off) == want[off:off + PAGE]
        taken = bytes_read(store.daemon) - before
    assert 64 * PAGE <= taken < 64 * 16 * PAGE, f'{taken} bytes read for {64 * PAGE}'


if __name__ == '__main__':
    print(f'# SEED={SEED}')
    sys.exit(run(tests_of(globals())))
