# SPDX-License-Identifier: GPL-2.0-or-later
"""One image through many descriptors at once: buffered, O_DIRECT and mapped, in several processes. What has been written by any of them is
what all of them read.

    test_coherence.py ZCFS MAP_IMAGE [TEST...]      SEED in the environment repeats a run, SECONDS makes it longer
"""
import array
import errno
import mmap
import multiprocessing
import os
import random
import sys
import time

from mount import *

SEED = int(os.environ.get('SEED', time.time_ns() % 10**9))
SECONDS = int(os.environ.get('SECONDS', 1))
BLOCK = 4096
SECTOR = 512
MIB = 1 << 20
CACHESTAT = 451     # the number of the system call, on all processors but Alpha

# How the image's map is cut; see map-image.
LAYOUTS = {'plain': None, 'clusters': (BLOCK, 0), 'odd pieces': ('512-20480', 63 * SECTOR)}


def on_each_layout(function):
    """Runs a test on images of every layout; what each contains is the third argument."""
    def wrapper(store):
        for number, layout in enumerate(LAYOUTS.values()):
            name = f'{function.__name__}{number}'
            data = noise(MIB, SEED + number)
            if layout:
                data = store.bundle(name, data, SEED % 1000, layout[0], first=layout[1])
            else:
                write_file(store.host(name), data)
            function(store, store.path(name), bytearray(data))
    wrapper.__name__ = function.__name__
    wrapper.__doc__ = function.__doc__
    return wrapper


class Views:
    """Every way of reading and writing one file."""

    def __init__(self, path):
        self.buffered = os.open(path, os.O_RDWR)
        self.direct = os.open(path, os.O_RDWR | os.O_DIRECT)
        self.size = os.fstat(self.buffered).st_size
        self.memory = mmap.mmap(self.buffered, self.size)
        self.aligned = mmap.mmap(-1, MIB)

    def close(self):
        self.memory.close()
        self.aligned.close()
        os.close(self.buffered)
        os.close(self.direct)

    def read(self, how, off, length):
        if how == 'buffered':
            return os.pread(self.buffered, length, off)
        if how == 'mapped':
            return self.memory[off:off + length]
        part = memoryview(self.aligned)[:length]
        n = os.preadv(self.direct, [part], off)
        return bytes(part[:n])

    def write(self, how, off, data):
        if how == 'buffered':
            assert os.pwrite(self.buffered, data, off) == len(data)
        elif how == 'mapped':
            self.memory[off:off + len(data)] = data
        else:
            part = memoryview(self.aligned)[:len(data)]
            part[:] = data
            assert os.pwrite(self.direct, part, off) == len(data)


WAYS = ('buffered', 'direct', 'mapped')


