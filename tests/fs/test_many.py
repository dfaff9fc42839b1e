# SPDX-License-Identifier: GPL-2.0-or-later
"""Many images open at a time, opened and closed again and again; and too few descriptors for that.

    test_many.py ZCFS MAP_IMAGE [TEST...]      SEED in the environment repeats a run, ROUNDS makes it longer
"""
import contextlib
import errno
import mmap
import os
import random
import resource
import sys
import threading
import time

from mount import *

SEED = int(os.environ.get('SEED', time.time_ns() % 10**9))
ROUNDS = int(os.environ.get('ROUNDS', 6))
IMAGES = 64
SIZE = 2 << 20
MIB = 1 << 20

# With it (meson test sets it) malloc fills what it gives out: buffers of threads, of which there are more on a busy machine, would
# count in full.
os.environ.pop('MALLOC_PERTURB_', None)


def descriptors(store):
    """What the daemon has open, without its channels to the kernel and the rings that its threads keep."""
    found = []
    for fd in os.listdir(f'/proc/{store.daemon}/fd'):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f'/proc/{store.daemon}/fd/{fd}'))
    return [name for name in found if 'fuse' not in name and 'io_uring' not in name]


def memory(store):
    """Bytes of the daemon's own memory; nothing of use from a sanitizer, which keeps what was freed and looks for leaks itself."""
    if SANITIZERS:
        return 0
    with open(f'/proc/{store.daemon}/status') as status:
        return sum(int(line.split()[1]) << 10 for line in status if line.startswith('RssAnon'))


def make_images(store):
    """Plain images and bundles of small pieces, so that a map that is not freed shows. Returns what they contain."""
    models = {}
    for i in range(IMAGES):
        name, data = f'{i}.img', noise(SIZE, i)
        write_file(store.host(name), data)
        if i % 2:
            store.tool('scatter', name, i + 1, '512-2048')
            data = store.expected(name)
        models[name] = bytearray(data)
    return models


