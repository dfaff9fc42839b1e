# SPDX-License-Identifier: GPL-2.0-or-later
"""zcfs can be left at any time: after a pass, --plain makes an ordinary raw file again, which needs no zcfs.

The argument: the kind of the host's file system. A second one is the seed for the kills; the one used is printed."""
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

from commands import DONE, FAILED, IN_USE, MAKERS, USAGE, ZCFS, ZCFS_DEFRAG, check, check_ntfs, defrag, defrag_report, scattered_volume, \
    seed_argument, unmount_on_termination, workspace
from guest import hash_files_through_driver, run
from host import digest, host_file_system, read_extents, state_of, store_mounted, write_view
from tap import Cases, equal, holds

DISK_MIB = 400
KILLS = 12
CORRECTED = 1  # exit status of zcfs-check
REFLINKS = {'xfs', 'btrfs'}


def plain(image, *options, status=DONE):
    """Runs --plain; the report about it."""
    result = defrag('--json', '--plain', *options, image) if not options else defrag('--json', *options, image)
    equal(result.status, status, f'the exit status ({result!r})')
    return json.loads(result.out)['images'][0]


def attributes(path):
    status = os.stat(path)
    return [status.st_mode, status.st_uid, status.st_gid, status.st_size, os.getxattr(path, 'user.remark')]


