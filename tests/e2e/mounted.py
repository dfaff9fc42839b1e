# SPDX-License-Identifier: GPL-2.0-or-later
"""The same store seen through its mount: passes, users, and the lock between them."""
import contextlib
import mmap
import os
import random
import signal
import subprocess
import threading
import time

from commands import DONE, FAILED, IN_USE, ZCFS, ZCFS_DEFRAG, defrag, defrag_report, scattered_volume, \
    unmount_on_termination, workspace
from guest import hash_files_through_driver, hash_files_through_sleuthkit, run
from host import digest, open_database, state_of, store_mounted
from tap import Cases, equal, holds


class Store:
    """A store with one fragmented image, and where it is seen."""
    def __init__(self, directory, over_itself):
        self.directory = os.path.join(directory, 'store')
        self.mount = self.directory if over_itself else os.path.join(directory, 'mount')
        os.makedirs(self.mount, exist_ok=True)
        os.makedirs(self.directory, exist_ok=True)
        scattered_volume(os.path.join(self.directory, 'a.img'))
        self.image = os.path.join(self.mount, 'a.img')  # as users see it

    def mounted(self):
        return store_mounted(ZCFS, self.directory, self.mount)


@contextlib.contextmanager
def store(over_itself=False):
    with workspace() as directory:
        made = Store(directory, over_itself)
        with made.mounted():
            yield made


def passes_through_the_mount(cases, over_itself):
    where = 'over itself' if over_itself else 'elsewhere'
    with store(over_itself) as made:
        driver, sleuthkit = (hash_files_through_driver(made.image), hash_files_through_sleuthkit(made.image))
        view, status = digest(made.image), os.stat(made.image)
        with cases.case(f'mounted {where}: a pass by the path in the mount'):
            result = defrag(made.image)
            equal(result.status, DONE, 'the exit status')
            holds(': defragmented' in result.out and 'is a bundle' not in result.out, result.out)
            equal(defrag_report('-n', made.image)['volumes'][0]['fragmented_attributes']['before'], 0, 'fragmented attributes')
        with cases.case(f'mounted {where}: the image is still the regular file that it was'):
            now = os.stat(made.image)
            equal((now.st_ino, now.st_size, now.st_mode, now.st_uid), (status.st_ino, status.st_size, status.st_mode,
                                                                      status.st_uid), 'stat')
            equal(os.listdir(made.mount), ['a.img'], 'the directory')
        with cases.case(f'mounted {where}: what is opened after the pass is the new view, not a remembered one'):
            holds(digest(made.image) != view, 'the view is the old one')
            equal(hash_files_through_driver(made.image), driver, 'what ntfs-3g reads')
            equal(hash_files_through_sleuthkit(made.image), sleuthkit, 'what The Sleuth Kit reads')
        with cases.case(f'mounted {where}: the history is in the database that the mount shows'):
            with open_database(os.path.join(made.mount, '.zcfs', 'db', 'a.img.db')) as database:
                equal(database.execute('SELECT operation FROM run_history').fetchall(), [('defrag',)], 'the history')
        with cases.case(f'mounted {where}: --undo brings the old view back'):
            defrag_report('--undo', made.image)
            equal(digest(made.image), view, 'the view')


def undo_after_writing(cases):
    with store() as made:
        defrag_report(made.image)
        with open(made.image, 'r+b') as image:
            last = os.fstat(image.fileno()).st_size - 512
            image.seek(last)
            image.write(b'x')
        view = digest(made.image)
        with cases.case('after a write there is nothing to undo, and the written byte stays'):
            result = defrag('--undo', made.image)
            equal(result.status, FAILED, 'the exit status')
            holds('nothing to undo' in result.err, result.err)
            equal(digest(made.image), view, 'the view')


def refused_while(cases, made, what):
    with cases.case(f'{what}: refused with exit status {IN_USE}, nothing changed'):
        before = state_of(made.directory)
        result = defrag(made.image)
        equal(result.status, IN_USE, 'the exit status')
        holds('in use' in result.err and '--wait' in result.err, result.err)
        equal(state_of(made.directory), before, 'the store')
    with cases.case(f'{what}: --analyze counts all the same, and says that it is approximate'):
        result = defrag('--analyze', made.image)
        equal(result.status, DONE, 'the exit status')
        holds('in use: figures are approximate' in result.out, result.out)


