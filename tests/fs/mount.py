# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of the daemon share: a store in a temporary directory, its mount, and the reporting.

A test is a function that takes a Store and raises to fail, or calls skip(). run() gives each a store of its own, with a mount over it or
elsewhere, and prints TAP. A watchdog kills the daemon of a test that hangs, so that what hangs in the kernel comes back.

MOUNT_OPTIONS in the environment has options for every mount, as "-o first -o second", so that the same tests check each data path. If it has
options for a sanitizer, whatever the sanitizer reports of a daemon, which has no standard error of its own, fails the test.

TRANSPORT in the environment is how requests come, if a test does not say it itself: "ring" is FUSE over io_uring, "device" /dev/fuse; without
it the daemon chooses.
"""
import contextlib
import ctypes
import errno
import glob
import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from commands import SCRATCH, unmount_on_termination  # noqa: E402
from host import write_view  # noqa: E402

ZCFS = os.path.abspath(sys.argv[1])
MAP_IMAGE = os.path.abspath(sys.argv[2])
MOUNT_OPTIONS = os.environ.get('MOUNT_OPTIONS', '').split()

WAIT_SECONDS = 240      # for anything that should happen at once: longer is a hang, whatever else the disk has to do
TEST_SECONDS = 300      # for one test
LAZY = 2                # MNT_DETACH
NOBODY = 65534

SANITIZERS = [name for name in ('ASAN_OPTIONS', 'TSAN_OPTIONS', 'UBSAN_OPTIONS') if name in os.environ]

TRANSPORT = os.environ.get('TRANSPORT')
TRANSPORT_OPTIONS = ['-o', 'io_uring=' + ('yes' if TRANSPORT == 'ring' else 'no')] if TRANSPORT else []
ENABLE_URING = '/sys/module/fuse/parameters/enable_uring'
URING_USERS = '/run/zcfs-test-enable_uring'

# What a mount without a daemon answers; the latter two only to whoever asks at the moment of death.
GONE = (errno.ENOTCONN, errno.ECONNABORTED, errno.ECANCELED)

libc = ctypes.CDLL(None, use_errno=True)

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4

FALLOC_KEEP_SIZE = 1
FALLOC_PUNCH_HOLE = 2
FALLOC_COLLAPSE_RANGE = 8
FALLOC_ZERO_RANGE = 16


class Skip(Exception):
    pass


def skip(reason):
    raise Skip(reason)


def check_call(result, *what):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), *what)
    return result


def renameat2(old, new, flags):
    check_call(libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags), old)


def fallocate(fd, mode, off, length):
    check_call(libc.fallocate(fd, mode, ctypes.c_long(off), ctypes.c_long(length)))


@contextlib.contextmanager
def fails_with(*numbers):
    """The body must fail with one of these errnos."""
    try:
        yield
    except OSError as error:
        assert error.errno in numbers, f'{error}, expected {[errno.errorcode[n] for n in numbers]}'
    else:
        raise AssertionError(f'succeeded, expected {[errno.errorcode[n] for n in numbers]}')


def wait_until(condition, what, seconds=WAIT_SECONDS):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f'{what}: not within {seconds} s')
        time.sleep(0.01)


def threads_of(process):
    """Where each thread of a process waits, for the report of one that hangs."""
    text = ''
    for task in glob.glob(f'/proc/{process}/task/*'):
        with contextlib.suppress(OSError):
            for name in ('comm', 'syscall', 'stack'):
                with open(os.path.join(task, name)) as file:
                    text += f'{os.path.basename(task)} {name}: {file.read()}'
    return text


def users_of(path):
    """Who has something open below a mount, has it in a mount namespace of his own, or waits for some FUSE daemon: for the report of one that
    does not end. Asks nobody but /proc."""
    text, own = '', os.readlink('/proc/self/ns/mnt')
    for process in glob.glob('/proc/[0-9]*'):
        found = []
        for link in (process + '/cwd', process + '/root', *glob.glob(process + '/fd/*')):
            with contextlib.suppress(OSError):
                name = os.readlink(link)
                found += [name] if name == path or name.startswith(path + '/') else []
        with contextlib.suppress(OSError):
            found += ['maps it'] if f'{path}/' in read_file(process + '/maps').decode(errors='replace') else []
            found += ['waits for an answer'] if 'request_wait_answer' in threads_of(os.path.basename(process)) else []
            if os.readlink(process + '/ns/mnt') != own and f' {path} ' in read_file(process + '/mountinfo').decode(errors='replace'):
                found.append('has it in another mount namespace')
        if found:
            with contextlib.suppress(OSError):
                text += f'{os.path.basename(process)} {read_file(process + "/comm").decode(errors="replace").strip()}: {found}\n'
    return text


def mounts_at(path):
    """Types of what is mounted exactly there, lowest first."""
    with open('/proc/self/mountinfo') as table:
        lines = [line.split(' - ') for line in table]
    return [right.split()[0] for left, right in lines if left.split()[4] == path]


def write_file(path, data):
    with open(path, 'wb') as file:
        file.write(data)


def read_file(path):
    with open(path, 'rb') as file:
        return file.read()


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


def is_noted(users):
    users.seek(0)
    return users.read() != ''


@contextlib.contextmanager
def uring_enabled():
    """FUSE over io_uring for the time of the block, if the kernel has it. It is a switch for the whole machine, and other tests may run
    at the same time: the first one notes how it was, the last one puts it back."""
    if not os.path.exists(ENABLE_URING):
        yield
        return
    with open(URING_USERS, 'a+') as users:
        noted = False
        while not noted:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not is_noted(users):
                    users.write(read_file(ENABLE_URING).decode())
                    users.flush()
                write_file(ENABLE_URING, b'1')
            fcntl.flock(users, fcntl.LOCK_SH)    # lets go of the other lock first: somebody may have put it back until then
            noted = is_noted(users)
        try:
            yield
        finally:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                users.seek(0)
                write_file(ENABLE_URING, users.read().encode() or b'Y')
                users.truncate(0)


def transport():
    """What TRANSPORT needs of the machine, for the time of the block."""
    return uring_enabled() if TRANSPORT == 'ring' else contextlib.nullcontext()


def transport_missing():
    """Whether the kernel cannot do what TRANSPORT says; then the whole test is reported as skipped."""
    missing = TRANSPORT == 'ring' and not os.path.exists(ENABLE_URING)
    if missing:
        print('1..0 # SKIP the kernel has no FUSE over io_uring')
    return missing


def unmount_by(*command):
    """Other tests' programs look at all mounts of the machine: any may be busy for a moment."""
    wait_until(lambda: subprocess.run(command, stderr=subprocess.DEVNULL, timeout=WAIT_SECONDS).returncode == 0,
               f'{command}: still busy')


