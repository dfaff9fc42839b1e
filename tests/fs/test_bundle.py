# SPDX-License-Identifier: GPL-2.0-or-later
"""Bundles: the map decides what is read, now and never from memory; growing and shrinking keep data and map together."""
import contextlib
import errno
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
import time

from disk import MIB, mount_memory, serving, unmount
from mount import *

BLOCK = 4096


def check_database(store, name):
    """SQLite's own check, and the daemon's data file holds all that the map names."""
    result = subprocess.run(['sqlite3', os.path.join(store.dir, name, 'map.db'), 'PRAGMA integrity_check'], stdout=subprocess.PIPE,
                            text=True, timeout=WAIT_SECONDS)
    assert result.stdout.strip() == 'ok', result.stdout
    extents = store.extents(name)
    assert max((host + length for guest, length, host in extents), default=0) <= os.stat(store.host(name, 'data')).st_size


def test_adoption_after_stat(store):
    """stat, then a changed map underneath, then open: what is read is what the map says"""
    data = noise(512 * 1024)
    write_file(store.host('a.img'), data)
    before = os.stat(store.path('a.img'))
    store.tool('scatter', 'a.img', 1, BLOCK)
    expected = store.expected('a.img')
    assert expected != data and sorted(expected) == sorted(data)
    assert read_file(store.path('a.img')) == expected
    after = os.stat(store.path('a.img'))
    assert (before.st_ino, before.st_size) == (after.st_ino, after.st_size)


def test_adoption_after_read(store):
    """the same after the file was read and cached: nothing of the cache shows, through any number of changes"""
    write_file(store.host('a.img'), noise(512 * 1024))
    seen = read_file(store.path('a.img'))
    for seed in range(1, 6):
        store.released('a.img')
        store.tool('scatter', 'a.img', seed, BLOCK)
        expected = store.expected('a.img')
        assert expected != seen
        seen = read_file(store.path('a.img'))
        assert seen == expected, f'seed {seed}'


def test_plain_again(store):
    """a bundle that becomes plain again between two opens is served as a plain image"""
    store.bundle('a.img', noise(256 * 1024))
    read_file(store.path('a.img'))
    store.released('a.img')
    store.tool('plain', 'a.img')
    assert os.path.isfile(store.host('a.img'))
    assert read_file(store.path('a.img')) == read_file(store.host('a.img'))
    with open(store.path('a.img'), 'r+b') as file:
        file.write(b'written')
    assert read_file(store.host('a.img'))[:7] == b'written'


def test_write_after_adoption(store):
    """a write through an old dentry goes where the new map says"""
    write_file(store.host('a.img'), noise(256 * 1024))
    with open(store.path('a.img'), 'r+b') as file:
        file.write(b'first')
    store.released('a.img')
    store.tool('scatter', 'a.img', 9, BLOCK)
    model = bytearray(store.expected('a.img'))
    with open(store.path('a.img'), 'r+b') as file:
        file.seek(BLOCK * 3 + 100)
        file.write(b'second')
    model[BLOCK * 3 + 100:BLOCK * 3 + 106] = b'second'
    assert store.expected('a.img') == model
    assert read_file(store.path('a.img')) == model


def test_replaced_underneath(store):
    """a name that means another file now is opened as that file"""
    write_file(store.host('a.img'), b'old')
    assert read_file(store.path('a.img')) == b'old'
    store.released('a.img')
    write_file(store.host('b.img'), b'a new one')
    os.rename(store.host('b.img'), store.host('a.img'))
    assert read_file(store.path('a.img')) == b'a new one'


def test_fine_grained_map(store):
    """512-byte extents in one large request"""
    expected = store.bundle('a.img', noise(300 * 512 * 8), block=512)
    assert len(store.extents('a.img')) > 2000
    assert read_file(store.path('a.img')) == expected
    data = noise(len(expected), 77)
    with open(store.path('a.img'), 'r+b', buffering=0) as file:
        file.write(data)
    assert read_file(store.path('a.img')) == data
    assert store.expected('a.img') == data