def exercise(path, model, rng):
    """Opens an image in several ways, reads and writes it, keeps the model, closes it."""
    fds = [os.open(path, os.O_RDWR), os.open(path, os.O_RDWR | os.O_DIRECT), os.open(path, os.O_RDONLY)]
    with mmap.mmap(-1, 64 * 1024) as buffer:
        for _ in range(12):
            off, length = rng.randrange(SIZE // 512 - 128) * 512, rng.randrange(1, 129) * 512
            part = memoryview(buffer)[:length]
            if rng.random() < 0.5:
                part[:] = data = rng.randbytes(length)
                assert os.pwrite(rng.choice(fds[:2]), part, off) == length
                model[off:off + length] = data
            else:
                assert os.preadv(rng.choice(fds), [part], off) == length
                assert part == model[off:off + length], f'SEED={SEED}: {path} at {off}'
            part.release()
    if rng.random() < 0.3:
        os.fsync(fds[0])
    return fds


def in_parallel(actions):
    errors = []

    def work(action):
        try:
            action()
        except BaseException as error:
            errors.append(error)
    threads = [threading.Thread(target=work, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_all_at_once(store):
    """64 images open at once, each with its own reads and writes; after many rounds nothing of them is left in the daemon"""
    models = make_images(store)
    rng = random.Random(SEED)
    open_files = {}

    def use(name, seed):
        open_files[name] = exercise(store.path(name), models[name], random.Random(seed))
    sizes, counts = [], []
    for number in range(ROUNDS):
        in_parallel([lambda n=name, s=rng.random(): use(n, s) for name in models])
        assert len(open_files) == IMAGES
        for fds in open_files.values():
            for fd in fds:
                os.close(fd)
        open_files.clear()
        for name in models:
            store.released(name)
        sizes.append(memory(store))
        counts.append(len(descriptors(store)))
    # A node keeps a descriptor while the kernel remembers it, hence not zero; but one an image, not one an open.
    assert max(counts) <= counts[0] + 8, f'descriptors after each round: {counts}'
    assert sizes[-1] <= sizes[ROUNDS // 2] + 8 * MIB, f'memory after each round: {[size >> 20 for size in sizes]} MiB'
    for name, model in models.items():
        assert read_file(store.path(name)) == model, name
    for name in models:
        store.released(name)
    store.unmount()
    for name, model in models.items():
        assert store.composed(name) == model, name


def test_nothing_is_kept(store):
    """thousands of opens, failed ones among them, leave the daemon as it was"""
    expected = store.bundle('a.img', noise(MIB), block=512)
    write_file(store.host('b.img'), noise(MIB))
    os.mkdir(store.host('damaged'))
    write_file(store.host('damaged', 'map.db'), b'no database')
    write_file(store.host('damaged', 'data'), b'')

    def round_of_opens():
        for _ in range(150):
            assert len(read_file(store.path('a.img'))) == len(expected)
            fd = os.open(store.path('b.img'), os.O_RDWR | os.O_DIRECT)
            os.close(fd)
            for name, number in (('damaged', errno.EUCLEAN), ('none', errno.ENOENT), ('a.img/data', errno.ENOTDIR)):
                with fails_with(number):
                    os.open(store.path(name), os.O_RDONLY)
        for name in ('a.img', 'b.img'):
            store.released(name)
        return len(descriptors(store)), memory(store)
    rounds = [round_of_opens() for _ in range(ROUNDS)]
    assert rounds[-1][0] <= rounds[0][0], f'descriptors after each round: {[count for count, _ in rounds]}'
    assert rounds[-1][1] <= rounds[ROUNDS // 2][1] + 4 * MIB, f'memory after each round: {[size >> 20 for _, size in rounds]} MiB'


@contextlib.contextmanager
def at_most(store, number):
    """The daemon may not have descriptors from that number on."""
    old = resource.prlimit(store.daemon, resource.RLIMIT_NOFILE)
    resource.prlimit(store.daemon, resource.RLIMIT_NOFILE, (number, old[1]))
    try:
        yield
    finally:
        resource.prlimit(store.daemon, resource.RLIMIT_NOFILE, old)


def test_too_few_descriptors(store):
    """a daemon without descriptors says EMFILE to who wants another file, serves those who have theirs, and recovers"""
    models = {}
    for i in range(12):
        name = f'{i}.img'
        models[name] = noise(64 * 1024, i)
        if i % 2:
            models[name] = store.bundle(name, models[name])
        else:
            write_file(store.host(name), models[name])
    held = {name: os.open(store.path(name), os.O_RDWR) for name in ('0.img', '1.img')}
    used = max(int(fd) for fd in os.listdir(f'/proc/{store.daemon}/fd'))
    for spare in range(0, 12):
        with at_most(store, used + 1 + spare):
            refused, opened = 0, []
            for name, model in models.items():
                try:
                    opened.append(os.open(store.path(name), os.O_RDWR))
                except OSError as error:
                    assert error.errno in (errno.EMFILE, errno.ENFILE), f'{spare} to spare, {name}: {error}'
                    refused += 1
                else:
                    assert os.pread(opened[-1], len(model), 0) == model, name
            for attempt in (lambda: os.listdir(store.point), lambda: os.open(store.path(f'new{spare}'), os.O_CREAT | os.O_WRONLY),
                            lambda: os.truncate(store.path('3.img'), 64 * 1024), lambda: os.rename(store.path('5.img'), store.path('5.img'))):
                try:
                    got = attempt()
                    if isinstance(got, int):
                        os.close(got)
                except OSError as error:
                    assert error.errno in (errno.EMFILE, errno.ENFILE), f'{spare} to spare: {error}'
            assert refused or spare > 0, 'nothing was refused'
            for name, fd in held.items():
                assert os.pread(fd, 4096, 4096) == models[name][4096:8192]
                assert os.pwrite(fd, models[name][:4096], 0) == 4096
                os.fsync(fd)
            for fd in opened:
                os.close(fd)
    # Growing a bundle opens its database: it may fail, but then nothing has changed.
    with at_most(store, used + 1):
        try:
            os.ftruncate(held['1.img'], 100000)
        except OSError as error:
            assert error.errno in (errno.EMFILE, errno.ENFILE), error
            assert os.fstat(held['1.img']).st_size == len(models['1.img'])
        else:
            os.ftruncate(held['1.img'], len(models['1.img']))
    os.ftruncate(held['1.img'], 100000)
    os.ftruncate(held['1.img'], len(models['1.img']))
    for fd in held.values():
        os.close(fd)
    for name, model in models.items():
        assert read_file(store.path(name)) == model, name
        store.released(name)
    assert set(models) <= set(os.listdir(store.point))


def test_more_files_than_descriptors(store):
    """of more files than the daemon can have descriptors some cannot be looked at, but images are opened, written and grown as ever"""
    os.mkdir(store.host('many'))
    for i in range(1000):
        write_file(store.host('many', str(i)), b'')
    models = {f'{i}.img': bytearray(store.bundle(f'{i}.img', noise(64 * 1024, i))) for i in range(8)}
    for name in models:
        os.stat(store.path(name))
    held = {name: os.open(store.path(name), os.O_RDWR) for name in list(models)[:4]}
    used = max(int(fd) for fd in os.listdir(f'/proc/{store.daemon}/fd'))
    with at_most(store, used + 400):
        looked_at = 0
        for i in range(1000):
            try:
                looked_at += os.stat(store.path('many', str(i))).st_size == 0
            except OSError as error:
                assert error.errno in (errno.EMFILE, errno.ENFILE), error
        assert 50 < looked_at < 400, looked_at
        for make in (lambda path: os.close(os.open(path, os.O_CREAT | os.O_WRONLY)), os.mkdir, os.mkfifo, lambda path: os.symlink('x', path)):
            with fails_with(errno.EMFILE, errno.ENFILE):
                make(store.path('new'))
            assert not os.path.lexists(store.host('new'))
        held |= {name: os.open(store.path(name), os.O_RDWR) for name in models if name not in held}
        for name, fd in held.items():
            assert os.pwrite(fd, b'grown', 100000) == 5
            models[name] += bytes(100000 - len(models[name])) + b'grown'
            assert os.pread(fd, 200000, 0) == models[name]
            assert len(os.listdir(store.path('many'))) == 1000
    for fd in held.values():
        os.close(fd)
    assert sum(e.stat().st_size == 0 for e in os.scandir(store.path('many'))) == 1000


if __name__ == '__main__':
    print(f'# SEED={SEED}')
    sys.exit(run(tests_of(globals()), seconds=TEST_SECONDS + 10 * ROUNDS))
