# SPDX-License-Identifier: GPL-2.0-or-later
"""The mount is a file system like any other; a bundle in it is a file like any other."""
import ctypes
import errno
import fcntl
import mmap
import os
import stat
import struct
import subprocess
import sys
import time

from mount import *

MIB = 1 << 20


def both(function):
    """Runs a test on a plain image and on a bundle of the same length."""
    def wrapper(store):
        size = 256 * 1024
        write_file(store.host('plain.img'), noise(size))
        bundle = store.bundle('bundle.img', noise(size, 2))
        function(store, 'plain.img', noise(size))
        function(store, 'bundle.img', bundle)
    wrapper.__name__ = function.__name__
    wrapper.__doc__ = function.__doc__
    return wrapper


def as_user(user, *command):
    return subprocess.run(['setpriv', f'--reuid={user}', f'--regid={user}', '--clear-groups', *command],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=WAIT_SECONDS)


@both
def test_read_write(store, name, data):
    """reads and writes at odd offsets and lengths"""
    path = store.path(name)
    assert read_file(path) == data
    model = bytearray(data)
    with open(path, 'r+b', buffering=0) as file:
        for off, length in ((0, 1), (511, 2), (4095, 4098), (100001, 70001), (len(data) - 1, 1)):
            piece = noise(length, off)
            assert os.pwrite(file.fileno(), piece, off) == length
            model[off:off + length] = piece
            assert os.pread(file.fileno(), length, off) == piece
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
    assert read_file(path) == model
    assert os.stat(path).st_size == len(data)
    with open(path, 'rb') as file:
        assert os.pread(file.fileno(), 100, len(data)) == b''
        assert os.pread(file.fileno(), 100, len(data) - 10) == model[-10:]


@both
def test_write_past_end(store, name, data):
    """a write past the end makes the file grow, with zeros in between"""
    path = store.path(name)
    with open(path, 'r+b', buffering=0) as file:
        os.pwrite(file.fileno(), b'end', len(data) + 10000)
        assert os.fstat(file.fileno()).st_size == len(data) + 10003
    assert read_file(path) == data + bytes(10000) + b'end'


@both
def test_append(store, name, data):
    """O_APPEND appends"""
    path = store.path(name)
    model = data
    with open(path, 'ab', buffering=0) as file:
        for length in (1, 510, 513, 5000):
            piece = noise(length, length)
            file.write(piece)
            model += piece
    assert read_file(path) == model


@both
def test_truncate(store, name, data):
    """truncate by path and by descriptor, down and up, shows zeros and never old bytes"""
    path = store.path(name)
    os.truncate(path, 100000)
    assert read_file(path) == data[:100000]
    os.truncate(path, 200000)
    assert read_file(path) == data[:100000] + bytes(100000)
    with open(path, 'r+b') as file:
        os.ftruncate(file.fileno(), 77)
        assert os.fstat(file.fileno()).st_size == 77
        os.ftruncate(file.fileno(), 4097)
        assert file.read() == data[:77] + bytes(4020)
    assert os.stat(path).st_size == 4097
    os.truncate(path, 0)
    assert read_file(path) == b''
    os.truncate(path, 5000)
    assert read_file(path) == bytes(5000)


@both
def test_open_truncating(store, name, data):
    """O_TRUNC"""
    path = store.path(name)
    write_file(path, b'new')
    assert read_file(path) == b'new'
    assert os.stat(path).st_size == 3


@both
def test_direct(store, name, data):
    """O_DIRECT reads and writes, misaligned ones too, agree with buffered ones"""
    path = store.path(name)
    buffered = os.open(path, os.O_RDWR)
    direct = os.open(path, os.O_RDWR | os.O_DIRECT)
    memory = mmap.mmap(-1, 64 * 1024)
    assert os.preadv(direct, [memory], 8192) == len(memory)
    assert memory[:] == data[8192:8192 + len(memory)]
    memory[:] = noise(len(memory), 5)
    assert os.pwritev(direct, [memory], 4096) == len(memory)
    assert os.pread(buffered, len(memory), 4096) == memory[:]
    os.pwrite(buffered, b'buffered', 5000)
    assert os.preadv(direct, [memory], 4096) == len(memory)
    assert memory[904:912] == b'buffered'
    assert os.pread(direct, 1000, 512 * 3)[:16] == data[1536:1552]
    os.close(direct)
    os.close(buffered)


@both
def test_mmap(store, name, data):
    """a shared mapping reads the file and writes it"""
    with open(store.path(name), 'r+b') as file:
        with mmap.mmap(file.fileno(), 0) as memory:
            assert memory[:] == data
            memory[5000:5004] = b'mmap'
            memory.flush()
        assert os.pread(file.fileno(), 4, 5000) == b'mmap'


