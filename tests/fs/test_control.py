# SPDX-License-Identifier: GPL-2.0-or-later
"""MOUNT/.zcfs: copies of the databases, and the way to the store."""
import errno
import os
import sqlite3
import stat
import subprocess
import sys

from mount import *


def query(store, path, sql):
    result = subprocess.run(['sqlite3', store.path('.zcfs', 'db', path), sql], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, timeout=WAIT_SECONDS)
    assert result.returncode == 0, result.stdout
    return result.stdout.strip()


def test_query(store):
    """sqlite3 reads the database of an image, free or in use"""
    store.bundle('win10.img', noise(65536))
    extents = len(store.extents('win10.img'))
    assert query(store, 'win10.img.db', 'SELECT count(*) FROM extent') == str(extents)
    with open(store.path('win10.img'), 'r+b') as file:
        file.write(b'in use')
        assert query(store, 'win10.img.db', 'SELECT count(*) FROM extent') == str(extents)
        assert query(store, 'win10.img.db', 'PRAGMA integrity_check') == 'ok'


def test_copies_are_fresh(store):
    """each look is a new copy, with the size that stat says, that no later change touches"""
    store.bundle('a.img', noise(65536))
    path = store.path('.zcfs', 'db', 'a.img.db')
    status = os.stat(path)
    before = read_file(path)
    assert stat.S_ISREG(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o400 and status.st_uid == 0
    assert len(before) == status.st_size > 0
    with open(path, 'rb') as old:
        inode = os.fstat(old.fileno()).st_ino
        os.truncate(store.path('a.img'), 20000)
        assert old.read() == before
        assert os.stat(path).st_ino != inode
    assert query(store, 'a.img.db', 'SELECT max(guest_off + length) FROM extent') == '20000'


def test_read_only_copies(store):
    """a copy cannot be written, removed or replaced, and nothing can be made beside it"""
    store.bundle('a.img', noise(65536))
    path = store.path('.zcfs', 'db', 'a.img.db')
    for attempt in (lambda: open(path, 'r+b'), lambda: os.unlink(path), lambda: os.truncate(path, 0),
                    lambda: os.chmod(path, 0o666), lambda: os.rename(path, store.path('x')),
                    lambda: os.mkdir(store.path('.zcfs', 'x')), lambda: write_file(store.path('.zcfs', 'db', 'x'), b''),
                    lambda: os.link(path, store.path('x')), lambda: os.setxattr(path, 'user.x', b'')):
        with fails_with(errno.EPERM, errno.EACCES, errno.EROFS, errno.EOPNOTSUPP):
            attempt()


def test_listing(store):
    """.zcfs lists what is in it, bundles only, directories as directories; the root does not list .zcfs"""
    os.makedirs(store.host('sub', 'dir'))
    store.bundle('a.img', noise(8192))
    store.bundle('b.img', noise(8192), directory='sub/dir')
    write_file(store.host('plain.img'), noise(8192))
    assert sorted(os.listdir(store.path('.zcfs'))) == ['db', 'store']
    assert sorted(os.listdir(store.path('.zcfs', 'db'))) == ['a.img.db', 'sub']
    assert os.listdir(store.path('.zcfs', 'db', 'sub')) == ['dir']
    assert os.listdir(store.path('.zcfs', 'db', 'sub', 'dir')) == ['b.img.db']
    assert query(store, 'sub/dir/b.img.db', 'PRAGMA integrity_check') == 'ok'
    assert '.zcfs' not in os.listdir(store.point)
    for missing in ('plain.img.db', 'a.img', '.zcfs', 'x', 'sub/x.db', 'map.db'):
        with fails_with(errno.ENOENT):
            os.stat(store.path('.zcfs', 'db', missing))


def test_store_link(store):
    """.zcfs/store leads to the directory below the mount"""
    store.bundle('a.img', noise(8192))
    assert os.readlink(store.path('.zcfs', 'store')).startswith(f'/proc/{store.daemon}/fd/')
    assert sorted(os.listdir(store.path('.zcfs', 'store', 'a.img'))) == ['data', 'map.db']
    assert os.path.samestat(os.stat(store.path('.zcfs', 'store', '.')), os.stat(store.below))


def test_copy_waits(store):
    """a copy asked for while a tool is at work is one of before or after it"""
    store.bundle('a.img', noise(65536))
    tool = store.hold('a.img', seed=5)
    reader = subprocess.Popen(['sqlite3', store.path('.zcfs', 'db', 'a.img.db'), 'PRAGMA integrity_check'],
                              stdout=subprocess.PIPE, text=True)
    tool.stdin.write('\n')
    tool.stdin.flush()
    assert tool.wait(WAIT_SECONDS) == 0
    assert reader.communicate(timeout=WAIT_SECONDS)[0] == 'ok\n'


def test_lookups_are_forgotten(store):
    """a hundred looks leave no copies behind"""
    store.bundle('a.img', noise(65536))

    def copies():
        directory = f'/proc/{store.daemon}/fd'
        return sum(1 for fd in os.listdir(directory) if 'map-db-copy' in os.readlink(os.path.join(directory, fd)))
    for i in range(100):
        assert read_file(store.path('.zcfs', 'db', 'a.img.db'))
    wait_until(lambda: copies() <= 1, 'copies are kept')


if __name__ == '__main__':
    sys.exit(run(tests_of(globals())))
