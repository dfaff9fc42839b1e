# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's view of a store: the daemon's mount, what a map database says, which bytes of a data file differ."""
import contextlib
import fcntl
import hashlib
import os
import shutil
import sqlite3
import stat
import struct

from guest import mounted_by, run, unmount

COMPARE_STEP = 1 << 20   # bytes read at a time
COMPARE_BLOCK = 1 << 10  # bytes compared at once before looking closer


def store_mounted(zcfs, store, point, *options):
    """Serves store on point by the daemon in the foreground."""
    return mounted_by(zcfs, '-f', *options, store, point)


MAKERS = {
    'ext4': ['mkfs.ext4', '-q', '-F'],
    'xfs': ['mkfs.xfs', '-q', '-f'],
    'btrfs': ['mkfs.btrfs', '-q', '-f'],
}


@contextlib.contextmanager
def host_file_system(kind, directory, mebibytes):
    """A file system of that kind (one of MAKERS, or tmpfs) below a directory; where it is mounted."""
    disk, point = os.path.join(directory, 'disk'), os.path.join(directory, 'host')
    os.mkdir(point)
    if kind == 'tmpfs':
        run('mount', '-t', 'tmpfs', '-o', f'size={mebibytes}M', 'zcfs-test', point)
    else:
        with open(disk, 'xb') as file:
            file.truncate(mebibytes << 20)
        run(*MAKERS[kind], disk)
        run('mount', '-o', 'loop', disk, point)
    try:
        yield point
    finally:
        unmount(point)
        if kind != 'tmpfs':
            os.unlink(disk)
        os.rmdir(point)


SHUTDOWN = 0x8004587d  # _IOR('X', 125, __u32), of ext4 and XFS
SHUTDOWN_AT_ONCE = 2   # neither data nor journal are written first


def shut_down(point):
    """The file system on which point is loses what it has not written yet, and takes nothing any more."""
    fd = os.open(point, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, SHUTDOWN, struct.pack('I', SHUTDOWN_AT_ONCE))
    finally:
        os.close(fd)


def open_database(path):
    """Read-only, without locks or journal: for a database that nobody writes."""
    return contextlib.closing(sqlite3.connect(f'file:{path}?mode=ro&immutable=1', uri=True))


def read_extents(image):
    """(guest_off, length, host_off) of an image in a store that is not mounted, in guest order."""
    if os.path.isfile(image):
        return [(0, os.path.getsize(image), 0)]
    with open_database(os.path.join(image, 'map.db')) as database:
        if database.execute('SELECT redo_pending FROM image').fetchone()[0]:
            raise AssertionError(f'{image}: redo is pending')
        return database.execute('SELECT guest_off, length, host_off FROM extent ORDER BY guest_off').fetchall()


def hot_journal(bundle):
    """A transaction whose process died after it had begun to write into the database."""
    path = os.path.join(bundle, 'map.db')
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute('PRAGMA cache_size = 2')
    writer.execute('PRAGMA cache_spill = 1')
    writer.execute('BEGIN')
    writer.execute('UPDATE extent SET host_off = host_off + 512 WHERE guest_off > 0')
    for name in ('map.db', 'map.db-journal'):
        shutil.copy(os.path.join(bundle, name), os.path.join(bundle, name + '.copy'))
    writer.execute('ROLLBACK')
    writer.close()
    for name in ('map.db', 'map.db-journal'):
        os.rename(os.path.join(bundle, name + '.copy'), os.path.join(bundle, name))
    with open(path + '-journal', 'rb') as journal:
        if journal.read(12)[8:] == bytes(4):  # the number of pages in it
            raise AssertionError('there is no hot journal')


def data_path(image):
    return image if os.path.isfile(image) else os.path.join(image, 'data')


def write_view(image, view):
    """Puts what the guest sees of an image into the file view, put together here from extents and data alone."""
    with open(data_path(image), 'rb') as data, open(view, 'wb') as out:
        for guest_off, length, host_off in read_extents(image):
            while length > 0:
                piece = os.pread(data.fileno(), min(length, COMPARE_STEP), host_off)
                if piece.count(0) != len(piece):
                    os.pwrite(out.fileno(), piece, guest_off)
                guest_off, length, host_off = guest_off + len(piece), length - len(piece), host_off + len(piece)
        out.truncate(guest_off)


def digest(path):
    """SHA-256 of a file."""
    sum_ = hashlib.sha256()
    with open(path, 'rb') as file:
        while piece := file.read(COMPARE_STEP):
            sum_.update(piece)
    return sum_.hexdigest()


def state_of(directory):
    """Everything there is to know about a directory tree but access times and when a directory last had a temporary entry."""
    state = {}
    for parent, directories, files in os.walk(directory):
        for name in ['.', *directories, *files]:
            path = os.path.join(parent, name)
            status = os.lstat(path)
            known = [stat.filemode(status.st_mode), status.st_ino, status.st_uid, status.st_gid]
            if not stat.S_ISDIR(status.st_mode):
                known += [status.st_nlink, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
            if stat.S_ISREG(status.st_mode):
                known.append(digest(path))
            state[os.path.normpath(os.path.relpath(path, directory))] = known
    return state


def blob_ranges(blob):
    """(offset, length) of each entry of a redo or undo blob; its form is told in mapdb/redo.h."""
    position = 0
    while position < len(blob):
        offset, length, fill = struct.unpack_from('<QII', blob, position)
        position += 16 + (length if fill == 0xffffffff else 0)
        yield offset, length


def changed_ranges(database):
    """The byte ranges of the data file that the last pass replaced, according to its undo: sorted, merged."""
    with open_database(database) as connection:
        blobs = connection.execute('SELECT entries FROM undo').fetchall()
    merged = []
    for offset, length in sorted(r for blob, in blobs for r in blob_ranges(blob)):
        if merged and offset <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], offset + length)
        else:
            merged.append([offset, offset + length])
    return merged


def add_differences(a, b, offset, ranges):
    for block in range(0, len(a), COMPARE_BLOCK):
        if a[block:block + COMPARE_BLOCK] == b[block:block + COMPARE_BLOCK]:
            continue
        for i in range(block, min(block + COMPARE_BLOCK, len(a))):
            if a[i] == b[i]:
                continue
            if ranges and ranges[-1][1] == offset + i:
                ranges[-1][1] += 1
            else:
                ranges.append([offset + i, offset + i + 1])


def differing_ranges(before, after):
    """The byte ranges in which two files of one length differ, sorted and merged."""
    ranges = []
    with open(before, 'rb') as one, open(after, 'rb') as other:
        offset = 0
        while True:
            a, b = one.read(COMPARE_STEP), other.read(COMPARE_STEP)
            if len(a) != len(b):
                raise ValueError(f'{before} and {after} differ in length')
            if not a:
                return ranges
            if a != b:
                add_differences(a, b, offset, ranges)
            offset += len(a)


def outside(ranges, allowed):
    """Of some byte ranges, the bytes that are in none of the allowed ones. Both sorted and merged."""
    count = 0
    allowed = iter(allowed)
    current = next(allowed, None)
    for start, end in ranges:
        while start < end:
            while current and current[1] <= start:
                current = next(allowed, None)
            if not current or current[0] >= end:
                count += end - start
                break
            count += max(0, current[0] - start)
            start = min(end, current[1])
    return count
