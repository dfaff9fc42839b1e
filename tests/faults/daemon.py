# SPDX-License-Identifier: GPL-2.0-or-later
"""Each call of the daemon to the host fails once, and then for good, in each way, while a guest and the tools use its mount: no crash, no
hang, the right error for who has asked, nothing leaked, a flush that failed is never forgotten, and every byte is the old one or the new
one, the new one if somebody was told so; to the guest, and in the store after the daemon's end.

Requests to an io_uring fail, too (see inject.c); before Linux 6.10 they only end early. What the kernel passes through is not the
daemon's, and /dev/fuse itself does not fail. Without memory an image is closed late if libfuse is the patched one (see subprojects), and
not before the daemon's end if it is the system's, which fails here.

SEED in the environment repeats a run; EVERY=1 lets every call fail and not only a sample. Arguments choose steps, kinds of calls, or
both."""
import contextlib
import errno
import fcntl
import os
import random
import shutil
import sys
import tempfile
import time

import mount
from commands import NTFS_POPULATE, NTFS_SCATTER, check, unmount_on_termination, workspace
from disk import disk, drop_cache
from guest import run
from injector import HARMLESS, KINDS, Injector, name_of, offsets
from steps import BLOCK, STEPS
from tap import Cases, equal, holds

SAMPLE = 1            # of a way in which the calls of a kind may fail in a step, this many calls
HANG_SECONDS = 300
LEAK_TRIALS = 6
SETTLING_SECONDS = 5  # what the kernel tells the daemon a moment later: closed, forgotten
SIZES = {'plain': 32 * BLOCK, 'bundle': 32 * BLOCK + 700}
NEVER = (1 << 64) - 1