@elsewhere
def test_odd_sizes(store):
    """images whose size is no multiple of 512 grow and shrink by single bytes"""
    for size in (1, 511, 513, 10001):
        name = f'{size}.img'
        model = bytearray(store.bundle(name, noise(size), block=512) if size > 1023 else noise(size))
        if size <= 1023:
            write_file(store.host(name), bytes(model))
        for step in (1, 510, 3, -2, 1000, -1501, 512, 7):
            new = max(0, len(model) + step)
            os.truncate(store.path(name), new)
            del model[new:]
            model.extend(bytes(new - len(model)))
            if new:
                with open(store.path(name), 'r+b') as file:
                    file.seek(new - 1)
                    file.write(b'#')
                model[new - 1:] = b'#'
            assert read_file(store.path(name)) == model, (size, step)
    check_database(store, '10001.img')


@elsewhere
def test_resize_keeps_the_database(store):
    """after growing and shrinking the database says the same as the mount, and the space is given back"""
    data = store.bundle('a.img', noise(4 << 20))
    os.truncate(store.path('a.img'), 1 << 20)
    check_database(store, 'a.img')
    assert store.expected('a.img') == data[:1 << 20]
    assert os.stat(store.path('a.img')).st_blocks * 512 <= (1 << 20) + 16 * BLOCK
    os.truncate(store.path('a.img'), 3 << 20)
    with open(store.path('a.img'), 'r+b') as file:
        file.seek((5 << 19) + 13)
        file.write(b'grown')
    model = bytearray(data[:1 << 20] + bytes(2 << 20))
    model[(5 << 19) + 13:(5 << 19) + 18] = b'grown'
    check_database(store, 'a.img')
    assert store.expected('a.img') == model
    store.unmount()
    store.start()
    assert read_file(store.path('a.img')) == model


def test_opened_while_it_is_removed(store):
    """whoever opens a bundle just when it is removed or replaced has it, and can grow it"""
    had = 0
    for i in range(200):
        name = f'{i}.img'
        store.bundle(name, noise(64 * 1024), i)
        write_file(store.path('new.img'), b'new')
        os.stat(store.path(name))   # so that opening it is all that is left to do

        def go():
            time.sleep(i % 50 * 3e-5)
            if i % 2:
                os.rename(store.path('new.img'), store.path(name))
            else:
                os.unlink(store.path(name))
        thread = threading.Thread(target=go)
        thread.start()
        try:
            fd = os.open(store.path(name), os.O_RDWR)
        except FileNotFoundError:
            fd = None
        thread.join()
        if fd is not None:
            had += os.fstat(fd).st_size == 64 * 1024
            assert os.pwrite(fd, b'x', 300000) == 1 and os.pread(fd, 2, 299999) == b'\0x'
            os.close(fd)
    assert had > 0, 'nobody was in time'


def test_left_over_bytes_do_not_show(store):
    """bytes in the data file that no extent names never appear in grown space"""
    model = store.bundle('a.img', noise(64 * 1024))
    with open(store.host('a.img', 'data'), 'ab') as file:
        file.write(b'left over' * 10000)
    os.truncate(store.path('a.img'), 256 * 1024)
    assert read_file(store.path('a.img')) == model + bytes(192 * 1024)
    os.truncate(store.path('a.img'), 1000)
    with open(store.host('a.img', 'data'), 'r+b') as file:
        file.seek(0, 2)
        file.write(b'left over' * 1000)
    os.truncate(store.path('a.img'), 100000)
    assert read_file(store.path('a.img')) == model[:1000] + bytes(99000)


def adoption_before_exchange(store, name, data):
    write_file(store.host(name), data)
    hidden = store.host(f'.{name}.zcfs-abcdef')
    os.mkdir(hidden)
    store.bundle('other', noise(BLOCK))
    shutil.copy(store.host('other', 'map.db'), hidden)
    os.link(store.host(name), os.path.join(hidden, 'data'))
    return data


