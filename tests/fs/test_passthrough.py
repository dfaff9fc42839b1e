# SPDX-License-Identifier: GPL-2.0-or-later
"""Plain images that the kernel reads and writes by itself, and everything that must not suffer from it."""
import contextlib
import errno
import mmap
import os
import signal
import subprocess
import sys
import threading
import time

from disk import disk, serving
from mount import *

SIZE = 1 << 20


def stopped(daemon):
    tasks = f'/proc/{daemon}/task'
    return all(read_file(f'{tasks}/{task}/stat').rsplit(b')', 1)[1].split()[0] == b'T' for task in os.listdir(tasks))


def passed_through(store, fd):
    """Whether a read does without the daemon: it is stopped for the time of it."""
    os.kill(store.daemon, signal.SIGSTOP)
    wait_until(lambda: stopped(store.daemon), 'the daemon is not stopped')
    timer = threading.Timer(2, lambda: os.kill(store.daemon, signal.SIGCONT))
    memory = mmap.mmap(-1, 4096)
    timer.start()
    begin = time.monotonic()
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.preadv(fd, [memory], 0)
    took = time.monotonic() - begin
    timer.cancel()
    os.kill(store.daemon, signal.SIGCONT)
    return took < 1


def direct(path, flags):
    return os.open(path, flags | os.O_DIRECT)


def plain_image(store, name='a.img'):
    data = noise(SIZE)
    write_file(store.host(name), data)
    return bytearray(data)


def test_plain_is(store):
    """a plain image is passed through, a bundle is not"""
    plain_image(store)
    store.bundle('b.img', noise(65536))
    for name, expected in (('a.img', True), ('b.img', False)):
        fd = os.open(store.path(name), os.O_RDWR)
        os.pread(fd, 4096, 0)
        if name == 'a.img' and not passed_through(store, fd):
            skip('the kernel offers no passthrough')
        assert passed_through(store, fd) == expected, name
        os.close(fd)


def direct_opens(outer, reader_expected, writer_expected, *options, sector_size=512):
    with disk(outer.top, sector_size=sector_size) as its_disk, serving(its_disk.point) as store:
        store.start(*options)
        data = plain_image(store)
        path = store.path('a.img')
        with open(path, 'rb') as file:
            if not passed_through(store, file.fileno()):
                skip('the kernel offers no passthrough')
        reader, writer = direct(path, os.O_RDONLY), direct(path, os.O_RDWR)
        assert passed_through(store, reader) == reader_expected
        assert passed_through(store, writer) == writer_expected
        memory = mmap.mmap(-1, 512)
        for off in range(0, SIZE, 65536 + 512):
            assert os.preadv(reader, [memory], off) == 512 and memory[:] == data[off:off + 512]
        os.close(writer)
        os.close(reader)


@unmounted
def test_direct(outer):
    """opens with O_DIRECT are passed through only for reading"""
    direct_opens(outer, True, False)


@unmounted
def test_direct_large_sectors(outer):
    """and not from a disk with larger sectors than guests may have"""
    direct_opens(outer, False, False, sector_size=4096)


@unmounted
def test_direct_on(outer):
    """with passthrough=on all are"""
    direct_opens(outer, True, True, '-o', 'passthrough=on')


@with_options('-o', 'passthrough=off')
def test_off(store):
    """not with passthrough=off"""
    plain_image(store)
    fd = os.open(store.path('a.img'), os.O_RDWR)
    assert not passed_through(store, fd)
    os.close(fd)


def many_openers(store):
    model = plain_image(store)
    path = store.path('a.img')
    files = [os.open(path, os.O_RDONLY), os.open(path, os.O_RDWR), os.open(path, os.O_RDWR), os.open(path, os.O_WRONLY | os.O_APPEND),
             direct(path, os.O_RDWR), direct(path, os.O_RDONLY)]
    memory = mmap.mmap(-1, 8192)
    mapped = mmap.mmap(files[1], SIZE)
    for step in range(200):
        off = step * 37 % 250 * 4096
        data = bytes([step + 1]) * 8192
        if step % 4 == 0:
            memory[:] = data
            os.pwritev(files[4], [memory], off)
        elif step % 4 == 1:
            mapped[off:off + 8192] = data
        else:
            os.pwrite(files[step % 4 - 1], data, off)
        model[off:off + 8192] = data
        for fd in files[0], files[1]:
            assert os.pread(fd, 8192, off) == data
        assert os.preadv(files[5], [memory], off) == 8192 and memory[:] == data
        assert mapped[off:off + 8192] == data
    os.write(files[3], b'the end')
    os.fsync(files[1])
    assert os.stat(path).st_size == SIZE + 7
    os.truncate(path, SIZE // 2)
    assert os.pread(files[0], 10, SIZE // 2 - 5) == model[SIZE // 2 - 5:SIZE // 2]
    mapped.close()
    for fd in files:
        os.close(fd)
    assert read_file(path) == read_file(store.host('a.img')) == model[:SIZE // 2]


def test_openers(store):
    """read-only, writing, appending, direct and mapping openers of one plain image see the same bytes"""
    many_openers(store)


@with_options('-o', 'passthrough=on')
def test_openers_on(store):
    """the same with direct ones passed through, too"""
    many_openers(store)


def test_adoption(store):
    """an image that becomes a bundle between two opens is read by its map, and a bundle that becomes plain again is passed through"""
    plain_image(store)
    read_file(store.path('a.img'))
    store.released('a.img')
    store.tool('scatter', 'a.img', 1, 4096)
    assert read_file(store.path('a.img')) == store.expected('a.img')
    store.released('a.img')
    store.tool('plain', 'a.img')
    assert read_file(store.path('a.img')) == read_file(store.host('a.img'))


def test_lock_outlives_daemon(store):
    """as long as the kernel writes an image, no tool gets it, even when the daemon is gone"""
    plain_image(store)
    fd = os.open(store.path('a.img'), os.O_RDWR)
    if not passed_through(store, fd):
        skip('the kernel offers no passthrough')
    assert store.in_use('a.img')
    os.kill(store.daemon, signal.SIGKILL)
    store.wait_for_end()
    os.pwrite(fd, b'still here', 0)
    check_call(libc.umount2(os.fsencode(store.point), LAZY))
    assert store.in_use('a.img')
    with contextlib.suppress(OSError):
        os.close(fd)
    store.released('a.img')
    assert read_file(store.host('a.img'))[:10] == b'still here'


def test_set_user_id(store):
    """a write by an ordinary user takes set-user-ID off, and a file that is passed through does not get it"""
    plain_image(store)
    path = store.path('a.img')
    os.chmod(path, 0o4777)
    subprocess.run([sys.executable, '-c', f'import os; os.setuid({NOBODY}); fd = os.open({path!r}, os.O_WRONLY); os.write(fd, b"x")'],
                   check=True, timeout=WAIT_SECONDS)
    assert os.stat(path).st_mode & 0o7777 == 0o777
    fd = os.open(path, os.O_RDWR)
    if passed_through(store, fd):
        with fails_with(errno.ETXTBSY):
            os.chmod(path, 0o4777)
        with fails_with(errno.ETXTBSY):
            os.setxattr(path, 'security.capability', bytes.fromhex('0100000200200000000000000000000000000000'))
        os.chmod(path, 0o640)
        assert os.stat(path).st_mode & 0o7777 == 0o640
    os.close(fd)


if __name__ == '__main__':
    sys.exit(run(tests_of(globals())))
