# SPDX-License-Identifier: GPL-2.0-or-later
"""The host stops flushing in the middle of a settle pass's commit, and nobody can say which map is on the disk: the guest goes on, every write
goes to both places, and whichever map is found in the end, with it the guest's bytes are what the guest wrote.

    doubt.py ZCFS MAP_IMAGE      SEED in the environment repeats a run; TRANSPORT as for the tests of the daemon
"""
import ctypes
import errno
import mmap
import os
import random
import shutil
import signal
import threading
import time

import mount
from commands import DONE, FAILED, check, defrag, unmount_on_termination, workspace
from guest import run
from host import host_file_system, store_mounted, write_view
from injector import SYNC, Injector
from tap import Cases, equal, holds

SIZE = (4 << 20) + 1536
SECTOR = 512
KEEP_SIZE, PUNCH, ZERO = 1, 2, 16
CORRECTED = 1      # exit status of zcfs-check
SYNCS_MAX = 40     # a commit has fewer
WRITES = 300       # by a guest, at least, after the commit has failed

libc = ctypes.CDLL(None, use_errno=True)

class Guest:
    """Writes, zeroes and discards, through the cache and past it, in a thread of its own; knows what must be there."""

    def __init__(self, path, contents, rng):
        self.model, self.rng, self.error, self.done, self.acts = bytearray(contents), rng, None, False, 0
        self.files = [os.open(path, os.O_RDWR | flag) for flag in (0, os.O_DIRECT)]
        self.buffer = mmap.mmap(-1, 64 << 10)
        self.empty(self.files[0], 0, SECTOR)  # the first time ends the undo, which takes a commit
        self.thread = threading.Thread(target=self.work)
        self.thread.start()

    def work(self):
        try:
            while not self.done:
                self.act()
                self.acts += 1
        except Exception as error:
            self.error = error

    def act(self):
        length = self.rng.choice((512, 1024, 4096, 4608, 65536))
        off = self.rng.randrange((SIZE - length) // SECTOR) * SECTOR
        fd = self.rng.choice(self.files)
        if self.rng.random() < 0.2:
            self.empty(fd, off, length)
            return
        self.buffer[:length] = self.rng.randbytes(length)
        equal(os.pwrite(fd, memoryview(self.buffer)[:length], off), length, 'bytes written')
        self.model[off:off + length] = self.buffer[:length]

    def empty(self, fd, off, length):
        mode = KEEP_SIZE | self.rng.choice((PUNCH, ZERO))
        if libc.fallocate(fd, mode, ctypes.c_long(off), ctypes.c_long(length)) < 0:  # the command of that name flushes, too
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self.model[off:off + length] = bytes(length)

    def goes_on(self):
        until = self.acts + WRITES
        while self.acts < until and not self.error:
            time.sleep(0.01)

    def stop(self):
        """What it has written."""
        self.done = True
        self.thread.join()
        if self.error:
            raise self.error
        return bytes(self.model)

    def close(self):
        self.done = True
        self.thread.join()
        for fd in self.files:
            os.close(fd)


class Store:
    """A store with one scattered image, and the map that a settle pass makes of it."""

    def __init__(self, root, seed):
        self.root, self.directory, self.point = root, os.path.join(root, 'store'), os.path.join(root, 'mount')
        self.image, self.kept = os.path.join(self.directory, 'a.img'), os.path.join(root, 'kept')
        os.mkdir(self.directory)
        os.mkdir(self.point)
        with open(self.image, 'xb') as file:
            file.write(random.Random(seed).randbytes(SIZE))
        run(mount.MAP_IMAGE, 'scatter', self.directory, 'a.img', str(seed), str(4096 + 512))
        shutil.copytree(self.directory, self.kept)
        self.maps = {'old': self.keep_map('old')}
        defrag('--settle', self.image)
        self.maps['new'] = self.keep_map('new')

    def keep_map(self, name):
        return shutil.copy(os.path.join(self.image, 'map.db'), os.path.join(self.root, name + '.db'))

    def restore(self):
        shutil.rmtree(self.directory)
        shutil.copytree(self.kept, self.directory)

    def view(self, map_name=None):
        """What the guest would see by one of the maps, or by that in the store."""
        bundle, view = os.path.join(self.root, 'other'), os.path.join(self.root, 'view')
        shutil.rmtree(bundle, ignore_errors=True)
        shutil.copytree(self.image, bundle)
        if map_name:
            shutil.copy(self.maps[map_name], os.path.join(bundle, 'map.db'))
        write_view(bundle, view)
        with open(view, 'rb') as file:
            return file.read()


def settle_in_doubt(store, injector, at, rng):
    """A pass in which the flush number at and all later ones fail, and what follows. False: there is no such flush."""
    mounted = os.path.join(store.point, 'a.img')
    store.restore()
    contents = store.view('old')
    with injector.preloaded():
        context = store_mounted(mount.ZCFS, store.directory, store.point, *mount.TRANSPORT_OPTIONS)
        daemon = context.__enter__()
    try:
        guest = Guest(mounted, contents, rng)
        try:
            injector.arm((SYNC,), at, errno.EIO, ever=True)
            result = defrag('--settle', mounted)
            guest.goes_on()
            happened = injector.disarm()[1]
            if not happened:
                return None
            equal(result.status, FAILED, 'exit status')
            doubt = 'not known' in result.err
            if doubt:
                judge_doubt(store, mounted, guest)
            model = guest.stop()
        finally:
            guest.close()
        if rng.random() < 0.5:
            daemon.send_signal(signal.SIGKILL)
    finally:
        context.__exit__(None, None, None)
    judge_afterwards(store, model)
    return doubt


def judge_doubt(store, mounted, guest):
    again = defrag('--settle', mounted)
    holds(again.status == FAILED and 'not known' in again.err, f'a second pass: {again!r}')
    try:
        os.truncate(mounted, SIZE + 8192)
    except OSError as error:
        equal(error.errno, errno.EIO, 'the error of what would need another commit')
    else:
        raise AssertionError('the map was changed once more')
    model = guest.stop()
    os.fsync(guest.files[0])
    with open(mounted, 'rb') as file:
        holds(file.read() == model, 'the guest does not read what it wrote')
    for name in store.maps:
        holds(store.view(name) == model, f'by the {name} map the guest has other bytes than it wrote')


def judge_afterwards(store, model):
    """Whoever opens it next finds everything."""
    result = check('--repair', store.image)
    holds(result.status in (DONE, CORRECTED), f'zcfs-check --repair: {result!r}')
    holds(store.view() == model, 'after the repair the guest has other bytes than it wrote')
    result = defrag('--settle', store.image)
    equal(result.status, DONE, 'exit status of the next pass')
    holds(store.view() == model, 'after the next pass the guest has other bytes than it wrote')


def main():
    unmount_on_termination()
    if mount.transport_missing():
        return
    seed = int(os.environ.get('SEED', int.from_bytes(os.urandom(4), 'little')))
    print(f'# SEED={seed}', flush=True)
    rng = random.Random(seed)
    cases, doubts = Cases(), []
    with workspace() as directory, host_file_system('ext4', directory, 64) as root, mount.transport():
        injector, store = Injector(root), Store(root, seed)
        for at in range(SYNCS_MAX):
            doubt = None
            with cases.case(f'flush {at} and all later ones fail, if there are so many'):
                doubt = settle_in_doubt(store, injector, at, rng)
            if doubt is None:
                break
            doubts.append(doubt)
        with cases.case('both ends of the commit were in doubt'):
            holds(doubts.count(True) > 1 and not doubts[0], f'in doubt: {doubts}')
    cases.finish()


main()