@both
def test_punch_and_zero(store, name, data):
    """PUNCH_HOLE and ZERO_RANGE make zeros, KEEP_SIZE keeps the size, plain allocation grows"""
    model = bytearray(data)
    path = store.path(name)
    with open(path, 'r+b') as file:
        fd = file.fileno()
        fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 5000, 30000)
        model[5000:35000] = bytes(30000)
        try:
            fallocate(fd, FALLOC_ZERO_RANGE, 100000, 777)
            model[100000:100777] = bytes(777)
        except OSError as error:
            assert error.errno == errno.EOPNOTSUPP
        fallocate(fd, 0, 40000, 10000)
        fallocate(fd, FALLOC_KEEP_SIZE, len(data) - 100, 10000)
        assert os.fstat(fd).st_size == len(data)
        assert file.read() == model
        fallocate(fd, 0, len(data) - 100, 10000)
        assert os.fstat(fd).st_size == len(data) + 9900
        with fails_with(errno.EOPNOTSUPP):
            fallocate(fd, FALLOC_COLLAPSE_RANGE, 0, 4096)
    assert read_file(path) == model + bytes(9900)


def segments(fd, size):
    off, found = 0, []
    while off < size:
        try:
            data = os.lseek(fd, off, os.SEEK_DATA)
        except OSError as error:
            assert error.errno == errno.ENXIO
            break
        off = os.lseek(fd, data, os.SEEK_HOLE)
        found.append((data, off))
    return found


@both
def test_holes(store, name, data):
    """SEEK_DATA and SEEK_HOLE find the holes of the guest's view, and nothing that has data is called a hole"""
    with open(store.path(name), 'r+b') as file:
        fd = file.fileno()
        fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 65536, 65536)
        assert segments(fd, len(data)) == [(0, 65536), (131072, len(data))]
        assert os.lseek(fd, 65536, os.SEEK_HOLE) == 65536
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 65536
        assert os.lseek(fd, 131072, os.SEEK_HOLE) == len(data)
        with fails_with(errno.ENXIO):
            os.lseek(fd, len(data), os.SEEK_DATA)
        os.ftruncate(fd, len(data) + MIB)
        assert os.lseek(fd, len(data), os.SEEK_HOLE) == len(data)
        with fails_with(errno.ENXIO):
            os.lseek(fd, len(data) + 4096, os.SEEK_DATA)


@both
def test_extended_attributes(store, name, data):
    """user attributes are stored with the image and listed"""
    path = store.path(name)
    os.setxattr(path, 'user.colour', b'blue')
    assert os.getxattr(path, 'user.colour') == b'blue'
    assert 'user.colour' in os.listxattr(path)
    with fails_with(errno.EEXIST):
        os.setxattr(path, 'user.colour', b'red', os.XATTR_CREATE)
    os.removexattr(path, 'user.colour')
    with fails_with(errno.ENODATA):
        os.getxattr(path, 'user.colour')


@both
def test_trusted_attributes(store, name, data):
    """the administrator's attributes are shown to nobody else"""
    os.chmod(store.below, 0o755)
    os.chmod(store.path(name), 0o644)
    os.setxattr(store.path(name), 'trusted.secret', b'x')
    os.setxattr(store.path(name), 'user.colour', b'blue')
    assert {'trusted.secret', 'user.colour'} <= set(os.listxattr(store.path(name)))
    script = 'import os, sys; print(*os.listxattr(sys.argv[1]))'
    assert as_user(1500, sys.executable, '-c', script, store.path(name)).stdout.split() == ['user.colour']


@both
def test_mode_owner_times(store, name, data):
    """chmod, chown and utimens are the image's, and survive a remount"""
    path = store.path(name)
    os.chmod(path, 0o640)
    os.chown(path, 1234, 4321)
    os.utime(path, ns=(10**18 + 1, 10**18 + 2))
    status = os.stat(path)
    assert stat.S_IMODE(status.st_mode) == 0o640 and stat.S_ISREG(status.st_mode)
    assert (status.st_uid, status.st_gid) == (1234, 4321)
    assert (status.st_atime_ns, status.st_mtime_ns) == (10**18 + 1, 10**18 + 2)
    store.unmount()
    store.start()
    again = os.stat(path)
    assert (again.st_mode, again.st_uid, again.st_mtime_ns, again.st_size, again.st_ino) == \
        (status.st_mode, status.st_uid, status.st_mtime_ns, status.st_size, status.st_ino)
    assert read_file(path) == data


