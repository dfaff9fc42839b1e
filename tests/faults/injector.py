# SPDX-License-Identifier: GPL-2.0-or-later
"""The other end of tests/faults/inject.c: says which calls of a program fail, and learns how many there were."""
import contextlib
import errno
import mmap
import os
import struct

INJECT = os.environ.get('INJECT', 'inject.so')
FORM = struct.Struct('<7Q')
BLOCKS = struct.Struct('<q')  # behind it
SHORT = (1 << 64) - 1

READ, WRITE, SYNC, ALLOCATE, TRUNCATE, OPEN, NAME, LOCK, MEMORY, ATTRIBUTE, LOOK, THREAD, DESCRIPTOR, RANGE_LOCK, REMOVED, UNMOUNT = range(16)

# Which calls fail, and how.
KINDS = {
    'read': ((READ,), (errno.EIO, errno.EINTR, SHORT)),
    'write': ((WRITE,), (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EINTR, SHORT)),
    'sync': ((SYNC,), (errno.EIO, errno.ENOSPC, errno.EINTR)),
    'space': ((ALLOCATE, TRUNCATE), (errno.ENOSPC, errno.EIO, errno.EINTR)),
    'open': ((OPEN,), (errno.EIO, errno.EMFILE, errno.ENOMEM, errno.EINTR)),
    'name': ((NAME,), (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EINTR)),
    'lock': ((LOCK,), (errno.ENOLCK,)),
    'memory': ((MEMORY,), (errno.ENOMEM,)),
    'attribute': ((ATTRIBUTE,), (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS)),
    'look': ((LOOK,), (errno.EIO,)),
    'descriptor': ((DESCRIPTOR,), (errno.EMFILE, errno.EIO)),
    'database lock': ((RANGE_LOCK,), (errno.ENOLCK,)),
    'thread': ((THREAD,), (errno.EAGAIN,)),
}
HARMLESS = (errno.EINTR, SHORT)  # whoever gets these tries again or goes on


def name_of(error):
    return 'short' if error == SHORT else errno.errorcode[error]


def offsets(source, total, sample):
    """Which calls are to fail: with EVERY in the environment all, otherwise so many with equal distances."""
    if os.environ.get('EVERY') or total <= sample:
        return range(total)
    step = total / sample
    start = source.random() * step
    return [int(start + i * step) for i in range(sample)]


class Injector:
    def __init__(self, directory):
        self.path = os.path.join(directory, 'faults')
        with open(self.path, 'wb') as file:
            file.write(bytes(FORM.size + BLOCKS.size))
        with open(self.path, 'r+b') as file:
            self.memory = mmap.mmap(file.fileno(), FORM.size + BLOCKS.size)

    def environment(self):
        return dict(os.environ, LD_PRELOAD=INJECT, FAULTS=self.path)

    def arm(self, calls, at, error, ever=False, delay_ms=0):
        """From now on at calls work, and the next one does not; if ever, none after it. Without an error, they are only late."""
        FORM.pack_into(self.memory, 0, sum(1 << call for call in calls), at, error, ever, delay_ms, 0, 0)

    def count(self, calls):
        """From now on calls are only counted."""
        self.arm(calls, (1 << 64) - 1, errno.EIO)

    def error(self):
        """What is, or was, injected."""
        return FORM.unpack_from(self.memory)[2]

    def happened(self):
        return FORM.unpack_from(self.memory)[6]

    def pause(self):
        """Nothing fails any more; what has happened is still known."""
        struct.pack_into('<Q', self.memory, 0, 0)

    def disarm(self):
        """How many calls there were, and how many have failed."""
        counted, happened = FORM.unpack_from(self.memory)[5:]
        FORM.pack_into(self.memory, 0, *[0] * 7)
        return counted, happened

    def blocks(self):
        """How many blocks of memory all programs together have not freed."""
        return BLOCKS.unpack_from(self.memory, FORM.size)[0]

    @contextlib.contextmanager
    def preloaded(self):
        """Programs that are started within the block have it."""
        old = dict(os.environ)
        os.environ.update(self.environment())
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(old)
