# SPDX-License-Identifier: GPL-2.0-or-later
"""Power fails under a real host file system, which is the judge of what is on the disk then.

On a file system of the kind that the argument names, on a disk that logs what it is told to write and when to flush, two images live:
adopted by a pass, one also undone and passed again, written by their guests, one settled and made plain in place, the other made
plain in a new file. Then, from the log, disks are made as they may be after a loss of power at some moment: all up to a flush,
and of what followed nothing, everything, a beginning, or any part. Of each the file system is mounted, which replays its
journal; the guests must see the old images or the new ones, with everything that they had flushed, and zcfs-check must find
nothing that it cannot repair.

STATES=n in the environment makes so many disks (default 40; 0: several for every flush, which takes an hour). A second argument is the seed of
the random choices; the one used is printed."""
import contextlib
import os
import random
import sys

from commands import DONE, ZCFS, check, defrag, scattered_volume, seed_argument, unmount_on_termination, workspace
from disk_log import Log, copy_sparse, logged_disk
from guest import run, unmount
from host import MAKERS, digest, store_mounted
from tap import Cases, equal, holds

DISK_MIB = {'ext4': 192, 'xfs': 320, 'btrfs': 256}
STATES = int(os.environ.get('STATES', '40'))
GUEST_OFF, GUEST_BYTES = 5 << 20, 100_000
CHECK_CLEAN, CHECK_CORRECTED = 0, 1
IMAGES = ['a.img', 'b.img']
VOLUME = {'megabytes': 32, 'fragments': 1200, 'seed': 5, 'what': 'all'}


class Broken(Exception):
    """A promise that is not kept."""


@contextlib.contextmanager
def mounted(device, point, *options):
    run('mount', *options, device, point)
    try:
        yield
    finally:
        unmount(point)


class Life:
    """What was done to the image, what its guest saw in between, and how much the log had by then."""
    def __init__(self, kind, directory):
        self.kind = kind
        self.base, self.disk, self.log = (os.path.join(directory, name) for name in ('base', 'disk', 'log'))
        self.directory = directory
        self.point, self.view_point = os.path.join(directory, 'host'), os.path.join(directory, 'view')
        self.store = os.path.join(self.point, 'store')
        self.marks = []  # (name of what led there, digest of the guest's view, size of the log)
        os.mkdir(self.point)
        os.mkdir(self.view_point)

    def make_base(self):
        with open(self.base, 'xb') as disk:
            disk.truncate(DISK_MIB[self.kind] << 20)
        run(*MAKERS[self.kind], self.base)
        volume = os.path.join(self.directory, 'volume')
        scattered_volume(volume, **VOLUME)
        with mounted(self.base, self.point, '-o', 'loop'):
            os.mkdir(self.store)
            for name in IMAGES:
                run('cp', '--sparse=always', volume, os.path.join(self.store, name))
        os.unlink(volume)
        copy_sparse(self.base, self.disk)

    def view(self):
        with store_mounted(ZCFS, self.store, self.view_point):
            equal(sorted(os.listdir(self.view_point)), IMAGES, 'the store')
            return [digest(os.path.join(self.view_point, name)) for name in IMAGES]

    def mark(self, name):
        """The log first: what looking at the image writes comes after."""
        size = os.path.getsize(self.log)
        self.marks.append((name, self.view(), size))

    def tool(self, name, *options):
        result = defrag(*options, os.path.join(self.store, name))
        equal(result.status, DONE, f'the exit status of {options} ({result!r})')
        self.mark(' '.join(options) or 'pass')

    def guest(self, name, value):
        """The guest writes and flushes. In between anything may be there; nobody looks then."""
        with store_mounted(ZCFS, self.store, self.view_point):
            with open(os.path.join(self.view_point, name), 'r+b', buffering=0) as image:
                os.pwrite(image.fileno(), bytes([value]) * GUEST_BYTES, GUEST_OFF)
                os.fdatasync(image.fileno())
                size = os.path.getsize(self.log)
        self.marks.append(('guest', self.view(), size))

    def live(self):
        with logged_disk(self.disk, self.log, self.directory) as device, mounted(device, self.point):
            self.mark('start')
            self.tool('a.img')
            self.tool('a.img', '--undo')
            self.tool('a.img', '--pack')
            self.guest('a.img', 0xa1)
            self.tool('a.img', '--settle')
            self.guest('a.img', 0xa2)
            self.tool('a.img', '--plain=settle')
            self.guest('a.img', 0xa3)
            self.tool('b.img')
            self.guest('b.img', 0xb1)
            self.tool('b.img', '--plain=copy' if self.kind == 'ext4' else '--plain=reflink')
            self.guest('b.img', 0xb2)

    def allowed(self, size):
        """What the guest may see if at least so much of the log is on the disk; None: nobody knows."""
        done = max(i for i, mark in enumerate(self.marks) if mark[2] <= size)
        views = [self.marks[done][1]]
        if done + 1 < len(self.marks):
            if self.marks[done + 1][0] == 'guest':
                return None
            views.append(self.marks[done + 1][1])
        return views