class Store:
    """A temporary directory to serve, and where it is mounted."""

    def __init__(self, over, directory=None):
        self.top = os.path.realpath(tempfile.mkdtemp(prefix='zcfs-test-', dir=SCRATCH))
        os.chmod(self.top, 0o755)
        self.dir = directory or os.path.join(self.top, 'store')
        self.point = self.dir if over else os.path.join(self.top, 'mnt')
        if not directory:
            os.mkdir(self.dir)
        if not over:
            os.mkdir(self.point)
        # The way below an over-mount, for the tests only.
        self.fd = os.open(self.dir, os.O_RDONLY | os.O_DIRECTORY)
        self.below = f'/proc/{os.getpid()}/fd/{self.fd}'
        self.daemon = None
        self.children = []

    def start(self, *options, expect=0):
        """Runs zcfs as a user would; the daemon's process number is in the mount's own link."""
        where = [] if self.point == self.dir else [self.point]
        if not any('io_uring' in option for option in [*MOUNT_OPTIONS, *options]):
            options += *TRANSPORT_OPTIONS,
        result = subprocess.run([ZCFS, *MOUNT_OPTIONS, *options, self.dir, *where], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, timeout=WAIT_SECONDS)
        assert result.returncode == expect, f'exit status {result.returncode}, expected {expect}: {result.stdout}'
        if expect == 0:
            self.daemon = int(os.readlink(self.point + '/.zcfs/store').split('/')[2])
        return result.stdout

    def path(self, *names):
        return os.path.join(self.point, *names)

    def host(self, *names):
        return os.path.join(self.below, *names)

    def tool(self, command, name, *arguments, directory='', expect=0):
        result = subprocess.run([MAP_IMAGE, command, os.path.join(self.below, directory), name, *map(str, arguments)],
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                timeout=WAIT_SECONDS, pass_fds=())
        assert result.returncode == expect, f'map-image {command}: {result.returncode}: {result.stdout}'
        return result.stdout

    def hold(self, name, seed=1, block=4096, how='hold'):
        """A tool that has the image's lock, until a line lets it commit a scattered map."""
        process = subprocess.Popen([MAP_IMAGE, how, self.below, name, str(seed), str(block)], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, text=True)
        self.children.append(process)
        assert process.stdout.readline() == 'held\n'
        return process

    def in_use(self, name):
        """True if a tool that does not wait is refused. RELEASE comes a moment after close()."""
        return subprocess.run([MAP_IMAGE, 'undo', self.below, name], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=WAIT_SECONDS).returncode == 3

    def released(self, name):
        wait_until(lambda: not self.in_use(name), f'{name} is still locked')

    def extents(self, name, directory=''):
        return [tuple(map(int, line.split()))
                for line in self.tool('print', name, directory=directory).splitlines()]

    def expected(self, name, directory=''):
        """What the map in the database says that the image contains."""
        data = read_file(self.host(directory, name, 'data'))
        return b''.join(data[host:host + length].ljust(length, b'\0')
                        for guest, length, host in self.extents(name, directory))

    def composed(self, name):
        """The same with the mount down, from the bytes and what the sqlite3 module finds in the database: nothing of zcfs takes part."""
        view = os.path.join(self.top, 'view')
        write_view(os.path.join(self.dir, name), view)
        try:
            return read_file(view)
        finally:
            os.unlink(view)

    def bundle(self, name, data, seed=1, block=4096, directory='', first=0):
        """A bundle below the mount; returns what the guest sees in it."""
        write_file(self.host(directory, name), data)
        self.tool('scatter', name, seed, block, first, directory=directory)
        assert os.path.isdir(self.host(directory, name))
        return self.expected(name, directory)

    def unmount(self):
        if not mounts_at(self.point):
            return
        end = time.monotonic() + WAIT_SECONDS
        while libc.umount2(os.fsencode(self.point), 0) < 0:
            if time.monotonic() > end:
                raise AssertionError(f'busy: cannot be unmounted\n{users_of(self.point)}{threads_of(self.daemon)}')
            time.sleep(0.05)
        self.wait_for_end()

    def abort(self):
        """Breaks the kernel's connection to the daemon."""
        connection = os.stat(self.point).st_dev & 0xff
        control = os.path.join(self.top, 'control')
        os.mkdir(control)
        subprocess.run(['mount', '-t', 'fusectl', 'zcfs-test', control], check=True, timeout=WAIT_SECONDS)
        try:
            write_file(f'{control}/{connection}/abort', b'1')
        finally:
            unmount_by('umount', control)

    def wait_for_end(self):
        if self.daemon:
            try:
                wait_until(lambda: not alive(self.daemon), 'the daemon has not ended')
            except AssertionError as late:
                raise AssertionError(f'{late}\n{users_of(self.point)}{threads_of(self.daemon)}') from None
            self.daemon = None

    def clean_up(self):
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.wait()
            child.stdout.close()
            child.stdin.close()
        while mounts_at(self.point):
            if libc.umount2(os.fsencode(self.point), LAZY) < 0:
                break
        if self.daemon and alive(self.daemon):
            try:
                wait_until(lambda: not alive(self.daemon), 'end', 5)
            except AssertionError:
                os.kill(self.daemon, signal.SIGKILL)
        os.close(self.fd)
        shutil.rmtree(self.top, ignore_errors=True)


