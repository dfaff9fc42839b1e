# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks that misbehave when told to: a file system on a loop device, on a file in a memory file system of limited size.

Cutting the file makes the device fail to read what was there; filling the memory file system makes it fail to write where nothing was
written yet. Freezing the file system makes writes wait, stopping whoever serves the file makes reads wait.
"""
import contextlib
import os
import subprocess
import threading
import time

from mount import LAZY, Store, WAIT_SECONDS, check_call, libc, skip

MIB = 1 << 20
JOIN_SECONDS = 60       # for what does not wait for the disk
GIVE_UP_SECONDS = 120   # nothing that a test has stopped stays stopped for longer


def command(*words):
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=WAIT_SECONDS)
    if done.returncode != 0:
        raise RuntimeError(f'{" ".join(words)}: {done.stdout}')
    return done.stdout.strip()


def mount_memory(point, size):
    command('mount', '-t', 'tmpfs', '-o', f'size={size}', 'zcfs-test', point)


def unmount(point):
    for _ in range(100):
        if libc.umount2(os.fsencode(point), 0) == 0:
            return
        time.sleep(0.05)
    check_call(libc.umount2(os.fsencode(point), LAZY), point)


MAKE = {
    # No journal: what fails to be written is the data. All metadata is written at once, so it has its place in memory.
    'ext4': ['mkfs.ext4', '-q', '-F', '-b', '4096', '-O', '^has_journal', '-E', 'lazy_itable_init=0,nodiscard'],
    'xfs': ['mkfs.xfs', '-q', '-f', '-K'],
    'btrfs': ['mkfs.btrfs', '-q', '-f', '-K'],
}


class Disk:
    def __init__(self, top, kind, size, sector_size, options):
        self.memory = os.path.join(top, 'memory')
        self.point = os.path.join(top, 'disk')
        self.file = os.path.join(self.memory, 'disk')
        for directory in (self.memory, self.point):
            os.mkdir(directory)
        mount_memory(self.memory, 2 * size)
        self.device = None
        try:
            with open(self.file, 'wb') as file:
                file.truncate(size)
            self.device = command('losetup', '--sector-size', str(sector_size), '--find', '--show', self.file)
            command(*MAKE[kind], *options, self.device)
            command('mount', '-t', kind, self.device, self.point)
        except BaseException:
            self.end()
            raise

    def end(self):
        with contextlib.suppress(OSError):
            unmount(self.point)
        if self.device:
            command('losetup', '--detach', self.device)
        unmount(self.memory)

    def fill_memory(self):
        """From now on the device cannot write where it has not written before."""
        with open(os.path.join(self.memory, 'filler'), 'wb') as file, contextlib.suppress(OSError):
            while True:
                os.write(file.fileno(), bytes(MIB))

    def release_memory(self):
        os.unlink(os.path.join(self.memory, 'filler'))

    def cut(self, size):
        """From now on the device cannot read beyond."""
        os.truncate(self.file, size)

    @contextlib.contextmanager
    def frozen(self):
        """Within the block, everything that writes to the file system waits."""
        command('fsfreeze', '--freeze', self.point)
        thaw = threading.Timer(GIVE_UP_SECONDS, lambda: subprocess.run(['fsfreeze', '--unfreeze', self.point], check=False))
        thaw.start()
        try:
            yield
        finally:
            thaw.cancel()
            subprocess.run(['fsfreeze', '--unfreeze', self.point], stderr=subprocess.DEVNULL, check=False)


@contextlib.contextmanager
def disk(top, kind='ext4', size=64 * MIB, sector_size=512, options=()):
    if not os.path.exists('/dev/loop-control'):
        skip('the kernel has no loop devices')
    made = Disk(top, kind, size, sector_size, options)
    try:
        yield made
    finally:
        made.end()


def drop_cache(path):
    """So that the next read of the file asks the disk."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


@contextlib.contextmanager
def serving(point):
    """A store of its own in a directory of the given file system."""
    directory = os.path.join(point, 'store')
    os.mkdir(directory)
    served = Store(over=True, directory=directory)
    try:
        yield served
        served.unmount()
    finally:
        served.clean_up()
