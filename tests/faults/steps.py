# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest, an administrator and the tools do to a store that is mounted: each step is a few calls, whose first error ends it.

A step says what it changes before it tries (Session.expect) and when it was told that it is done (Session.done); what nobody has promised
may be the old or the new."""
import contextlib
import errno
import fcntl
import mmap
import os
import sqlite3
import struct

from commands import defrag
from mount import FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE, RENAME_EXCHANGE, fallocate, renameat2
from tap import equal, holds

BLOCK = 4096
SETTLE_REQUEST = struct.Struct('<QQII128s5Q')  # struct settle_request in mapdb/settle_ioctl.h
SETTLE_STEP = 0xc0000000 | SETTLE_REQUEST.size << 16 | ord('z') << 8 | 0x53
SETTLE_FINISHED = 2


def aligned(data):
    """For O_DIRECT."""
    memory = mmap.mmap(-1, len(data))
    memory[:] = data
    return memory


@contextlib.contextmanager
def opened(path, flags, mode=0o600):
    """A descriptor whose close() is heard, too, unless something else has failed."""
    fd = os.open(path, flags, mode)
    try:
        yield fd
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(fd)
        raise
    os.close(fd)


def sync(session, call, fd):
    """fsync or fdatasync. One that has failed fails again, although the host is well again; one for which there was no memory was none."""
    try:
        call(fd)
    except OSError as failure:
        if failure.errno == errno.ENOMEM:
            raise
        session.injector.pause()
        for again in (os.fsync, os.fdatasync):
            try:
                again(fd)
            except OSError:
                continue
            raise AssertionError('a flush has failed, and the next one says that all is well') from None
        raise


def read(session, name, flags):
    size = len(session.model[name])
    with opened(session.path(name), os.O_RDONLY | flags) as fd:
        memory = mmap.mmap(-1, 64 << 10)
        off = 0
        while off < size:
            n = os.preadv(fd, [memory], off)
            holds(n > 0, f'{name}: ends at {off}, not at {size}')
            equal(memory[:n], session.model[name][off:off + n], f'{name} at {off}')
            off += n


def write(session, name, flags, length=5 * BLOCK, unit=BLOCK, beyond=False):
    old = session.model[name]
    off = len(old) if beyond else session.source.randrange(len(old) - length) // unit * unit
    data = session.source.randbytes(length)
    session.expect(name, old[:off] + data + old[off + length:])
    with opened(session.path(name), os.O_RDWR | flags) as fd:
        memory = aligned(data)
        n = os.pwrite(fd, memory, off)
        if n < length:    # the rest says why; or is written
            n += os.pwrite(fd, aligned(data[n:]), off + n)
        equal(n, length, 'what was written')
        session.done(name)
        sync(session, session.source.choice((os.fsync, os.fdatasync)), fd)


def read_both(flags):
    def step(session):
        for name in ('plain', 'bundle'):
            read(session, name, flags)
    return step


def write_to(name, flags, **how):
    def step(session):
        write(session, name, flags, **how)
    return step


def truncate(session):
    for name in ('plain', 'bundle'):
        old = session.model[name]
        for size in (len(old) + 3 * BLOCK + 100, len(old) - 7 * BLOCK - 300, len(old)):
            now = session.model[name]
            session.expect(name, now[:size].ljust(size, b'\0'))
            os.truncate(session.path(name), size)
            session.done(name)


def punch(session):
    for name in ('plain', 'bundle'):
        with opened(session.path(name), os.O_RDWR) as fd:
            for mode, length in ((FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 4 * BLOCK), (FALLOC_ZERO_RANGE, 700), (0, 2 * BLOCK)):
                old = session.model[name]
                off = session.source.randrange(len(old) - length) // 512 * 512
                session.expect(name, old[:off] + bytes(length) + old[off + length:] if mode else old)
                fallocate(fd, mode, off, length)
                session.done(name)


def attributes(session):
    for name in ('plain', 'bundle'):
        path = session.path(name)
        os.chmod(path, 0o640)
        os.chown(path, 0, 0)
        os.utime(path, ns=(1, 2))
        os.setxattr(path, 'user.faults', b'value')
        equal(os.getxattr(path, 'user.faults'), b'value', 'an extended attribute')
        os.listxattr(path)
        equal(os.stat(path).st_size, len(session.model[name]), f'the size of {name}')
        equal(os.stat(path).st_mode & 0o7777, 0o640, f'the mode of {name}')
    os.statvfs(session.point)


def names(session):
    """What is new is removed again by Session.tidy."""
    make = session.path
    with opened(make('new-file'), os.O_CREAT | os.O_EXCL | os.O_RDWR) as fd:
        os.write(fd, b'contents')
    os.link(make('new-file'), make('new-link'))
    os.symlink('target', make('new-symlink'))
    equal(os.readlink(make('new-symlink')), 'target', 'a symbolic link')
    os.mkdir(make('new-directory'))
    os.mkfifo(make('new-fifo'))
    os.rename(make('new-file'), make('new-directory', 'new-file'))
    with opened(make('new-directory', 'new-file'), os.O_RDONLY) as fd:
        equal(os.read(fd, 100), b'contents', 'a new file')
    os.unlink(make('new-directory', 'new-file'))
    os.unlink(make('new-link'))
    os.unlink(make('new-symlink'))
    os.unlink(make('new-fifo'))
    os.rmdir(make('new-directory'))
    listed = sorted(os.listdir(session.point))
    equal(listed, sorted(session.model), 'the directory')


def rename_images(session):
    for name in ('plain', 'bundle'):
        os.rename(session.path(name), session.path('renamed-' + name))
        os.rename(session.path('renamed-' + name), session.path(name))
    for _ in range(2):
        renameat2(session.path('plain'), session.path('bundle'), RENAME_EXCHANGE)


def unlink_bundle(session):
    fd = os.open(session.path('victim'), os.O_RDWR)
    try:
        os.unlink(session.path('victim'))
        session.model.pop('victim')
        equal(os.pread(fd, 100, 0), bytes(100), 'an image without a name')
        os.pwrite(fd, b'orphan', 0)
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)


def make_victim(session):
    if 'victim' not in session.model:
        session.make_bundle('victim', bytes(8 * BLOCK))


def scatter(session):
    session.tool('scatter', 'bundle', session.source.randrange(1, 1 << 30), BLOCK)
    session.learn('bundle')


def settle(session):
    """With writes in between, and with one that must go to both places."""
    with opened(session.path('bundle'), os.O_RDWR) as fd:
        for _ in range(1000):
            request = bytearray(SETTLE_REQUEST.pack(0, 0, 0, 0, b'faults', 0, 0, 0, 0, 0))
            fcntl.ioctl(fd, SETTLE_STEP, request)
            old = session.model['bundle']
            off, data = session.source.randrange(len(old) // BLOCK) * BLOCK, session.source.randbytes(BLOCK)
            session.expect('bundle', (old[:off] + data + old[off + BLOCK:])[:len(old)])
            os.pwrite(fd, data[:len(old) - off], off)
            session.done('bundle')
            if SETTLE_REQUEST.unpack(request)[3] & SETTLE_FINISHED:
                return
    raise AssertionError('a settle pass does not end')


def leave_redo(session):
    """What a crash of a tool leaves: a committed change that is not in the data yet."""
    text = b'%016x' % session.source.getrandbits(64)
    off = session.source.randrange(8) * BLOCK + 100
    session.tool('redo', 'bundle', off, text.decode())
    old = session.model['bundle']
    session.model['bundle'] = old[:off] + text + old[off + len(text):]


def recover(session):
    read(session, 'bundle', 0)
    write(session, 'bundle', 0)


def copy_of_database(session):
    """What sqlite3 is given to read is a whole database."""
    path = os.path.join(session.top, 'copy')
    with opened(session.path('.zcfs', 'db', 'bundle.db'), os.O_RDONLY) as fd, open(path, 'wb') as copy:
        while data := os.read(fd, 1 << 16):
            copy.write(data)
    with contextlib.closing(sqlite3.connect(path)) as database:
        equal(database.execute('PRAGMA integrity_check').fetchall(), [('ok',)], 'a copy of the database')
    os.listdir(session.path('.zcfs', 'db'))
    os.readlink(session.path('.zcfs', 'store'))


def fragment(session):
    """Only what is no bundle, which the next step makes plain."""
    if not os.path.isdir(session.host('ntfs')):
        session.put('ntfs', session.fragmented)


def defragment(session):
    """The image is adopted, or becomes plain again, and the daemon serves it by each map."""
    option = '--plain=copy' if os.path.isdir(session.host('ntfs')) else '--pack'
    read(session, 'ntfs', 0)
    result = defrag(option, session.path('ntfs'))
    session.learn('ntfs')
    if result.status != 0:
        # What the daemon does not open for want of something, the tool does not find.
        holds(session.injector.happened(), f'zcfs-defrag {option}: {result!r}')
        raise OSError(session.injector.error(), result.err)
    holds(os.path.isdir(session.host('ntfs')) == (option == '--pack'), f'zcfs-defrag {option} has done nothing')
    read(session, 'ntfs', 0)


def unmount(session):
    session.store.unmount()


def mount(session):
    """And looks around, and unmounts."""
    session.start()
    try:
        for name in ('plain', 'bundle'):
            read(session, name, 0)
        os.listdir(session.point)
    finally:
        session.store.unmount()


class Step:
    """@prepare, without faults, brings about what it begins with; @touches are the images that it may change; @also are errors that it
    documents for what is the host's fault."""

    def __init__(self, name, run, prepare=None, touches=('plain', 'bundle'), also=()):
        self.name, self.run, self.prepare, self.touches, self.also = name, run, prepare, touches, also


