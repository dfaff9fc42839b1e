# SPDX-License-Identifier: GPL-2.0-or-later
"""The settle pass while the image is used: no byte of the guest's is ever lost or stale, whoever is stopped or killed, and the space is given back.

    test_settle.py ZCFS MAP_IMAGE [TEST...]     SEED in the environment repeats a run; SECONDS makes it longer, ROUNDS kills the
                                                daemon more often; ZCFS_DEFRAG and ZCFS_CHECK say where the commands are
"""
import contextlib
import errno
import json
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import disk
from mount import *

SEED = int(os.environ.get('SEED', time.time_ns() % 10**9))
SECONDS = int(os.environ.get('SECONDS', 6))
ROUNDS = int(os.environ.get('ROUNDS', 5))
ZCFS_DEFRAG = os.environ['ZCFS_DEFRAG']
ZCFS_CHECK = os.environ['ZCFS_CHECK']
SECTOR = 512


def settle(path, *options, expect=(0,)):
    result = subprocess.run([ZCFS_DEFRAG, '--settle', *options, path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, timeout=10 * WAIT_SECONDS)
    assert result.returncode in expect, f'zcfs-defrag --settle: {result.returncode}: {result.stdout}'
    return result.stdout


def start_settle(store, path, *options):
    process = subprocess.Popen([ZCFS_DEFRAG, '--settle', *options, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    store.children.append(process)
    return process


def check(store, name):
    """No damage; what a kill has left is only space, which the command gives back."""
    result = subprocess.run([ZCFS_CHECK, '--repair', store.host(name)], pass_fds=(store.fd,), stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, timeout=WAIT_SECONDS)
    assert 'damage' not in result.stdout, result.stdout
    return result.stdout


def allocated(path):
    return os.stat(path).st_blocks * 512


def noise_image(store, name, size, seed=SEED):
    with open(store.host(name), 'wb') as file:
        rng = random.Random(seed)
        for _ in range(size >> 20):
            file.write(rng.randbytes(1 << 20))


def test_settles(store):
    """an image in use and one that is not become one extent each, with the same bytes and no more space than before"""
    for name in ('a.img', 'b.img'):
        noise_image(store, name, 24 << 20)
        store.tool('scatter', name, SEED, 4096)
    want = [store.expected(name) for name in ('a.img', 'b.img')]
    with open(store.path('a.img'), 'rb'):
        for i, name in enumerate(('a.img', 'b.img')):
            before = allocated(store.host(name, 'data'))
            assert 'settled' in settle(store.path(name))
            assert read_file(store.path(name)) == want[i]
            os.sync()
            assert allocated(store.host(name, 'data')) <= before + (1 << 20)
            assert 'nothing to do' in settle(store.path(name))
    for i, name in enumerate(('a.img', 'b.img')):
        store.released(name)
        assert len(store.extents(name)) == 1
        assert store.expected(name) == want[i]
    # and back to where a plain file has its bytes
    store.tool('scatter', 'a.img', SEED + 1, 65536)
    want = store.expected('a.img')
    settle(store.path('a.img'))
    store.released('a.img')
    assert store.extents('a.img') == [(0, 24 << 20, 0)]
    assert store.expected('a.img') == want


def test_refusals(store):
    """a plain image: nothing to do; a directory's ioctl, a stranger's and nonsense are refused"""
    noise_image(store, 'p.img', 1 << 20)
    assert 'nothing to do' in settle(store.path('p.img'))
    assert os.path.isfile(store.host('p.img'))
    settle(store.path('none.img'), expect=(1,))
    os.mkfifo(store.path('fifo'))
    for path in (store.path('fifo'), store.host('fifo')):
        said = settle(path, expect=(1,))
        assert 'neither a regular file nor a bundle' in said, said


def test_below_and_elsewhere(store):
    """the path below the mount leads to the daemon as well"""
    noise_image(store, 'a.img', 4 << 20)
    store.tool('scatter', 'a.img', SEED, 4096)
    want = store.expected('a.img')
    with open(store.path('a.img'), 'rb') as file:
        assert 'settled' in settle(os.path.join(store.dir, 'a.img'))
        assert file.read() == want


test_below_and_elsewhere.over = False


def test_unaligned(store):
    """clusters that begin at odd sectors share host blocks: all of them are given back in the end"""
    noise_image(store, 'a.img', 16 << 20)
    store.tool('scatter', 'a.img', SEED, 3584)
    want = store.expected('a.img')
    os.sync()
    before = allocated(store.host('a.img', 'data'))
    with open(store.path('a.img'), 'rb') as file:
        settle(store.path('a.img'))
        assert file.read() == want
    os.sync()
    assert allocated(store.host('a.img', 'data')) <= before + (256 << 10)


def test_holes(store):
    """holes stay holes"""
    with open(store.host('a.img'), 'wb') as file:
        for i in range(0, 64, 4):
            file.seek(i << 20)
            file.write(noise(1 << 18, i))
        file.truncate(64 << 20)
    store.tool('scatter', 'a.img', SEED, 65536)
    want = store.expected('a.img')
    os.sync()
    before = allocated(store.host('a.img', 'data'))
    with open(store.path('a.img'), 'rb') as file:
        settle(store.path('a.img'), '--threshold=2048')
        assert file.read() == want
    os.sync()
    assert allocated(store.host('a.img', 'data')) <= before + (1 << 20)


class Guest:
    """Writes, discards and reads one image in several ways, each thread its own part of it, and knows what must be there."""

    def __init__(self, store, name, size, threads, seed):
        self.path, self.size, self.error, self.done = store.path(name), size, None, False
        self.threads = [threading.Thread(target=self.work, args=(i, threads, seed + i)) for i in range(threads)]
        self.model = bytearray(store.expected(name))

    def work(self, number, threads, seed):
        rng = random.Random(seed)
        flags = os.O_DIRECT if number % 2 else 0
        part = self.size // threads
        fd = os.open(self.path, os.O_RDWR | flags)
        buffer = mmap.mmap(-1, 1 << 18)
        try:
            while not self.done:
                self.act(rng, fd, buffer, number * part, part)
        except BaseException as error:
            self.error = self.error or error
        finally:
            os.close(fd)

    def act(self, rng, fd, buffer, start, part):
        length = rng.choice((512, 4096, 4608, 16384, 65536, 131072))
        off = start + rng.randrange((part - length) // SECTOR) * SECTOR
        what = rng.random()
        if what < 0.5:
            data = rng.randbytes(length)
            buffer[:length] = data
            assert os.pwrite(fd, memoryview(buffer)[:length], off) == length
            self.model[off:off + length] = data
        elif what < 0.6:
            fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, off, length)
            self.model[off:off + length] = bytes(length)
        elif what < 0.62:
            os.fdatasync(fd)
        else:
            assert os.preadv(fd, [memoryview(buffer)[:length]], off) == length
            assert buffer[:length] == self.model[off:off + length], f'SEED={SEED}: [{off}, {off + length}) is not what was written'

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *unused):
        self.done = True
        for thread in self.threads:
            thread.join()
        if self.error:
            raise self.error


def run_with_guest(store, block, size=32 << 20):
    rng = random.Random(SEED)
    noise_image(store, 'a.img', size)
    store.tool('scatter', 'a.img', SEED, block)
    with Guest(store, 'a.img', size, 4, SEED) as guest:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and not guest.error:
            process = start_settle(store, store.path('a.img'), f'--rate={rng.choice((5, 20, 1000))}')
            try:
                process.wait(rng.random())
            except subprocess.TimeoutExpired:
                process.send_signal(rng.choice((signal.SIGINT, signal.SIGKILL)))
                process.wait(WAIT_SECONDS)
        settle(store.path('a.img'))
    assert read_file(store.path('a.img')) == guest.model
    store.released('a.img')
    assert store.expected('a.img') == guest.model, f'SEED={SEED}'
    assert len(store.extents('a.img')) <= 3


def test_guest(store):
    """a guest writes, discards and reads, direct and buffered, while passes are stopped, killed and taken up"""
    run_with_guest(store, 4096)


def test_guest_unaligned(store):
    """the same with clusters that share host blocks"""
    run_with_guest(store, 3584)


def write_until_killed(store, path, model, rng):
    """The guest writes and flushes; after some time the daemon is killed."""
    with open(path, 'r+b', buffering=0) as file:
        end = time.monotonic() + rng.random() * rng.choice((0.2, 0.6, 1.5))
        while time.monotonic() < end:
            length = rng.choice((512, 4096, 65536))
            off = rng.randrange((len(model) - length) // SECTOR) * SECTOR
            data = rng.randbytes(length)
            os.pwrite(file.fileno(), data, off)
            model[off:off + length] = data
            if rng.random() < 0.05:
                os.fdatasync(file.fileno())
        os.kill(store.daemon, signal.SIGKILL)
        store.wait_for_end()
        with contextlib.suppress(OSError):
            file.close()


def test_kill_daemon(store):
    """the daemon is killed while it copies, commits or gives space back: what was written is there, and the next pass goes on"""
    rng = random.Random(SEED)
    noise_image(store, 'a.img', 16 << 20)
    scattered = False
    for _ in range(ROUNDS):
        if not scattered:
            store.unmount()
            store.tool('scatter', 'a.img', rng.randrange(1 << 30), rng.choice((3584, 4096, 16384)))
            model = bytearray(store.expected('a.img'))
            store.start()
        process = start_settle(store, store.path('a.img'), *rng.choice(([], ['--rate=8'], ['--rate=1'], ['--rate=30'])))
        write_until_killed(store, store.path('a.img'), model, rng)
        process.wait(10 * WAIT_SECONDS)    # who finds the mount dead goes on without it, at his rate
        store.start()
        assert read_file(store.path('a.img')) == model, f'SEED={SEED}'
        scattered = len(store.extents('a.img')) > 3
    settle(store.path('a.img'))
    assert read_file(store.path('a.img')) == model
    store.released('a.img')
    store.unmount()
    check(store, 'a.img')
    assert store.expected('a.img') == model


def test_threads(store):
    """what works for the threads of the rings, each of which may be bound to a processor, may run on any"""
    noise_image(store, 'a.img', 16 << 20)
    store.tool('scatter', 'a.img', SEED, 4096)
    allowed, process = {}, start_settle(store, store.path('a.img'), '--rate=8')
    with open(store.path('a.img'), 'r+b', buffering=0) as file:
        while process.poll() is None:
            file.write(noise(4096, 1)) # to where the pass is at work: a worker does that
            for thread in os.listdir(f'/proc/{store.daemon}/task'):
                with contextlib.suppress(OSError), open(f'/proc/{store.daemon}/task/{thread}/comm') as comm:
                    allowed.setdefault(comm.read().strip(), set()).add(frozenset(os.sched_getaffinity(int(thread))))
            time.sleep(0.01)
    assert process.returncode == 0, process.stdout.read()
    assert allowed['settle'] == {frozenset(os.sched_getaffinity(store.daemon))}
    assert allowed.get('worker', allowed['settle']) == allowed['settle']


def moved_bytes(output):
    return json.loads(output)['images'][0]['settle']['bytes_moved']


def test_rate(store):
    """a pass takes no less time than its rate says"""
    noise_image(store, 'a.img', 12 << 20)
    store.tool('scatter', 'a.img', SEED, 4096)
    started = time.monotonic()
    moved = moved_bytes(settle(store.path('a.img'), '--rate=6', '--json'))
    # nobody waits after the last piece
    assert moved > 6e6 and time.monotonic() - started >= (moved - (256 << 10)) / 6e6


def test_idle(store):
    """--idle moves little as long as the guest leaves no time for it, and goes on afterwards"""
    size = 32 << 20
    noise_image(store, 'a.img', size)
    store.tool('scatter', 'a.img', SEED, 4096)
    want = store.expected('a.img')
    done, rng = [], random.Random(SEED)

    def read():
        with open(store.path('a.img'), 'rb', buffering=0, opener=lambda path, flags: os.open(path, flags | os.O_DIRECT)) as file:
            buffer = mmap.mmap(-1, 1 << 20)
            while not done:
                off = rng.randrange(size // len(buffer)) * len(buffer)
                assert os.preadv(file.fileno(), [buffer], off) == len(buffer)

    threads = [threading.Thread(target=read) for _ in range(4)]
    with open(store.path('a.img'), 'rb') as file:
        for thread in threads:
            thread.start()
        try:
            moved = moved_bytes(settle(store.path('a.img'), '--idle', '--time-limit=3', '--json'))
        finally:
            done.append(True)
            for thread in threads:
                thread.join()
        assert moved < size // 2, f'{moved} bytes moved under a busy guest'
        assert moved_bytes(settle(store.path('a.img'), '--idle', '--json')) > size // 2
        assert file.read() == want
    store.released('a.img')
    assert len(store.extents('a.img')) == 1


def test_two_at_once(store):
    """of two commands that settle one image one is told about the other, which goes on to the end"""
    noise_image(store, 'a.img', 16 << 20)
    store.tool('scatter', 'a.img', SEED, 4096)
    want = store.expected('a.img')
    both = [start_settle(store, store.path('a.img'), '--rate=6') for _ in range(2)]
    outputs = [process.communicate(timeout=10 * WAIT_SECONDS)[0] for process in both]
    assert sorted(process.returncode for process in both) == [0, 4], outputs
    assert any('another --settle' in output for output in outputs), outputs
    assert read_file(store.path('a.img')) == want
    store.released('a.img')
    assert len(store.extents('a.img')) == 1


@unmounted
def test_many_at_once(store):
    """as many passes as a ring holds requests leave places in it for others, and all of them come to their end"""
    names = [f'{i}.img' for i in range(9)]
    for name in names:
        noise_image(store, name, 4 << 20)
        store.tool('scatter', name, SEED, 4096)
    want = {name: store.expected(name) for name in names}
    write_file(store.host('other'), b'')
    store.start(*TRANSPORT_OPTIONS, '-o', 'io_uring_depth=8')
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})    # all by one ring
    try:
        passes = [start_settle(store, store.path(name), '--rate=1') for name in names]
        times, end = [], time.monotonic() + 4
        while time.monotonic() < end:
            begin = time.monotonic()
            os.stat(store.path('other'))
            times.append(time.monotonic() - begin)
            time.sleep(0.01)
    finally:
        os.sched_setaffinity(0, processors)
    outputs = [process.communicate(timeout=10 * WAIT_SECONDS)[0] for process in passes]
    assert [process.returncode for process in passes] == [0] * len(passes), outputs
    assert sum(times) < 2, f'of 4 s, {len(times)} stat() have waited {sum(times):.1f} s, {max(times):.1f} s at most'
    for name in names:
        assert read_file(store.path(name)) == want[name]
        store.released(name)
        assert len(store.extents(name)) == 1
    store.unmount()


def test_longest_file(outer):
    """where the host's files cannot be long enough, the guest and the pass are told so, and go on with what fits"""
    mib = 1 << 20
    rng = random.Random(SEED)
    with disk.disk(outer.top, 'ext4', 64 * mib, options=('-b', '1024', '-O', '^extent,^64bit,^metadata_csum')) as its_disk:
        os.mkdir(its_disk.point + '/store')
        store = Store(False, its_disk.point + '/store')
        try:
            size = 6 << 30 # the longest file there is has 16 GiB
            with open(store.host('a.img'), 'wb') as file:
                file.truncate(size)
                for off in range(0, size, size // 64):
                    file.seek(off)
                    file.write(noise(64 << 10, off))
            store.tool('scatter', 'a.img', SEED, 16 * mib)
            store.start()
            path = store.path('a.img')
            model = {}

            def look():
                for off, data in model.items():
                    file.seek(off)
                    assert file.read(len(data)) == data, f'SEED={SEED}: {off}'

            with open(path, 'r+b', buffering=0) as file:
                for off in range(0, size, size // 256):
                    file.seek(off)
                    model[off] = file.read(64 << 10)
                process = start_settle(store, path, '--rate=1', f'--threshold={64 << 10}')
                while process.poll() is None:
                    off = rng.randrange(size, 24 << 30) // 4096 * 4096
                    try:
                        os.pwrite(file.fileno(), noise(4096, off), off)
                        model[off] = noise(4096, off)
                    except OSError as error:
                        assert error.errno == errno.EFBIG, error
                    time.sleep(0.2)
                output = process.communicate()[0]
                assert process.returncode == 0 or (process.returncode == 1 and 'files long enough' in output), output
                with fails_with(errno.EFBIG):
                    os.pwrite(file.fileno(), b'x', 20 << 30)
                look()
            store.unmount()
            check(store, 'a.img')
            store.start()
            with open(path, 'rb', buffering=0) as file:
                look()
            store.unmount()
        finally:
            store.clean_up()


test_longest_file.over = False


def test_fio(store):
    """fio verifies what it wrote, direct and buffered, while the image is scattered no more"""
    if not shutil.which('fio'):
        skip('fio is not installed')
    for direct in (0, 1):
        name = f'{direct}.img'
        with open(store.host(name), 'wb') as file:
            file.truncate(64 << 20)
        store.tool('scatter', name, SEED, 4096)
        command = ['fio', '--name=f', '--filename=' + store.path(name), '--ioengine=libaio', '--iodepth=16', '--rw=randrw',
                   '--bsrange=4k-256k', '--size=64m', '--verify=crc32c', '--verify_fatal=1', '--verify_backlog=64', f'--direct={direct}',
                   f'--randseed={SEED}']
        fio = subprocess.Popen(command, cwd=store.top, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        store.children.append(fio)
        settle(store.path(name), '--rate=60')
        output = fio.communicate(timeout=10 * WAIT_SECONDS)[0]
        assert fio.returncode == 0 and 'err= 0' in output, output


def test_size_changes(store):
    """the guest cuts and grows the image during a pass"""
    rng = random.Random(SEED)
    size = 16 << 20
    noise_image(store, 'a.img', size)
    store.tool('scatter', 'a.img', SEED, 4096)
    model = bytearray(store.expected('a.img'))
    process = start_settle(store, store.path('a.img'), '--rate=10')
    with open(store.path('a.img'), 'r+b', buffering=0) as file:
        while process.poll() is None:
            new = rng.randrange(size // 2, size + (4 << 20))
            file.truncate(new)
            model = model[:new].ljust(new, b'\0')
            data = rng.randbytes(5000)
            off = rng.randrange(new)
            os.pwrite(file.fileno(), data, off)
            model[off:off + 5000] = data
            time.sleep(0.05)
        assert process.returncode == 0, process.stdout.read()
        assert os.fstat(file.fileno()).st_size == len(model)
    assert read_file(store.path('a.img')) == model, f'SEED={SEED}'
    store.released('a.img')
    assert store.expected('a.img') == model


@unmounted
def test_unmounted(store):
    """without a mount the command does it itself, and gives way to whoever opens the image"""
    noise_image(store, 'a.img', 24 << 20)
    store.tool('scatter', 'a.img', SEED, 4096)
    want = store.expected('a.img')
    process = start_settle(store, store.dir + '/a.img', '--rate=4')
    time.sleep(1)
    store.start()
    started = time.monotonic()
    with open(store.path('a.img'), 'rb') as file:
        assert time.monotonic() - started < 40    # less than the kernel gives it
        assert file.read() == want
        time.sleep(1)
        assert process.poll() is None, process.stdout.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_SECONDS) == 1
    assert 'to continue' in process.stdout.read()
    settle(store.path('a.img'))
    assert read_file(store.path('a.img')) == want
    store.unmount()
    assert len(store.extents('a.img')) == 1


@unmounted
def test_longest_file_of_user(store):
    """a limit of the user's on the size of files is met with a message, not with the command's death"""
    noise_image(store, 'a.img', 2 << 20)
    store.tool('scatter', 'a.img', SEED, 4096)
    want = store.expected('a.img')
    result = subprocess.run(['prlimit', f'--fsize={2 << 20}', ZCFS_DEFRAG, '--settle', store.dir + '/a.img'], stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=WAIT_SECONDS)
    assert result.returncode == 1 and 'files long enough' in result.stdout, f'{result.returncode}: {result.stdout}'
    assert store.expected('a.img') == want


if __name__ == '__main__':
    print(f'# SEED={SEED}')
    sys.exit(run(tests_of(globals()), seconds=4 * TEST_SECONDS))
