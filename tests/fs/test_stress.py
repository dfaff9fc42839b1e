# SPDX-License-Identifier: GPL-2.0-or-later
"""Many at a time. Worth most with a daemon built with a sanitizer: SECONDS in the environment makes it longer."""
import errno
import os
import random
import shutil
import subprocess
import sys
import threading
import time

from disk import MIB, mount_memory, serving, unmount
from mount import *

SECONDS = int(os.environ.get('SECONDS', 4))


def fio(store, name, *options):
    if not shutil.which('fio'):
        skip('fio is not installed')
    command = ['fio', '--name=' + name, '--filename=' + store.path(name), '--ioengine=libaio', '--iodepth=16',
               '--rw=randrw', '--bsrange=512-256k', '--size=64m', '--verify=crc32c', '--verify_fatal=1', '--verify_backlog=64',
               '--time_based=0', '--group_reporting', *options]
    result = subprocess.run(command, cwd=store.top, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            timeout=TEST_SECONDS + 10 * SECONDS)
    assert result.returncode == 0 and 'err= 0' in result.stdout, result.stdout


def image(store, name, size=64 << 20):
    fd = os.open(store.host(name), os.O_CREAT | os.O_RDWR, 0o644)
    os.ftruncate(fd, size)
    os.close(fd)


def test_fio_direct(store):
    """fio writes a scattered image with O_DIRECT and finds it all again"""
    image(store, 'a.img')
    store.tool('scatter', 'a.img', 1, 4096)
    fio(store, 'a.img', '--direct=1')


def test_fio_buffered(store):
    """and through the page cache, with fsyncs"""
    image(store, 'a.img')
    store.tool('scatter', 'a.img', 1, 65536)
    fio(store, 'a.img', '--direct=0', '--fsync=32')


@unmounted
def test_fio_long_requests(outer):
    """and with long requests, many at a time, of an image in memory: batches of a ring that end early, copies that are shared"""
    point = os.path.join(outer.top, 'memory')
    os.mkdir(point)
    mount_memory(point, 80 * MIB)
    try:
        with serving(point) as store:
            store.start()
            image(store, 'a.img')
            store.tool('scatter', 'a.img', 1, 65536)
            fio(store, 'a.img', '--direct=1', '--bsrange=256k-1m')
    finally:
        unmount(point)


