# SPDX-License-Identifier: GPL-2.0-or-later
"""One image of a soak: an NTFS volume and, behind it, a range in which a guest writes; what both must contain, and everything that is
done to it."""
import contextlib
import ctypes
import hashlib
import json
import mmap
import os
import random
import re
import signal
import subprocess
import threading
import time

from commands import DONE, FAILED, IN_USE, ZCFS_CHECK, ZCFS_DEFRAG, check_ntfs, scattered_volume
from guest import hash_files_through_driver, ntfs_mounted
from machine import LIMIT_SECONDS, MIB
from sectors import SECTOR, Sectors, content
from tally import Broken

MAP_IMAGE = os.environ.get('MAP_IMAGE', 'map-image')
MAP_IMAGE_IN_USE = 3  # its exit status
VOLUME = 32 * MIB
LANE = 4 * MIB
LANES = 2
FRAGMENTS = 1500
PIECE = 4096          # the range is scattered in pieces of this size
KEEP_SIZE, PUNCH_HOLE = 1, 2
CORRECTED, LEFT = 1, 4  # exit statuses of zcfs-check
DISTURBED = {FAILED, IN_USE, 8, 1 | 8, 4 | 8, 1 | 4 | 8}  # of any command that the host has failed; 8: zcfs-check could not do it


libc = ctypes.CDLL(None, use_errno=True)