class Session:
    """A store, its mount, and what its images have to contain."""

    def __init__(self, directory, injector, source):
        self.injector, self.source, self.top = injector, source, directory
        os.mkdir(os.path.join(directory, 'store'))
        self.store = mount.Store(over=False, directory=os.path.join(directory, 'store'))
        self.path, self.tool, self.point = self.store.path, self.store.tool, self.store.point
        self.model, self.wanted = {}, {}
        self.most = (0, 0, 0)    # that the daemon has had between two trials; see holdings()
        self.put('plain', source.randbytes(SIZES['plain']))
        self.make_bundle('bundle', source.randbytes(SIZES['bundle']))
        self.make_ntfs()

    def host(self, *names):
        return os.path.join(self.store.dir, *names)

    def data(self, name):
        return self.host(name, 'data') if os.path.isdir(self.host(name)) else self.host(name)

    def put(self, name, data):
        with open(self.host(name), 'wb') as file:
            for off in range(0, len(data), 1 << 16):
                piece = data[off:off + (1 << 16)]
                if piece.count(0) < len(piece):
                    os.pwrite(file.fileno(), piece, off)
            file.truncate(len(data))
        self.model[name] = data

    def make_bundle(self, name, data):
        self.put(name, data)
        self.tool('scatter', name, 1, BLOCK)
        self.learn(name)

    def make_ntfs(self):
        image = self.host('ntfs')
        with open(image, 'xb') as file:
            file.truncate(6 << 20)
        run('mkntfs', '--quiet', '--force', '--fast', '--partition-start', '0', '--sectors-per-track', '0', '--heads', '0', image)
        run(NTFS_POPULATE, '--quiet', '--seed', '1', '--dirs', '1', '--files', '10', '--tiny', '5', image)
        run(NTFS_SCATTER, '--quiet', '--seed', '1', '--fragments', '50', '--what', 'all', image)
        self.fragmented = self.model['ntfs'] = mount.read_file(image)

    def start(self):
        """With the injector, and without the kernel's passthrough, which would leave little to the daemon."""
        self.most = (0, 0, 0)
        try:
            with self.injector.preloaded():
                self.store.start('-o', 'passthrough=off')
        except AssertionError as failure:
            said = 'zcfs: ' in str(failure) or 'fuse: ' in str(failure)
            holds(self.injector.happened() and 'exit status 1' in str(failure) and said, f'the start: {failure}')
            raise OSError(self.injector.error(), str(failure)) from None
        except OSError:
            self.injector.pause()    # started, but something could not be looked up
            self.store.daemon = int(os.readlink(self.path('.zcfs', 'store')).split('/')[2])
            raise

    def drop_cache(self, name):
        drop_cache(self.data(name))

    def cut(self, name):
        """To the size that it had at first."""
        size = SIZES[name]
        os.truncate(self.path(name), size)
        self.model[name] = self.model[name][:size].ljust(size, b'\0')

    # What has to be there

    def expect(self, name, data):
        """From now on it may be this."""
        self.wanted[name] = data

    def done(self, name):
        """Now it is."""
        self.model[name] = self.wanted.pop(name)

    def learn(self, name):
        """What a tool has made of it, by the map and the bytes in the store."""
        self.model[name] = self.store.expected(name) if os.path.isdir(self.host(name)) else mount.read_file(self.host(name))

    def verify(self, name):
        seen, old = mount.read_file(self.path(name)), self.model[name]
        new = self.wanted.pop(name, old)
        if seen not in (old, new):
            holds(len(seen) in (len(old), len(new)), f'{name} has {len(seen)} bytes, neither {len(old)} nor {len(new)}')
            old, new = old.ljust(len(seen), b'\0'), new.ljust(len(seen), b'\0')
            for off, byte in enumerate(seen):
                holds(byte in (old[off], new[off]), f'{name}: byte {off} is neither old nor new')
        self.model[name] = seen

    # Between two trials

    def released(self, name):
        """Nobody has it open any more: a failed flush is forgotten."""
        with open(self.data(name), 'rb') as file:
            for _ in range(SETTLING_SECONDS * 200):
                try:
                    return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    time.sleep(0.005)
        raise AssertionError(f'{name} stays open')

    def tidy(self):
        """Whatever has remained of new and of renamed files."""
        for name in ('plain', 'bundle'):
            with contextlib.suppress(FileNotFoundError):
                os.rename(self.path('renamed-' + name), self.path(name))
        if os.path.isdir(self.host('plain')):
            mount.renameat2(self.path('plain'), self.path('bundle'), mount.RENAME_EXCHANGE)
        directory = self.path('new-directory')
        if os.path.isdir(directory):
            shutil.rmtree(directory)
        for name in os.listdir(self.point):
            if name.startswith('new-'):
                os.unlink(self.path(name))
        if 'victim' in self.model and not os.path.exists(self.host('victim')):
            del self.model['victim']    # whatever was answered
        equal(sorted(os.listdir(self.point)), sorted(self.model), 'the directory')

    def files(self):
        """The daemon's, but those that it has for each thread: rings, and the way to the kernel."""
        links = []
        for entry in os.scandir(f'/proc/{self.store.daemon}/fd'):
            with contextlib.suppress(OSError):
                links.append(os.readlink(entry.path))
        return sorted(link for link in links if link not in ('anon_inode:[io_uring]', '/dev/fuse'))

    def holdings(self):
        """The daemon's threads, descriptors, and blocks of memory."""
        return len(os.listdir(f'/proc/{self.store.daemon}/task')), len(self.files()), self.injector.blocks()

    # The end

    def stop(self):
        """With nothing left of it: the store is right, and the checker agrees."""
        self.store.unmount()
        result = check('--repair', self.store.dir)
        holds(result.status in (0, 1), f'zcfs-check --repair: {result!r}')
        result = check(self.store.dir)
        holds(result.status == 0, f'zcfs-check afterwards: {result!r}')
        equal(sorted(os.listdir(self.store.dir)), sorted(self.model), 'the store')
        for name, data in self.model.items():
            holds(self.store.composed(name) == data, f'{name} is another one in the store than it was in the mount')


class Trial:
    """One run of a step with one fault."""

    def __init__(self, session, step, calls, at, error, ever):
        self.session, self.step, self.fault, self.ever, self.failure = session, step, error, ever, None
        if step.prepare:
            step.prepare(session)
        session.injector.arm(calls, at, error, ever)
        try:
            step.run(session)
        except OSError as failure:
            self.failure = failure
        finally:
            self.counted, self.happened = session.injector.disarm()

    def judge(self):
        session = self.session
        if not session.store.daemon:
            session.start()
        holds(mount.alive(session.store.daemon), 'the daemon has ended')
        if self.failure:
            allowed = (self.fault, errno.EIO, *self.step.also)    # EIO: not known what came of a commit
            if self.fault in HARMLESS:
                allowed = self.step.also
            holds(self.happened and self.failure.errno in allowed, f'the guest was told: {self.failure}')
        session.tidy()
        for name in self.step.touches:
            if name in session.model:
                session.released(name)
                session.verify(name)
                session.released(name)