class States:
    """Disks after a loss of power."""
    def __init__(self, life, directory, source):
        self.life, self.source = life, source
        self.log = Log(life.log).read()
        self.flushed, self.state = os.path.join(directory, 'flushed'), os.path.join(directory, 'state')
        self.epoch = 0
        copy_sparse(life.base, self.flushed)

    def first_epoch(self):
        """Before the first mark only the file system was mounted."""
        return next(i for i, end in enumerate(self.log.ends) if end >= self.life.marks[0][2]) + 1

    def advance(self, epoch):
        """All before the epoch is on the disk."""
        while self.epoch < epoch:
            self.log.apply(self.log.epochs[self.epoch], self.flushed)
            self.epoch += 1

    def some(self, writes, how):
        if how == 'nothing':
            return []
        if how == 'beginning':
            return writes[:self.source.randrange(len(writes) + 1)]
        if how == 'part':
            density = self.source.random()
            return [write for write in writes if self.source.random() < density]
        return writes

    def make(self, epoch, how):
        self.advance(epoch)
        copy_sparse(self.flushed, self.state)
        self.log.apply(self.some(self.log.epochs[epoch], how), self.state)

    def look(self, views):
        """Raises Broken, or what mount says."""
        life = self.life
        with mounted(self.state, life.point, '-o', 'loop'):
            view = life.view()
            if view not in views:
                raise Broken('the guest sees neither the old image nor the new one')
            result = check('--repair', life.store)
            if result.status not in (CHECK_CLEAN, CHECK_CORRECTED):
                raise Broken(f'zcfs-check: {result!r}')
            if check(life.store).status != CHECK_CLEAN or life.view() != view:
                raise Broken('the repair has changed something')


def choose(states, source):
    """Epochs, in order, and what is left of each."""
    epochs = range(states.first_epoch(), len(states.log.epochs) - 1)
    ways = [(epoch, how) for epoch in epochs for how in ('nothing', 'all', 'beginning', 'part', 'part')
            if states.life.allowed(states.log.ends[epoch - 1]) and (how == 'nothing' or states.log.epochs[epoch])]
    return ways if STATES == 0 or STATES >= len(ways) else [ways[i] for i in sorted(source.sample(range(len(ways)), STATES))]


def lose_power(cases, states, source):
    ways = choose(states, source)
    name = f'{len(ways)} times power fails, among {len(states.log.ends)} flushes: the old view or the new one, and nothing to repair by hand'
    with cases.case(name):
        for epoch, how in ways:
            states.make(epoch, how)
            try:
                states.look(states.life.allowed(states.log.ends[epoch - 1]))
            except (Broken, AssertionError, RuntimeError) as error:
                raise AssertionError(f'after flush {epoch - 1}, {how} of the next writes: {error}') from error


def forget_flushes(cases, life, directory, source):
    """Disks that have not written what they were last told to flush before something was reported done: this test must notice."""
    states = States(life, directory, source)
    noticed = []
    with cases.case('a disk that has not flushed what it said it had is noticed'):
        for name, view, size in life.marks[1:]:
            epoch = max(i for i, end in enumerate(states.log.ends) if end <= size)
            states.make(epoch, 'nothing')
            try:
                states.look([view])
            except (Broken, AssertionError, RuntimeError):
                noticed.append(name)
        holds('guest' in noticed, f'noticed only after {noticed}')
    print(f'# noticed after: {", ".join(noticed)}', flush=True)


def main():
    unmount_on_termination()
    kind = sys.argv[1]
    seed = seed_argument(2)
    source = random.Random(seed)
    cases = Cases()
    with workspace() as directory:
        life = Life(kind, directory)
        with cases.case(f'two images live on {kind}'):
            life.make_base()
            life.live()
        if not cases.failed:
            print('# ' + ', '.join(f'{name} {size >> 10} KiB' for name, _, size in life.marks), flush=True)
            lose_power(cases, States(life, directory, source), source)
            forget_flushes(cases, life, directory, source)
    cases.finish()


main()