@on_each_layout
def test_each_sees_the_others(store, path, model):
    """what is written in one way is read in every other, at once, without fsync or close"""
    rng = random.Random(SEED)
    views, others = Views(path), Views(path)
    for step in range(150):
        off = rng.randrange(len(model) // SECTOR) * SECTOR
        data = rng.randbytes(min(rng.choice((1, 1, 7, 8, 16, 100)) * SECTOR, len(model) - off))
        writer = rng.choice(WAYS)
        rng.choice((views, others)).write(writer, off, data)
        model[off:off + len(data)] = data
        start = max(0, off - 2 * SECTOR)
        for reader in WAYS:
            for view in (views, others):
                got = view.read(reader, start, len(data) + 4 * SECTOR)
                assert got == model[start:start + len(got)], f'SEED={SEED} step {step}: written {writer}, read {reader} at {off}'
    views.close()
    others.close()
    assert read_file(path) == model


@on_each_layout
def test_truncate_is_seen(store, path, model):
    """a size set through one descriptor is the end for all others, and no byte from beyond it comes back"""
    rng = random.Random(SEED)
    views = Views(path)
    for step in range(40):
        size = rng.randrange(SECTOR, len(model) * 5 // 4)
        if rng.random() < 0.5:
            size -= size % BLOCK
        if size == 0 or size > 2 * MIB:
            continue
        rng.choice((lambda: os.truncate(path, size), lambda: os.ftruncate(views.direct, size), lambda: os.ftruncate(views.buffered, size)))()
        del model[size:]
        model.extend(bytes(size - len(model)))
        start = max(0, size - 3 * BLOCK) // SECTOR * SECTOR
        for reader in ('buffered', 'direct'):
            got = views.read(reader, start, 16 * BLOCK)
            assert got == model[start:], f'SEED={SEED} step {step}: {len(got)} bytes of {size - start} read {reader}'
        assert os.fstat(views.direct).st_size == os.lseek(views.buffered, 0, os.SEEK_END) == size
    os.truncate(path, MIB)
    views.close()


@on_each_layout
def test_punched_is_seen(store, path, model):
    """a hole that is punched through one descriptor reads as zeros everywhere, mappings included"""
    views = Views(path)
    for off, length in ((0, BLOCK), (5 * SECTOR, 40 * BLOCK), (300001, 77777), (len(model) - 1000, 1000)):
        for reader in WAYS:
            views.read(reader, off // SECTOR * SECTOR, 64 * BLOCK)
        fallocate(views.direct, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, off, length)
        model[off:off + length] = bytes(length)
        for reader in WAYS:
            start = max(0, off // SECTOR * SECTOR - SECTOR)
            got = views.read(reader, start, min(length + BLOCK, MIB) // SECTOR * SECTOR)
            assert got == model[start:start + len(got)], f'{reader} at {off}'
    views.close()


@on_each_layout
def test_direct_reads_of_every_shape(store, path, model):
    """O_DIRECT from any sector, any number of sectors, into any sector of a page, across extents and across the end"""
    rng = random.Random(SEED)
    os.truncate(path, len(model) - 3 * SECTOR - 100)     # the last sector is not whole
    del model[-(3 * SECTOR + 100):]
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    memory = mmap.mmap(-1, 2 * MIB)
    for step in range(300):
        off = rng.choice((rng.randrange(len(model)), len(model) - rng.randrange(20 * SECTOR))) // SECTOR * SECTOR
        length = rng.choice((1, 2, 7, 8, 9, 63, 128, rng.randrange(1, 2048))) * SECTOR
        start = rng.randrange(8) * SECTOR
        memory[start:start + length] = b'#' * length
        if rng.random() < 0.5:
            pieces, position, end = [], start, start + length    # several pieces of memory for one request
            while position < end:
                piece = min(rng.randrange(1, 64) * SECTOR, end - position)
                pieces.append(memoryview(memory)[position:position + piece])
                position += piece
            n = os.preadv(fd, pieces[:1000], off)
            length = sum(map(len, pieces[:1000]))
        else:
            n = os.preadv(fd, [memoryview(memory)[start:start + length]], off)
        wanted = model[off:off + length]
        assert n == len(wanted), f'SEED={SEED} step {step}: {n} bytes for {len(wanted)} at {off}'
        assert memory[start:start + n] == wanted, f'SEED={SEED} step {step}: [{off}, {off + n})'
        assert not memory[start + n:start + length].strip(b'#\0'), 'bytes that were not counted'
    os.close(fd)


@on_each_layout
def test_direct_writes_of_every_shape(store, path, model):
    """the same for writing; not a byte beside the request changes"""
    rng = random.Random(SEED)
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    memory = mmap.mmap(-1, 2 * MIB)
    for step in range(200):
        off = rng.randrange(len(model)) // SECTOR * SECTOR
        length = min(rng.choice((1, 2, 7, 8, 9, 63, 128, rng.randrange(1, 1024))) * SECTOR, MIB + 100 * SECTOR - off)
        start = rng.randrange(8) * SECTOR
        memory[start:start + length] = data = rng.randbytes(length)
        assert os.pwritev(fd, [memoryview(memory)[start:start + length]], off) == length
        model.extend(bytes(max(0, off + length - len(model))))
        model[off:off + length] = data
        assert memory[start:start + length] == data, 'the memory that was written from'
        if step % 20 == 0:
            assert read_file(path) == model, f'SEED={SEED} step {step}'
    os.close(fd)
    assert read_file(path) == model


def cached_blocks(memory):
    """How many blocks of a mapping are in the kernel's cache."""
    resident = (ctypes.c_ubyte * (len(memory) // BLOCK))()
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    check_call(libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(len(memory)), resident))
    return sum(entry & 1 for entry in resident)


def cached_pages(fd):
    """How many pages of a file the kernel has cached; unlike mapping it, asking does not change that."""
    everything, answer = (ctypes.c_uint64 * 2)(0, 0), (ctypes.c_uint64 * 5)()
    if libc.syscall(ctypes.c_long(CACHESTAT), fd, everything, answer, 0) < 0:
        skip('the kernel has no cachestat()')
    return answer[0]


def cached_by_reading(path, flags):
    """Whether the kernel has cached for the mount what was read of a file through an open of its own: hardly any or nearly all, as it
    gives up single pages whenever it likes."""
    fd = os.open(path, flags)
    for off in range(0, os.path.getsize(path), 16 * BLOCK):
        os.pread(fd, 16 * BLOCK, off)
    pages = cached_pages(fd)
    size = os.path.getsize(path)
    os.close(fd)
    assert pages == 0 or pages * BLOCK > size / 2, f'{pages} pages of {size} bytes'
    return pages > 0


def who_caches(store, reader_expected, writer_expected):
    store.bundle('a.img', noise(256 * BLOCK))
    path = store.path('a.img')
    for flags, expected in ((os.O_RDONLY, reader_expected), (os.O_RDWR, writer_expected), (os.O_RDONLY, reader_expected)):
        assert cached_by_reading(path, flags) == expected, f'opened with {flags}'
        store.released('a.img')


def test_first_open_decides(store):
    """a bundle is cached for the mount if it is first opened for reading; by the host only if for writing, then for later readers, too"""
    who_caches(store, True, False)
    path = store.path('a.img')
    writer = os.open(path, os.O_RDWR)
    assert not cached_by_reading(path, os.O_RDONLY)
    os.pwrite(writer, b'new', 5 * BLOCK)
    assert read_file(path)[5 * BLOCK:5 * BLOCK + 3] == b'new'
    os.close(writer)
    store.released('a.img')
    reader = os.open(path, os.O_RDONLY)
    assert os.pread(reader, 3, 5 * BLOCK) == b'new'
    writer = os.open(path, os.O_RDWR)
    os.pwrite(writer, b'one', 5 * BLOCK)
    assert os.pread(reader, 3, 5 * BLOCK) == b'one'
    assert cached_by_reading(path, os.O_RDWR)
    os.close(writer)
    os.close(reader)


@with_options('-o', 'cache=host')
def test_cached_by_host(store):
    """with cache=host never for the mount"""
    who_caches(store, False, False)


@with_options('-o', 'cache=both')
def test_cached_by_both(store):
    """with cache=both always"""
    who_caches(store, True, True)


@with_options('-o', 'cache=both')
def test_open_and_what_is_cached(store):
    """an open drops what is cached, but leaves alone what others write to through the cache; after a write past the cache it is dropped"""
    model = bytearray(store.bundle('a.img', noise(256 * BLOCK)))
    path = store.path('a.img')
    fd = os.open(path, os.O_RDWR)
    memory = mmap.mmap(fd, len(model))
    try:
        assert memory[:] == model and cached_blocks(memory) > 128
        os.close(os.open(path, os.O_RDONLY))
        assert cached_blocks(memory) == 0
        model[BLOCK:2 * BLOCK] = noise(BLOCK)
        os.pwrite(fd, model[BLOCK:2 * BLOCK], BLOCK)
        assert memory[:] == model and cached_blocks(memory) > 128
        for flags in (os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_DIRECT):
            os.close(os.open(path, flags))
            assert cached_blocks(memory) > 128, flags
        aligned = mmap.mmap(-1, BLOCK)
        aligned[:] = model[:BLOCK] = noise(BLOCK)
        direct = os.open(path, os.O_RDWR | os.O_DIRECT)
        assert os.pwritev(direct, [aligned], 0) == BLOCK
        os.close(direct)
        os.close(os.open(path, os.O_RDONLY))
        assert cached_blocks(memory) == 0
        assert memory[:] == model
    finally:
        memory.close()
        os.close(fd)
    store.released('a.img')
    store.tool('scatter', 'a.img', SEED % 1000, BLOCK)
    assert read_file(path) == store.expected('a.img')


# ---- at the same time ----
#
# Every block has one writer, which numbers its versions and says in shared memory when it begins and when it has written one. A reader may
# find any version from the one that was complete before it began up to the one that was begun before it ended; several in one block if it
# was written meanwhile, as in any file. One thing not every kernel promises: it drops cached pages before a write to a
# FUSE file that goes past its cache, but perhaps not again after it (zcfs.8), so a page that is read in between stays old for those who
# have the file open cached; a new open sees what was written, which is checked at the end. Bundles are cached by the host only, as they are
# first opened for writing, but for mapped pages.

def stamp(version):
    return version.to_bytes(8, sys.byteorder) * (BLOCK // 8)


def write_versions(path, blocks, begun, done, ways, seed, end):
    rng = random.Random(seed)
    views = Views(path)
    while time.monotonic() < end:
        first = rng.choice(blocks)
        count = rng.choice((1, 1, 1, 4))
        group = [b for b in range(first, first + count) if b in blocks]
        version = max(begun[b] for b in group) + 1
        for b in group:
            begun[b] = version
        views.write(rng.choice(ways), first * BLOCK, stamp(version) * len(group))
        for b in group:
            done[b] = version
    views.close()


def read_versions(path, count, begun, done, ways, lagging, seed, end):
    rng = random.Random(seed)
    views = Views(path)
    while time.monotonic() < end:
        first, blocks, how = rng.randrange(count), rng.choice((1, 1, 2, 16)), rng.choice(ways)
        blocks = min(blocks, count - first)
        least = [0 if how in lagging else done[b] for b in range(first, first + blocks)]
        data = views.read(how, first * BLOCK, blocks * BLOCK)
        most = [begun[b] for b in range(first, first + blocks)]
        assert len(data) == blocks * BLOCK
        for block in range(blocks):
            found = array.array('Q', data[block * BLOCK:(block + 1) * BLOCK])
            low, high, most_now = min(found), max(found), most[block]
            assert least[block] <= low <= high <= most_now, \
                f'{how}: block {first + block}: versions {low} to {high}, not of {least[block]} to {most_now}'
    views.close()


def work(function, arguments, errors):
    try:
        function(*arguments)
    except BaseException as error:
        errors.put(f'{function.__name__}: {error!r}')


def run_processes(jobs):
    """Each in a process of its own; the first error counts."""
    fork = multiprocessing.get_context('fork')
    errors = fork.SimpleQueue()
    processes = [fork.Process(target=work, args=(function, arguments, errors), daemon=True) for function, *arguments in jobs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(WAIT_SECONDS + SECONDS)
    if not errors.empty():
        raise AssertionError(f'SEED={SEED}: {errors.get()}')
    assert all(process.exitcode == 0 for process in processes), [process.exitcode for process in processes]


def lagging_ways(uncached, writing):
    """What reads by the kernel's cache for the mount, beside what writes past it."""
    if uncached:
        return () if writing == ('mapped',) else ('mapped',)
    return ('buffered', 'mapped') if 'direct' in writing else ()


def mixed(store, layout, writing, reading, uncached, count=64):
    write_file(store.host('a.img'), bytes(count * BLOCK))
    if layout:
        store.tool('scatter', 'a.img', SEED % 1000, *layout)
    path = store.path('a.img')
    fork = multiprocessing.get_context('fork')
    begun, done = fork.RawArray('Q', count), fork.RawArray('Q', count)
    end = time.monotonic() + SECONDS
    blocks = [set(range(i * count // 3, (i + 1) * count // 3)) for i in range(3)]
    jobs = [(write_versions, path, sorted(blocks[i]), begun, done, writing, SEED + i, end) for i in range(3)]
    lagging = lagging_ways(uncached, writing)
    jobs += [(read_versions, path, count, begun, done, reading, lagging, SEED + 10 + i, end) for i in range(3)]
    run_processes(jobs)
    assert max(done) > 3
    final = b''.join(stamp(version) for version in done)
    assert read_file(path) == final, f'SEED={SEED}: after all have closed'
    store.released('a.img')
    store.unmount()
    assert store.composed('a.img') == final


def mixed_test(layout, writing, reading, cache='auto'):
    def test(store):
        mixed(store, LAYOUTS[layout], writing, reading, layout != 'plain' and cache != 'both')
    test.__name__ = f'{layout}, cache={cache}: {"+".join(writing)} writers, {"+".join(reading)} readers'
    test.__doc__ = f'{layout}, cache={cache}: {" and ".join(writing)} writers, {" and ".join(reading)} readers at the same time'
    test.options = ('-o', f'cache={cache}')
    test.seconds = TEST_SECONDS + 2 * SECONDS
    test.over = False
    return test


MIXES = [(('direct',), ('direct',)), (('buffered',), ('buffered', 'mapped')), (('mapped',), ('buffered', 'mapped')),
         (('buffered', 'mapped'), ('direct',)), (('direct',), ('buffered',)), (WAYS, WAYS)]
MIXES_BY_BOTH = [(('buffered',), ('buffered', 'mapped')), (('mapped',), ('buffered', 'mapped')), (WAYS, WAYS)]


def appenders(path, who, count):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    for number in range(count):
        record = f'{who} {number} '.encode().ljust(100, b'.')[:99] + b'\n'
        assert os.write(fd, record) == len(record)
    os.close(fd)


@on_each_layout
def test_append_at_the_same_time(store, path, model):
    """what several processes append is all there, each record whole and each process's in order"""
    run_processes([(appenders, path, who, 60) for who in range(4)])
    lines = read_file(path)[len(model):].split(b'\n')
    assert read_file(path)[:len(model)] == model and lines.pop() == b''
    for who in range(4):
        numbers = [int(line.split()[1]) for line in lines if line.split()[0] == str(who).encode()]
        assert numbers == list(range(60)), f'of {who}: {numbers}'
    assert len(lines) == 240


@on_each_layout
def test_holes_of_the_view(store, path, model):
    """SEEK_DATA and SEEK_HOLE over a scattered image: together they cover it, data is never called a hole, large holes are found"""
    rng = random.Random(SEED)
    fd = os.open(path, os.O_RDWR)
    for _ in range(8):
        off, length = rng.randrange(len(model) // BLOCK) * BLOCK, rng.randrange(1, 30) * BLOCK
        fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, off, length)
        model[off:off + length] = bytes(min(length, len(model) - off))
    os.ftruncate(fd, len(model) + MIB)
    model.extend(bytes(MIB))
    position, found = 0, 0
    while position < len(model):
        try:
            data = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            assert error.errno == errno.ENXIO
            data = len(model)
        assert not any(model[position:data]), f'SEED={SEED}: [{position}, {data}) is no hole'
        found += data - position
        position = os.lseek(fd, data, os.SEEK_HOLE) if data < len(model) else data
        assert position > data or data == len(model)
    assert found >= MIB, f'{found} bytes of holes'
    with fails_with(errno.ENXIO):
        os.lseek(fd, len(model) + 1, os.SEEK_DATA)
    with fails_with(errno.ENXIO):
        os.lseek(fd, len(model), os.SEEK_HOLE)
    os.close(fd)
    assert read_file(path) == model


if __name__ == '__main__':
    print(f'# SEED={SEED}')
    sys.exit(run(tests_of(globals()) + [mixed_test(layout, *mix) for layout in ('plain', 'odd pieces') for mix in MIXES]
                 + [mixed_test('odd pieces', *mix, cache='both') for mix in MIXES_BY_BOTH]))
