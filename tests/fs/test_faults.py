# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's disk is full, broken, read-only or slow: the guest gets the error and never wrong bytes, and everybody else is served."""
import contextlib
import ctypes
import errno
import mmap
import os
import signal
import subprocess
import sys
import threading
import time

from disk import JOIN_SECONDS, MIB, command, disk, drop_cache, mount_memory, serving, unmount
from mount import *
from host import shut_down

BLOCK = 4096
NAMES = ('plain', 'bundle')


def on_disk(**how):
    """Gives the test a disk and a store on it that is not served yet."""
    def decorate(function):
        def wrapper(outer):
            with disk(outer.top, **how) as its_disk, serving(its_disk.point) as store:
                function(store, its_disk)
        wrapper.__name__, wrapper.__doc__ = function.__name__, function.__doc__
        wrapper.mounted = False
        return wrapper
    return decorate


def make_images(store, size, block=BLOCK, contents=None):
    """A plain image and a bundle; returns what they contain."""
    data = noise(size) if contents is None else contents
    write_file(store.host('plain'), data)
    return {'plain': data, 'bundle': store.bundle('bundle', data, 1, block, first=63 * 512)}


def sparse_images(store, size, written):
    """The same with holes: only the first bytes are written."""
    for name in NAMES:
        fd = os.open(store.host(name), os.O_CREAT | os.O_RDWR, 0o644)
        os.pwrite(fd, noise(written), 0)
        os.ftruncate(fd, size)
        os.close(fd)
    store.tool('scatter', 'bundle', 1, BLOCK)
    return {'plain': noise(written) + bytes(size - written), 'bundle': store.expected('bundle')}


def write_until(fd, size, *errors):
    """Writes everywhere until it fails as expected; returns how far it got."""
    memory = mmap.mmap(-1, 256 * 1024)
    memory[:] = noise(len(memory), 3)
    for off in range(0, size, len(memory)):
        try:
            done = os.pwrite(fd, memory, off)
        except OSError as error:
            assert error.errno in errors, f'{error} at {off}'
            return off
        if done < len(memory):
            return off + done
    raise AssertionError('everything could be written')


def write_by_fsync(fd, size):
    """Writes until something fails, wherever that shows: write or fsync. Returns the error."""
    try:
        for off in range(0, size, MIB):
            os.pwrite(fd, noise(MIB, off), off)
        os.fsync(fd)
    except OSError as error:
        return error.errno
    raise AssertionError('everything could be written')


def fill(path, leave=0):
    """Fills the file system; returns the file that does."""
    filler = os.path.join(path, 'filler')
    with open(filler, 'wb', buffering=0) as file, contextlib.suppress(OSError):
        while os.write(file.fileno(), bytes(64 * 1024)):
            pass
    os.truncate(filler, max(0, os.path.getsize(filler) - leave))
    return filler


def is_full(store, filler):
    size, written = 48 * MIB, MIB
    sparse_images(store, size, written)
    store.start('-o', 'passthrough=off')    # a mapping that the kernel passes through ends as one of the file itself: with SIGBUS
    fill(filler, leave=2 * MIB)
    for name in NAMES:
        for flag in (0, os.O_DIRECT):
            fd = os.open(store.path(name), os.O_RDWR | flag)
            write_until(fd, size, errno.ENOSPC)
            with fails_with(errno.ENOSPC):
                fallocate(fd, FALLOC_KEEP_SIZE, 0, size)
            os.close(fd)
    with open(store.path('plain'), 'r+b') as file, mmap.mmap(file.fileno(), size) as memory:
        with contextlib.suppress(OSError):
            memory[size - 4 * MIB:size] = noise(4 * MIB, 5)    # a fault that the disk refuses would be SIGBUS, were it not cached
            memory.flush()
            raise AssertionError('a mapping was flushed to a full disk')
    # What has its place on disk can still be written and read.
    with open(store.path('plain'), 'r+b', buffering=0) as file:
        os.pwrite(file.fileno(), b'rewritten', 0)
        os.fsync(file.fileno())
        assert os.pread(file.fileno(), 9, 0) == b'rewritten'
    seen = read_file(store.path('bundle'))
    assert len(seen) == size
    # Growing needs the database, which has no room either.
    with contextlib.suppress(OSError):
        os.truncate(store.path('bundle'), size + MIB)
    grown = os.stat(store.path('bundle')).st_size
    assert grown in (size, size + MIB)
    os.unlink(os.path.join(filler, 'filler'))
    for name in NAMES:
        with open(store.path(name), 'r+b', buffering=0) as file:
            for off in range(0, 4 * MIB, MIB):
                os.pwrite(file.fileno(), noise(MIB, 7), off)
            os.fsync(file.fileno())
        assert read_file(store.path(name))[:MIB] == noise(MIB, 7)
    assert read_file(store.path('bundle'))[4 * MIB:size] == seen[4 * MIB:]
    store.released('bundle')
    assert store.expected('bundle') == read_file(store.path('bundle'))


