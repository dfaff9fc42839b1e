# SPDX-License-Identifier: GPL-2.0-or-later
"""While a tool works on an image, perhaps for hours, nobody but a guest makes it stop: no other command, no look through the mount."""
import contextlib
import os
import signal
import sqlite3
import subprocess
import threading
import time

from commands import DONE, FAILED, IN_USE, ZCFS, ZCFS_CHECK, ZCFS_DEFRAG, ZCFS_MAP, Result, scattered_volume, unmount_on_termination, \
    workspace
from guest import run
from host import digest, host_file_system, read_extents, store_mounted, write_view
from tap import Cases, equal, holds

SECONDS = 300     # for what takes a moment
BUSY = 'is in use by zcfs-defrag (process'

# What a tool may be at: all of that can take hours.
OPERATIONS = [['--plain=settle'], ['--plain=copy'], ['--settle'], ['--discard=forget-undo'], ['--pack']]

# Looks, and attempts to work on the image as well; {} is the image: command, exit status, what it says.
LOOKS = [
    ([ZCFS_MAP, '{}'], DONE, 'guest offset'),
    ([ZCFS_MAP, '--summary', '{}'], DONE, 'a bundle'),
    ([ZCFS_MAP, '--json', '{}'], DONE, '"extents"'),
    ([ZCFS_MAP, '--guest=0', '{}'], FAILED, 'cannot be read while a tool works on it'),
    ([ZCFS_DEFRAG, '--analyze', '{}'], IN_USE, BUSY),
    ([ZCFS_DEFRAG, '--analyze', '--all', '{}/..'], DONE, '1 in use'),
    ([ZCFS_CHECK, '{}'], DONE, ''),
    ([ZCFS_CHECK, '{}/..'], DONE, ''),
]
ATTEMPTS = [([ZCFS_DEFRAG, *options, '{}'], IN_USE, BUSY) for options in
            ([], ['--dry-run'], ['--wait=1'], ['--undo'], ['--plain'], ['--settle'], ['--discard=forget-undo'])] + \
           [([ZCFS_CHECK, '--repair', '{}'], DONE, 'in use')]


def lease_of(process):
    """What the kernel says of the lease that a process has, "ACTIVE" or "BREAKING"; None: it has none."""
    with open('/proc/locks', encoding='ascii') as locks:
        for words in map(str.split, locks):
            if words[1] == 'LEASE' and words[4] == str(process.pid):
                return words[2]
    return None


def can_be_read(image):
    """Whether nobody is just committing to the map database."""
    with contextlib.closing(sqlite3.connect(f'file:{image}/map.db?mode=ro', uri=True, timeout=0)) as database:
        try:
            return database.execute('SELECT count(*) FROM extent').fetchone()[0] > 0
        except sqlite3.OperationalError:
            return False


def stop(process, image):
    """In the middle of its work."""
    stopped = False
    while not stopped:
        while process.poll() is None and not lease_of(process):
            time.sleep(0.0002)
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        equal(lease_of(process), 'ACTIVE', 'the lease of the tool')
        stopped = can_be_read(image)
        if not stopped:
            process.send_signal(signal.SIGCONT)
            time.sleep(0.001)


@contextlib.contextmanager
def at_work(options, image):
    """A tool that has the lease and stands still."""
    process = subprocess.Popen([ZCFS_DEFRAG, '--quiet', *options, image], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    try:
        stop(process, image)
        yield process
    finally:
        process.kill()
        process.communicate()


def finish(process):
    """Lets it go on; how it ends."""
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=SECONDS)
    return Result(subprocess.CompletedProcess([], process.returncode, out, err))


def look(cases, process, what, image, looks):
    for command, status, words in looks:
        command = [word.format(image) for word in command]
        words_of_command = [os.path.basename(command[0]), *command[1:-1], 'STORE' if command[-1].endswith('..') else 'IMAGE']
        with cases.case(f'{what}: {" ".join(words_of_command)} does not disturb it'):
            result = Result(subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                           timeout=SECONDS, check=False))
            equal(lease_of(process), 'ACTIVE', 'the lease of the tool')
            equal(result.status, status, f'the exit status ({result!r})')
            holds(words in result.out + result.err, f'{result!r}')