def adoption_after_exchange(store, name, data):
    shown = store.bundle(name, data)
    os.link(store.host(name, 'data'), store.host(f'.{name}.zcfs-abcdef'))
    return shown


def unfinished_copy(store, name, data):
    write_file(store.host(f'.{name}.zcfs-plain-abcdef'), data[:1000])
    return store.bundle(name, data)


def test_leftovers_go_before_the_name(store):
    """what a killed tool has left of an image goes when the image is renamed, replaced or removed: later nobody could tell whose it is"""
    os.mkdir(store.path('d'))
    changes = {
        'rename': lambda path: os.rename(path, store.path('moved')),
        'rename into a directory': lambda path: os.rename(path, store.path('d', 'moved')),
        'exchange': lambda path: renameat2(path, store.path('moved'), RENAME_EXCHANGE),
        'replace': lambda path: os.rename(store.path('moved'), path),
        'unlink': os.unlink,
        'open': lambda path: read_file(path),
    }
    for leave in (adoption_before_exchange, adoption_after_exchange, unfinished_copy):
        for change in changes:
            write_file(store.path('moved'), b'another')
            shown = leave(store, 'a.img', noise(16 * BLOCK))
            changes[change](store.path('a.img'))
            hidden = [entry for entry in os.listdir(store.below) if entry.startswith('.') and entry != '.zcfs']
            assert not hidden, (leave.__name__, change, hidden)
            new = {'rename': 'moved', 'rename into a directory': 'd/moved', 'exchange': 'moved', 'open': 'a.img'}.get(change)
            assert new is None or read_file(store.path(new)) == shown, (leave.__name__, change)
            for path in ('a.img', 'moved', 'd/moved', 'other'):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(store.path(path))


def test_leftovers_of_an_image_that_was_renamed_below(store):
    """a link under the hidden name of what an image was called before is no damage, and goes when the image is opened"""
    for leave in (adoption_before_exchange, adoption_after_exchange):
        shown = leave(store, 'a.img', noise(16 * BLOCK))
        os.rename(store.host('a.img'), store.host('b.img'))
        assert os.stat(store.path('b.img')).st_size == len(shown)
        assert read_file(store.path('b.img')) == shown
        assert [entry for entry in os.listdir(store.below) if entry.startswith('.a.img')] == [], leave.__name__
        os.unlink(store.path('b.img'))


def test_long_names(store):
    """a bundle of any length of name can be renamed, renamed over and removed, by each kind of file, and leaves nothing"""
    hidden = lambda: [entry for entry in os.listdir(store.below) if entry.startswith('.') and entry != '.zcfs']
    for length in (200, 207, 220, 234, 235, 236, 242, 243, 255):
        name = ('\N{LATIN SMALL LETTER A WITH DIAERESIS}' * 200).encode()[:length - length % 2].decode() + 'x' * (length % 2)
        path = store.path(name)
        shown = store.bundle(name, noise(16 * BLOCK))
        assert read_file(path) == shown
        other = store.bundle('other', noise(16 * BLOCK, 5))
        os.rename(store.path('other'), path)
        assert read_file(path) == other, f'bundle over bundle, {length} bytes'
        write_file(store.path('other'), b'plain')
        os.rename(store.path('other'), path)
        assert read_file(path) == b'plain', f'file over bundle, {length} bytes'
        store.bundle('other', noise(16 * BLOCK, 5))
        os.rename(store.path('other'), path)
        assert read_file(path) == other, f'bundle over file, {length} bytes'
        os.symlink('nowhere', store.path('other'))
        os.rename(store.path('other'), path)
        assert os.readlink(path) == 'nowhere', f'link over bundle, {length} bytes'
        store.bundle('other', noise(16 * BLOCK, 5))
        os.rename(store.path('other'), path)
        os.rename(path, store.path('other'))
        os.rename(store.path('other'), path)
        assert read_file(path) == other, f'renamed, {length} bytes'
        os.unlink(path)
        assert os.listdir(store.point) == [] and hidden() == [], f'{length} bytes: {os.listdir(store.below)}'


