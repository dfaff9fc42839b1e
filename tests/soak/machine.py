# SPDX-License-Identifier: GPL-2.0-or-later
"""The host of a soak: a file system on a loop device, the daemon that serves a store on it, and all that befalls both.

A storm is one such thing, from its beginning until everything works again. Who must not be hit holds calm(); everybody else asks,
after an error, whether a storm excuses it.
"""
import contextlib
import errno
import math
import os
import signal
import subprocess
import threading
import time

from guest import run, wait_for_mount
from host import MAKERS, shut_down
from commands import ZCFS
from tally import Broken

MIB = 1 << 20
LIMIT_SECONDS = 300  # whatever takes longer hangs

ANY = None
EXCUSES = {
    'full': {errno.ENOSPC},
    'killed': {errno.ENOTCONN, errno.ECONNABORTED, errno.ECANCELED, errno.EIO, errno.ENOENT, errno.EROFS, errno.ENODEV},
    'restarted': {errno.ENOTCONN, errno.ECONNABORTED, errno.ECANCELED, errno.EIO, errno.ENOENT, errno.EROFS, errno.ENODEV},
    'remounted': {errno.EROFS},
    'crashed': ANY,
    'read-only': ANY,
}


class Machine:
    def __init__(self, directory, kind, mebibytes, source, tally):
        self.kind, self.source, self.tally = kind, source, tally
        self.disk = os.path.join(directory, 'disk')
        self.host = os.path.join(directory, 'host')
        self.store = os.path.join(self.host, 'store')
        self.point = os.path.join(directory, 'mount')
        for path in (self.host, self.point):
            os.mkdir(path)
        with open(self.disk, 'xb') as file:
            file.truncate(mebibytes * MIB)
        run(*MAKERS[kind], self.disk)
        self.device = run('losetup', '--find', '--show', self.disk).strip()
        # While nobody serves it the mount point takes nothing, either.
        run('mount', '-t', 'tmpfs', '-o', 'ro,size=4k', 'zcfs-soak', self.point)
        self.daemon = None
        self.restarts = 0  # of the host
        self.storms = []   # (what, from, until or None)
        self.deaths = []   # of the host's file system: from when, until when, noticed
        self.quiet = threading.Condition()
        self.calm_users = 0
        self.storming = False
        self.mount_host()
        os.mkdir(self.store)

    # ---- who is hit ----

    @contextlib.contextmanager
    def calm(self):
        """No storm within the block; waits for the end of one."""
        with self.quiet:
            self.quiet.wait_for(lambda: not self.storming)
            self.calm_users += 1
        try:
            yield
        finally:
            with self.quiet:
                self.calm_users -= 1
                self.quiet.notify_all()

    @contextlib.contextmanager
    def storm(self, what):
        with self.quiet:
            self.storming = True
            self.quiet.wait_for(lambda: self.calm_users == 0)
            self.storms.append([what, time.monotonic(), None])
        self.tally.log(f'storm: {what}')
        try:
            with self.tally.reporting(what):
                yield
        finally:
            with self.quiet:
                self.storms[-1][2] = time.monotonic()
                self.storming = False
                self.quiet.notify_all()
            self.tally.log(f'calm again after: {what}')

    def storms_since(self, when):
        with self.quiet:
            return {what for what, _, until in self.storms if until is None or until >= when}

    def excuses(self, error, since):
        return any(EXCUSES[what] is ANY or error.errno in EXCUSES[what] for what in self.storms_since(since))

    @contextlib.contextmanager
    def dying(self, noticed):
        """Within the block the host's file system is shut down. An fsync that is on its way meanwhile is sometimes answered with success
        although what it was asked for is lost: on the bare file system, of an fsync of 8 MiB into holes with a shutdown in the middle
        (Linux 6.18, 12 attempts each), 5 by ext4, 5 by XFS, 7 by an ext4 that stops at an error. None that begins later is.

        noticed: the daemon notices, as the file system knows at once that it is shut down (fs/open_image.c). Stopping at an error ext4
        gives up its journal first, and until it knows there is nothing by which anybody else could."""
        death = [time.monotonic(), math.inf, noticed]
        self.deaths.append(death)
        yield
        death[1] = time.monotonic()

    def died_unnoticed(self, since):
        """Whether a flush by the daemon that began then may have been answered wrongly."""
        return any(until >= since and not noticed for _, until, noticed in self.deaths)

    def died(self, since):
        """The same of a flush by the kernel alone: a write through to the disk that passed by the daemon."""
        return any(until >= since for _, until, _ in self.deaths)

    # ---- the host and the daemon ----

    def mount_host(self):
        options = 'errors=remount-ro' if self.kind == 'ext4' else 'defaults'
        run('mount', '-t', self.kind, '-o', options, self.device, self.host)

    def start(self):
        options = ['passthrough=' + self.source.choice(('auto', 'off')), 'io_uring=' + self.source.choice(('auto', 'no'))]
        self.daemon = subprocess.Popen([ZCFS, '-f', '-o', ','.join(options), self.store, self.point], stdin=subprocess.DEVNULL,
                                       stdout=self.tally.out, stderr=self.tally.out, start_new_session=True)
        wait_for_mount(self.point, self.daemon)
        deadline = time.monotonic() + LIMIT_SECONDS
        while not os.path.islink(os.path.join(self.point, '.zcfs', 'store')):  # the mount below is an empty one
            if self.daemon.poll() is not None or time.monotonic() > deadline:
                raise Broken(f'the daemon does not start: {self.daemon.poll()}')
            time.sleep(0.02)

    def end_daemon(self, number):
        """By a signal; a daemon that ends in any other way than by that one has crashed by itself."""
        if self.daemon.poll() is not None:
            raise Broken(f'the daemon has ended by itself: {self.daemon.returncode}')
        self.daemon.send_signal(number)
        try:
            status = self.daemon.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            raise Broken(f'the daemon does not end by signal {number}') from None
        if status not in (0, -number):
            raise Broken(f'the daemon has ended with {status} by signal {number}')
        if self.mounts() > 1:  # a daemon that is asked to end unmounts it itself
            run('umount', '-l', self.point)

    def mounts(self):
        with open('/proc/self/mountinfo', encoding='utf-8') as table:
            return sum(line.split()[4] == self.point for line in table)

    def remount_host(self):
        """As a machine does that starts again. Whoever still holds on to the file system must notice that it is dead."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while subprocess.run(['umount', self.host], stderr=subprocess.DEVNULL, check=False).returncode != 0:
            if time.monotonic() > deadline:
                users = subprocess.run(['fuser', '-vm', self.host], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
                raise Broken(f'somebody still holds on to a dead file system:\n{users.stdout.decode()}')
            time.sleep(0.05)
        if self.kind == 'ext4':
            # Not -p: who stops at an error writes the superblock past the journal, and its list of orphans need not be right.
            done = subprocess.run(['e2fsck', '-y', self.device], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
            if done.returncode > 2:
                raise Broken(f'e2fsck: {done.returncode}: {done.stdout.decode()}')
        self.mount_host()
        self.restarts += 1

    # ---- storms ----

    def kill_daemon(self):
        with self.storm('killed'):
            self.tally.add('crash daemon killed')
            self.end_daemon(signal.SIGKILL)
            self.start()

    def restart_daemon(self):
        with self.storm('restarted'):
            self.tally.add('daemon restarted')
            self.end_daemon(self.source.choice((signal.SIGTERM, signal.SIGINT)))
            self.start()

    def fill_disk(self):
        filler = os.path.join(self.host, 'filler')
        with self.storm('full'):
            self.tally.add('disk filled')
            with open(filler, 'wb') as file:
                for piece in (16 * MIB, MIB, 64 << 10, 4096):
                    with contextlib.suppress(OSError):
                        while True:
                            os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, piece)
            os.truncate(filler, max(0, os.path.getsize(filler) - self.source.choice((0, 64, 300, 2000)) * 1024))
            time.sleep(self.source.uniform(0.5, 3))
            os.unlink(filler)
            run('sync', '-f', self.host)  # what was freed can be used when the journal has said so

    def crash_host(self):
        """What was not flushed is lost."""
        with self.storm('crashed'):
            self.tally.add('crash host')
            with self.dying(noticed=True):
                shut_down(self.host)
            self.tally.log('shutdown done')
            time.sleep(self.source.choice((0, 0.01, 0.3)))
            self.end_daemon(signal.SIGKILL)
            self.remount_host()
            self.start()

    def go_read_only(self):
        """The file system stops being writable in the middle of everything, as it does when it finds itself damaged."""
        if self.kind != 'ext4':
            return self.crash_host()
        with self.storm('read-only'):
            self.tally.add('crash host read-only')
            trigger_path = f'/sys/fs/ext4/{os.path.basename(self.device)}/trigger_fs_error'
            with self.dying(noticed=False), open(trigger_path, 'w', encoding='ascii') as trigger:
                trigger.write('soak')
            time.sleep(self.source.uniform(0, 2))
            self.end_daemon(self.source.choice((signal.SIGKILL, signal.SIGTERM)))
            self.remount_host()
            self.start()

    def remount_read_only(self):
        """The same by an administrator, which the kernel refuses while a file is open for writing."""
        with self.storm('remounted'):
            done = subprocess.run(['mount', '-o', 'remount,ro', self.host], stderr=subprocess.DEVNULL, check=False)
            if done.returncode == 0:
                self.tally.add('disk remounted read-only')
                time.sleep(self.source.uniform(0, 1))
                run('mount', '-o', 'remount,rw', self.host)

    def befall(self):
        """Until the soak is over, one storm after another."""
        with self.tally.reporting('the host'):
            while not self.tally.over():
                time.sleep(self.source.uniform(0.2, 3))
                self.source.choices((self.kill_daemon, self.restart_daemon, self.fill_disk, self.crash_host, self.go_read_only,
                                     self.remount_read_only), (5, 1, 3, 3, 2, 2))[0]()

    def end(self):
        if self.daemon and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait()
        for point in (self.point, self.point, self.host):
            subprocess.run(['umount', '-l', point], stderr=subprocess.DEVNULL, check=False)
        subprocess.run(['losetup', '--detach', self.device], check=False)
