# SPDX-License-Identifier: GPL-2.0-or-later
"""Hostile or careless neighbours: other daemons, whoever changes names below the mount, bundles that nobody made."""
import ast
import contextlib
import errno
import fcntl
import os
import shutil
import signal
import socket
import sqlite3
import stat
import struct
import subprocess
import sys
import threading
import time

from disk import MIB, mount_memory, unmount
from mount import *

SECONDS = float(os.environ.get('SECONDS', '1'))  # of each race
USER, OTHER = 1500, 1501


def as_user(user, *command):
    return subprocess.run(['setpriv', f'--reuid={user}', f'--regid={user}', '--clear-groups', *command], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=WAIT_SECONDS).returncode == 0


# ---- another file system in the store ----

@contextlib.contextmanager
def file_system_in_store(outer):
    """A store that is the root of a file system, and another one of the same kind in its directory "sub": their inode numbers are the same."""
    memory = os.path.join(outer.top, 'memory')
    os.mkdir(memory)
    mount_memory(memory, 64 * MIB)
    try:
        os.mkdir(memory + '/sub')
        mount_memory(memory + '/sub', 64 * MIB)
        served = Store(over=False, directory=memory)
        try:
            yield served
            served.unmount()
        finally:
            served.clean_up()
            unmount(memory + '/sub')
    finally:
        unmount(memory)


def inodes_below(path):
    return {os.path.relpath(os.path.join(at, name), path): os.lstat(os.path.join(at, name)).st_ino
            for at, directories, files in os.walk(path) for name in (*directories, *files)}


@unmounted
def test_file_system_in_the_store(outer):
    """what is in another file system than the store is another file in the mount, too, for whatever goes by inode numbers"""
    with file_system_in_store(outer) as store:
        os.mkdir(store.host('sub', 'd'))
        for at in ('', 'sub', 'sub/d'):
            for i in range(10):
                write_file(store.host(at, f'f{i}'), f'{at}{i}'.encode())
            store.bundle('b', noise(8192), directory=at)
        store.start()
        below, shown = inodes_below(store.dir), inodes_below(store.point)
        own = [name for name in shown if name.split('/')[0] != 'sub']
        assert any(list(below.values()).count(below[name]) > 1 for name in own), 'nothing to see here'
        assert all(shown[name] == below[name] for name in own if name != 'b')
        assert len({os.stat(store.point).st_ino, *shown.values()}) == 1 + len(shown)
        for at in ('', 'sub', 'sub/d'):
            for entry in os.scandir(store.path(at)):
                assert entry.inode() == os.lstat(entry.path).st_ino, entry.path
                with open(store.path(at, 'new'), 'xb') as file:
                    assert os.fstat(file.fileno()).st_ino == os.stat(file.name).st_ino
                os.unlink(store.path(at, 'new'))
        result = subprocess.run(['find', store.point], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=WAIT_SECONDS)
        assert result.returncode == 0 and len(result.stdout.splitlines()) == 1 + len(shown), result.stdout
        subprocess.run(['ls', '-lR', store.path('.zcfs', 'db')], check=True, stdout=subprocess.DEVNULL, timeout=WAIT_SECONDS)