def test_leftovers_of_long_names(store):
    """what a killed tool has left beside an image whose name is too long for that goes at the next start; not what is another's"""
    name = 'x' * 255
    shown = store.bundle(name, noise(16 * BLOCK))
    own, another = (f'.{name[:200]}.zcfs-long-{number:016x}-plain-abcdef' for number in (fnv_1a(name), 1))
    for entry in (own, another):
        write_file(store.host(entry), b'half')
    assert os.listdir(store.point) == [name]
    store.unmount()
    store.start()
    assert sorted(os.listdir(store.below)) == [another, name]
    assert read_file(store.path(name)) == shown


def fnv_1a(text):
    """As zcfs-store(5) has it."""
    value = 0xcbf29ce484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001b3 % (1 << 64)
    return value


def test_discard_drops_undo(store):
    """a discard, a truncate and a plain write each end an undo"""
    for name, change in (('discard', lambda f: fallocate(f.fileno(), FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 0, BLOCK)),
                         ('truncate', lambda f: f.truncate(BLOCK)),
                         ('write', lambda f: f.write(b'x'))):
        store.bundle(name, noise(64 * 1024))
        assert store.tool('undo', name).strip() == 'valid'
        with open(store.path(name), 'rb') as file:
            file.read()
        store.released(name)
        assert store.tool('undo', name).strip() == 'valid', 'reading must not end it'
        with open(store.path(name), 'r+b') as file:
            change(file)
        store.released(name)
        state = store.tool('undo', name).strip()
        assert state == ('stale' if name == 'write' else 'none'), (name, state)


@contextlib.contextmanager
def in_memory(outer, size):
    """A store in a memory file system, which has no FALLOC_FL_ZERO_RANGE."""
    point = os.path.join(outer.top, 'memory')
    os.mkdir(point)
    mount_memory(point, size)
    try:
        with serving(point) as store:
            store.start()
            yield store
    finally:
        unmount(point)


@unmounted
def test_host_refuses_to_allocate(outer):
    """an allocation past the end that the host refuses leaves the size as it was"""
    with in_memory(outer, 8 * MIB) as store:
        data = store.bundle('a.img', noise(64 * 1024))
        with open(store.path('a.img'), 'r+b', buffering=0) as file:
            fd = file.fileno()
            for mode, off, length, error in ((FALLOC_ZERO_RANGE, MIB, BLOCK, errno.EOPNOTSUPP), (FALLOC_ZERO_RANGE, 0, MIB, errno.EOPNOTSUPP),
                                             (0, 0, 16 * MIB, errno.ENOSPC), (0, MIB, 16 * MIB, errno.ENOSPC)):
                with fails_with(error):
                    fallocate(fd, mode, off, length)
                assert os.fstat(fd).st_size == len(data)
            fallocate(fd, 0, MIB, BLOCK)
            assert os.fstat(fd).st_size == MIB + BLOCK
        assert read_file(store.path('a.img')) == data + bytes(MIB + BLOCK - len(data))
        store.unmount()
        check_database(store, 'a.img')


def test_discard_frees_space(store):
    """a discarded range gives its blocks back to the host"""
    store.bundle('a.img', noise(8 << 20))
    before = os.stat(store.host('a.img', 'data')).st_blocks
    with open(store.path('a.img'), 'r+b') as file:
        fallocate(file.fileno(), FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 0, 4 << 20)
    after = os.stat(store.host('a.img', 'data')).st_blocks
    # The host's own tree of so many holes takes some of it back.
    assert (before - after) * 512 >= (4 << 20) - (256 << 10)


def test_redo_is_applied(store):
    """a committed change that a crash kept from the data file is applied before the first read"""
    model = bytearray(store.bundle('a.img', noise(64 * 1024)))
    store.tool('redo', 'a.img', 8192, 'redone')
    model[8192:8198] = b'redone'
    assert read_file(store.path('a.img')) == model
    assert store.expected('a.img') == model
    with open(store.path('a.img'), 'r+b') as file:
        file.write(b'writable')