def in_use(cases):
    with store() as made:
        with open(made.image, 'r+b'):
            refused_while(cases, made, 'open for writing through the mount')
        with open(made.image, 'rb'):
            refused_while(cases, made, 'open for reading through the mount')
        with open(made.image, 'r+b') as image, mmap.mmap(image.fileno(), 4096):
            image.close()
            refused_while(cases, made, 'only mapped')
        with open(os.path.join(made.directory, 'a.img'), 'rb'):
            refused_while(cases, made, 'open in the store, behind the mount\'s back')
        with cases.case('just closed by all of them: not refused'):
            for _ in range(3):
                with open(made.image, 'rb') as image:
                    image.read(4096)
                equal(defrag('--dry-run', made.image).status, DONE, 'the exit status')


def waiting(cases):
    with store() as made:
        with open(made.image, 'rb'), cases.case('--wait=SECONDS gives up in time'):
            started = time.monotonic()
            equal(defrag('--wait=1', made.image, timeout=300).status, IN_USE, 'the exit status')
            holds(0.9 < time.monotonic() - started < 60, 'it took too long, or not long enough')
        with cases.case('--wait goes on when the last user has closed the image'):
            image = open(made.image, 'rb')
            threading.Timer(1.5, image.close).start()
            started = time.monotonic()
            equal(defrag_report('--wait', made.image)['changed'], True, 'changed')
            holds(time.monotonic() - started > 1, 'it did not wait')
        with open(made.image, 'rb'), cases.case('a signal ends the wait, nothing changed'):
            view = digest(made.image)
            waiter = subprocess.Popen([ZCFS_DEFRAG, '--wait', made.image], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            time.sleep(0.7)
            waiter.send_signal(signal.SIGINT)
            _, errors = waiter.communicate(timeout=300)
            equal(waiter.returncode, FAILED, 'the exit status')
            holds(b'stopped' in errors, errors)
            equal(digest(made.image), view, 'the view')


def opened_meanwhile(cases):
    """Users that come while a pass runs wait for it, and see the old image or the new one, never a mixture."""
    with store() as made:
        old = digest(made.image)
        defrag_report(made.image)
        new = digest(made.image)
        defrag_report('--undo', made.image)
        with cases.case('opened again and again during passes: the old view or the new one'):
            seen, source = set(), random.Random(1)
            for _ in range(8):
                running = subprocess.Popen([ZCFS_DEFRAG, '--wait=60', '--quiet', made.image])
                while running.poll() is None:
                    time.sleep(source.random() / 4)
                    seen.add(digest(made.image))
                equal(running.returncode, DONE, 'the exit status')
                defrag_report('--wait=60', '--undo', made.image)
            equal(seen - {old, new}, set(), 'other views')
            equal(digest(made.image), old, 'the view at last')


def other_paths(cases):
    with store() as made:
        os.mkdir(os.path.join(made.mount, 'sub'))
        scattered_volume(os.path.join(made.directory, 'sub', 'b.img'), seed=9)
        with cases.case('an image in a subdirectory of the mount'):
            equal(defrag_report(os.path.join(made.mount, 'sub', 'b.img'))['changed'], True, 'changed')
        with workspace() as elsewhere:
            link = os.path.join(elsewhere, 'link')
            os.symlink(os.path.join(made.mount, 'sub', 'b.img'), link)
            with cases.case('a symbolic link to an image in the mount'):
                equal(defrag_report('--undo', link)['exit_code'], DONE, 'the exit status')
            bound = os.path.join(elsewhere, 'bound')
            os.mkdir(bound)
            run('mount', '--bind', os.path.join(made.mount, 'sub'), bound)
            try:
                with cases.case('a bind mount of a part of the mount'):
                    equal(defrag_report(os.path.join(bound, 'b.img'))['changed'], True, 'changed')
            finally:
                run('umount', bound)
        with cases.case('the control directory holds no images'):
            equal(defrag(os.path.join(made.mount, '.zcfs', 'db', 'a.img.db')).status, FAILED, 'the exit status')


def dead_daemon(cases):
    with workspace() as directory:
        made = Store(directory, over_itself=False)
        with made.mounted() as daemon:
            daemon.kill()
            daemon.wait()
            with cases.case('a mount whose daemon was killed: fails and says what to do'):
                result = defrag(made.image)
                equal(result.status, FAILED, 'the exit status')
                holds('umount' in result.err or 'fusermount3' in result.err, result.err)
            with cases.case('the store below it works all the same'):
                equal(defrag_report(os.path.join(made.directory, 'a.img'))['changed'], True, 'changed')


def main():
    unmount_on_termination()
    cases = Cases()
    passes_through_the_mount(cases, over_itself=False)
    passes_through_the_mount(cases, over_itself=True)
    undo_after_writing(cases)
    in_use(cases)
    waiting(cases)
    opened_meanwhile(cases)
    other_paths(cases)
    dead_daemon(cases)
    cases.finish()


main()