class Image:
    """An image in a store on the file system under test, with what it looks like before and after a pass."""

    def __init__(self, root, kind):
        self.kind = kind
        self.store = os.path.join(root, 'store')
        self.point = os.path.join(root, 'mount')
        self.master = os.path.join(root, 'master')  # the bundle as the pass has left it
        self.path = os.path.join(self.store, 'a.img')
        for directory in (self.store, self.point):
            os.mkdir(directory)
        scattered_volume(self.path, fragments=2000, seed=21)
        os.chmod(self.path, 0o640)
        os.chown(self.path, 1234, 4321)
        os.setxattr(self.path, 'user.remark', b'kept')
        self.files = hash_files_through_driver(self.path)
        defrag_report(self.path)
        shutil.copytree(self.path, self.master)
        self.restore()
        view = os.path.join(root, 'view')
        write_view(self.path, view)
        self.truth = digest(view)
        os.unlink(view)
        self.extents = len(read_extents(self.path))

    def restore(self):
        """The bundle again."""
        if os.path.isdir(self.path):
            shutil.rmtree(self.path)
        elif os.path.exists(self.path):
            os.unlink(self.path)
        run('cp', '-a', '--sparse=always', self.master, self.path)
        data = os.path.join(self.path, 'data')
        os.chmod(data, 0o640)
        os.chown(data, 1234, 4321)
        os.setxattr(data, 'user.remark', b'kept')
        run('sync', '-f', self.store)

    def pieces(self):
        """How many extents the host's file system has for the file, as filefrag says."""
        done = subprocess.run(['filefrag', self.path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=300, check=False)
        return done.stdout.decode().rsplit(':', 1)[-1].strip() or 'unknown'


def check_left(image, before, same_file):
    """The image is a file with the guest's view, and nothing else is left."""
    equal(os.listdir(image.store), ['a.img'], 'the store')
    holds(os.path.isfile(image.path) and not os.path.islink(image.path), 'it is no regular file')
    equal(digest(image.path), image.truth, 'the content')
    equal(attributes(image.path), before[0], 'mode, owner, size and attributes')
    equal(os.stat(image.path).st_ino == before[1].st_ino, same_file, 'whether it is the same file')
    slack = 4 * image.extents * 8 if image.kind == 'btrfs' else 4096
    holds(os.stat(image.path).st_blocks <= before[1].st_blocks + slack, 'holes have been filled')


def methods(cases, image):
    with cases.case('zcfs-check finds nothing wrong with what a pass has made on this file system'):
        result = check('-v', image.store)
        equal(result.status, 0, f'the exit status ({result!r})')
    possible = ['settle', 'copy'] + (['reflink'] if image.kind in REFLINKS else [])
    for method in [None] + possible:
        with cases.case(f'--plain{"=" + method if method else ""}: an ordinary file with what the guest saw'):
            image.restore()
            data = os.path.join(image.path, 'data')
            before = attributes(data), os.stat(data)
            report = plain(image.path, *([f'--plain={method}'] if method else []))['plain']
            equal(report['method'], method or ('reflink' if image.kind in REFLINKS else 'settle'), 'the method')
            check_left(image, before, report['method'] == 'settle')
            if report['method'] == 'reflink':
                equal(report['bytes_copied'], 0, 'bytes copied')
                equal(os.stat(image.path).st_mtime_ns, before[1].st_mtime_ns, 'the time of the last change')
        print(f'# {report}; {image.extents} extents in the map before, {image.pieces()} on the host after')
    with cases.case('what cannot be done is refused, and nothing changed'):
        image.restore()
        before = state_of(image.store)
        impossible = ['exchange'] + ([] if image.kind in REFLINKS else ['reflink'])
        for method in impossible:
            result = defrag(f'--plain={method}', image.path)
            equal(result.status, FAILED, f'the exit status of {method}')
            holds('what to do' in result.err, result.err)
            equal(state_of(image.store), before, 'the store')
        for wrong in (['--plain=magic'], ['--plain', '--undo'], ['--plain', '--pack'], ['--plain', '--volume=1']):
            equal(defrag(*wrong, image.path).status, USAGE, f'the exit status of {wrong}')


def long_name(cases, image):
    with cases.case('an image with the longest name that there can be: --plain in every way, a pass and --undo'):
        path = os.path.join(image.store, 'x' * 251 + '.img')
        for method in ['settle', 'copy'] + (['reflink'] if image.kind in REFLINKS else []):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            image.restore()
            os.rename(image.path, path)
            plain(path, f'--plain={method}')
            equal((os.listdir(image.store), digest(path)), ([os.path.basename(path)], image.truth), f'the store after {method}')
        defrag_report('--pack', path)
        holds(os.path.isdir(path), 'the pass has done nothing')
        defrag_report('--undo', path)
        equal(plain(path)['plain']['method'], 'exchange', 'the method')
        equal((os.listdir(image.store), digest(path)), ([os.path.basename(path)], image.truth), 'the store')
        os.unlink(path)


def held_though_deleted(process):
    """The files without a name that a process holds; looked at for a second, until there are none."""
    directory = f'/proc/{process.pid}/fd'
    for _ in range(20):
        held = []
        for number in os.listdir(directory):
            with contextlib.suppress(FileNotFoundError):
                held += [path for path in [os.readlink(os.path.join(directory, number))] if path.endswith(' (deleted)')]
        if not held:
            break
        time.sleep(0.05)
    return held


def below_a_mount(cases, image):
    with cases.case('--plain=copy below a mount: the daemon does not keep the old file, and its space'):
        for path in (image.path, os.path.join(image.point, 'a.img')):
            image.restore()
            with store_mounted(ZCFS, image.store, image.point) as daemon:
                old = os.stat(os.path.join(image.point, 'a.img')).st_ino
                plain(path, '--plain=copy')
                equal(held_though_deleted(daemon), [], 'what the daemon holds')
                holds(os.stat(os.path.join(image.point, 'a.img')).st_ino != old, 'the mount shows the old file')


def exit_path(cases, image):
    with cases.case('pass, --plain, unmount: the file in the store mounts without zcfs, every file as it was'):
        image.restore()
        with store_mounted(ZCFS, image.store, image.point):
            seen = os.path.join(image.point, 'a.img')
            old = os.stat(seen)
            with open(seen, 'rb') as file:
                holds(len(file.read(1 << 20)) == 1 << 20, 'it cannot be read')
                busy = defrag('--plain', seen)
                equal(busy.status, IN_USE, f'the exit status while it is open ({busy!r})')
            plain(seen)
            equal(os.stat(seen).st_size, old.st_size, 'the size in the mount')
            equal(digest(seen), image.truth, 'what the mount shows afterwards')
            with open(seen, 'r+b') as file:
                file.seek(old.st_size - 1)
                last = file.read(1)
                file.seek(old.st_size - 1)
                file.write(last)
            equal(digest(seen), image.truth, 'what the mount shows after a write')
        equal(digest(image.path), image.truth, 'the file in the store')
        equal(check_ntfs(image.path), '', 'what ntfs-check finds')
        equal(hash_files_through_driver(image.path), image.files, 'the files')
    with cases.case('a plain image is left alone, and can be defragmented again'):
        before = state_of(image.store)
        equal(plain(image.path)['plain']['changed'], False, 'changed')
        equal(state_of(image.store), before, 'the store')
        defrag_report(image.path)
    with cases.case('undone, it becomes plain by an exchange of names: the same file'):
        image.restore()
        plain(image.path, '--plain=copy')
        content, number = digest(image.path), os.stat(image.path).st_ino
        defrag_report('--pack', image.path)
        holds(os.path.isdir(image.path), 'the pass has done nothing')
        defrag_report('--undo', image.path)
        equal(plain(image.path)['plain']['method'], 'exchange', 'the method')
        equal((digest(image.path), os.stat(image.path).st_ino), (content, number), 'content and inode number')


def kills(cases, image, source):
    with cases.case(f'killed {KILLS} times: the bundle or the file, with what the guest saw; the next start cleans up'):
        ends = {'bundle': 0, 'file': 0, 'repaired': 0}
        image.restore()
        started = time.monotonic()
        plain(image.path)
        duration = time.monotonic() - started
        for number in range(KILLS):
            image.restore()
            method = ['--plain', '--plain=copy'][number % 2]
            running = subprocess.Popen([ZCFS_DEFRAG, method, image.path], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
            time.sleep(source.random() * duration * 1.6)
            running.send_signal(signal.SIGKILL)
            running.wait()
            ends['bundle' if os.path.isdir(image.path) else 'file'] += 1
            if number % 4 >= 2:  # otherwise it is the daemon that cleans up
                ends['repaired'] += check('--repair', image.store).status == CORRECTED
                result = check('-v', image.store)
                equal(result.status, 0, f'the exit status of zcfs-check after --repair ({result!r})')
            with store_mounted(ZCFS, image.store, image.point):
                equal(os.listdir(image.point), ['a.img'], 'the mount')
                equal(digest(os.path.join(image.point, 'a.img')), image.truth, 'what the mount shows')
            equal(os.listdir(image.store), ['a.img'], 'the store')
            plain(image.path)
            equal(digest(image.path), image.truth, 'the content in the end')
        print(f'# {ends}')


def full_disk(cases, image):
    with cases.case('--plain=copy without room for a copy is refused before anything is copied; in place it can be done'):
        image.restore()
        filler = os.path.join(os.path.dirname(image.store), 'filler')
        with open(filler, 'wb', buffering=0) as file:
            with contextlib.suppress(OSError):
                while file.write(bytes(1 << 20)) == 1 << 20:
                    pass
        free = 0
        while free < 22 << 20:  # more than a settle pass keeps free, less than the image takes up
            os.truncate(filler, os.path.getsize(filler) - (2 << 20))
            run('sync', '-f', image.store)
            status = os.statvfs(image.store)
            free = status.f_bavail * status.f_frsize
        before = state_of(image.store)
        result = defrag('--plain=copy', image.path)
        equal(result.status, FAILED, f'the exit status ({result!r})')
        holds('no space left' in result.err, result.err)
        equal(state_of(image.store), before, 'the store')
        if image.kind not in REFLINKS:  # which write elsewhere, and need room for that
            plain(image.path, '--plain=settle')
            equal(digest(image.path), image.truth, 'the content')
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(os.path.dirname(image.store), 'filler'))


def sector_63(cases, root, kind):
    """A partition as Windows XP makes it: no cluster lies on a block of the host."""
    with cases.case('a partition at sector 63: content equal; shared is what lies on blocks'):
        corpus = os.path.join(root, 'corpus')
        run('python3', os.path.join(MAKERS, 'make-corpus'), '--only', 'xp', corpus)
        name = [entry for entry in os.listdir(corpus) if entry.startswith('xp')][0]
        store = os.path.join(root, 'store63')
        os.mkdir(store)
        path = os.path.join(store, name)
        run('cp', '--sparse=always', os.path.join(corpus, name), path)
        defrag_report(path)
        view = os.path.join(root, 'view63')
        write_view(path, view)
        truth = digest(view)
        report = plain(path)['plain']
        print(f'# {report}')
        equal(digest(path), truth, 'the content')
        equal(report['method'], 'reflink' if kind in REFLINKS else 'settle', 'the method')


def main():
    unmount_on_termination()
    kind = sys.argv[1]
    seed = seed_argument(2)
    cases = Cases()
    with workspace() as directory, host_file_system(kind, directory, DISK_MIB) as root:
        image = Image(root, kind)
        methods(cases, image)
        long_name(cases, image)
        below_a_mount(cases, image)
        exit_path(cases, image)
        kills(cases, image, random.Random(seed))
        full_disk(cases, image)
        sector_63(cases, root, kind)
    cases.finish()


main()