@with_options('-o', 'ro')
def test_redo_is_overlaid(store):
    """on a read-only mount it is shown without being applied"""
    model = bytearray(store.bundle('a.img', noise(64 * 1024)))
    shutil.copy(store.host('a.img', 'data'), store.top + '/data')
    store.tool('redo', 'a.img', 8192, 'redone')
    model[8192:8198] = b'redone'
    assert read_file(store.path('a.img')) == model
    assert read_file(store.host('a.img', 'data')) == read_file(store.top + '/data')
    with fails_with(errno.EROFS):
        open(store.path('a.img'), 'r+b')


@with_options('-o', 'ro')
def test_overlaid_redo_in_a_hole(store):
    """what is overlaid where the data file has a hole is no hole: a sparse copy has it, too"""
    size = 1 << 20
    store.bundle('a.img', bytes(size))
    model = bytearray(size)
    with open(store.host('a.img', 'data'), 'r+b') as data:
        fallocate(data.fileno(), FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 0, size)
    store.tool('redo', 'a.img', size // 2, 'redone')
    model[size // 2:size // 2 + 6] = b'redone'
    assert os.stat(store.host('a.img', 'data')).st_blocks == 0
    subprocess.run(['cp', '--sparse=always', '--reflink=never', store.path('a.img'), store.top + '/copy'], check=True, timeout=WAIT_SECONDS)
    assert read_file(store.top + '/copy') == model
    with open(store.path('a.img'), 'rb') as file:
        assert os.lseek(file.fileno(), 5, os.SEEK_DATA) <= size // 2
        assert os.lseek(file.fileno(), size // 2, os.SEEK_DATA) == size // 2
        assert os.lseek(file.fileno(), size // 2, os.SEEK_HOLE) > size // 2 + 5
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            with fails_with(errno.ENXIO):
                os.lseek(file.fileno(), size, whence)


@with_options('-o', 'ro')
def test_read_only(store):
    """a read-only mount changes nothing"""
    model = store.bundle('a.img', noise(64 * 1024))
    write_file(store.host('b.img'), b'plain')
    assert read_file(store.path('a.img')) == model
    for attempt in (lambda: open(store.path('b.img'), 'r+b'), lambda: os.unlink(store.path('a.img')),
                    lambda: os.truncate(store.path('a.img'), 0), lambda: os.mkdir(store.path('d')),
                    lambda: os.rename(store.path('b.img'), store.path('a.img'))):
        with fails_with(errno.EROFS):
            attempt()


def damage(store, name, how):
    store.bundle(name, noise(64 * 1024))
    path = os.path.join(store.dir, name)  # SQLite resolves links in /proc
    if how == 'no data':
        os.unlink(path + '/data')
    elif how == 'data is a directory':
        os.unlink(path + '/data')
        os.mkdir(path + '/data')
    elif how == 'second link':
        os.link(path + '/data', store.host('elsewhere'))
    elif how == 'empty database':
        os.truncate(path + '/map.db', 0)
    elif how == 'no database':
        write_file(path + '/map.db', noise(8192))
    elif how == 'data cut':
        os.truncate(path + '/data', 64 * 1024 - 512)
    elif how == 'extent lost':
        with sqlite3.connect(path + '/map.db') as database:
            database.execute('DELETE FROM extent WHERE rowid IN (SELECT rowid FROM extent LIMIT 1)')


@elsewhere
def test_damaged_bundles(store):
    """a damaged bundle is an error: listed, not opened, not a directory, and the others are served"""
    for number, how in enumerate(('no data', 'data is a directory', 'second link', 'empty database', 'no database',
                                  'extent lost', 'data cut')):
        name = f'damaged{number}'
        damage(store, name, how)
        good = store.bundle(f'good{number}', noise(8192))
        with fails_with(errno.EUCLEAN):
            with open(store.path(name), 'rb') as file:
                file.read()
        with fails_with(errno.EUCLEAN, errno.ENOTDIR):
            os.listdir(store.path(name))
        assert name in os.listdir(store.point), how
        assert [e for e in os.scandir(store.point) if e.name == name][0].is_file(follow_symlinks=False), how
        assert read_file(store.path(f'good{number}')) == good


def test_bundles_in_directories(store):
    """bundles in subdirectories, and nothing of their inside"""
    os.makedirs(store.host('x', 'y'))
    expected = store.bundle('a.img', noise(64 * 1024), directory='x/y')
    assert read_file(store.path('x', 'y', 'a.img')) == expected
    assert [(r, d, f) for r, d, f in os.walk(store.path('x'))][-1][1:] == ([], ['a.img'])
    for inside in ('data', 'map.db', '.', '..'):
        with fails_with(errno.ENOTDIR):
            os.stat(store.path('x', 'y', 'a.img', inside))


def test_stale_entries_are_removed(store):
    """what a crash has left of an adoption is gone after the next start"""
    data = noise(8192)
    write_file(store.host('a.img'), data)
    os.mkdir(store.host('sub'))
    write_file(store.host('sub', 'b.img'), data)
    store.bundle('made', data)
    for directory, name in (('', 'a.img'), ('sub', 'b.img')):
        staging = store.host(directory, f'.{name}.zcfs-abcdef')
        os.mkdir(staging)
        os.link(store.host(directory, name), staging + '/data')
        shutil.copy(store.host('made', 'map.db'), staging)
    shutil.rmtree(store.host('made'))
    store.unmount()
    store.start()
    assert sorted(os.listdir(store.below)) == ['a.img', 'sub'] and os.listdir(store.host('sub')) == ['b.img']
    assert read_file(store.path('a.img')) == data


@unmounted
def test_stale_entries_far_down(store):
    """however deep directories are nested the daemon starts: it looks for what crashes have left in the first 128 levels only"""
    near, far, deepest = 100, 200, 5000
    here, stack = os.open('.', os.O_RDONLY), resource.getrlimit(resource.RLIMIT_STACK)
    left = []

    def leave():
        os.mkdir('.a.img.zcfs-abcdef')
        write_file('.a.img.zcfs-abcdef/map.db', b'')
        left.append(os.open('.', os.O_RDONLY))

    os.chdir(store.dir)
    try:
        for depth in range(1, deepest + 1):
            os.mkdir('d')
            os.chdir('d')
            if depth in (near, far):
                leave()
        # A level of stack for each of them would be more than this; sanitizers need more for everything.
        if not SANITIZERS:
            resource.setrlimit(resource.RLIMIT_STACK, (512 << 10, stack[1]))
        store.start()
        assert [os.listdir(directory) for directory in left][0] == ['d']
        assert sorted(os.listdir(left[1])) == ['.a.img.zcfs-abcdef', 'd']
        write_file(store.path('x'), b'here')
        assert read_file(store.path('x')) == b'here'
        store.unmount()
    finally:
        resource.setrlimit(resource.RLIMIT_STACK, stack)
        os.fchdir(here)
        # Deeper than a path or Python's recursion can be.
        subprocess.run(['rm', '-rf', os.path.join(store.dir, 'd')], check=True, timeout=WAIT_SECONDS)
        for directory in (here, *left):
            os.close(directory)


@unmounted
def test_moved_bundle(store):
    """a bundle is self-contained: copied to another store it reads the same"""
    store.start()
    expected = store.bundle('a.img', noise(64 * 1024))
    store.unmount()
    shutil.copytree(store.host('a.img'), store.host('copy.img'))
    store.start()
    assert read_file(store.path('copy.img')) == expected
    with open(store.path('copy.img'), 'r+b') as file:
        file.write(b'changed')
    assert read_file(store.path('a.img')) == expected


if __name__ == '__main__':
    sys.exit(run(tests_of(globals())))