def first_size(session):
    for name in ('plain', 'bundle'):
        session.cut(name)


def uncached(session):
    for name in ('plain', 'bundle'):
        session.drop_cache(name)


STEPS = [
    Step('mount', mount, unmount),
    Step('read', read_both(0), uncached),
    Step('read past the cache', read_both(os.O_DIRECT), uncached),
    Step('write a plain image', write_to('plain', 0), touches=['plain']),
    Step('write a bundle', write_to('bundle', 0), touches=['bundle']),
    Step('write parts of blocks', write_to('bundle', 0, length=3 * BLOCK + 100, unit=1), uncached, touches=['bundle']),
    Step('write a plain image past the cache', write_to('plain', os.O_DIRECT), touches=['plain']),
    Step('write a bundle past the cache', write_to('bundle', os.O_DIRECT), touches=['bundle']),
    Step('write through', write_to('bundle', os.O_DSYNC), touches=['bundle']),
    Step('write beyond the end', write_to('bundle', 0, beyond=True, length=1000), first_size, ['bundle']),
    Step('truncate', truncate, first_size),
    Step('punch', punch),
    Step('attributes', attributes),
    Step('names', names),
    Step('rename images', rename_images),
    Step('unlink a bundle', unlink_bundle, make_victim, ['victim']),
    Step('settle', settle, scatter, ['bundle'], (errno.EINPROGRESS,)),   # not known whether it is committed
    Step('recover', recover, leave_redo, ['bundle'], (errno.EROFS,)),   # served read-only
    Step('copy of the database', copy_of_database),
    Step('defragment', defragment, fragment, ['ntfs']),
]