class Enumeration:
    """All trials of a step, with a daemon that is made anew where one has been lost."""

    def __init__(self, directory, injector, source):
        self.directory, self.injector, self.source, self.session = directory, injector, source, None
        self.problems, self.trials = [], 0

    def begin(self):
        if not self.session:
            self.session = Session(tempfile.mkdtemp(dir=self.directory), self.injector, self.source)
        if not self.session.store.daemon:
            self.session.start()

    def end(self):
        if not self.session:
            return
        try:
            self.session.stop()
        except Exception as problem:
            self.problems.append(f'at the end: {problem}')
            self.give_up()

    def give_up(self):
        if self.session:
            self.session.store.clean_up()
            shutil.rmtree(self.session.top, ignore_errors=True)
        self.session = None

    def try_one(self, step, calls, at, error, ever):
        """How many calls there were; None: it went wrong."""
        self.begin()
        self.trials += 1
        watchdog = mount.Watchdog(self.session.store, HANG_SECONDS)
        try:
            trial = Trial(self.session, step, calls, at, error, ever)
            trial.judge()
            return trial.counted
        except Exception as problem:    # each is told, and the next one tried
            what = f'hangs for {HANG_SECONDS} s: ' if watchdog.fired else ''
            where = f'call {at}: {name_of(error)}{", and ever after" if ever else ""}' if at != NEVER else 'without faults'
            self.problems.append(f'{where}: {what}{type(problem).__name__}: {problem}')
            self.injector.disarm()
            watchdog.cancel()
            self.give_up()
            return None
        finally:
            watchdog.cancel()

    def try_kind(self, step, kind):
        calls, errors = KINDS[kind]
        total = self.try_one(step, calls, NEVER, errno.EIO, False) or 0
        for error in errors if total else ():
            for ever in (False, True) if error not in HARMLESS else (False,):
                for at in offsets(self.source, total, SAMPLE):
                    if self.try_one(step, calls, at, error, ever) is not None:
                        self.look_for_leak(step, calls, at, error, ever)
        return total

    def look_for_leak(self, step, calls, at, error, ever):
        """Who has more than ever before gets the same again: what grows with each time is not kept for a reason."""
        history = []
        for _ in range(LEAK_TRIALS):
            history.append(self.session.holdings())
            if self.is_no_more_than_before():
                return
            if self.try_one(step, calls, at, error, ever) is None:
                return
        if not self.is_no_more_than_before():
            self.problems.append(f'call {at}: {name_of(error)}{", and ever after" if ever else ""}: leaks (threads, descriptors, blocks '
                                 f'of memory): {history}: {self.session.files()}')

    def is_no_more_than_before(self):
        session, deadline = self.session, time.monotonic() + 0.2
        while True:
            has = session.holdings()
            if has[0] > session.most[0] or all(now <= before for now, before in zip(has, session.most)):
                break
            if time.monotonic() > deadline:    # what the kernel forgets, it may tell later
                break
            time.sleep(0.01)
        # Threads have memory of their own, and stay.
        more = has[0] <= session.most[0] and any(now > before for now, before in zip(has, session.most))
        session.most = tuple(map(max, has, session.most))
        return not more


def enumerate_step(cases, enumeration, step, kinds):
    for kind in kinds:
        enumeration.problems, enumeration.trials = [], 0
        total = enumeration.try_kind(step, kind)
        if total or enumeration.problems:
            with cases.case(f'{step.name}: {kind}: {enumeration.trials} faults in {total} calls'):
                holds(not enumeration.problems, '\n'.join(enumeration.problems))
    enumeration.problems = []
    enumeration.end()
    with cases.case(f'{step.name}: what is in the store afterwards'):
        holds(not enumeration.problems, '\n'.join(enumeration.problems))


def enumerate_calls(directory, injector, source, only):
    cases = Cases()
    steps = [step for step in STEPS if step.name in only] or STEPS
    kinds = [kind for kind in KINDS if kind in only] or KINDS
    enumeration = Enumeration(directory, injector, source)
    try:
        for step in steps:
            enumerate_step(cases, enumeration, step, kinds)
    finally:
        enumeration.give_up()
    cases.finish()


def main():
    unmount_on_termination()
    if mount.transport_missing():
        return
    seed = int(os.environ.get('SEED', int.from_bytes(os.urandom(4), 'little')))
    print(f'# SEED={seed}', flush=True)
    with workspace() as top, disk(top) as host, mount.transport():
        enumerate_calls(host.point, Injector(top), random.Random(seed), sys.argv[3:])


main()
