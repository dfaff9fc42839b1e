# SPDX-License-Identifier: GPL-2.0-or-later
"""Random operations on a file of the mount and on an ordinary file: both must always be the same.

    test_model.py ZCFS MAP_IMAGE [TEST...]      SEED in the environment repeats a run, STEPS makes it longer
"""
import errno
import mmap
import os
import random
import sys
import tempfile

from mount import *

SEED = int(os.environ.get('SEED', time.time_ns() % 10**9))
STEPS = int(os.environ.get('STEPS', 400))
SIZE_MAX = 3 << 20


class Pair:
    """One file in the mount, opened in several ways, and its ordinary twin."""

    def __init__(self, store, name, twin, rng):
        self.rng = rng
        self.path, self.twin_path = store.path(name), twin
        self.twin = os.open(twin, os.O_RDWR)
        self.open()

    def open(self):
        self.fds = [os.open(self.path, os.O_RDWR), os.open(self.path, os.O_RDWR | os.O_SYNC),
                    os.open(self.path, os.O_RDWR | os.O_DIRECT)]
        self.append = os.open(self.path, os.O_RDWR | os.O_APPEND)

    def close(self):
        for fd in (*self.fds, self.append):
            os.close(fd)

    def size(self):
        return os.fstat(self.twin).st_size

    def fd(self):
        return self.rng.choice(self.fds)

    def range(self, past=0):
        """An offset and a length, often near boundaries."""
        size = self.size() + past
        off = self.rng.randrange(size + 1)
        if self.rng.random() < 0.5:
            off -= off % self.rng.choice((512, 4096, 65536))
        length = self.rng.choice((1, 511, 512, 513, 4096, 4097, 65536, 200000, self.rng.randrange(1, 300000)))
        return off, min(length, SIZE_MAX - off)

    def check(self, off, length):
        got, want = os.pread(self.fd(), length, off), os.pread(self.twin, length, off)
        assert got == want, f'[{off}, {off + length}) differs at {first_difference(got, want, off)}'

    # operations

    def write(self):
        off, length = self.range(past=100000)
        data = self.rng.randbytes(length)
        assert os.pwrite(self.fd(), data, off) == length
        os.pwrite(self.twin, data, off)

    def write_vector(self):
        off, length = self.range()
        pieces = [self.rng.randbytes(self.rng.randrange(1, 5000)) for i in range(5)]
        assert os.pwritev(self.fd(), pieces, off) == sum(map(len, pieces))
        os.pwrite(self.twin, b''.join(pieces), off)

    def read(self):
        self.check(*self.range(past=1000))

    def write_direct(self):
        """As O_DIRECT wants it: memory, offset and length in sectors."""
        off, length = self.range(past=100000)
        memory = mmap.mmap(-1, length + 2 * 4096)
        start, off, length = self.rng.randrange(8) * 512, off // 512 * 512, length // 512 * 512
        data = memoryview(memory)[start:start + length]
        data[:] = self.rng.randbytes(length)
        assert os.pwrite(self.fds[2], data, off) == length
        os.pwrite(self.twin, data, off)

    def read_direct(self):
        off, length = self.range(past=1000)
        memory = mmap.mmap(-1, length + 2 * 4096)
        start, off = self.rng.randrange(8) * 512, off // 512 * 512
        n = os.preadv(self.fds[2], [memoryview(memory)[start:start + (length + 511) // 512 * 512]], off)
        got, want = memory[start:start + n], os.pread(self.twin, (length + 511) // 512 * 512, off)
        assert got == want, f'[{off}, {off + length}) differs directly at {first_difference(got, want, off)}'

    def read_mapped(self):
        size = self.size()
        if size == 0:
            return
        off, length = self.range()
        with mmap.mmap(self.fd(), size, prot=mmap.PROT_READ) as memory:
            got, want = memory[off:off + length], os.pread(self.twin, length, off)
            assert got == want, f'[{off}, {off + length}) differs when mapped at {first_difference(got, want, off)}'

    def send(self):
        """Without the bytes passing through this process."""
        off, length = self.range()
        with tempfile.TemporaryFile() as target:
            sent = 0
            while sent < length and (n := os.sendfile(target.fileno(), self.fd(), off + sent, length - sent)):
                sent += n
            got, want = os.pread(target.fileno(), length + 1, 0), os.pread(self.twin, length, off)
        assert got == want, f'[{off}, {off + length}) differs when sent at {first_difference(got, want, off)}'

    def copy(self):
        """Within the file; source and target must not overlap."""
        off, length = self.range()
        to = self.range(past=50000)[0]
        length = min(length, SIZE_MAX - to, abs(to - off), self.size() - off)
        copied = 0
        while copied < length:
            n = os.copy_file_range(self.fd(), self.fd(), length - copied, off + copied, to + copied)
            assert n > 0
            copied += n
        os.pwrite(self.twin, os.pread(self.twin, length, off), to)

    def append_some(self):
        data = self.rng.randbytes(self.rng.randrange(1, 20000))
        if self.size() + len(data) > SIZE_MAX:
            return
        os.write(self.append, data)
        os.pwrite(self.twin, data, self.size())

    def truncate(self):
        size = self.rng.randrange(self.size() + 100000)
        size = min(size - size % self.rng.choice((1, 1, 512, 4096)), SIZE_MAX)
        if self.rng.random() < 0.5:
            os.truncate(self.path, size)
        else:
            os.ftruncate(self.fd(), size)
        os.ftruncate(self.twin, size)

    def punch(self):
        self.allocate(FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE)

    def zero(self):
        self.allocate(FALLOC_ZERO_RANGE | self.rng.choice((0, FALLOC_KEEP_SIZE)))

    def preallocate(self):
        self.allocate(self.rng.choice((0, FALLOC_KEEP_SIZE)))

    def allocate(self, mode):
        off, length = self.range(past=5000)
        if length == 0:
            return
        try:
            fallocate(self.fd(), mode, off, length)
        except OSError as error:
            # Memory file systems cannot zero a range; nor, then, can an image there. A bundle has grown first.
            assert mode & FALLOC_ZERO_RANGE and error.errno == errno.EOPNOTSUPP, error
            size = os.fstat(self.fds[0]).st_size
            assert size in (self.size(), max(self.size(), off + length)) and (size == self.size() or not mode & FALLOC_KEEP_SIZE)
            os.ftruncate(self.twin, size)
            return
        fallocate(self.twin, mode, off, length)

    def map(self):
        size = self.size()
        if size == 0:
            return
        off = self.rng.randrange(size)
        data = self.rng.randbytes(min(self.rng.randrange(1, 10000), size - off))
        for fd in (self.fd(), self.twin):
            with mmap.mmap(fd, size) as memory:
                memory[off:off + len(data)] = data
                memory.flush()

    def holes(self):
        """What is called a hole must read as zeros."""
        size, off, fd = self.size(), 0, self.fds[1]
        while off < size:
            hole = os.lseek(fd, off, os.SEEK_HOLE)
            if hole >= size:
                break
            try:
                off = os.lseek(fd, hole, os.SEEK_DATA)
            except OSError as error:
                assert error.errno == errno.ENXIO
                off = size
            assert not any(os.pread(self.twin, off - hole, hole)), f'[{hole}, {off}) has data'

    def sync(self):
        (os.fsync if self.rng.random() < 0.5 else os.fdatasync)(self.fd())

    def reopen(self):
        self.close()
        self.open()

    def compare(self):
        assert os.fstat(self.fds[0]).st_size == os.stat(self.path).st_size == self.size()
        got, want = read_file(self.path), read_file(self.twin_path)
        assert got == want, f'differs at {first_difference(got, want, 0)} of {len(want)}'


def first_difference(a, b, off):
    return next((off + i for i in range(min(len(a), len(b))) if a[i] != b[i]), off + min(len(a), len(b)))


WEIGHTS = {'write': 15, 'write_vector': 5, 'write_direct': 10, 'read': 15, 'read_direct': 10, 'read_mapped': 6, 'send': 4, 'copy': 5,
           'append_some': 6, 'truncate': 8, 'punch': 6, 'zero': 4, 'preallocate': 3, 'map': 6, 'holes': 3, 'sync': 3, 'reopen': 3,
           'compare': 4}


def play(store, name, twin, seed, between=None):
    rng = random.Random(seed)
    pair = Pair(store, name, twin, rng)
    history = []
    try:
        for step in range(STEPS):
            operation = rng.choices(list(WEIGHTS), WEIGHTS.values())[0]
            history.append(operation)
            getattr(pair, operation)()
            if between and rng.random() < 0.02:
                pair.close()
                between(pair)
                pair.open()
        pair.compare()
    except Exception as error:
        raise AssertionError(f'SEED={SEED}, step {len(history)}: {error!r}; last: {history[-8:]}') from error
    finally:
        pair.close()
        os.close(pair.twin)


def twin_of(store, data):
    path = os.path.join(store.top, 'twin')
    write_file(path, data)
    return path


def test_plain(store):
    """a plain image"""
    data = noise(1 << 20, SEED)
    write_file(store.host('a.img'), data)
    play(store, 'a.img', twin_of(store, data), SEED)
    assert read_file(store.host('a.img')) == read_file(os.path.join(store.top, 'twin'))


def play_bundle(store, size, block, seed):
    twin = twin_of(store, store.bundle('a.img', noise(size, seed), seed, block))
    play(store, 'a.img', twin, seed)
    store.released('a.img')
    assert store.expected('a.img') == read_file(twin)


def test_bundle(store):
    """a bundle of 4 KiB blocks"""
    play_bundle(store, 1 << 20, 4096, SEED + 1)


def test_fine_bundle(store):
    """a bundle of 512-byte blocks and odd size"""
    play_bundle(store, 300001, 512, SEED + 2)


def test_odd_bundle(store):
    """a bundle of pieces of all lengths from sector 63 on"""
    size = 1 << 20
    twin = twin_of(store, store.bundle('a.img', noise(size, SEED), SEED % 1000, '512-20480', first=63 * 512))
    play(store, 'a.img', twin, SEED + 6)
    store.released('a.img')
    assert store.expected('a.img') == read_file(twin)


def test_coarse_bundle(store):
    """a bundle of 64 KiB blocks"""
    play_bundle(store, 2 << 20, 65536, SEED + 3)


def test_changing_map(store):
    """a bundle whose map is changed by a tool now and then, the twin accordingly"""
    twin = twin_of(store, store.bundle('a.img', noise(1 << 20, SEED)))
    seeds = iter(range(1, 10000))

    def change(pair):
        store.released('a.img')
        store.tool('scatter', 'a.img', next(seeds), pair.rng.choice((512, 4096)))
        data = store.expected('a.img')
        os.ftruncate(pair.twin, 0)
        os.pwrite(pair.twin, data, 0)
    play(store, 'a.img', twin, SEED + 4, change)
    store.released('a.img')
    assert store.expected('a.img') == read_file(twin)


def test_restarts(store):
    """a bundle whose daemon is killed and started again now and then"""
    twin = twin_of(store, store.bundle('a.img', noise(1 << 20, SEED)))

    def restart(pair):
        os.kill(store.daemon, 9)
        store.wait_for_end()
        store.start()
    play(store, 'a.img', twin, SEED + 5, restart)
    store.released('a.img')
    assert store.expected('a.img') == read_file(twin)


if __name__ == '__main__':
    print(f'# SEED={SEED}')
    sys.exit(run(tests_of(globals()), seconds=TEST_SECONDS + STEPS // 20))