@both
def test_unlink_while_open(store, name, data):
    """an unlinked file stays usable until closed: reads, writes, truncates"""
    path = store.path(name)
    with open(path, 'r+b', buffering=0) as file:
        fd = file.fileno()
        os.unlink(path)
        assert not os.path.exists(path)
        assert name not in os.listdir(store.point)
        assert os.fstat(fd).st_nlink == 0
        assert file.read() == data
        os.ftruncate(fd, 1000)
        os.ftruncate(fd, 300000)
        os.pwrite(fd, b'tail', 400000)
        assert os.pread(fd, 500000, 0) == data[:1000] + bytes(399000) + b'tail'
        write_file(path, b'another')
        assert os.pread(fd, 4, 400000) == b'tail'
    assert read_file(path) == b'another'
    os.unlink(path)
    assert [e for e in os.listdir(store.below) if name in e] == []


def test_size_without_a_name(store):
    """an open bundle that was removed, or replaced by a rename, still has the image's size, not that of its longer data file"""
    for end in (os.unlink, lambda path: os.rename(store.path('other'), path)):
        size = len(store.bundle('a.img', noise(65536)))
        write_file(store.path('other'), b'')
        os.truncate(store.host('a.img', 'data'), size + MIB)    # whatever has been left there
        with open(store.path('a.img'), 'r+b') as file:
            fd = file.fileno()
            assert os.fstat(fd).st_size == size
            end(store.path('a.img'))
            os.fchmod(fd, 0o600)    # the kernel has to ask again
            assert os.fstat(fd).st_nlink == 0 and os.fstat(fd).st_size == size
            assert os.lseek(fd, 0, os.SEEK_END) == size and len(os.pread(fd, 2 * MIB, 0)) == size
            os.ftruncate(fd, size + 1000)
            os.fchmod(fd, 0o644)
            assert os.fstat(fd).st_size == size + 1000


@both
def test_locks_between_processes(store, name, data):
    """flock and record locks hold between processes"""
    path = store.path(name)
    script = ('import fcntl, sys\nf = open(sys.argv[1], "r+b")\n'
              'try: getattr(fcntl, sys.argv[2])(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\n'
              'except OSError: print("locked")\nelse: print("free")')

    def other(kind):
        return subprocess.run([sys.executable, '-c', script, path, kind], stdout=subprocess.PIPE, text=True,
                              timeout=WAIT_SECONDS).stdout.strip()
    with open(path, 'r+b') as file:
        for kind in ('flock', 'lockf'):
            assert other(kind) == 'free'
            getattr(fcntl, kind)(file, fcntl.LOCK_EX)
            assert other(kind) == 'locked'
            getattr(fcntl, kind)(file, fcntl.LOCK_UN)
            assert other(kind) == 'free'


@both
def test_stat(store, name, data):
    """stat shows a regular file with the image's size, and the directory lists it as one"""
    status = os.lstat(store.path(name))
    assert stat.S_ISREG(status.st_mode) and status.st_size == len(data) and status.st_nlink == 1
    entry = [e for e in os.scandir(store.point) if e.name == name][0]
    assert entry.is_file(follow_symlinks=False) and entry.inode() == status.st_ino
    with fails_with(errno.ENOTDIR):
        os.listdir(store.path(name))
    with fails_with(errno.ENOTDIR):
        os.rmdir(store.path(name))
    with fails_with(errno.ENOTDIR):
        os.stat(store.path(name, 'data'))


@both
def test_copy(store, name, data):
    """cp and copy_file_range copy the guest's view"""
    subprocess.run(['cp', '--sparse=auto', store.path(name), store.path('copy')], check=True, timeout=WAIT_SECONDS)
    assert read_file(store.path('copy')) == data
    with open(store.path(name), 'rb') as source, open(store.path('copy'), 'r+b') as target:
        os.ftruncate(target.fileno(), 0)
        assert os.copy_file_range(source.fileno(), target.fileno(), 50000, 1000, 0) == 50000
    assert read_file(store.path('copy')) == data[1000:51000]
    os.unlink(store.path('copy'))


@both
def test_large_offsets(store, name, data):
    """offsets near the limits fail as they should and leave the image alone"""
    with open(store.path(name), 'r+b') as file:
        fd = file.fileno()
        with fails_with(errno.EFBIG, errno.EINVAL, errno.EOVERFLOW):
            os.ftruncate(fd, 2**63 - 1)
        with fails_with(errno.EFBIG, errno.EINVAL, errno.ENOSPC):
            os.pwrite(fd, b'x', 2**63 - 4096)
        assert os.pread(fd, 100, 2**62) == b''
        assert os.fstat(fd).st_size == len(data)
        assert file.read() == data