def look_through_mount(cases, process, what, store, mount):
    image, count = os.path.join(mount, 'a.img'), len(read_extents(os.path.join(store, 'a.img')))
    with store_mounted(ZCFS, store, mount):
        with cases.case(f'{what}: names, status and attributes through the mount do not disturb it'):
            run('ls', '-lR', mount)
            run('stat', image)
            copy = os.path.join(mount, '.zcfs', 'db', 'a.img.db')
            equal(int(run('sqlite3', '-readonly', copy, 'SELECT count(*) FROM extent')), count, 'extents in the copy of the map database')
            with contextlib.suppress(OSError):  # there is none of a sound image
                os.getxattr(image, 'user.zcfs.error')
            equal(lease_of(process), 'ACTIVE', 'the lease of the tool')
        look(cases, process, f'{what}, by its path in the mount', image, [
            ([ZCFS_MAP, '{}'], DONE, 'guest offset'), ([ZCFS_DEFRAG, '--analyze', '{}'], IN_USE, BUSY),
            ([ZCFS_DEFRAG, '--settle', '{}'], IN_USE, BUSY), ([ZCFS_CHECK, '{}'], DONE, '')])


class Store:
    """With one bundle, as a pass leaves it."""
    def __init__(self, directory):
        self.path, self.mount = os.path.join(directory, 'store'), os.path.join(directory, 'mount')
        self.image, self.master = os.path.join(self.path, 'a.img'), os.path.join(directory, 'master')
        os.mkdir(self.path)
        os.mkdir(self.mount)
        scattered_volume(self.image)
        run(ZCFS_DEFRAG, '--quiet', self.image)
        write_view(self.image, self.master)
        self.truth = digest(self.master)
        os.unlink(self.master)
        run('cp', '-a', self.image, self.master)

    def restore(self):
        run('rm', '-rf', self.image)
        run('cp', '-a', self.master, self.image)


def operations(cases, store):
    for options in OPERATIONS:
        store.restore()
        what = ' '.join(options)
        with at_work(options, store.image) as process:
            look(cases, process, what, store.image, LOOKS + (ATTEMPTS if options == OPERATIONS[0] else []))
            look_through_mount(cases, process, what, store.path, store.mount)
            with cases.case(f'{what}: does what it was to do'):
                result = finish(process)
                equal(result.status, DONE, f'the exit status ({result!r})')
                if options[0].startswith('--plain'):
                    equal(digest(store.image), store.truth, 'the plain image')


def guest(cases, store):
    """The tests above notice a lease that is broken."""
    store.restore()
    image, opened, closing = os.path.join(store.mount, 'a.img'), threading.Event(), threading.Event()

    def use():
        with open(image, 'rb'):
            opened.set()
            closing.wait()

    with store_mounted(ZCFS, store.path, store.mount), at_work(['--plain=settle'], store.image) as process, \
            cases.case('a guest that starts breaks the lease, and gets the image'):
        user = threading.Thread(target=use)
        user.start()
        try:
            deadline = time.monotonic() + SECONDS
            while lease_of(process) == 'ACTIVE' and time.monotonic() < deadline:
                time.sleep(0.01)
            equal(lease_of(process), 'BREAKING', 'the lease of the tool')
            result = finish(process)
            equal(result.status, IN_USE, f'the exit status ({result!r})')
            holds(opened.wait(SECONDS), 'it is not opened')
            equal(digest(image), store.truth, 'what the guest sees')
        finally:
            closing.set()
            finish(process)
            user.join()


def snapshots(cases, directory):
    """Inode numbers in a snapshot are those of what it was made of, and /proc/locks does not tell one from the other."""
    with host_file_system('btrfs', directory, 400) as point:
        one, two = os.path.join(point, 'one'), os.path.join(point, 'two')
        run('btrfs', 'subvolume', 'create', one)
        scattered_volume(os.path.join(one, 'a.img'))
        run(ZCFS_DEFRAG, '--quiet', os.path.join(one, 'a.img'))
        run('btrfs', 'subvolume', 'snapshot', one, two)
        with at_work(['--plain=settle'], os.path.join(one, 'a.img')) as process:
            look(cases, process, 'btrfs', os.path.join(one, 'a.img'), LOOKS)
            look(cases, process, 'a snapshot of what is worked on', os.path.join(two, 'a.img'), [
                ([ZCFS_MAP, '--guest=0', '{}'], DONE, '$Boot'), ([ZCFS_DEFRAG, '--pack', '{}'], DONE, 'defragmented')])
            with cases.case('btrfs: does what it was to do'):
                result = finish(process)
                equal(result.status, DONE, f'the exit status ({result!r})')


def main():
    unmount_on_termination()
    cases = Cases()
    with workspace() as directory:
        store = Store(directory)
        operations(cases, store)
        guest(cases, store)
        snapshots(cases, directory)
    cases.finish()


main()