def punch(fd, off, length):
    if libc.fallocate(fd, KEEP_SIZE | PUNCH_HOLE, ctypes.c_long(off), ctypes.c_long(length)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Image:
    def __init__(self, machine, number, seed):
        self.machine, self.tally, self.source = machine, machine.tally, random.Random(seed)
        self.base = self.name = f'image{number}.img'
        scattered_volume(self.below(), VOLUME // MIB, FRAGMENTS, seed % 1000, 'all')
        self.lanes = [Sectors(number * LANES + i + 1, VOLUME + i * LANE, LANE) for i in range(LANES)]
        self.end = VOLUME + LANES * LANE
        self.sizes = {self.end}         # those that it may have; behind the lanes are zeros
        os.truncate(self.below(), self.end)
        self.map_image('scatter', seed, PIECE, VOLUME)
        self.files = self.volume = None  # what the volume's files contain; the volume's bytes
        self.others = set()              # or these
        self.may_be_new = self.must_be_new = False  # or what a pass has made of it
        self.before_pass = None          # what --undo must bring back: nobody has written since
        self.restarts = machine.restarts
        self.durations = {}              # what commands have taken, in seconds

    def below(self):
        return os.path.join(self.machine.store, self.name)

    def path(self):
        return os.path.join(self.machine.point, self.name)

    def either(self):
        return self.source.choice((self.below, self.path))()

    def learn(self):
        """At the beginning, when nothing can have gone wrong yet."""
        self.files = hash_files_through_driver(self.path())
        with open(self.path(), 'rb', buffering=0) as file:
            self.volume = self.digest(file.fileno())
            os.fsync(file.fileno())

    # ---- looking ----

    def read(self, fd, buffer, off):
        length = 0
        while length < len(buffer):
            n = os.preadv(fd, [memoryview(buffer)[length:]], off + length)
            if n == 0:
                break
            length += n
        self.tally.add('bytes verified', length)
        return buffer[:length]

    def digest(self, fd):
        sum_ = hashlib.sha256()
        with mmap.mmap(-1, MIB) as buffer:
            for off in range(0, VOLUME, MIB):
                sum_.update(self.read(fd, buffer, off))
        return sum_.hexdigest()

    def find(self):
        """The names are changed by renames; of two that may have come to pass one has."""
        present = [name for name in os.listdir(self.machine.point) if name.startswith(self.base)]
        for name in present:
            if name.endswith('.copy'):
                os.unlink(os.path.join(self.machine.point, name))
        present = [name for name in present if not name.endswith('.copy')]
        if len(present) != 1:
            raise Broken(f'{self.base} is {present}')
        self.name = present[0]

    def verify(self):
        with self.machine.calm():
            self.verify_in_calm()

    def verify_in_calm(self):
        restarted = self.machine.restarts != self.restarts
        self.find()
        if restarted:
            for lane in self.lanes:
                lane.may_have_lost_cache()
        fd = os.open(self.path(), os.O_RDONLY | self.source.choice((0, os.O_DIRECT)))
        try:
            self.verify_bytes(fd)
            found = self.digest(fd)
        finally:
            os.close(fd)
        self.verify_volume(found)
        if restarted:
            for lane in self.lanes:
                lane.after_restart()
            self.restarts = self.machine.restarts

    def verify_bytes(self, fd):
        size = os.fstat(fd).st_size
        if size not in self.sizes:
            raise Broken(f'{self.name}: size {size}, not one of {self.sizes}')
        self.sizes = {size}
        with mmap.mmap(-1, MIB) as buffer:
            for lane in self.lanes:
                for off in range(0, LANE, MIB):
                    self.check(lane, off // SECTOR, self.read(fd, buffer, lane.start + off), final=True)
            tail = self.read(fd, buffer, self.end)
            if tail.count(0) != min(size - self.end, MIB):
                raise Broken(f'{self.name}: behind the range there are not {size - self.end} zeros')

    def check(self, lane, first, found, final):
        try:
            lane.check(first, found, final)
        except Broken as broken:
            raise Broken(f'{self.name}: {broken}') from None

    def verify_volume(self, found):
        if found == self.volume and not self.must_be_new:
            pass
        elif found in self.others:
            self.volume = found
        elif self.may_be_new or self.must_be_new:
            self.verify_files()
            self.volume = found
        else:
            raise Broken(f'{self.name}: the volume is neither what it was nor what it may be')
        self.others = set()
        self.may_be_new = self.must_be_new = False

    def verify_files(self):
        findings = check_ntfs(self.path())
        if findings:
            raise Broken(f'{self.name}: {findings}')
        files = hash_files_through_driver(self.path())
        self.tally.add('bytes verified', VOLUME)
        self.tally.add('files verified', len(files))
        if files != self.files:
            wrong = [name for name in files.keys() | self.files.keys() if files.get(name) != self.files.get(name)]
            raise Broken(f'{self.name}: other files than before: {wrong[:5]}')

    # ---- commands ----

    def in_order(self):
        """Before anything is done to the image: what a restart has left of it is known. Returns since when storms excuse."""
        with self.machine.calm():
            if self.machine.restarts != self.restarts:
                self.verify_in_calm()
            return time.monotonic()

    def start_tool(self, *words):
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                errors='replace')

    def end_tool(self, process, since, expected, kill_after=None):
        """Waits for a command. Its status and output; None: it was killed, or a storm has made it fail."""
        words = ' '.join(process.args)
        try:
            out, err = process.communicate(timeout=kill_after if kill_after is not None else LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            if kill_after is None:
                os.kill(process.pid, signal.SIGABRT)
                raise Broken(f'{words}: hangs') from None
            process.kill()
            out, err = process.communicate()
            if process.returncode == -signal.SIGKILL:
                self.tally.add('crash tool killed')
                self.tally.log(f'{words}: killed')
                return None, out
        status = process.returncode
        self.tally.log(f'{words}: {status} {err.strip()[-300:]}')
        self.tally.add('tool ' + re.sub(r'=\d+', '', ' '.join([os.path.basename(process.args[0]), *[w for w in process.args if w[0] == '-']])))
        if status not in expected:
            storms = self.machine.storms_since(since)
            if not storms or status not in DISTURBED or not (err.strip() or out.strip()):
                raise Broken(f'{words}: exit status {status} after {storms}\n{out[-2000:]}{err}')
            self.tally.add('tools disturbed')
            return None, out
        return status, out

    def tool(self, *words, path, expected=(DONE,), kill=True):
        since = self.in_order()
        words = [*words, path()]  # not before: a crash may have taken back a rename
        kind = ' '.join(word for word in words if word.startswith('-'))
        usual = self.durations.get(kind)
        process = self.start_tool(*words)
        if kill and usual and self.source.random() < 0.3:
            return self.end_tool(process, since, expected, self.source.random() * usual)
        started = time.monotonic()
        result = self.end_tool(process, since, expected)
        self.durations[kind] = time.monotonic() - started
        return result

    def map_image(self, command, *words):
        deadline = time.monotonic() + LIMIT_SECONDS
        while True:
            done = subprocess.run([MAP_IMAGE, command, self.machine.store, self.name, *map(str, words)], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT_SECONDS, check=False)
            if done.returncode != MAP_IMAGE_IN_USE or time.monotonic() > deadline:
                break
            time.sleep(0.05)  # the daemon is told of a close() only after it
        if done.returncode != 0:
            raise Broken(f'map-image {command} {self.name}: {done.returncode}: {done.stdout}')
        return [tuple(map(int, line.split())) for line in done.stdout.splitlines()]

    # ---- what is done ----

    def guest_pass(self):
        options = self.source.choice(([], [], ['--pack'], ['--verify=data'], ['--dry-run'], ['--analyze']))
        looks = '--dry-run' in options or '--analyze' in options
        before = self.volume
        status, out = self.tool(ZCFS_DEFRAG, '--json', *options, path=self.either)
        if looks:
            return
        self.before_pass = None
        if status is None:
            self.may_be_new = True
        elif json.loads(out)['images'][0]['changed']:
            self.must_be_new = True
            self.before_pass = before
            self.tally.add('passes')
        else:
            self.tally.add('passes')

    def undo(self):
        wanted, self.before_pass = self.before_pass, None
        status, _ = self.tool(ZCFS_DEFRAG, '--undo', path=self.either, expected=(DONE,) if wanted else (DONE, FAILED))
        if status == DONE and wanted:
            self.volume = wanted
            self.tally.add('undone')
        elif status != FAILED:
            self.may_be_new = True

    def settle(self):
        self.before_pass = None
        self.tool(ZCFS_DEFRAG, '--settle', *self.source.choice(([], ['--rate=20'], ['--rate=50', '--time-limit=1'])), path=self.either)

    def plain(self):
        self.before_pass = None
        self.tool(ZCFS_DEFRAG, '--plain' + self.source.choice(('', '=copy', '=settle')), path=self.either)

    def check_and_repair(self):
        status, _ = self.tool(ZCFS_CHECK, '--repair', path=self.below, expected=(DONE, CORRECTED))
        if status is not None:
            self.tool(ZCFS_CHECK, path=self.below, kill=False)

    def change_files(self):
        """The guest's own driver writes: files come, grow and go."""
        self.before_pass = None
        with self.machine.calm():
            self.verify_in_calm()
            with ntfs_mounted(self.path(), 'rw') as root:
                for _ in range(self.source.randrange(2, 12)):
                    self.change_file(root)
            fd = os.open(self.path(), os.O_RDWR)
            os.fsync(fd)
            self.volume = self.digest(fd)
            os.close(fd)
            self.verify_files()
        self.tally.add('guest files changed')

    def change_file(self, root):
        name = f'soak {self.source.randrange(12)}'
        path = os.path.join(root, name)
        if name in self.files and self.source.random() < 0.5:
            os.unlink(path)
            del self.files[name]
            return
        with open(path, 'ab') as file:
            file.write(self.source.randbytes(self.source.randrange(1, 200000)))
        with open(path, 'rb') as file:
            self.files[name] = hashlib.sha256(file.read()).hexdigest()

    def scatter(self):
        """What the guest has in its range changes places on the host, and so has the settle pass something to do."""
        self.before_pass = None
        with self.machine.calm():
            self.verify_in_calm()
            self.resize(self.end)
            old = self.map_image('print')
            self.map_image('scatter', self.source.randrange(1 << 30), PIECE, VOLUME)
            moved = self.sectors_by_guest(self.map_image('print'))
            whence = {host: guest for guest, host in self.sectors_by_guest(old).items()}
            self.rearrange({guest: whence[host] for guest, host in moved.items()})
            self.rewrite_a_sector()    # or it could be undone, as a pass can
        self.tally.add('tool map-image scatter')

    def sectors_by_guest(self, extents):
        """Of the guest's range: sector -> sector on the host."""
        sectors = {}
        for guest, length, host in extents:
            for off in range(max(VOLUME - guest, 0), length, SECTOR):
                sectors[(guest + off) // SECTOR] = (host + off) // SECTOR
        return sectors

    def rearrange(self, whence):
        first = VOLUME // SECTOR
        old = [version for lane in self.lanes for version in lane.now]
        new = [old[whence[first + i] - first] for i in range(len(old))]
        for lane in self.lanes:
            lane.now = new[:lane.count]
            lane.after_restart()
            new = new[lane.count:]

    def rewrite_a_sector(self):
        with open(self.path(), 'r+b', buffering=0) as file:
            os.pwrite(file.fileno(), content(self.lanes[0].now[:1]), VOLUME)
            os.fsync(file.fileno())

    def resize(self, size):
        self.sizes.add(size)
        fd = os.open(self.path(), os.O_RDWR)
        try:
            began = time.monotonic()
            os.ftruncate(fd, size)
            os.fsync(fd)
            if not self.machine.died_unnoticed(began):
                self.sizes = {size}
                for lane in self.lanes:
                    lane.flush()
        finally:
            os.close(fd)

    def truncate(self):
        self.before_pass = None
        with self.excused():
            self.resize(self.end + self.source.choice((0, SECTOR, self.source.randrange(MIB // SECTOR) * SECTOR)))
            self.tally.add('guest truncate')

    def rename(self):
        other = self.base if self.name != self.base else self.base + '.renamed'
        with self.excused():
            os.rename(self.path(), os.path.join(self.machine.point, other))
            self.name = other
            self.tally.add('name rename')

    def copy(self):
        """A copy through the mount takes the image's place, or is thrown away."""
        copy = os.path.join(self.machine.point, self.base + '.copy')
        replaces = self.source.random() < 0.5
        self.before_pass = None if replaces else self.before_pass
        with self.excused(), mmap.mmap(-1, MIB) as buffer:
            with open(self.path(), 'rb', buffering=0) as old, open(copy, 'wb', buffering=0) as new:
                for off in range(0, next(iter(self.sizes)), MIB):
                    new.write(self.read(old.fileno(), buffer, off))
                os.fsync(new.fileno())
            if replaces:
                os.rename(copy, self.path())
            else:
                os.unlink(copy)
            self.tally.add('name copy')

    @contextlib.contextmanager
    def excused(self):
        since = self.in_order()
        try:
            yield
        except OSError as error:
            if not self.machine.excuses(error, since):
                raise Broken(f'{self.name}: {error}') from error
            self.tally.add('disturbed')
            self.tally.log(f'{self.name}: {error}')

    # ---- a guest ----

    def session(self):
        """A guest uses the image: each lane has a thread. Meanwhile others try what they may and what they must not."""
        self.before_pass = None
        with self.excused(), contextlib.ExitStack() as stack:
            since = self.in_order()
            fd = os.open(self.path(), os.O_RDWR | self.source.choice((0, os.O_DIRECT)))
            stack.callback(self.close, fd)
            errors = []
            threads = [threading.Thread(target=self.write, args=(fd, lane, self.source.randrange(1 << 30), since, errors))
                       for lane in self.lanes]
            for thread in threads:
                thread.start()
            try:
                self.beside(since)
            finally:
                for thread in threads:
                    thread.join()
            for error in errors:
                raise error

    @staticmethod
    def close(fd):
        with contextlib.suppress(OSError):  # it tells of a write-back that has failed, or that the daemon has gone
            os.close(fd)

    def beside(self, since):
        what = self.source.choice(('settle', 'settle', 'pass', 'check', 'nothing'))
        if what == 'settle':
            process = self.start_tool(ZCFS_DEFRAG, '--settle', f'--rate={self.source.choice((4, 20, 200))}', self.either())
            self.end_tool(process, since, (DONE,), self.source.random() * 2 if self.source.random() < 0.3 else None)
        elif what == 'pass':
            status, _ = self.end_tool(self.start_tool(ZCFS_DEFRAG, self.either()), since, (IN_USE, DONE))
            if status == DONE and not self.machine.storms_since(since):
                raise Broken(f'{self.name}: a pass over an image that is in use')
            self.may_be_new = status != IN_USE  # without the daemon nobody uses it any more
        elif what == 'check':
            status, out = self.end_tool(self.start_tool(ZCFS_CHECK, self.below()), since, (DONE, LEFT))
            if status == LEFT and 'backup' in out:  # what was killed may have left something, but nothing damaged
                raise Broken(out)

    def write(self, fd, lane, seed, since, errors):
        source = random.Random(seed)
        try:
            with mmap.mmap(-1, 128 * 1024) as buffer:
                for _ in range(source.randrange(20, 300)):
                    self.act(fd, lane, source, buffer)
        except OSError as error:
            errors.append(error)
        except Broken as broken:
            if self.machine.storms_since(since) & {'crashed', 'read-only'}:  # of a disk that has gone nothing read need be new
                errors.append(OSError(5, f'stale: {broken}'))
            else:
                errors.append(broken)
        except BaseException as error:
            errors.append(error)

    def act(self, fd, lane, source, buffer):
        count = source.choice((1, 8, 8, 9, 32, 128, 256))
        first = source.randrange(lane.count - count)
        if source.random() < 0.5:
            first, count = first & ~7, max(8, count & ~7)
        what = source.random()
        off, length = lane.start + first * SECTOR, count * SECTOR
        began = time.monotonic()
        with memoryview(buffer)[:length] as piece:
            if what < 0.5:
                versions = lane.fresh(count)
                piece[:] = content(versions)
                lane.begin(first, versions)
                through = what < 0.02
                n = os.pwritev(fd, [piece], off, os.RWF_DSYNC if through else 0)
                if n == length:
                    lane.end(first, versions)
                    if through and not self.machine.died(began):
                        lane.flush(range(first, first + count))
                else:
                    lane.end(first, versions[:n // SECTOR])
                self.tally.add('guest write')
            elif what < 0.58:
                lane.begin(first, [0] * count)
                punch(fd, off, length)
                lane.end(first, [0] * count)
                self.tally.add('guest discard')
            elif what < 0.62:
                os.fsync(fd) if what < 0.6 else os.fdatasync(fd)
                if not self.machine.died_unnoticed(began):
                    lane.flush()
                self.tally.add('guest flush')
            else:
                found = bytes(self.read(fd, piece, off))
                if len(found) != length:
                    raise Broken(f'{self.name}: {len(found)} bytes read at {off}, not {length}')
                self.check(lane, first, found, final=False)
                self.tally.add('guest read')

    # ---- all of it ----

    def run(self):
        with self.tally.reporting(self.base):
            while not self.tally.over():
                action = self.source.choices((self.session, self.guest_pass, self.undo, self.settle, self.plain, self.check_and_repair,
                                              self.change_files, self.scatter, self.truncate, self.rename, self.copy),
                                             (10, 8, 4, 3, 2, 2, 2, 2, 2, 2, 1))[0]
                self.tally.log(f'{self.name}: {action.__name__}')
                action()
                self.verify()
                if self.before_pass and self.source.random() < 0.4:
                    self.undo()
                    self.verify()
