# SPDX-License-Identifier: GPL-2.0-or-later
"""Mounts, loads, and takes away the mount or the daemon with requests under way, again and again: nothing may hang, nothing be left
behind, and nothing that was acknowledged be lost.

SECONDS in the environment is how long each test goes on (8; hours are fine), SEED repeats a run: it is printed. The order of rounds
is the same for the same seed, their timing is not."""
import contextlib
import errno
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

from mount import *

SECONDS = int(os.environ.get('SECONDS', 8))
SEED = int(os.environ.get('SEED', random.SystemRandom().randrange(1 << 32)))

BLOCK = 4096
SECTOR = 512
BLOCKS = 64            # of each writer
WRITERS = 4
SIZE = WRITERS * BLOCKS * BLOCK
LOAD_SIZE = 16 << 20
JOIN_SECONDS = 240     # for a system call to come back after its mount has gone
# What a request may end with when its daemon goes.
FAILED = (*GONE, errno.ENODEV, errno.EIO, errno.EINTR)


class Writer:
    """A thread that writes its own part of the image, block by block, each time a higher version, and now and then makes sure of it.
    Afterwards each sector must be at least as new as what was made sure of (written, if direct: nothing above the host's cache keeps
    that) and no newer than what was tried."""

    def __init__(self, number, direct):
        self.number = number
        self.direct = direct
        self.safe = [0] * BLOCKS
        self.tried = [0] * BLOCKS
        self.version = 0
        self.problem = None
        self.buffer = mmap.mmap(-1, BLOCK)  # aligned, as direct I/O wants it
        self.thread = None

    def start(self, path, seed):
        self.stopping = False
        fd = os.open(path, os.O_RDWR | (os.O_DIRECT if self.direct else 0))
        self.thread = threading.Thread(target=self.work, args=(fd, random.Random(seed)), daemon=True)
        self.thread.start()

    def work(self, fd, rng):
        try:
            while not self.stopping:
                self.step(fd, rng)
        except OSError as error:
            if error.errno not in FAILED:
                self.problem = error
        finally:
            with contextlib.suppress(OSError):
                os.close(fd)

    def step(self, fd, rng):
        written = {}
        for _ in range(rng.randrange(1, 16)):
            block = rng.randrange(BLOCKS)
            self.version += 1
            self.tried[block] = self.version
            self.buffer[:] = self.content(block, self.version)
            os.pwritev(fd, [self.buffer], self.offset(block))
            written[block] = self.version
            if self.direct:
                self.safe[block] = self.version
        os.fdatasync(fd)
        for block, version in written.items():
            self.safe[block] = version

    def offset(self, block):
        return (self.number * BLOCKS + block) * BLOCK

    def content(self, block, version):
        sector = b'%016d%016d' % (self.offset(block), version)
        return sector * (BLOCK // len(sector))

    def stop(self):
        self.stopping = True
        self.thread.join(JOIN_SECONDS)
        assert not self.thread.is_alive(), f'a write has not come back within {JOIN_SECONDS} s'
        if self.problem:
            raise self.problem

    def check(self, data):
        for block in range(BLOCKS):
            for off in range(self.offset(block), self.offset(block) + BLOCK, SECTOR):
                text = data[off:off + 32]
                assert data[off:off + SECTOR] == text * (SECTOR // 32), f'at {off}: torn'
                if text == bytes(32):
                    where, version = self.offset(block), 0
                else:
                    where, version = int(text[:16]), int(text[16:])
                assert where == self.offset(block), f'at {off}: what belongs to {where}'
                assert self.safe[block] <= version <= self.tried[block], \
                    f'at {off}: version {version}, not {self.safe[block]}..{self.tried[block]}'


class Load:
    """fio, for many requests at a time on another image; what becomes of them does not matter."""

    def __init__(self, store, direct):
        self.process = None
        if shutil.which('fio'):
            self.process = subprocess.Popen(
                ['fio', '--name=load', '--filename=' + store.path('load.img'), f'--direct={direct}', '--rw=randrw', '--iodepth=32',
                 '--ioengine=' + ('libaio' if direct else 'psync'), '--bsrange=4k-256k', f'--size={LOAD_SIZE}', '--time_based',
                 f'--runtime={SECONDS + 60}', '--allow_file_create=0', '--numjobs=2', '--thread'],
                cwd=store.top, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self):
        if not self.process:
            return
        self.process.kill()
        try:
            self.process.wait(JOIN_SECONDS)
        except subprocess.TimeoutExpired as late:
            raise AssertionError(f'fio has not come back within {JOIN_SECONDS} s') from late


class Soak:
    def __init__(self, store, options, seed):
        self.store = store
        self.options = options
        self.rng = random.Random(seed)
        self.writers = [Writer(i, direct=i % 2 == 0) for i in range(WRITERS)]

    def prepare(self, block):
        for name, size in (('a.img', SIZE), ('load.img', LOAD_SIZE)):
            write_file(self.store.host(name), bytes(size))
            if block:
                self.store.tool('scatter', name, self.rng.randrange(1000), block)

    def round(self):
        self.store.start(*self.options)
        self.check(read_file(self.store.path('a.img')))
        load = Load(self.store, self.rng.randrange(2))
        try:
            for writer in self.writers:
                writer.start(self.store.path('a.img'), self.rng.random())
            time.sleep(self.rng.uniform(0.05, 0.4))
            how = self.rng.choice([self.unmount, self.detach, self.terminate, self.kill, self.kill])
            how(load)
        finally:
            for writer in self.writers:
                writer.stopping = True
            load.stop()
        self.store.wait_for_end()
        left = mounts_at(self.store.point)
        assert not left, f'{how.__name__}: still mounted: {left}'
        self.check(self.content())

    def content(self):
        if os.path.isdir(self.store.host('a.img')):
            return self.store.expected('a.img')
        return read_file(self.store.host('a.img'))

    def check(self, data):
        assert len(data) == SIZE
        for writer in self.writers:
            writer.check(data)

    def stop_writers(self):
        for writer in self.writers:
            writer.stop()

    # ---- the ways to end ----

    def unmount(self, load):
        """Refused while it is used, done when it is not."""
        with fails_with(errno.EBUSY):
            check_call(libc.umount2(os.fsencode(self.store.point), 0))
        self.stop_writers()
        load.stop()
        self.store.unmount()

    def detach(self, load):
        """Open files go on."""
        check_call(libc.umount2(os.fsencode(self.store.point), LAZY))
        before = [writer.version for writer in self.writers]
        wait_until(lambda: all(w.version > b for w, b in zip(self.writers, before)), 'writing after umount -l')
        assert alive(self.store.daemon)
        load.stop()
        self.stop_writers()

    def terminate(self, load):
        os.kill(self.store.daemon, signal.SIGTERM)
        self.stop_writers()
        load.stop()

    def kill(self, load):
        """The dead mount is removed here, or replaced by the next daemon (test_start.py)."""
        os.kill(self.store.daemon, signal.SIGKILL)
        self.stop_writers()
        load.stop()
        check_call(libc.umount2(os.fsencode(self.store.point), LAZY))


def soak(store, block, *options):
    print(f'# SEED={SEED}', flush=True)
    run_ = Soak(store, options, SEED)
    run_.prepare(block)
    end = time.monotonic() + SECONDS
    rounds = 0
    while time.monotonic() < end:
        try:
            run_.round()
        except AssertionError as error:
            raise AssertionError(f'round {rounds}: {error}') from error
        rounds += 1
    print(f'# {rounds} rounds', flush=True)


def soaking(function):
    """Mounts itself, and takes its time."""
    function.mounted = False
    function.seconds = 2 * SECONDS + TEST_SECONDS
    return function


@soaking
def test_uring(store):
    """a scattered image over io_uring"""
    if not os.path.exists(ENABLE_URING):
        skip('the kernel has no FUSE over io_uring')
    with uring_enabled():
        soak(store, BLOCK, '-o', 'io_uring=yes')


@soaking
@elsewhere
def test_device(store):
    """a scattered image over /dev/fuse, mounted elsewhere"""
    soak(store, BLOCK, '-o', 'io_uring=no')


@soaking
def test_plain(store):
    """a plain image, served as zcfs likes best"""
    with uring_enabled():
        soak(store, 0)


if __name__ == '__main__':
    sys.exit(run(tests_of(globals())))