def test_new_files_are_plain(store):
    """files made in the mount are ordinary files in the store"""
    write_file(store.path('new'), b'text')
    assert read_file(store.host('new')) == b'text'
    fd = os.open(store.path('exclusive'), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    os.write(fd, b'x')
    os.close(fd)
    with fails_with(errno.EEXIST):
        os.open(store.path('exclusive'), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    with open(store.path('read-only'), 'wb', opener=lambda p, f: os.open(p, f, 0o400)) as file:
        file.write(b'made once')
    assert stat.S_IMODE(os.stat(store.path('read-only')).st_mode) == 0o400


def test_directories(store):
    """mkdir, rmdir, rename of directories, and what is in them"""
    os.mkdir(store.path('a'))
    os.mkdir(store.path('a', 'b'))
    write_file(store.path('a', 'b', 'file'), b'deep')
    with fails_with(errno.ENOTEMPTY):
        os.rmdir(store.path('a'))
    os.rename(store.path('a'), store.path('c'))
    assert read_file(store.path('c', 'b', 'file')) == b'deep'
    with fails_with(errno.EINVAL):
        os.rename(store.path('c'), store.path('c', 'b', 'd'))
    os.unlink(store.path('c', 'b', 'file'))
    os.rmdir(store.path('c', 'b'))
    os.rmdir(store.path('c'))
    with fails_with(errno.ENOENT):
        os.stat(store.path('c'))


def test_many_entries(store):
    """a large directory is listed completely, also while it is emptied"""
    names = {f'file{i:05}' for i in range(3000)}
    os.mkdir(store.path('many'))
    for name in names:
        os.close(os.open(store.host('many', name), os.O_CREAT | os.O_WRONLY, 0o644))
    assert set(os.listdir(store.path('many'))) == names
    assert {e.name for e in os.scandir(store.path('many')) if e.stat().st_size == 0} == names
    subprocess.run(['rm', '-r', store.path('many')], check=True, timeout=WAIT_SECONDS)
    assert not os.path.exists(store.host('many'))


def test_links(store):
    """hard links of plain files share the inode; symbolic links are kept as they are"""
    write_file(store.path('one'), b'1')
    os.link(store.path('one'), store.path('two'))
    assert os.stat(store.path('one')).st_nlink == 2 and os.path.samefile(store.path('one'), store.path('two'))
    os.unlink(store.path('two'))
    assert read_file(store.path('one')) == b'1'
    os.link(store.path('one'), store.path('three'))
    os.unlink(store.path('one'))
    assert read_file(store.path('three')) == b'1'
    os.truncate(store.path('three'), 0)
    os.symlink('three', store.path('link'))
    os.symlink('/etc/passwd', store.path('outside'))
    assert os.readlink(store.path('link')) == 'three' and os.stat(store.path('link')).st_size == 0
    assert os.lstat(store.path('outside')).st_size == len('/etc/passwd')
    os.utime(store.path('link'), ns=(1, 2), follow_symlinks=False)
    assert os.lstat(store.path('link')).st_mtime_ns == 2
    os.lchown(store.path('link'), 1, 1)
    assert os.lstat(store.path('link')).st_uid == 1 and os.lstat(store.path('three')).st_uid == 0


def test_bundle_has_no_hard_links(store):
    """link() on a bundle fails with EPERM and changes nothing"""
    data = store.bundle('b.img', noise(65536))
    with fails_with(errno.EPERM):
        os.link(store.path('b.img'), store.path('c.img'))
    assert os.listdir(store.point) == ['b.img'] and read_file(store.path('b.img')) == data


def test_special_files(store):
    """fifos work, devices have their numbers, sockets can be bound"""
    os.mkfifo(store.path('fifo'))
    assert stat.S_ISFIFO(os.stat(store.path('fifo')).st_mode)
    writer = subprocess.Popen(['sh', '-c', 'echo through >"$0"', store.path('fifo')])
    assert read_file(store.path('fifo')) == b'through\n'
    writer.wait(WAIT_SECONDS)
    os.mknod(store.path('null'), stat.S_IFCHR | 0o666, os.makedev(1, 3))
    assert os.stat(store.path('null')).st_rdev == os.makedev(1, 3)
    os.mknod(store.path('regular'), stat.S_IFREG | 0o600)
    assert os.stat(store.path('regular')).st_size == 0


def make_kind(store, kind, name, seed):
    """One thing to rename, and what it then must read as."""
    if kind == 'plain':
        write_file(store.host(name), noise(20000, seed))
        return noise(20000, seed)
    if kind == 'bundle':
        return store.bundle(name, noise(32768, seed), seed)
    os.symlink('nowhere', store.host(name))
    return None


def check_kind(store, kind, data, name):
    assert os.readlink(store.path(name)) == 'nowhere' if kind == 'link' else read_file(store.path(name)) == data, \
        f'{kind} at {name}'


def test_rename_replaces(store):
    """rename over an existing name, plain, bundle and symbolic link each over each, in one directory and between two"""
    os.mkdir(store.path('d'))
    for directory in ('', 'd'):
        for source in ('plain', 'bundle', 'link'):
            for target in ('plain', 'bundle', 'link', None):
                old, new = 'old', os.path.join(directory, 'new')
                data = make_kind(store, source, old, 3)
                if target:
                    make_kind(store, target, 'tmp', 4)
                    os.rename(store.host('tmp'), store.host(new))
                os.stat(store.path(old), follow_symlinks=False)
                if target:
                    os.stat(store.path(new), follow_symlinks=False)
                os.rename(store.path(old), store.path(new))
                assert not os.path.lexists(store.path(old)), (source, target)
                check_kind(store, source, data, new)
                assert [e for e in os.listdir(store.below) + os.listdir(store.host('d')) if e.startswith('.')] == []
                os.unlink(store.path(new))


def test_rename_replaces_open(store):
    """what a rename replaces stays readable where it is open, and the new name shows the new file"""
    for source in ('plain', 'bundle'):
        for target in ('plain', 'bundle'):
            data = make_kind(store, source, 'old', 5)
            lost = make_kind(store, target, 'new', 6)
            with open(store.path('new'), 'r+b') as victim, open(store.path('old'), 'rb') as moved:
                os.rename(store.path('old'), store.path('new'))
                assert victim.read() == lost and moved.read() == data
                os.ftruncate(victim.fileno(), 100)
                check_kind(store, source, data, 'new')
            check_kind(store, source, data, 'new')
            os.unlink(store.path('new'))


def test_rename_flags(store):
    """NOREPLACE refuses, EXCHANGE exchanges, WHITEOUT is invalid"""
    for source in ('plain', 'bundle'):
        for target in ('plain', 'bundle'):
            one, two = make_kind(store, source, 'one', 7), make_kind(store, target, 'two', 8)
            with fails_with(errno.EEXIST):
                renameat2(store.path('one'), store.path('two'), RENAME_NOREPLACE)
            renameat2(store.path('one'), store.path('two'), RENAME_EXCHANGE)
            check_kind(store, source, one, 'two')
            check_kind(store, target, two, 'one')
            with fails_with(errno.EINVAL):
                renameat2(store.path('one'), store.path('three'), RENAME_WHITEOUT)
            renameat2(store.path('one'), store.path('three'), RENAME_NOREPLACE)
            check_kind(store, target, two, 'three')
            with fails_with(errno.ENOENT):
                renameat2(store.path('two'), store.path('nothing'), RENAME_EXCHANGE)
            os.unlink(store.path('two'))
            os.unlink(store.path('three'))


def test_rename_files_and_directories(store):
    """to rename, a bundle is a file: not over a directory, no directory over it"""
    data = store.bundle('b', noise(8192))
    os.mkdir(store.path('d'))
    with fails_with(errno.EISDIR):
        os.rename(store.path('b'), store.path('d'))
    with fails_with(errno.ENOTDIR):
        os.rename(store.path('d'), store.path('b'))
    os.rename(store.path('b'), store.path('b'))
    os.rename(store.path('b'), store.path('d', 'b'))
    assert read_file(store.path('d', 'b')) == data
    os.rename(store.path('d'), store.path('e'))
    assert read_file(store.path('e', 'b')) == data
    os.unlink(store.path('e', 'b'))
    os.rmdir(store.path('e'))


def test_reserved_names(store):
    """names that could forge a bundle cannot be made, looked up or listed"""
    data = store.bundle('b', noise(8192))
    write_file(store.path('f'), b'')
    os.mkdir(store.path('d'))
    for name in ('map.db', '.b.zcfs-abcdef', '.zcfs-x', 'd/map.db', 'd/.x.zcfs-1'):
        path = store.path(name)
        for attempt in (lambda: os.open(path, os.O_CREAT | os.O_WRONLY), lambda: os.mkdir(path), lambda: os.mkfifo(path),
                        lambda: os.symlink('x', path), lambda: os.link(store.path('f'), path),
                        lambda: os.rename(store.path('f'), path), lambda: os.rename(store.path('b'), path)):
            with fails_with(errno.EPERM):
                attempt()
        with fails_with(errno.ENOENT):
            os.stat(path)
    for name in ('.zcfs',):
        with fails_with(errno.EEXIST, errno.EPERM):
            os.mkdir(store.path(name))
        with fails_with(errno.EPERM, errno.ENOTEMPTY, errno.EBUSY):
            os.rmdir(store.path(name))
        with fails_with(errno.EPERM, errno.EISDIR):
            os.rename(store.path('f'), store.path(name))
    write_file(store.host('.f.zcfs-abcdef'), b'left over')
    assert sorted(os.listdir(store.point)) == ['b', 'd', 'f']
    assert read_file(store.path('b')) == data


def test_new_files_belong_to_the_caller(store):
    """whoever makes something owns it, with his umask, and set-group-ID directories pass on their group"""
    os.chmod(store.point, 0o1777)
    subprocess.run(['chmod', '1777', store.below], check=True)
    result = as_user(1500, 'sh', '-c', 'cd "$0" && umask 027 && echo x >file && mkdir dir && ln -s a link && mkfifo fifo',
                     store.point)
    assert result.returncode == 0, result.stdout
    for name, mode in (('file', 0o640), ('dir', 0o750), ('fifo', 0o640), ('link', 0o777)):
        status = os.lstat(store.host(name))
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1500, 1500, mode), name
    os.mkdir(store.path('shared'))
    os.chown(store.path('shared'), 0, 77)
    os.chmod(store.path('shared'), 0o2777)
    result = as_user(1500, 'sh', '-c', 'cd "$0" && echo x >file && mkdir dir', store.path('shared'))
    assert result.returncode == 0, result.stdout
    status = os.stat(store.host('shared', 'file'))
    assert (status.st_uid, status.st_gid) == (1500, 77)
    status = os.stat(store.host('shared', 'dir'))
    assert (status.st_gid, status.st_mode & stat.S_ISGID) == (77, stat.S_ISGID)
    write_file(store.path('root'), b'')
    assert os.stat(store.host('root')).st_uid == 0


def test_supplementary_groups(store):
    """a directory that the caller may write by a supplementary group only"""
    os.mkdir(store.path('team'))
    os.chown(store.path('team'), 0, 88)
    os.chmod(store.path('team'), 0o770)
    result = subprocess.run(['setpriv', '--reuid=1500', '--regid=1500', '--groups=88', 'touch', store.path('team', 'x')],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=WAIT_SECONDS)
    assert result.returncode == 0, result.stdout
    assert os.stat(store.host('team', 'x')).st_uid == 1500


def test_permissions(store):
    """another user gets what the files' permissions give him, and no more"""
    os.chmod(store.below, 0o755)
    store.bundle('secret', noise(8192))
    os.chmod(store.path('secret'), 0o600)
    store.bundle('public', noise(8192))
    os.chmod(store.path('public'), 0o644)
    assert as_user(1500, 'cat', store.path('secret')).returncode != 0
    assert as_user(1500, 'cmp', store.path('public'), store.path('public')).returncode == 0
    assert as_user(1500, 'sh', '-c', 'echo x >>"$0"', store.path('public')).returncode != 0
    assert as_user(1500, 'touch', store.path('new')).returncode != 0
    assert as_user(1500, 'rm', '-f', store.path('public')).returncode != 0
    assert as_user(1500, 'ls', store.path('.zcfs')).returncode != 0
    os.chown(store.path('secret'), 1500, 1500)
    assert as_user(1500, 'cmp', store.path('secret'), store.path('secret')).returncode == 0


ACL_USER_OBJ, ACL_USER, ACL_GROUP_OBJ, ACL_GROUP, ACL_MASK, ACL_OTHER = 1, 2, 4, 8, 16, 32
NO_ID = 0xffffffff


def acl(*entries):
    """The kernel's form of an access control list; entries are (tag, permissions, id)."""
    return struct.pack('<I', 2) + b''.join(struct.pack('<HHI', *entry) for entry in entries)


@both
def test_access_control_lists(store, name, data):
    """ACLs are the host's, obeyed, shown and set: who is named in one may, the file's group may not, though the mode seems to say so"""
    named = acl((ACL_USER_OBJ, 6, NO_ID), (ACL_USER, 6, 1500), (ACL_GROUP_OBJ, 0, NO_ID), (ACL_MASK, 6, NO_ID), (ACL_OTHER, 0, NO_ID))
    below = store.host(name) if name.startswith('plain') else store.host(name, 'data')
    os.chmod(store.below, 0o755)
    os.chown(below, 0, 1501)
    for setter in (below, store.path(name)):
        os.setxattr(setter, 'system.posix_acl_access', named)
        assert stat.S_IMODE(os.stat(store.path(name)).st_mode) == 0o660
        assert os.getxattr(store.path(name), 'system.posix_acl_access') == named
        assert 'system.posix_acl_access' in os.listxattr(store.path(name))
        for user, may in ((1500, True), (1501, False), (1502, False)):
            for command in ('cat "$0" >/dev/null', ': >>"$0"'):
                assert (as_user(user, 'sh', '-c', command, store.path(name)).returncode == 0) == may, (setter, user, command)
        os.removexattr(setter, 'system.posix_acl_access')
        os.chmod(below, 0o660)
        assert as_user(1501, 'cmp', store.path(name), store.path(name)).returncode == 0 and as_user(1500, 'cat', store.path(name)).returncode != 0
    assert read_file(store.path(name)) == data


def test_default_access_control_lists(store):
    """what is made in a directory with a default ACL gets that, and who is named in it may use it; others' ACLs cannot be set"""
    os.chmod(store.below, 0o755)
    os.mkdir(store.path('d'))
    default = acl((ACL_USER_OBJ, 7, NO_ID), (ACL_USER, 7, 1500), (ACL_GROUP_OBJ, 5, NO_ID), (ACL_MASK, 7, NO_ID), (ACL_OTHER, 0, NO_ID))
    for kind in ('access', 'default'):
        os.setxattr(store.path('d'), f'system.posix_acl_{kind}', default)
    assert as_user(1500, 'sh', '-c', 'echo x >"$0"', store.path('d', 'his')).returncode == 0
    write_file(store.path('d', 'file'), b'text')
    assert os.getxattr(store.path('d', 'file'), 'system.posix_acl_access') != b''
    assert as_user(1500, 'cat', store.path('d', 'file')).stdout == 'text'
    assert as_user(1502, 'cat', store.path('d', 'file')).returncode != 0
    script = 'import os, sys; os.setxattr(sys.argv[1], "system.posix_acl_access", bytes.fromhex(sys.argv[2]))'
    assert as_user(1502, sys.executable, '-c', script, store.path('d', 'file'), default.hex()).returncode != 0
    assert as_user(1500, sys.executable, '-c', script, store.path('d', 'file'), default.hex()).returncode != 0
    assert as_user(1500, sys.executable, '-c', script, store.path('d', 'his'), default.hex()).returncode == 0


def copy_as(user, source, target):
    """copy_file_range() with somebody else's rights."""
    with open(source, 'rb') as from_file, open(target, 'r+b') as to_file:
        os.seteuid(user)
        try:
            assert os.copy_file_range(from_file.fileno(), to_file.fileno(), 4096, 0, 0) == 4096
        finally:
            os.seteuid(0)


def test_privilege_bits(store):
    """a write by somebody without rights takes set-user-ID away, from plain images and from bundles; so does whatever else changes the bytes"""
    write_file(store.path('plain'), bytes(8192))
    write_file(store.path('source'), noise(4096))
    store.bundle('bundle', noise(8192))
    for name in ('plain', 'bundle'):
        for command in ('echo x >>"$0"', 'truncate -s 5000 "$0"', 'fallocate -l 8192 "$0"', 'fallocate -p -l 4096 "$0"', 'copy', ': >"$0"'):
            os.chmod(store.path(name), 0o6777)
            assert stat.S_IMODE(os.stat(store.path(name)).st_mode) == 0o6777
            if command == 'copy':
                copy_as(1500, store.path('source'), store.path(name))
            else:
                result = as_user(1500, 'sh', '-c', command, store.path(name))
                assert result.returncode == 0, result.stdout
            mode = stat.S_IMODE(os.stat(store.path(name) if name == 'plain' else store.host(name, 'data')).st_mode)
            assert mode == 0o777, (name, command, oct(mode))


def everything(path):
    """What is below a directory, and when each was changed for the last time in whatever way."""
    return {os.path.join(at, name): os.lstat(os.path.join(at, name)).st_ctime_ns
            for at, directories, files in os.walk(path) for name in directories + files}


@unmounted
def test_read_only(store):
    """a mount that is to change nothing does not, even where the kernel would let it: a read-only mount can be remounted"""
    os.mkdir(store.host('d'))
    write_file(store.host('plain'), noise(8192))
    store.bundle('bundle', noise(8192))
    for name in ('d', 'plain', 'bundle/data'):
        os.setxattr(store.host(name), 'user.colour', b'blue')
    before = everything(store.dir)
    store.start('-o', 'ro,rw')
    new = store.path('new')
    for name in ('plain', 'bundle', 'd'):
        path, other = store.path(name), store.path('plain' if name == 'd' else 'd')
        for attempt in (lambda: os.chmod(path, 0o600), lambda: os.chown(path, 1, 1), lambda: os.utime(path),
                        lambda: os.rename(path, new), lambda: renameat2(path, other, RENAME_EXCHANGE),
                        lambda: os.setxattr(path, 'user.x', b'x'), lambda: os.removexattr(path, 'user.colour')):
            with fails_with(errno.EROFS):
                attempt()
    for name in ('plain', 'bundle'):
        path = store.path(name)
        for attempt in (lambda: open(path, 'r+b'), lambda: open(path, 'wb'), lambda: os.truncate(path, 0), lambda: os.unlink(path),
                        lambda: os.link(path, new)):
            with fails_with(errno.EROFS):
                attempt()
    for attempt in (lambda: open(new, 'xb'), lambda: os.mkfifo(new), lambda: os.mkdir(new), lambda: os.symlink('a', new),
                    lambda: os.rmdir(store.path('d'))):
        with fails_with(errno.EROFS):
            attempt()
    assert len(read_file(store.path('plain'))) == len(read_file(store.path('bundle'))) == 8192
    store.unmount()
    assert everything(store.dir) == before


@elsewhere
def test_set_group_id(store):
    """who gives a file an ACL or another group keeps its set-group-ID as he does on the host: if he is in its group, or root"""
    minimal = acl((ACL_USER_OBJ, 7, NO_ID), (ACL_GROUP_OBJ, 5, NO_ID), (ACL_OTHER, 5, NO_ID))
    script = 'import os, sys; os.setxattr(sys.argv[1], "system.posix_acl_access", bytes.fromhex(sys.argv[2]))'
    changes = {0o2755: (sys.executable, '-c', script), 0o2745: ('chgrp', '1601')}
    os.chmod(store.below, 0o755)
    store.bundle('bundle', noise(8192))
    write_file(store.host('plain'), noise(8192))
    os.mkdir(store.host('directory'))
    os.chmod(store.host('bundle'), 0o755)
    for name, file in (('plain', 'plain'), ('bundle', 'bundle/data'), ('directory', 'directory')):
        for user, groups in ((1500, '1601'), (1500, '1601,1600'), (0, '1601')):
            for mode, change in changes.items():
                found = []
                for path in (os.path.join(store.dir, file), store.path(name)):
                    os.chown(path, 1500, 1600)
                    os.chmod(path, mode)
                    arguments = (*change, path, minimal.hex()) if mode == 0o2755 else (*change, path)
                    subprocess.run(['setpriv', f'--reuid={user}', '--regid=1500', f'--groups={groups}', *arguments], check=True,
                                   timeout=WAIT_SECONDS)
                    found.append(oct(os.stat(store.host(file)).st_mode))
                assert found[0] == found[1], (name, user, groups, oct(mode), found)


def test_statfs(store):
    """statfs is the host's"""
    here, there = os.statvfs(store.point), os.statvfs(store.below)
    assert (here.f_bsize, here.f_blocks, here.f_files, here.f_namemax) == \
        (there.f_bsize, there.f_blocks, there.f_files, there.f_namemax)


def test_symbolic_links_do_not_lead_out(store):
    """a bundle whose data is a symbolic link is an error, not a way to other files"""
    os.mkdir(store.host('forged'))
    store.bundle('real', noise(8192))
    os.link(store.host('real', 'map.db'), store.host('forged', 'map.db'))
    os.symlink('/etc/passwd', store.host('forged', 'data'))
    with fails_with(errno.EUCLEAN):
        os.stat(store.path('forged'))


def test_shared_names(store):
    """a file's other name goes on working when the one by which it was looked up last is gone"""
    write_file(store.host('one'), b'data')
    os.link(store.host('one'), store.host('two'))
    for name in ('one', 'two'):
        assert read_file(store.path(name)) == b'data'
    os.unlink(store.host('two'))
    assert read_file(store.path('one')) == b'data'
    os.rename(store.host('one'), store.host('three'))
    assert read_file(store.path('three')) == b'data'
    fd = os.open(store.path('three'), os.O_RDONLY)
    os.rename(store.host('three'), store.host('four'))
    with open(f'/proc/self/fd/{fd}', 'rb') as again:
        assert again.read() == b'data'
    os.close(fd)


if __name__ == '__main__':
    sys.exit(run(tests_of(globals())))
