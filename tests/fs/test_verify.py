# SPDX-License-Identifier: GPL-2.0-or-later
"""Every byte where it belongs: fio writes maps of every kind through the mount and verifies while the rest of the image is cut, grown,
punched and synced; then the guest's view is put together from database and data alone and compared.

    test_verify.py ZCFS MAP_IMAGE [TEST...]      SEED in the environment repeats a run, MEGABYTES makes it larger
"""
import mmap
import os
import random
import subprocess
import sys
import threading

from mount import *

SEED = int(os.environ.get('SEED', time.time_ns() % 10**9))
VERIFIED = int(os.environ.get('MEGABYTES', 16)) << 20   # fio's part, at the beginning of the image
BEYOND = 8 << 20                                        # the part that changes its size, behind it
SIZE = VERIFIED + BEYOND // 2
SECTOR_63 = 63 * 512

# How the maps are cut; see map-image.
LAYOUTS = {
    'plain': None,
    'bundle of one extent': (SIZE, 0),
    'bundle of 4 KiB clusters from sector 63 on': (4096, SECTOR_63),
    'bundle of odd pieces': ('512-12288', 7 * 512),
    'bundle of sectors': (512, 0),
}

# How fio writes and reads.
JOBS = {
    'O_DIRECT, 16 requests at a time': ['--ioengine=libaio', '--iodepth=16', '--direct=1', '--bsrange=512-256k', '--bs_unaligned=0'],
    'O_DIRECT by io_uring, sector by sector': ['--ioengine=io_uring', '--iodepth=32', '--direct=1', '--bs=512', '--io_size=4m'],
    'buffered, at any byte, with fsyncs': ['--ioengine=psync', '--direct=0', '--bsrange=600-70000', '--bs_unaligned=1', '--fsync=50',
                                           '--invalidate=1'],
    'a shared mapping': ['--ioengine=mmap', '--bsrange=4k-64k', '--fsync=64'],
}


class Fio:
    """One run that verifies all it has written, in the background. The headers tell where a block belongs, so misplaced ones are found."""

    def __init__(self, store, path, options):
        command = ['fio', '--name=verify', '--filename=' + path, '--rw=randrw', '--rwmixread=30', f'--size={VERIFIED}', '--verify=crc32c',
                   '--verify_fatal=1', '--verify_backlog=128', '--verify_backlog_batch=64', '--verify_async=0', '--do_verify=1',
                   f'--randseed={SEED}', '--allrandrepeat=1', '--group_reporting', '--output-format=terse', *options]
        self.process = subprocess.Popen(command, cwd=store.top, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, text=True)
        store.children.append(self.process)

    def finish(self):
        output = self.process.communicate()[0]
        assert self.process.returncode == 0, f'fio: {self.process.returncode}, SEED={SEED}: {output[-2000:]}'


class Unrest(threading.Thread):
    """Keeps changing the size and the contents of what lies beyond VERIFIED, and remembers what should be there."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path = path
        self.rng = random.Random(SEED)
        self.model = bytearray(SIZE - VERIFIED)
        self.stop = threading.Event()
        self.error = None

    def run(self):
        files = [os.open(self.path, os.O_RDWR | flag) for flag in (0, os.O_DIRECT)]
        try:
            while not self.stop.is_set():
                getattr(self, self.rng.choice(('resize', 'resize', 'write', 'write', 'write', 'punch', 'read', 'sync')))(files)
                self.stop.wait(0.005)
        except BaseException as error:
            self.error = error
        finally:
            for fd in files:
                os.close(fd)

    def resize(self, files):
        size = self.rng.randrange(BEYOND)
        size -= size % self.rng.choice((1, 512, 4096))
        os.ftruncate(self.rng.choice(files), VERIFIED + size)
        del self.model[size:]
        self.model.extend(bytes(size - len(self.model)))

    def write(self, files):
        off = self.rng.randrange(len(self.model) + 1) // 512 * 512
        data = self.rng.randbytes(min(self.rng.randrange(1, 128) * 512, BEYOND - off))
        memory = mmap.mmap(-1, max(len(data), 1))   # aligned, for O_DIRECT
        memory[:len(data)] = data
        assert os.pwrite(self.rng.choice(files), memoryview(memory)[:len(data)], VERIFIED + off) == len(data)
        self.model.extend(bytes(max(0, off - len(self.model))))
        self.model[off:off + len(data)] = data

    def punch(self, files):
        off, length = self.rng.randrange(BEYOND), self.rng.randrange(1, 1 << 20)
        fallocate(files[0], FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, VERIFIED + off, length)
        end = min(off + length, len(self.model))
        if off < end:
            self.model[off:end] = bytes(end - off)

    def read(self, files):
        off = self.rng.randrange(len(self.model) + 1)
        assert os.pread(files[0], 50000, VERIFIED + off) == self.model[off:off + 50000], f'at {VERIFIED + off}'

    def sync(self, files):
        os.fdatasync(files[0])

    def finish(self):
        self.stop.set()
        self.join(WAIT_SECONDS)
        if self.error:
            raise AssertionError(f'SEED={SEED}: beyond what fio verifies: {self.error!r}') from self.error


def read_direct(path):
    """The whole file past the page cache."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    size, step = os.fstat(fd).st_size, 1 << 20
    memory, pieces = mmap.mmap(-1, step), []
    try:
        for off in range(0, size, step):
            n = os.preadv(fd, [memory], off)
            assert n == min(step, size - off), f'{n} bytes at {off} of {size}'
            pieces.append(memory[:n])
    finally:
        os.close(fd)
    return b''.join(pieces)


def same(found, wanted, what):
    if found != wanted:
        place = next((i for i in range(min(len(found), len(wanted))) if found[i] != wanted[i]), min(len(found), len(wanted)))
        raise AssertionError(f'SEED={SEED}: {what}: {len(found)} bytes for {len(wanted)}, first difference at {place}')


def check_views(store, name, model):
    """The mount's view by every way of reading, the composed view, and the mount's after a restart are one and the same."""
    path = store.path(name)
    buffered = read_file(path)
    same(buffered[VERIFIED:], bytes(model), 'what was written beyond fio\'s part')
    same(read_direct(path), buffered, 'O_DIRECT against buffered')
    store.released(name)
    store.unmount()
    same(store.composed(name), buffered, 'database and data against the mount')
    store.start()
    same(read_file(path), buffered, 'after a restart')


def verify(store, layout, job):
    fd = os.open(store.host('a.img'), os.O_CREAT | os.O_RDWR, 0o644)
    os.ftruncate(fd, SIZE)
    os.close(fd)
    if layout:
        store.tool('scatter', 'a.img', SEED % 1000, *layout)
    unrest = Unrest(store.path('a.img'))
    fio = Fio(store, store.path('a.img'), job)
    unrest.start()
    try:
        fio.finish()
    finally:
        unrest.finish()
    check_views(store, 'a.img', unrest.model)


def test_of(layout, job):
    def test(store):
        verify(store, LAYOUTS[layout], JOBS[job])
    test.__name__ = f'{layout}, {job}'
    test.__doc__ = f'{layout}: {job}: fio finds what it wrote, and so does a reader of database and data'
    test.over = False
    return test


if __name__ == '__main__':
    print(f'# SEED={SEED}')
    sys.exit(run([test_of(layout, job) for layout in LAYOUTS for job in JOBS], seconds=120 + (VERIFIED >> 20)))