def test_fio_jobs(store):
    """four jobs on four images at a time"""
    for i in range(4):
        image(store, f'{i}.img')
        if i % 2:
            store.tool('scatter', f'{i}.img', i, 4096)
    errors = []

    def job(i):
        try:
            fio(store, f'{i}.img', '--direct=' + str(i // 2), '--size=16m')
        except BaseException as error:
            errors.append(error)
    threads = [threading.Thread(target=job, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if errors:
        raise errors[0]


class Crowd:
    """Threads that do something again and again until the time is up; the first error counts."""

    def __init__(self):
        self.end = time.monotonic() + SECONDS
        self.error = None
        self.threads = []

    def add(self, action, *arguments):
        def work():
            rng = random.Random(len(self.threads))
            while time.monotonic() < self.end and not self.error:
                try:
                    action(rng, *arguments)
                except BaseException as error:
                    self.error = self.error or error
        self.threads.append(threading.Thread(target=work))

    def run(self):
        for thread in self.threads:
            thread.start()
        for thread in self.threads:
            thread.join()
        if self.error:
            raise self.error




def tolerate(*numbers):
    """Errors that are somebody else's doing: the name was gone or taken a moment ago."""
    class Tolerant:
        def __enter__(self):
            return self

        def __exit__(self, kind, value, trace):
            return isinstance(value, OSError) and value.errno in numbers
    return Tolerant()


def test_size_against_io(store):
    """one thread cuts and grows a bundle while others read and write it: only zeros and what was written are ever read"""
    size = 4 << 20
    write_file(store.host('a.img'), bytes(size))
    store.tool('scatter', 'a.img', 1, 4096)
    path = store.path('a.img')

    def resize(rng):
        os.truncate(path, rng.randrange(size // 2, size))
        time.sleep(0.01)

    def write(rng, fd):
        off = rng.randrange(size // 4096) * 4096
        os.pwrite(fd, bytes([off // 4096 % 255 + 1]) * 4096, off)

    def read(rng, fd):
        off = rng.randrange(size // 65536) * 65536
        data = os.pread(fd, 65536, off)
        for i in range(0, len(data) - 4095, 4096):
            want = (off + i) // 4096 % 255 + 1
            assert set(data[i:i + 4096]) <= {0, want}, f'at {off + i}: {set(data[i:i + 4096])}, expected 0 or {want}'

    def discard(rng, fd):
        fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, rng.randrange(size // 4096) * 4096, 65536)

    crowd = Crowd()
    files = [os.open(path, os.O_RDWR | flag) for flag in (0, os.O_DIRECT, 0)]
    crowd.add(resize)
    for fd in files:
        crowd.add(write, fd)
        crowd.add(read, files[0])
    crowd.add(discard, files[0])
    crowd.run()
    for fd in files:
        os.close(fd)
    seen = read_file(path)
    store.released('a.img')
    assert store.expected('a.img') == seen


def test_names_and_tools(store):
    """names are made, exchanged, replaced and removed while files are read, tools change maps, and sqlite3 looks"""
    names = [f'n{i}.img' for i in range(6)]
    for name in names[:3]:
        store.bundle(name, noise(65536, int(name[1])))
    for name in names[3:]:
        write_file(store.host(name), noise(65536))
    gone = (errno.ENOENT, errno.EEXIST)

    def rename(rng):
        with tolerate(*gone):
            os.rename(store.path(rng.choice(names)), store.path(rng.choice(names)))

    def exchange(rng):
        with tolerate(*gone):
            renameat2(store.path(rng.choice(names)), store.path(rng.choice(names)), RENAME_EXCHANGE)

    def make(rng):
        with tolerate(*gone):
            fd = os.open(store.path(rng.choice(names)), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            os.write(fd, noise(65536))
            os.close(fd)

    def remove(rng):
        with tolerate(*gone):
            os.unlink(store.path(rng.choice(names)))
        time.sleep(0.05)

    def look(rng):
        with tolerate(*gone, errno.ESTALE):
            with open(store.path(rng.choice(names)), 'r+b') as file:
                assert len(file.read()) <= 65536
                file.seek(100)
                file.write(b'here')

    def listing(rng):
        for entry in os.scandir(store.point):
            with tolerate(errno.ENOENT, errno.ESTALE):
                assert entry.is_file() and entry.stat().st_size <= 65536
            assert 'zcfs' not in entry.name

    def tool(rng):
        subprocess.run([MAP_IMAGE, 'scatter', store.below, rng.choice(names), str(rng.randrange(1000)), '4096'],
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=WAIT_SECONDS)

    def database(rng):
        with tolerate(errno.ENOENT):
            assert read_file(store.path('.zcfs', 'db', rng.choice(names) + '.db'))[:6] == b'SQLite'

    crowd = Crowd()
    for action in (rename, exchange, make, remove, look, look, look, listing, tool, tool, database):
        crowd.add(action)
    crowd.run()
    for name in os.listdir(store.point):
        read_file(store.path(name))
    store.unmount()
    store.start()
    left = [e for e in os.listdir(store.below) if 'zcfs' in e]
    assert not left, left


def test_many_files(store):
    """directories of small files made, read and removed in parallel"""
    def tree(rng, number):
        top = store.path(f'tree{number}')
        os.mkdir(top)
        for i in range(40):
            write_file(f'{top}/{i}', noise(i * 100, i))
        for i in range(0, 40, 2):
            os.rename(f'{top}/{i}', f'{top}/{i}.new')
        for entry in os.scandir(top):
            with open(entry.path, 'rb') as file:
                assert len(file.read()) == int(entry.name.split('.')[0]) * 100
        shutil.rmtree(top)

    crowd = Crowd()
    for i in range(6):
        crowd.add(tree, i)
    crowd.run()
    assert os.listdir(store.below) == []


def test_memory_and_descriptors(store):
    """a long run of opens and lookups leaves neither nodes nor open images behind"""
    store.bundle('a.img', noise(65536))

    def descriptors():
        count = 0
        for fd in os.listdir(f'/proc/{store.daemon}/fd'):
            with contextlib.suppress(FileNotFoundError):    # closed meanwhile
                count += 'fuse' not in os.readlink(f'/proc/{store.daemon}/fd/{fd}')
        return count
    read_file(store.path('a.img'))
    store.released('a.img')
    before = descriptors()
    for i in range(300):
        read_file(store.path('a.img'))
        write_file(store.path('tmp'), b'x')
        os.unlink(store.path('tmp'))
        with fails_with(errno.ENOENT):
            os.stat(store.path('none'))
    wait_until(lambda: descriptors() <= before, f'{descriptors()} descriptors, {before} before')


if __name__ == '__main__':
    sys.exit(run(tests_of(globals())))