@on_disk(size=64 * MIB)
def test_full_disk(store, its_disk):
    """a full host file system is ENOSPC, for buffered, direct and allocating writers, and nothing else suffers"""
    is_full(store, its_disk.point)


@unmounted
def test_discard_on_full_host(outer):
    """on a full host a guest that has flushed something can still discard, though the undo cannot be deleted: it has ended"""
    point = os.path.join(outer.top, 'memory')
    os.mkdir(point)
    mount_memory(point, 8 * MIB)    # full to the last page, which a disk is not
    try:
        with serving(point) as store:
            store.bundle('a.img', noise(MIB), 1, BLOCK)
            assert store.tool('undo', 'a.img').strip() == 'valid'
            store.start()
            with open(store.path('a.img'), 'r+b', buffering=0) as file:
                file.write(b'flushed')
                os.fsync(file.fileno())
                fill(point)
                before = os.fstat(file.fileno()).st_blocks
                fallocate(file.fileno(), FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, MIB // 2, 16 * BLOCK)
                assert os.pread(file.fileno(), 16 * BLOCK, MIB // 2) == bytes(16 * BLOCK)
                assert os.fstat(file.fileno()).st_blocks < before
            store.released('a.img')
            assert store.tool('undo', 'a.img').strip() == 'stale'
    finally:
        unmount(point)


@unmounted
def test_full_memory(outer):
    """the same on a memory file system"""
    point = os.path.join(outer.top, 'memory')
    os.mkdir(point)
    mount_memory(point, 40 * MIB)
    try:
        with serving(point) as store:
            is_full(store, point)
    finally:
        unmount(point)


@on_disk()
def test_unreadable_sectors(store, its_disk):
    """what the disk cannot read is EIO, buffered and direct, and what it can read is right"""
    models = make_images(store, 16 * MIB)
    os.sync()
    store.start()
    # Before the disk fails: opening reads what is on it, too, and no more than that may still be in memory.
    files = {(name, flag): os.open(store.path(name), os.O_RDONLY | flag) for name in NAMES for flag in (os.O_DIRECT, 0)}
    for name in ('plain', 'bundle/data'):
        drop_cache(store.host(name))
    its_disk.cut(its_disk_middle(its_disk, store))
    for name in NAMES:
        for flag in (os.O_DIRECT, 0):
            fd = files[name, flag]
            memory, failures = mmap.mmap(-1, 64 * 1024), 0
            for off in range(0, len(models[name]), len(memory)):
                memory[:] = b'#' * len(memory)
                try:
                    n = os.preadv(fd, [memory], off)
                except OSError as error:
                    assert error.errno == errno.EIO, f'{error} at {off}'
                    failures += 1
                else:
                    # The kernel may return what came before the bad sector.
                    assert n and memory[:n] == models[name][off:off + n], f'{name}: wrong bytes at {off}'
            os.close(fd)
            assert 0 < failures < len(models[name]) // len(memory) + 1, f'{name}: {failures} failures'
    with fails_with(errno.EIO):
        read_file(store.path('bundle'))
    os.kill(store.daemon, 0)


def its_disk_middle(its_disk, store):
    """A place on the device with about half of each image behind it and all metadata before it; no such place, no test."""
    blocks = []
    for name in ('plain', 'bundle/data'):
        for line in command('filefrag', '-v', store.host(name)).splitlines():
            fields = line.replace('..', ' ').replace(':', ' ').split()
            if fields and fields[0].isdigit():
                blocks.append((int(fields[3]) * BLOCK, (int(fields[4]) + 1) * BLOCK))
    # Both images lose something: what is cut begins within the lower one.
    low = min(start for start, end in blocks)
    assert low >= 0 and len(blocks) >= 2
    return low + 4 * MIB


@on_disk()
def test_lost_writes(store, its_disk):
    """a write-back that failed is told by fsync, by every later fsync, and by close, although the host tells only once"""
    size = 24 * MIB
    for name in NAMES:
        fd = os.open(store.host(name), os.O_CREAT | os.O_RDWR, 0o644)
        fallocate(fd, 0, 0, size)   # has its place on the disk, but the disk's file has none for it in memory
        os.fsync(fd)
        os.close(fd)
    store.tool('scatter', 'bundle', 1, '4096-65536')
    os.sync()
    store.start()
    its_disk.fill_memory()
    handles = {name: os.open(store.path(name), os.O_RDWR) for name in NAMES}
    others = {name: os.open(store.path(name), os.O_RDWR) for name in NAMES}
    for name in NAMES:
        failed = write_by_fsync(handles[name], size)
        assert failed in (errno.EIO, errno.ENOSPC), errno.errorcode[failed]
    its_disk.release_memory()
    for name in NAMES:
        for fd in (handles[name], others[name]):
            with fails_with(errno.EIO, errno.ENOSPC):
                os.fsync(fd)
            with fails_with(errno.EIO, errno.ENOSPC):
                os.fdatasync(fd)
            with fails_with(errno.EIO, errno.ENOSPC):
                os.close(fd)
        store.released(name)
        # A new start.
        with open(store.path(name), 'r+b', buffering=0) as file:
            os.pwrite(file.fileno(), noise(MIB), 0)
            os.fsync(file.fileno())
            assert os.pread(file.fileno(), MIB, 0) == noise(MIB)


def lose_a_write(store, its_disk, name, size):
    """Writes something that the disk then refuses, with nobody asking yet. The file keeps its first half on the disk."""
    fd = os.open(store.path(name), os.O_RDWR)
    os.pwrite(fd, noise(MIB), size - MIB)
    subprocess.run(['sync', '--file-system', its_disk.point], stderr=subprocess.DEVNULL, check=False)
    return fd


def half_allocated(store, size):
    """Images whose first half is written and whose second half is allocated only."""
    for name in NAMES:
        fd = os.open(store.host(name), os.O_CREAT | os.O_RDWR, 0o644)
        fallocate(fd, 0, 0, size)
        os.pwrite(fd, noise(size // 2), 0)
        os.fsync(fd)
        os.close(fd)
    store.tool('scatter', 'bundle', 1, size)    # one extent: what is where is known
    os.sync()


@on_disk()
def test_others_do_not_take_the_error(store, its_disk):
    """a write-back that failed is told by the next fsync, although an O_DSYNC write, a truncate or another process has seen the error before"""
    size = 8 * MIB
    half_allocated(store, size)
    store.start()
    its_disk.fill_memory()

    def write_through(name):
        fd = os.open(store.path(name), os.O_RDWR | os.O_DSYNC)
        try:
            os.pwrite(fd, noise(4096, 2), 0)
        finally:
            os.close(fd)
    consumers = {'O_DSYNC': write_through, 'truncate': lambda name: os.truncate(store.path(name), size + MIB),
                 'shrink': lambda name: os.truncate(store.path(name), size)}
    for name in NAMES:
        for what, consumer in consumers.items():
            fd = lose_a_write(store, its_disk, name, size)
            with contextlib.suppress(OSError):
                consumer(name)
            try:
                os.fsync(fd)
            except OSError as error:
                assert error.errno in (errno.EIO, errno.ENOSPC)
            else:
                raise AssertionError(f'{name}: after {what} fsync says that all is well')
            with contextlib.suppress(OSError):
                os.close(fd)
            store.released(name)
    its_disk.release_memory()


@on_disk()
def test_synchronous_writes_fail_at_once(store, its_disk):
    """an O_SYNC or O_DSYNC write that cannot be on the disk when it is done is an error, in itself"""
    size = 8 * MIB
    half_allocated(store, size)
    store.start()
    its_disk.fill_memory()
    for name in NAMES:
        for flag in (os.O_SYNC, os.O_DSYNC):
            for direct_flag in (0, os.O_DIRECT):
                fd = os.open(store.path(name), os.O_RDWR | flag | direct_flag)
                memory = mmap.mmap(-1, MIB)
                with fails_with(errno.EIO, errno.ENOSPC):
                    os.pwrite(fd, memory, size - MIB)
                with contextlib.suppress(OSError):
                    os.close(fd)
                store.released(name)
    its_disk.release_memory()


@on_disk()
def test_direct_writes_fail(store, its_disk):
    """an O_DIRECT write that the disk refuses is an error"""
    size = 24 * MIB
    for name in NAMES:
        fd = os.open(store.host(name), os.O_CREAT | os.O_RDWR, 0o644)
        fallocate(fd, 0, 0, size)
        os.fsync(fd)
        os.close(fd)
    store.tool('scatter', 'bundle', 1, 65536)
    os.sync()
    store.start()
    its_disk.fill_memory()
    for name in NAMES:
        fd = os.open(store.path(name), os.O_RDWR | os.O_DIRECT)
        try:
            write_until(fd, size, errno.EIO, errno.ENOSPC)
        except AssertionError:
            # Where the host cannot be written past its cache, fsync tells.
            with fails_with(errno.EIO, errno.ENOSPC):
                os.fsync(fd)
        with contextlib.suppress(OSError):
            os.close(fd)
    its_disk.release_memory()


@on_disk(kind='xfs', size=320 * MIB)
def test_dead_disk(store, its_disk):
    """a host file system that has shut down gives errors for everything that it is asked, and the daemon lives until it is unmounted"""
    models = make_images(store, 4 * MIB)
    store.start()
    files = {name: os.open(store.path(name), os.O_RDWR) for name in NAMES}
    for name in NAMES:
        os.pwrite(files[name], b'before', 0)
    shut_down(its_disk.point)
    for name in NAMES:
        with fails_with(errno.EIO):
            os.pwrite(files[name], noise(MIB, 9), MIB)
            os.fsync(files[name])
        with fails_with(errno.EIO):
            os.fsync(files[name])
        with fails_with(errno.EIO):
            os.ftruncate(files[name], 8 * MIB)
        direct = None
        with contextlib.suppress(OSError):
            direct = os.open(store.path(name), os.O_RDONLY | os.O_DIRECT)
        if direct is not None:
            memory = mmap.mmap(-1, MIB)
            with contextlib.suppress(OSError):
                n = os.preadv(direct, [memory], 2 * MIB)    # cached by the host, perhaps
                assert memory[:n] == models[name][2 * MIB:2 * MIB + n]
            os.close(direct)
        with contextlib.suppress(OSError):
            os.close(files[name])
    os.kill(store.daemon, 0)


@on_disk()
def test_read_only_underneath(store, its_disk):
    """a host file system that was made read-only: images are read, writing is EROFS, until it is writable again"""
    models = make_images(store, MIB)
    store.start()
    for name in NAMES:
        assert read_file(store.path(name)) == models[name]
        store.released(name)
    command('mount', '-o', 'remount,ro', its_disk.point)
    for name in NAMES:
        with open(store.path(name), 'rb') as file:
            assert file.read() == models[name]
            with fails_with(errno.EROFS):
                os.open(store.path(name), os.O_RDWR)
        store.released(name)
        with fails_with(errno.EROFS):
            os.open(store.path(name), os.O_RDWR)
        with fails_with(errno.EROFS):
            os.truncate(store.path(name), 0)
        with fails_with(errno.EROFS):
            os.unlink(store.path(name))
        assert read_file(store.path(name)) == models[name]
    with fails_with(errno.EROFS):
        open(store.path('new'), 'wb')
    for name in NAMES:
        store.released(name)
    command('mount', '-o', 'remount,rw', its_disk.point)
    for name in NAMES:
        with open(store.path(name), 'r+b') as file:
            file.write(b'written')
        assert read_file(store.path(name)) == b'written' + models[name][7:]


@on_disk(options=('-O', 'has_journal'))
def test_read_only_by_itself(store, its_disk):
    """a host file system that makes itself read-only while images are open for writing: EROFS or EIO for who writes or settles, the right bytes for who reads"""
    models = make_images(store, MIB)
    command('sync', '--file-system', its_disk.point)
    store.start()
    files = {name: os.open(store.path(name), os.O_RDWR) for name in NAMES}
    refused = errno.EROFS, errno.EIO
    command('mount', '-o', 'remount,errors=remount-ro', its_disk.point)
    with contextlib.suppress(RuntimeError):    # the kernel may tell that it has come to this
        command('mount', '-o', 'remount,abort', its_disk.point)
    for name in NAMES:
        fd = files[name]
        with fails_with(*refused):
            os.pwrite(fd, b'written', 0)
            os.fsync(fd)
        with fails_with(*refused):
            os.ftruncate(fd, 2 * MIB)
        with fails_with(*refused):
            fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 4096, 4096)
        seen = os.pread(fd, MIB, 0)
        assert seen[7:] == models[name][7:] and seen[:7] in (models[name][:7], b'written'), name
    settled = defrag('--settle', store.path('bundle'))
    assert settled.returncode == 1 and 'bundle' in settled.stdout, settled.stdout
    os.kill(store.daemon, 0)
    for fd in files.values():
        with contextlib.suppress(OSError):
            os.close(fd)


def quota(path, limit):
    """A subvolume of a btrfs gets a limit, by its number: what has a place in the subvolume itself may be over it."""
    number = command('btrfs', 'inspect-internal', 'rootid', path)
    command('btrfs', 'qgroup', 'limit', str(limit), f'0/{number}', os.path.dirname(path))


@unmounted
def test_over_quota(outer):
    """a store over its quota is EDQUOT, for writers, for an adoption and for a settle pass, and nothing is lost; with more of it everything goes on"""
    with disk(outer.top, 'btrfs', 256 * MIB) as its_disk:
        volume = os.path.join(its_disk.point, 'volume')
        command('btrfs', 'subvolume', 'create', volume)
        command('btrfs', 'quota', 'enable', its_disk.point)
        with serving(volume) as store:
            over_quota(store, volume)


def over_quota(store, volume):
    size, written = 48 * MIB, 4 * MIB
    sparse_images(store, size, written)
    adopted = noise(MIB, 6)
    write_file(store.host('adopted'), adopted)
    command('sync', '--file-system', volume)
    store.start('-o', 'passthrough=off')
    seen = read_file(store.path('bundle'))
    store.released('bundle')
    quota(volume, 12 * MIB)
    for name in NAMES:
        fd = os.open(store.path(name), os.O_RDWR)
        write_until(fd, size, errno.EDQUOT)
        with fails_with(errno.EDQUOT):
            fallocate(fd, FALLOC_KEEP_SIZE, 0, size)
        with contextlib.suppress(OSError):
            os.close(fd)
        store.released(name)
    before = read_file(store.path('bundle'))
    store.released('bundle')
    quota(volume, MIB)
    store.tool('scatter', 'adopted', 1, BLOCK, expect=1)
    assert os.path.isfile(store.host('adopted')) and read_file(store.path('adopted')) == adopted
    settled = defrag('--settle', store.path('bundle'))
    assert settled.returncode == 1 and 'quota' in settled.stdout, settled.stdout
    assert read_file(store.path('bundle')) == before and len(before) == len(seen)
    quota(volume, 'none')
    store.released('bundle')
    assert defrag('--settle', store.path('bundle')).returncode == 0
    assert read_file(store.path('bundle')) == before
    for name in NAMES:
        with open(store.path(name), 'r+b', buffering=0) as file:
            os.pwrite(file.fileno(), noise(MIB, 7), 0)
            os.fsync(file.fileno())
        assert read_file(store.path(name))[:MIB] == noise(MIB, 7)


def defrag(*arguments):
    return subprocess.run([os.environ['ZCFS_DEFRAG'], *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=WAIT_SECONDS, check=False)


def test_data_cut_underneath(store):
    """a data file that somebody has cut: what is gone is EIO, not zeros, in requests of one extent and of many, while open and after"""
    for block in (512, BLOCK, MIB):
        name = f'bundle{block}'
        model = store.bundle(name, noise(4 * MIB), block=block)
        extents = store.extents(name)
        end = 3 * MIB + 300
        with open(store.path(name), 'r+b', buffering=0) as file, open(store.path(name), 'rb', buffering=0, opener=direct) as uncached:
            memory = mmap.mmap(-1, 256 * 1024)
            os.truncate(store.host(name, 'data'), end)
            for fd in (uncached.fileno(), file.fileno()):
                for off in range(0, len(model), len(memory)):
                    lost = any(host + length > end and guest < off + len(memory) and guest + length > off
                               for guest, length, host in extents)
                    try:
                        n = os.preadv(fd, [memory], off)
                    except OSError as error:
                        assert error.errno == errno.EIO and lost, f'{error} at {off}'
                    else:
                        assert memory[:n] == model[off:off + n], f'{name}: wrong bytes at {off}'
                        assert n == len(memory) or lost
                        assert fd != uncached.fileno() or not lost or n < len(memory)
        store.released(name)
        with fails_with(errno.EIO, errno.EUCLEAN):
            read_file(store.path(name))


def direct(path, flags):
    return os.open(path, flags | os.O_DIRECT)


def test_plain_cut_underneath(store):
    """a plain image that somebody has cut ends where it ends now; what comes back when it grows is zeros"""
    data = noise(MIB)
    write_file(store.host('a.img'), data)
    with open(store.path('a.img'), 'rb', buffering=0, opener=direct) as file:
        memory = mmap.mmap(-1, MIB)
        os.truncate(store.host('a.img'), 100 * 512)
        n = os.preadv(file.fileno(), [memory], 0)
        assert memory[:n] == data[:n] and n == 100 * 512
        assert os.preadv(file.fileno(), [memory], 512 * 1024) == 0
    os.truncate(store.host('a.img'), MIB)
    store.released('a.img')
    assert read_file(store.path('a.img')) == data[:100 * 512] + bytes(MIB - 100 * 512)


# ---- a disk that takes its time ----

WRITER = """
import mmap, os, sys, time
number = int(sys.argv[3])
cpus = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cpus[number % len(cpus)]})    # every queue of the transport has its writers
fd = os.open(sys.argv[1], os.O_RDWR | (os.O_DIRECT if sys.argv[2] == 'direct' else 0))
memory = mmap.mmap(-1, 65536)
memory[:] = bytes([number]) * 65536
print('open', flush=True)
while True:
    os.pwrite(fd, memory, 65536 * number)
    time.sleep(float(sys.argv[4]))
"""


def slow_writers(store, count, pause, kinds=('buffered', 'direct')):
    """Processes that write, each to its own 64 KiB, to both images."""
    writers = []
    for i in range(count):
        process = subprocess.Popen([sys.executable, '-c', WRITER, store.path(NAMES[i % 2]), kinds[i // 2 % len(kinds)], str(i),
                                    str(pause)],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        store.children.append(process)
        assert process.stdout.readline() == 'open\n'
        writers.append(process)
    return writers


def others_are_served(store, models):
    """In the time that it takes on an idle disk, or nearly; on every processor."""
    for cpu in os.sched_getaffinity(0):
        others_are_served_on(cpu, store, models)


def others_are_served_on(cpu, store, models):
    result = []

    def look():
        os.sched_setaffinity(0, {cpu})    # of this thread
        assert os.stat(store.path('plain')).st_size == len(models['plain'])
        assert sorted(os.listdir(store.point)) == ['bundle', 'other', 'other-bundle', 'plain']
        os.statvfs(store.point)
        for name in ('other', 'other-bundle'):
            assert read_file(store.path(name)) == models[name]
            with open(store.path(name), 'rb', opener=direct) as file, mmap.mmap(-1, MIB) as memory:
                assert os.preadv(file.fileno(), [memory], 0) == MIB and memory[:] == models[name][:MIB]
        result.append('served')
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(JOIN_SECONDS)
    assert result == ['served'], 'the others wait as well' if thread.is_alive() else 'the others get errors'


def slow_images(store):
    models = make_images(store, 4 * MIB)
    models['other'] = noise(MIB, 8)
    write_file(store.host('other'), models['other'])
    models['other-bundle'] = store.bundle('other-bundle', noise(MIB, 9))
    return models


def frozen(store, its_disk, writers, pause, **kinds):
    models = slow_images(store)
    store.start()
    writers = slow_writers(store, writers, pause, **kinds)
    time.sleep(1)
    with its_disk.frozen():
        time.sleep(0.3)
        others_are_served(store, models)
        for number, process in enumerate(writers):
            process.send_signal((signal.SIGKILL, signal.SIGINT, signal.SIGTERM)[number % 3])
        time.sleep(0.3)
        others_are_served(store, models)
    for process in writers:
        assert process.wait(WAIT_SECONDS) != 0
    for name in NAMES:
        store.released(name)
        seen = read_file(store.path(name))
        for i in range(len(writers)):
            part = seen[i * 65536:(i + 1) * 65536]
            old = models[name][i * 65536:(i + 1) * 65536]
            for off in range(0, 65536, 512):
                assert part[off:off + 512] in (old[off:off + 512], bytes([i]) * 512), f'{name}: writer {i}, at {off}'
        assert seen[MIB:] == models[name][MIB:]
    store.released('bundle')
    assert store.expected('bundle') == read_file(store.path('bundle'))


@on_disk()
def test_frozen_disk(store, its_disk):
    """writes that hang in the host hold up nobody else; who is killed or interrupted meanwhile leaves nothing behind"""
    frozen(store, its_disk, 16, 0)


@on_disk()
def test_frozen_idle_disk(store, its_disk):
    """the same where the disk was quick until then"""
    frozen(store, its_disk, max(4, len(os.sched_getaffinity(0))), 0.02)


# Were a ring's thread to wait, too, then with direct writers under way the freeze itself would never end.
@on_disk(kind='xfs', size=320 * MIB)
def test_frozen_xfs(store, its_disk):
    """the same on a file system that would say whether a write has to wait for the disk"""
    frozen(store, its_disk, 16, 0, kinds=['buffered'])


@on_disk()
def test_aborted_while_writing(store, its_disk):
    """a daemon whose connection is aborted while direct writes are under way, and others wait for these, ends when they have"""
    make_images(store, 4 * MIB)
    store.start()
    slow_writers(store, 8, 0)
    time.sleep(1)
    with its_disk.frozen():
        time.sleep(0.3)
        store.abort()
        time.sleep(0.3)
    store.wait_for_end()


@unmounted
def test_stalled_reads(outer):
    """reads that hang in the host hold up nobody whose bytes are in memory, and end with their disk's return, killed or not"""
    lower = Store(over=False)
    try:
        lower.start('-o', 'passthrough=off')    # what is to hang is the daemon
        with disk(outer.top) as its_disk:
            # A second loop device, on a file of another zcfs that will be stopped.
            point = os.path.join(outer.top, 'slow')
            os.mkdir(point)
            fd = os.open(lower.path('disk'), os.O_CREAT | os.O_RDWR, 0o644)
            os.ftruncate(fd, 64 * MIB)
            os.close(fd)
            device = command('losetup', '--find', '--show', lower.path('disk'))
            try:
                command('mkfs.ext4', '-q', '-F', '-E', 'nodiscard', device)
                command('mount', device, point)
                try:
                    with serving(point) as store:
                        stalled_reads(store, lower.daemon)
                finally:
                    unmount(point)
            finally:
                command('losetup', '--detach', device)
        lower.unmount()
    finally:
        lower.clean_up()


READER = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY | (os.O_DIRECT if sys.argv[3] == 'direct' else 0))
memory = mmap.mmap(-1, 65536 if sys.argv[3] == 'buffered' else 4096)    # few enough for the queue of the disk
if sys.argv[3] == 'short':
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
print('open', flush=True)
sys.stdin.readline()
print(os.preadv(fd, [memory], int(sys.argv[2]) * 65536) == len(memory))
"""


def state_of_thread(process, thread):
    with open(f'/proc/{process}/task/{thread}/stat') as file:
        return file.read().rsplit(')', 1)[1].split()[0]


def stalled_reads(store, server):
    models = slow_images(store)
    os.sync()
    store.start()
    with kept_in_memory(store.host('other')), kept_in_memory(store.host('other-bundle/data')):
        hold_reads(store, server, models)
    for name in NAMES:
        assert read_file(store.path(name)) == models[name]


def hold_reads(store, server, models):
    others = {name: os.open(store.path(name), os.O_RDWR | os.O_DIRECT) for name in ('other', 'other-bundle')}
    open_files_are_served(others, models)
    readers = []
    for i in range(16):
        process = subprocess.Popen([sys.executable, '-c', READER, store.path(NAMES[i % 2]), str(i),
                                    ('buffered', 'direct', 'short')[i // 2 % 3]], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, text=True)
        store.children.append(process)
        assert process.stdout.readline() == 'open\n'
        readers.append(process)
    for name in ('plain', 'bundle/data'):
        drop_cache(store.host(name))
    os.kill(server, signal.SIGSTOP)
    wait_until(lambda: all(state_of_thread(server, thread) == 'T' for thread in os.listdir(f'/proc/{server}/task')), 'stop')
    timer = threading.Timer(20, lambda: os.kill(server, signal.SIGCONT))
    timer.start()
    try:
        for process in readers:
            process.stdin.write('\n')
            process.stdin.flush()
        time.sleep(0.3)
        assert any(process.poll() is None for process in readers), 'nobody waits: the host had it all in memory'
        open_files_are_served(others, models)
        for process in readers[::2]:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.2)
        open_files_are_served(others, models)
    finally:
        timer.cancel()
        os.kill(server, signal.SIGCONT)
    for number, process in enumerate(readers):
        output = process.communicate(timeout=WAIT_SECONDS)[0]
        assert number % 2 == 0 or output.strip() == 'True'
    for fd in others.values():
        os.close(fd)


@contextlib.contextmanager
def kept_in_memory(path):
    """A kernel gives up what it has of a file whenever it likes, but for what is locked."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
    libc.mmap.restype = ctypes.c_void_p
    libc.mlock.argtypes = libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    with open(path, 'rb') as file:
        size = os.fstat(file.fileno()).st_size
        memory = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
    try:
        assert libc.mlock(memory, size) == 0, os.strerror(ctypes.get_errno())
        yield
    finally:
        libc.munmap(memory, size)


def open_files_are_served(files, models):
    """Opening one may have to ask the disk; reading what is in the host's memory must not. Not of whole sectors: that would go past it."""
    result = []

    def look():
        with mmap.mmap(-1, MIB) as memory:
            for name, fd in files.items():
                n = os.preadv(fd, [memory], 1)
                assert n == MIB - 1 and memory[:n] == models[name][1:]
        result.append('served')
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(JOIN_SECONDS)
    assert result == ['served'], 'the others wait as well' if thread.is_alive() else 'the others get errors'


@contextlib.contextmanager
def after_power_cut(outer_top, its_disk, kind):
    """What the disk holds at this moment, mounted elsewhere: what a crash of the host leaves."""
    image, point = os.path.join(its_disk.memory, 'cut'), os.path.join(outer_top, 'cut')
    os.mkdir(point)
    command('cp', '--sparse=always', its_disk.file, image)
    nouuid = ['-o', 'nouuid'] if kind == 'xfs' else []
    command('mount', '-t', kind, *nouuid, '-o', 'loop', image, point)
    try:
        yield point
    finally:
        unmount(point)
        os.unlink(image)
        os.rmdir(point)


def undo_after_power_cut(outer_top, its_disk, kind):
    with after_power_cut(outer_top, its_disk, kind) as point:
        return subprocess.run([MAP_IMAGE, 'undo', os.path.join(point, 'store'), 'a.img'], check=True, text=True,
                              stdout=subprocess.PIPE).stdout.strip()


def flushed_write_ends_undo(top, kind, size):
    with disk(top, kind, size) as its_disk, serving(its_disk.point) as store:
        store.bundle('a.img', noise(MIB), 1, BLOCK)
        command('sync', '--file-system', its_disk.point)
        assert undo_after_power_cut(top, its_disk, kind) == 'valid'
        store.start()
        with open(store.path('a.img'), 'r+b', buffering=0) as file:
            file.write(b'flushed')
            os.fdatasync(file.fileno())
            state = undo_after_power_cut(top, its_disk, kind)
            assert state != 'valid', f'{kind}: the write is on the disk, and so is an undo that would take it back'


@unmounted
def test_flushed_write_ends_undo(outer):
    """what a guest has flushed has ended an undo, even if the host loses its power right then"""
    for kind, size in (('xfs', 320 * MIB), ('ext4', 64 * MIB)):
        top = os.path.join(outer.top, kind)
        os.mkdir(top)
        flushed_write_ends_undo(top, kind, size)


def flush_meets_shutdown(top, kind, size, options, delay):
    """An fsync under way for so many seconds when its host is shut down. How long it has taken, if it was answered with success."""
    with disk(top, kind, size, options=options) as its_disk, serving(its_disk.point) as store:
        write_file(store.host('plain'), b'')
        os.truncate(store.host('plain'), 8 * MIB)   # holes: there is something to be said in the journal
        command('sync', '--file-system', its_disk.point)
        store.start()
        fd = os.open(store.path('plain'), os.O_RDWR)
        os.pwrite(fd, noise(8 * MIB), 0)
        timer = threading.Timer(delay, shut_down, (its_disk.point,))
        timer.start()
        began = time.monotonic()
        try:
            os.fsync(fd)
            seconds = time.monotonic() - began
        except OSError as error:
            assert error.errno in (errno.EIO, errno.EROFS), errno.errorcode[error.errno]
            seconds = None
        timer.cancel()
        timer.join()
        with contextlib.suppress(OSError):
            os.close(fd)
        if seconds is not None:
            with after_power_cut(top, its_disk, kind) as point:
                assert read_file(os.path.join(point, 'store', 'plain')) == noise(8 * MIB), \
                    f'{kind}, shut down after {delay:.4f} s: the flush was answered with success, and what it was asked for is lost'
        return seconds


@unmounted
def test_flush_meets_shutdown(outer):
    """a flush during which the host's file system was shut down is not answered with success, although the host does just that"""
    for kind, size, options in (('xfs', 320 * MIB, ()), ('ext4', 64 * MIB, ('-O', 'has_journal'))):
        usual = None
        for i in range(7):
            top = os.path.join(outer.top, f'{kind}-{i}')
            os.mkdir(top)
            seconds = flush_meets_shutdown(top, kind, size, options, usual * (i - 0.5) / 6 if usual else WAIT_SECONDS)
            usual = usual or seconds


if __name__ == '__main__':
    sys.exit(run(tests_of(globals())))