def defrag(*arguments, expect=0):
    result = subprocess.run([os.environ['ZCFS_DEFRAG'], *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, timeout=WAIT_SECONDS)
    assert result.returncode == expect, f'{arguments}: {result.returncode}: {result.stdout}'
    return result.stdout


@unmounted
def test_tools_in_the_other_file_system(outer):
    """there the tools find the daemon that serves an image, and who uses it"""
    with file_system_in_store(outer) as store:
        for i in range(4):
            for at in ('', 'sub'):
                store.bundle(f'{i}.img', noise(65536), directory=at)
        want = store.expected('0.img', directory='sub')
        write_file(store.host('sub', 'plain.img'), noise(65536))
        store.start()
        with open(store.path('sub', '0.img'), 'rb') as file:
            for path in (store.path('sub', '0.img'), os.path.join(store.dir, 'sub', '0.img')):
                said = defrag('--plain', path, expect=4)
                assert f'(process {os.getpid()})' in said, said
                defrag('--settle', path)
            assert file.read() == want
        wait_until(lambda: len(store.extents('0.img', directory='sub')) == 1, 'settled')
        defrag('--settle', store.path('sub', 'plain.img'))
        defrag('--plain', store.path('sub', '1.img'))
        assert os.path.isfile(store.host('sub', '1.img'))


# ---- two daemons ----

@contextlib.contextmanager
def bind_mount(source, point):
    os.mkdir(point)
    subprocess.run(['mount', '--bind', source, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(['umount', '-l', point], check=True)


def refused(*arguments):
    result = subprocess.run([ZCFS, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            timeout=WAIT_SECONDS)
    assert result.returncode == 1, (arguments, result)
    return result.stdout


@elsewhere
def test_same_store_by_another_path(store):
    """a second daemon on the same store is refused by whatever path it comes: a link, a bind mount"""
    os.symlink(store.dir, store.top + '/link')
    os.mkdir(store.top + '/second')
    with bind_mount(store.dir, store.top + '/bound') as bound:
        for path in (store.top + '/link', bound):
            said = refused(path, store.top + '/second')
            assert 'another zcfs serves this directory' in said, said


@unmounted
def test_bundle_is_no_store(store):
    """a bundle is not taken for a directory of images, of which its data would be one"""
    store.bundle('b', noise(65536))
    assert 'is not a directory of images' in refused(store.host('b'), store.top)


@contextlib.contextmanager
def second_daemon(store, directory):
    """Another mount, of a directory below the store."""
    point = store.top + '/second'
    os.mkdir(point)
    subprocess.run([ZCFS, directory, point], check=True, stdin=subprocess.DEVNULL, timeout=WAIT_SECONDS)
    try:
        yield point
    finally:
        wait_until(lambda: subprocess.run(['umount', point], stderr=subprocess.DEVNULL).returncode == 0, 'umount')


def nested(store, directory):
    """Each of two daemons opens the bundle in turn; never both, and always with the map as it is."""
    first = store.path('sub', 'b')
    with second_daemon(store, directory) as point:
        second = os.path.join(point, 'b')
        for mine, other in ((first, second), (second, first)):
            with open(mine, 'r+b', buffering=0) as file:
                with fails_with(errno.ETXTBSY):
                    open(other, 'rb')
                said = os.getxattr(other, 'user.zcfs.error').decode()
                assert 'another zcfs' in said and 'process' in said, said
                size = os.fstat(file.fileno()).st_size
                os.ftruncate(file.fileno(), size + 5000)
                os.pwrite(file.fileno(), b'grown', size + 4000)
                expected = os.pread(file.fileno(), 1 << 20, 0)

            def free():
                try:
                    return read_file(other) == expected
                except OSError as error:
                    assert error.errno == errno.ETXTBSY
                    return False
            wait_until(free, 'the other one may open it now, and sees what was changed')
            assert 'user.zcfs.error' not in os.listxattr(other)


@elsewhere
def test_nested_stores(store):
    """two daemons, one of them on a subdirectory: a bundle is open in one of them only, and the other says so"""
    os.mkdir(store.host('sub'))
    store.bundle('b', noise(65536), directory='sub')
    nested(store, os.path.join(store.dir, 'sub'))


@elsewhere
def test_nested_by_bind_mount(store):
    """the same by a bind mount of the subdirectory, whose path tells nothing"""
    os.mkdir(store.host('sub'))
    store.bundle('b', noise(65536), directory='sub')
    with bind_mount(os.path.join(store.dir, 'sub'), store.top + '/bound') as bound:
        nested(store, bound)


@contextlib.contextmanager
def daemon_in_a_container(store):
    """A daemon with PIDs and mounts of its own, which sees no process of ours; gives its process and its mount."""
    point = store.top + '/contained'
    os.mkdir(point)
    outside = subprocess.Popen(['unshare', '--pid', '--fork', '--kill-child', '--mount-proc', ZCFS, '-f', *TRANSPORT_OPTIONS,
                                store.dir, point], stdin=subprocess.DEVNULL)
    try:
        def inside():
            return read_file(f'/proc/{outside.pid}/task/{outside.pid}/children').decode().strip()
        wait_until(lambda: inside() and os.path.isdir(f'/proc/{inside()}/root{point}/.zcfs'), 'the daemon serves')
        yield inside(), point
    finally:
        outside.kill()
        outside.wait()


@unmounted
def test_claim_of_nobody(store):
    """while it cannot be told who has a bundle, nobody is accused: opening it waits"""
    expected = store.bundle('b', noise(65536))
    bundle = os.open(store.host('b'), os.O_RDONLY)
    with daemon_in_a_container(store) as (daemon, point):
        image = f'/proc/{daemon}/root{point}/b'
        fcntl.flock(bundle, fcntl.LOCK_EX)
        # A process that the daemon sees, or it would not wait for it.
        reader = subprocess.Popen(['nsenter', '--target', daemon, '--pid', '--mount', 'cat', point + '/b'], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        store.children.append(reader)
        with contextlib.suppress(subprocess.TimeoutExpired):
            reader.wait(1)
        assert reader.returncode is None, (reader.returncode, reader.stdout.read()[:200])
        assert b'cannot be seen' in os.getxattr(image, 'user.zcfs.error')
        os.close(bundle)
        assert reader.communicate(timeout=WAIT_SECONDS)[0] == expected and reader.returncode == 0
        assert 'user.zcfs.error' not in os.listxattr(image)


def test_one_daemon_many_openers(store):
    """the lock between daemons is none between the openers of one"""
    expected = store.bundle('b', noise(65536))
    wrong = []

    def opener():
        for _ in range(150):
            if read_file(store.path('b')) != expected:
                wrong.append(True)
    threads = [threading.Thread(target=opener) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- names that change underneath ----

class Swapping:
    """Exchanges pairs of names again and again, until the end of the block."""

    def __init__(self, pairs):
        self.pairs = pairs
        self.count = 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.work)

    def work(self):
        while not self.stop.is_set():
            for one, two in self.pairs * 2:
                renameat2(one, two, RENAME_EXCHANGE)
                self.count += 1
            time.sleep(0.003)  # with everything in its place, most of the time

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


READER = """
import os, sys, time
seen, end = {}, time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    for path in sys.argv[2:]:
        try:
            with open(path, 'r+b', buffering=0) as file:
                content = file.read(6)
                os.pwrite(file.fileno(), b'inside', 0)
        except OSError as error:
            content = error.errno
        seen[content] = seen.get(content, 0) + 1
print(seen)
"""


def race(store, make, copies, below=''):
    """What is read and written while things are exchanged with links that lead outside, by a user to whom that way is closed, as it is not
    to the daemon: only what is inside, and errors."""
    pairs = [make(number) for number in range(copies)]  # many, because the kernel keeps what it has found by a name for a second
    names = [os.path.relpath(one, store.below).split('/')[0] for one, _ in pairs]
    paths = [store.path(name, below) if below else store.path(name) for name in names]
    swapping = Swapping(pairs)
    with swapping:
        result = subprocess.run(['setpriv', f'--reuid={USER}', f'--regid={USER}', '--clear-groups', sys.executable, '-c', READER, str(SECONDS), *paths],
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True, timeout=WAIT_SECONDS)
    seen = ast.literal_eval(result.stdout)
    print(f'# {swapping.count} exchanges, seen: {result.stdout.strip()}')
    assert swapping.count > 100 and seen.pop(b'inside', 0) > 10, (swapping.count, result.stdout)
    assert set(seen) <= {errno.EACCES, errno.EISDIR, errno.ENOENT, errno.ELOOP, errno.ESTALE, errno.ENOTDIR, errno.EUCLEAN}, seen
    assert {read_file(store.top + '/closed/outside/' + name) for name in ('file', 'data')} == {b'secret'}


def outside_of(store):
    """Files that anybody might read and write, in such a directory, in one that nobody but root may enter: who gets there, got there as the
    daemon."""
    outside = store.top + '/closed/outside'
    os.makedirs(outside)
    for name in ('file', 'data'):
        write_file(os.path.join(outside, name), b'secret')
        os.chmod(os.path.join(outside, name), 0o666)
    os.chmod(outside, 0o755)
    os.chmod(store.top + '/closed', 0o700)
    os.chmod(store.below, 0o755)
    return outside


def make_file(path):
    write_file(path, b'inside')
    os.chmod(path, 0o666)


def make_bundle(store, name):
    store.bundle(name, b'inside' + bytes(506))
    os.chmod(store.host(name, 'data'), 0o666)


def make_link(target, path):
    os.symlink(target, path)
    return path


def test_directory_becomes_link(store):
    """a directory that is exchanged with a link to one outside: what is opened is inside, or an error"""
    outside = outside_of(store)

    def make(number):
        directory = store.host(f'd{number}')
        os.mkdir(directory)
        make_file(directory + '/file')
        return directory, make_link(outside, store.host(f'link{number}'))
    race(store, make, 300, below='file')


def test_image_becomes_link(store):
    """an image that is exchanged with a link to a file outside, just as it is opened"""
    outside = outside_of(store)

    def make(number):
        make_file(store.host(f'file{number}'))
        return store.host(f'file{number}'), make_link(outside + '/file', store.host(f'link{number}'))
    race(store, make, 300)


def test_data_becomes_link(store):
    """a bundle whose data is exchanged with a link to a file outside, by whoever owns the bundle"""
    outside = outside_of(store)

    def make(number):
        make_bundle(store, f'b{number}')
        return store.host(f'b{number}', 'data'), make_link(outside + '/data', store.host(f'b{number}', 'other'))
    race(store, make, 30)


def test_bundle_becomes_link(store):
    """a bundle that is exchanged with a link to one outside"""
    outside = outside_of(store)
    make_bundle(store, 'b')
    shutil.copy(store.host('b', 'map.db'), outside + '/map.db')

    def make(number):
        make_bundle(store, f'b{number}')
        return store.host(f'b{number}'), make_link(outside, store.host(f'link{number}'))
    race(store, make, 30)


CREATOR = """
import contextlib, errno, os, sys, time
seen, end = {}, time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    for path in sys.argv[2:]:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            what = os.pread(fd, 6, 0)
            os.close(fd)
        except OSError as error:
            what = errno.errorcode[error.errno]
        seen[what] = seen.get(what, 0) + 1
        if what == b'':
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
print(seen)
"""


def created(store, appear, names):
    """What a user gets who opens names with O_CREAT, and removes what he has made, while they appear below the mount and vanish again."""
    stop = threading.Event()

    def come_and_go():
        while not stop.is_set():
            for name in names:
                appear()
                with contextlib.suppress(FileExistsError, FileNotFoundError):
                    renameat2(store.host('.new'), store.host(name), RENAME_NOREPLACE)
                    stop.wait(0.0002)
                    os.unlink(store.host(name))
    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        result = subprocess.run(['setpriv', f'--reuid={USER}', f'--regid={USER}', '--clear-groups', sys.executable, '-c', CREATOR, str(4 * SECONDS),
                                 *(store.path(name) for name in names)],
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True, timeout=WAIT_SECONDS)
    finally:
        stop.set()
        thread.join()
    print(f'# {result.stdout.strip()}')
    return ast.literal_eval(result.stdout)


def test_create_meets_others_file(store):
    """a file that appears below the mount just as the same name is created there is opened by whoever may, and by nobody else"""
    os.chmod(store.below, 0o777)
    for mode, expected in ((0o600, 'EACCES'), (0o666, b'others')):
        def appear(mode=mode):
            write_file(store.host('.new'), b'others')
            os.chmod(store.host('.new'), mode)
        seen = created(store, appear, [f'{mode:o}.{number}' for number in range(4)])
        stale = seen.pop('ESTALE', 0)   # mostly: found, and gone when it was to be opened, twice
        assert stale * 20 < sum(seen.values()) and seen.pop(b'', 0) > 10 and seen.pop(expected, 0) > 10 and not seen, (stale, seen)


def test_moved_out(store):
    """a directory that is moved out of the store is out of the mount, too, and its old name is another's"""
    os.mkdir(store.host('d'))
    write_file(store.host('d', 'file'), b'inside')
    assert read_file(store.path('d', 'file')) == b'inside'
    os.rename(store.host('d'), store.top + '/moved')
    os.mkdir(store.host('d'))
    write_file(store.host('d', 'file'), b'another')
    wait_until(lambda: read_file(store.path('d', 'file')) == b'another', 'the new directory')
    assert not os.path.exists(store.path('d', '..', 'moved'))


# ---- forged bundles ----

def forge(store, how):
    """A directory below the mount that looks like a bundle; its owner can do that, the mount's users cannot."""
    name = how.replace(' ', '-')
    bundle = store.host(name)
    store.bundle(name, noise(65536))
    outside = store.top + '/closed/outside/data'
    data, database = bundle + '/data', bundle + '/map.db'
    if how == 'data is a link':
        os.unlink(data)
        os.symlink(outside, data)
    elif how == 'data is a hard link':
        os.unlink(data)
        os.link(outside, data)
    elif how == 'data is a fifo':
        os.unlink(data)
        os.mkfifo(data)
    elif how == 'data is a device':
        os.unlink(data)
        os.mknod(data, stat.S_IFBLK | 0o666, os.makedev(7, 0))
    elif how == 'data is a socket':
        os.unlink(data)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(data)
    elif how == 'map is a link':
        os.rename(database, bundle + '/other')
        os.symlink('other', database)
    elif how == 'map is a fifo':
        os.unlink(database)
        os.mkfifo(database)
    elif how == 'map is a directory':
        os.unlink(database)
        os.mkdir(database)
    elif how == 'map of another image':
        store.bundle('twin', noise(65536), 7)
        os.unlink(database)
        os.link(store.host('twin', 'map.db'), database)
    elif how == 'map of a larger image':
        store.bundle('larger', noise(131072))
        shutil.copy(store.host('larger', 'map.db'), database)
    elif how == 'map of another program':
        os.unlink(database)
        with sqlite3.connect(os.path.join(store.dir, name, 'map.db')) as connection:
            connection.execute('CREATE TABLE extent (guest_off, length, host_off)')
    elif how == 'two names in one':
        os.link(database, bundle + '/MAP.DB')
    return name


FORGERIES = ('data is a link', 'data is a hard link', 'data is a fifo', 'data is a device', 'data is a socket', 'map is a link', 'map is a fifo',
             'map is a directory', 'map of another image', 'map of a larger image', 'map of another program', 'two names in one')


@elsewhere
def test_forged_bundles(store):
    """a bundle that nobody made is an error, at once, for the mount and for the tools, and leads to no bytes of others"""
    outside_of(store)
    for how in FORGERIES:
        name = forge(store, how)
        with fails_with(errno.EUCLEAN):
            read_file(store.path(name))
        for tool in (os.environ['ZCFS_DEFRAG'], os.environ['ZCFS_CHECK']):
            result = subprocess.run([tool, os.path.join(store.dir, name)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                    stderr=subprocess.STDOUT, text=True, errors='replace', timeout=WAIT_SECONDS)
            assert result.returncode not in (0, 2) and result.returncode > 0 and 'secret' not in result.stdout, (how, result)
    assert read_file(store.top + '/closed/outside/data') == b'secret'


def forge_journal(bundle, name):
    """A transaction cut short, whose journal says that it is part of a larger one, named by a path."""
    database = os.path.join(bundle, 'map.db')
    writer = sqlite3.connect(database, isolation_level=None)
    writer.execute('PRAGMA cache_size = 1')
    writer.execute('BEGIN')
    writer.execute('UPDATE extent SET host_off = host_off + 512')
    for path in (database, database + '-journal'):
        shutil.copy(path, path + '.copy')
    writer.execute('ROLLBACK')
    writer.close()
    name = os.fsencode(name)
    with open(database + '-journal.copy', 'ab') as journal:
        journal.write(bytes(4) + name + struct.pack('>II', len(name), sum(name)) + bytes.fromhex('d9d505f920a163d7'))
    for path in (database, database + '-journal'):
        os.rename(path + '.copy', path)


@contextlib.contextmanager
def mount_that_does_not_answer(store):
    """Whoever asks for a name below it waits until this ends. The way there is short: SQLite takes no other."""
    directory = os.path.join(store.top, 'unanswered')
    link = '/tmp/z' + os.urandom(3).hex()
    os.mkdir(directory)
    with second_daemon(store, directory) as point:
        daemon = int(os.readlink(point + '/.zcfs/store').split('/')[2])
        os.symlink(point, link)
        os.kill(daemon, signal.SIGSTOP)
        try:
            yield link
        finally:
            os.kill(daemon, signal.SIGCONT)
            os.unlink(link)


@elsewhere
def test_journal_that_names_a_path(store):
    """a forged journal does not have the daemon look for a path, where it might wait for ever"""
    store.bundle('b', noise(1 << 20), block=512)
    with mount_that_does_not_answer(store) as path:
        forge_journal(os.path.join(store.dir, 'b'), path + '/x')
        reader = subprocess.Popen(['cat', store.path('b')], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: reader.poll() is not None, 'an answer', WAIT_SECONDS / 3)
    assert not os.path.exists(store.host('b', 'map.db-journal'))


PAGE = 4096


def make_endless(path, table, rows_of):
    """Makes of a table's tree one with the same page, over and over, in place of its last one: a leaf with these few rows. A walk over it
    would take 500 ** 6 times as long as over them."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        roots = dict(database.execute("SELECT name, rootpage FROM sqlite_schema UNION SELECT 'sqlite_schema', 1"))
    pages = bytearray(read_file(path))
    pages += pages[(roots[rows_of] - 1) * PAGE:roots[rows_of] * PAGE]
    for _ in range(6):
        child = len(pages) // PAGE
        pages += struct.pack('>BHHHBI', 5, 0, 500, PAGE - 5, 0, child) + struct.pack('>H', PAGE - 5) * 500
        pages += bytes(-len(pages) % PAGE - 5) + struct.pack('>IB', child, 1)
    if table == 'sqlite_schema':    # several leaves, and the way to all but one begins in the first page
        pages += struct.pack('>BHHHBI', 5, 0, 1, PAGE - 5, 0, len(pages) // PAGE) + struct.pack('>H', PAGE - 5)
        pages += bytes(-len(pages) % PAGE - 5) + pages[108:112] + b'\x7f'
        pages[108:112] = struct.pack('>I', len(pages) // PAGE)
    else:
        pages[(roots[table] - 1) * PAGE:roots[table] * PAGE] = pages[-PAGE:]
    pages[28:32] = struct.pack('>I', len(pages) // PAGE)
    write_file(path, pages)


def forge_endless(database, how):
    lost = 'DELETE FROM extent WHERE guest_off = 0'
    statements = {
        'constraint': (lost, f"CREATE TABLE more (x CHECK (x NOT GLOB '*{'a' * 40000}b*'))", "INSERT INTO more VALUES (replace(hex(zeroblob(400000)), '0', 'a'))"),
        'history': (lost, "INSERT INTO file VALUES (1, 1, 0, 0, '', '', 0, 0, 0)"),
        'map': (),
        'redo': ('UPDATE image SET redo_pending = 1', "INSERT INTO redo VALUES (1, x'00000000000000000100000000000000')"),
        'schema': ('CREATE TABLE more (x UNIQUE)', "CREATE TABLE row AS SELECT * FROM sqlite_schema WHERE name = 'sqlite_autoindex_more_1'"),
    }
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute('PRAGMA ignore_check_constraints = 1')
        for statement in statements[how]:
            connection.execute(statement)
    tables = {'history': ('file', 'file'), 'map': ('extent', 'extent'), 'redo': ('redo', 'redo'), 'schema': ('sqlite_schema', 'row')}
    if how in tables:
        make_endless(database, *tables[how])


@elsewhere
def test_endless_databases(store):
    """a database that could be looked at for ever is refused within seconds"""
    for how in ('constraint', 'history', 'map', 'redo', 'schema'):
        store.bundle(how, noise(65536))
        forge_endless(os.path.join(store.dir, how, 'map.db'), how)
        start = time.monotonic()
        with fails_with(errno.EUCLEAN):
            read_file(store.path(how))
        assert time.monotonic() - start < WAIT_SECONDS / 3, how
        if how != 'history':    # that it looks at until it is interrupted
            result = subprocess.run([os.environ['ZCFS_CHECK'], os.path.join(store.dir, how)], stdin=subprocess.DEVNULL,
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=WAIT_SECONDS / 3)
            assert result.returncode == 4, (how, result)


def test_data_of_another_owner(store):
    """whose data it is decides who may read it, not whose bundle"""
    os.chmod(store.below, 0o755)
    store.bundle('b', noise(65536))
    os.chown(store.host('b'), USER, USER)
    os.chown(store.host('b', 'map.db'), USER, USER)
    os.chmod(store.host('b', 'data'), 0o600)
    assert os.stat(store.path('b')).st_uid == 0
    assert not as_user(USER, 'cat', store.path('b'))
    assert not as_user(USER, 'sh', '-c', ': >>"$0"', store.path('b'))
    os.chown(store.host('b', 'data'), USER, USER)
    os.chown(store.host('b'), 0, 0)
    assert as_user(USER, 'cmp', store.path('b'), store.path('b')) and not as_user(OTHER, 'cat', store.path('b'))


def owners(path):
    status = os.stat(path, follow_symlinks=False)
    return status.st_uid, status.st_gid


def test_bundle_of_another_owner(store):
    """who is given an image is given its bundle, and who had it cannot exchange its map any more; a plain image has nothing else to give"""
    os.chmod(store.below, 0o1777)
    write_file(store.host('plain'), noise(65536))
    expected = store.bundle('b', noise(65536))
    parts = [store.host('b', 'data'), store.host('b', 'map.db'), store.host('b')]
    os.chown(store.path('b'), USER, USER)
    assert [owners(part) for part in parts] == 3 * [(USER, USER)]
    os.chown(store.path('b'), OTHER, -1)
    assert [owners(part) for part in parts] == 3 * [(OTHER, USER)]
    assert os.stat(store.host('b')).st_mode & 0o022 == 0
    assert not as_user(USER, 'chown', str(USER), store.path('b'))
    with open(store.path('b'), 'r+b') as file:
        os.fchown(file.fileno(), -1, OTHER)
        assert [owners(part) for part in parts] == 3 * [(OTHER, OTHER)]
    assert read_file(store.path('b')) == expected
    os.chown(store.path('plain'), USER, USER)
    assert owners(store.host('plain')) == (USER, USER) and owners(store.below + '/') == (0, 0)


def test_nobody_is_given_others_files(store):
    """who makes a bundle of his data and somebody else's file, in that one's directory, is not given them by chown"""
    for name, others in (('both', ('', 'map.db')), ('map', ('map.db',)), ('directory', ('',))):
        store.bundle(name, noise(65536))
        for part in ('', 'data', 'map.db'):
            if part not in others:
                os.chown(store.host(name, part), USER, USER)
        assert as_user(USER, 'chown', f'{USER}:{USER}', store.path(name)), 'to himself he may'
        assert all(owners(store.host(name, part)) == (0, 0) for part in others), name
        os.chown(store.path(name), OTHER, OTHER)
        assert all(owners(store.host(name, part)) == ((0, 0) if part in others else (OTHER, OTHER)) for part in ('', 'data', 'map.db')), name


def test_given_away_while_exchanged(store):
    """what somebody has put where the bundle or its map was stays his: a link, another link of a file, another directory"""
    victim, secret = store.host('victim'), store.top + '/secret'
    write_file(victim, b'not to be given away')
    write_file(secret, b'')

    def forged(name, forge):
        store.bundle(name, noise(65536))
        with open(store.path(name), 'rb') as file:
            forge(store.host(name))
            os.fchown(file.fileno(), USER, USER)
        assert owners(victim) == owners(secret) == (0, 0) and owners(store.host(name)) == (0, 0), name

    def link(bundle):
        os.unlink(bundle + '/map.db')
        os.symlink(secret, bundle + '/map.db')

    def second_link(bundle):
        os.unlink(bundle + '/map.db')
        os.link(victim, bundle + '/map.db')

    def another(bundle):
        os.rename(bundle, bundle + '.away')
        os.mkdir(bundle)
        write_file(bundle + '/data', b'')
        write_file(bundle + '/map.db', b'')

    for forge in (link, second_link, another):
        forged(forge.__name__, forge)
    assert owners(store.host('another', 'map.db')) == (0, 0)


# ---- what is mounted below ----

@contextlib.contextmanager
def mounted(point, *what):
    subprocess.run(['mount', *what, point], check=True)
    try:
        yield
    finally:
        subprocess.run(['umount', '-l', point], check=True)


@elsewhere
def test_mount_points_are_busy(store):
    """a directory, file or bundle on which something is mounted below cannot be renamed, replaced or removed: EBUSY, as on the host"""
    for name in ('fast', 'directory'):
        os.mkdir(store.host(name))
    for name in ('file', 'plain', 'bound'):
        write_file(store.host(name), noise(65536))
    for name in ('image', 'bundle', 'bound.img'):
        store.bundle(name, noise(65536))
    names = sorted(os.listdir(store.dir))
    point = os.path.join(store.dir, '')
    with mounted(point + 'fast', '-t', 'tmpfs', 'zcfs-test'), mounted(point + 'file', '--bind', point + 'bound'), \
            mounted(point + 'image', '--bind', point + 'bound.img'):
        for name, others in (('fast', ['directory']), ('file', ['plain', 'bundle']), ('image', ['plain', 'bundle'])):
            path = store.path(name)
            with fails_with(errno.EBUSY):
                os.rename(path, path + '2')
            with fails_with(errno.EBUSY):
                (os.rmdir if name == 'fast' else os.unlink)(path)
            for other in map(store.path, others):
                with fails_with(errno.EBUSY):
                    os.rename(path, other)
                with fails_with(errno.EBUSY):
                    os.rename(other, path)
                with fails_with(errno.EBUSY):
                    renameat2(path, other, RENAME_EXCHANGE)
        assert sorted(os.listdir(store.dir)) == names
    for name in ('image', 'bundle'):
        assert read_file(store.path(name)) == store.expected(name)


# ---- several users of one mount ----

def test_sticky_directory(store):
    """in a sticky directory only the owner of an image removes, renames or replaces it; images are made as whoever makes them"""
    os.chmod(store.below, 0o1777)
    for name in ('plain', 'bundle'):
        assert as_user(USER, 'sh', '-c', 'head -c 65536 /dev/zero >"$0" && chmod 666 "$0"', store.path(name))
    store.tool('scatter', 'bundle', 1, 4096)
    for name in ('plain', 'bundle'):
        assert os.stat(store.path(name)).st_uid == USER
        assert as_user(OTHER, 'sh', '-c', 'echo x >>"$0"', store.path(name)), 'the mode lets him write'
        for command in ('rm -f "$0"', 'mv "$0" "$0.away"', 'cd "${0%/*}" && echo x >mine && mv mine "$0"', 'chmod 600 "$0"', 'touch -d 2000-01-01 "$0"'):
            assert not as_user(OTHER, 'sh', '-c', command + ' && ! test -e "$0.never"', store.path(name)), command
        assert as_user(USER, 'sh', '-c', 'mv "$0" "$0.2" && rm "$0.2"', store.path(name))


@contextlib.contextmanager
def acting_as(user):
    """This process itself: to start another takes part of the time for which the kernel remembers names."""
    os.setegid(user)
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def make_owned(store, kind, name, user):
    if kind == 'directory':
        os.mkdir(store.host(name))
    elif kind == 'bundle':
        store.bundle(name, noise(8192))
        os.chown(store.host(name, 'data'), user, user)
    else:
        write_file(store.host(name), b'')
    os.chown(store.host(name), user, user)


def exchanged_below(store, kind, owner, operation):
    """A user's operation on a name that the kernel remembers as his own, and that is owner's by now."""
    suffix = f'-{kind}-{operation}-{owner}'
    for name, user in (('race', USER), ('mine', USER), ('other', owner)):
        make_owned(store, kind, name + suffix, user)
    path, mine = store.path('race' + suffix), store.path('mine' + suffix)
    remove = os.rmdir if kind == 'directory' else os.unlink
    with acting_as(USER):
        os.stat(path)
    renameat2(store.host('race' + suffix), store.host('other' + suffix), RENAME_EXCHANGE)
    with acting_as(USER):
        {'remove': lambda: remove(path), 'rename': lambda: os.rename(path, path + '2'), 'replace': lambda: os.rename(mine, path),
         'exchange': lambda: renameat2(path, mine, RENAME_EXCHANGE)}[operation]()


def test_sticky_directory_changed_below(store):
    """in a sticky directory nobody removes, renames or replaces what somebody else has just put below the mount where his own was"""
    os.chmod(store.point, 0o1777)
    for kind in ('file', 'bundle', 'directory'):
        for operation in ('remove', 'rename', 'replace', 'exchange'):
            with fails_with(errno.EPERM):
                exchanged_below(store, kind, OTHER, operation)
            assert os.stat(store.host(f'race-{kind}-{operation}-{OTHER}')).st_uid == OTHER, (kind, operation)
            exchanged_below(store, kind, USER, operation)


def hidden_replacement(store, mine, victim):
    """Under the name that a replacement cut short would have left."""
    new, old = (os.stat(store.host(name)).st_ino for name in (mine, victim))
    return store.host(f'.{victim}.zcfs-replace-{new:x}-{old:x}')


def test_forged_replacement(store):
    """in a sticky directory nobody has the daemon or a tool put his image in the place of another's"""
    os.chmod(store.below, 0o1777)
    assert as_user(USER, 'sh', '-c', 'echo hers >"$0" && chmod 600 "$0"', store.path('hers'))
    assert as_user(OTHER, 'sh', '-c', 'echo his >"$0"', store.path('mine'))
    hidden = hidden_replacement(store, 'mine', 'hers')
    os.rename(store.host('mine'), hidden)
    assert as_user(USER, 'cat', store.path('hers'))
    subprocess.run([os.environ['ZCFS_DEFRAG'], store.host('hers')], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    store.bundle('b', noise(65536))  # what is renamed or removed beside it has all of the directory cleaned
    os.unlink(store.path('b'))
    assert read_file(store.path('hers')) == b'hers\n' and read_file(hidden) == b'his\n'
    assert os.stat(store.path('hers')).st_uid == USER
    # What she was about to do herself goes on.
    os.chown(hidden, USER, USER)
    store.bundle('b', noise(65536))
    os.unlink(store.path('b'))
    assert read_file(store.path('hers')) == b'his\n' and not os.path.lexists(hidden)


def test_private_directory_by_a_hidden_name(store):
    """who can rename a directory does not have the daemon remove the files in it"""
    os.chmod(store.below, 0o777)
    files = {'data': b'hers', 'map.db': b'SQLite format 3\0' + bytes(84), 'map.db-journal': b'journal', 'probe': b''}
    for hidden in ('.b.zcfs-removed-aBcDeF', '.x.zcfs-removed-aBcDeF', '.b.zcfs-plain-aBcDeF', '.b.zcfs-aBcDeF'):
        private = store.host('private')
        os.mkdir(private)
        for name, content in files.items():
            if name != 'data' or 'removed' in hidden:
                write_file(f'{private}/{name}', content)
        names = sorted(os.listdir(private))
        os.chmod(private, 0o700)
        os.chown(private, USER, USER)
        os.rename(private, store.host(hidden))
        store.bundle('b', noise(65536))
        os.unlink(store.path('b'))
        assert sorted(os.listdir(store.host(hidden))) == names, hidden
        shutil.rmtree(store.host(hidden))


@with_options('-o', 'no_allow_other')
def test_no_allow_other(store):
    """without allow_other the mount is closed to other users, whatever the modes say"""
    write_file(store.path('x'), b'data')
    os.chmod(store.path('x'), 0o666)
    assert not as_user(USER, 'cat', store.path('x')) and not as_user(USER, 'ls', store.point)


if __name__ == '__main__':
    sys.exit(run(tests_of(globals())))
