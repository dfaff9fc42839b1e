# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk that writes down everything that is done to it, and what a loss of power at any moment may have left of it.

QEMU's storage daemon offers the disk as a file (FUSE) on which a loop device can be put, and logs with its driver blklogwrites. The log's
format is that of Linux's dm-log-writes (include/linux/device-mapper, drivers/md/dm-log-writes.c): a superblock, then entries,
each in a sector of its own, followed by their data."""
import contextlib
import os
import struct
import subprocess
import time

from guest import WAIT_SECONDS, run

SECTOR = 512
SUPERBLOCK = struct.Struct('<QQQI') # magic, version, entries, bytes of a sector
MAGIC = 0x6a736677736872
ENTRY = struct.Struct('<QQQQ')      # sector, sectors, flags, length of data (of a mark)
FLUSH, FUA, DISCARD = 1, 2, 4


class Write:
    """A write or a discard: length bytes at offset; where the log has them (None: zeros)."""
    def __init__(self, offset, length, log_offset):
        self.offset, self.length, self.log_offset = offset, length, log_offset


class Log:
    """Epochs: lists of writes that a flush ends. The last one may have no end."""
    def __init__(self, path):
        self.path = path
        self.epochs = [[]]
        self.ends = [] # size of the log after each flush

    def read(self):
        size = os.path.getsize(self.path)
        with open(self.path, 'rb') as log:
            magic, version, _, sector_size = SUPERBLOCK.unpack(log.read(SUPERBLOCK.size))
            if (magic, version, sector_size) != (MAGIC, 1, SECTOR):
                raise ValueError(f'{self.path} is no log of writes')
            position = SECTOR
            while position + SECTOR <= size:
                log.seek(position)
                position = self.read_entry(log.read(ENTRY.size), position + SECTOR)
        return self

    def read_entry(self, header, position):
        sector, sectors, flags, _ = ENTRY.unpack(header)
        if sectors:
            log_offset = None if flags & DISCARD else position
            self.epochs[-1].append(Write(sector * SECTOR, sectors * SECTOR, log_offset))
            position += 0 if flags & DISCARD else sectors * SECTOR
        if flags & (FLUSH | FUA):
            self.ends.append(position)
            self.epochs.append([])
        return position

    def apply(self, writes, disk):
        with open(self.path, 'rb') as log, open(disk, 'r+b') as out:
            for write in writes:
                data = bytes(write.length)
                if write.log_offset is not None:
                    log.seek(write.log_offset)
                    data = log.read(write.length)
                os.pwrite(out.fileno(), data, write.offset)


@contextlib.contextmanager
def logged_disk(disk, log, directory):
    """A loop device on a disk image, of which all writes and flushes go to the (new) file log, too."""
    export, pid_file = os.path.join(directory, 'export'), os.path.join(directory, 'pid')
    for path in (export, log):
        with open(path, 'xb'):
            pass
    run('qemu-storage-daemon', '--daemonize', '--pidfile', pid_file,
        '--blockdev', f'driver=file,node-name=disk,filename={disk}', '--blockdev', f'driver=file,node-name=log,filename={log}',
        '--blockdev', 'driver=blklogwrites,node-name=logged,file=disk,log=log',
        '--export', f'type=fuse,id=export,node-name=logged,mountpoint={export},writable=on')
    with open(pid_file, encoding='ascii') as file:
        pid = int(file.read())
    try:
        device = run('losetup', '--find', '--show', export).strip()
        try:
            yield device
        finally:
            run('losetup', '--detach', device)
    finally:
        os.kill(pid, 15)
        wait_for_end(pid)
        os.unlink(export)


def wait_for_end(pid):
    for _ in range(WAIT_SECONDS * 20):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 0)
            time.sleep(0.05)
            continue
        return
    raise TimeoutError('qemu-storage-daemon does not end')


def copy_sparse(source, target):
    subprocess.run(['cp', '--sparse=always', '--reflink=auto', source, target], check=True, timeout=WAIT_SECONDS)