def alive(process):
    """Neither gone nor a zombie that nobody has waited for."""
    try:
        with open(f'/proc/{process}/stat') as file:
            return file.read().rsplit(')', 1)[1].split()[0] not in 'ZX'
    except OSError:
        return False


class Watchdog:
    """Ends what hangs: without its daemon, every request comes back with an error."""

    def __init__(self, store, seconds):
        self.store = store
        self.fired = False
        self.timer = threading.Timer(seconds, self.fire)
        self.timer.daemon = True
        self.timer.start()

    def fire(self):
        self.fired = True
        for child in self.store.children:
            child.kill()
        if self.store.daemon:
            with contextlib.suppress(OSError):
                os.kill(self.store.daemon, signal.SIGKILL)
        libc.umount2(os.fsencode(self.store.point), LAZY)

    def cancel(self):
        self.timer.cancel()


class Reports:
    """What sanitizers have to say: in files, one a process."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix='zcfs-reports-') if SANITIZERS else None
        for name in SANITIZERS:
            os.environ[name] += f':log_path={self.directory}/report'

    def take(self):
        text = ''
        for name in os.listdir(self.directory) if self.directory else ():
            with open(os.path.join(self.directory, name), errors='replace') as report:
                text += report.read()
            os.unlink(os.path.join(self.directory, name))
        return text

    def clean_up(self):
        if self.directory:
            shutil.rmtree(self.directory)


def run_one(function, over, options, seconds):
    store = Store(over)
    watchdog = Watchdog(store, seconds)
    try:
        if getattr(function, 'mounted', True):
            store.start(*options)
        function(store)
        if getattr(function, 'mounted', True):
            store.unmount()
        if watchdog.fired:
            return 'took too long'
        return None
    except Skip:
        raise
    except Exception:
        return ('took too long\n' if watchdog.fired else '') + traceback.format_exc()
    finally:
        watchdog.cancel()
        store.clean_up()


def run(functions, seconds=TEST_SECONDS):
    """Runs each test over its store, or elsewhere if it says so; the exit status is for main."""
    for number in (signal.SIGINT, signal.SIGHUP):  # nohup and background jobs ignore them, and daemons leave it at that
        signal.signal(number, signal.SIG_DFL)
    unmount_on_termination()
    if transport_missing():
        return 0
    with transport():
        return run_all(functions, seconds)


def run_all(functions, seconds):
    if os.geteuid() != 0:
        print('1..0 # SKIP only root can mount and change owners')
        return 0
    if not os.path.exists('/dev/fuse'):
        print('1..0 # SKIP the kernel has no FUSE')
        return 0
    only = sys.argv[3:]
    reports = Reports()
    functions = [f for f in functions if not only or f.__name__ in only]
    print(f'1..{len(functions)}', flush=True)
    bad = 0
    for number, function in enumerate(functions, 1):
        name = (function.__doc__ or function.__name__).strip().splitlines()[0]
        try:
            problem = run_one(function, getattr(function, 'over', True), getattr(function, 'options', ()),
                              getattr(function, 'seconds', seconds))
        except Skip as reason:
            print(f'ok {number} - {name} # SKIP {reason}', flush=True)
            continue
        report = reports.take()
        if report:
            problem = (problem or '') + report
        if problem:
            bad += 1
            print(f'not ok {number} - {function.__name__}: {name}', flush=True)
            for line in problem.splitlines():
                print(f'# {line}', flush=True)
        else:
            print(f'ok {number} - {name}', flush=True)
    reports.clean_up()
    return 1 if bad else 0


def elsewhere(function):
    """Mounted at another directory than the store."""
    function.over = False
    return function


def unmounted(function):
    """Starts the daemon itself."""
    function.mounted = False
    return function


def with_options(*options):
    def decorate(function):
        function.options = options
        return function
    return decorate


def tests_of(namespace):
    return [value for name, value in namespace.items() if name.startswith('test_') and callable(value)]
