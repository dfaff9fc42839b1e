# SPDX-License-Identifier: GPL-2.0-or-later
"""--discard gives the space of free clusters back to the host, and nothing else: every file as it was, every byte that is not free
where it was, wherever the image map has put it, and whatever the size of a cluster.

The argument: the kind of the host's file system. A second one is the seed for junk and kills; the one used is printed."""
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

from commands import DAMAGED, DONE, FAILED, IN_USE, MAKERS, NTFS_POPULATE, REFUSED, ZCFS_DEFRAG, check, check_ntfs, defrag, read_runs, \
    scattered_volume, seed_argument, unmount_on_termination, workspace
from guest import hash_files_through_driver, hash_files_through_sleuthkit, run
from host import data_path, digest, host_file_system, open_database, read_extents, state_of, write_view
from proof import cluster_size
from tap import Cases, equal, holds

DISK_MIB = 300
KILLS = 4
CORRECTED = 1  # exit status of zcfs-check
NTFS_HASH = os.environ.get('NTFS_HASH', 'ntfs-hash')
BLOCK = 4096  # of the host
BITMAP = (6, '0x80')


def free_clusters(view, off=0):
    """[(first, count)] of what $Bitmap says is free, read with the help of the independent checker."""
    size = cluster_size(view, off)
    with open(view, 'rb') as file:
        file.seek(off + 40)
        clusters = int.from_bytes(file.read(8), 'little') // (size // int.from_bytes(os.pread(file.fileno(), 2, off + 11), 'little'))
        bits = b''.join(os.pread(file.fileno(), count * size, off + lcn * size)
                        for attribute, _, lcn, count in read_runs(view, off) if attribute[:2] == BITMAP)
    text = ''.join(f'{byte:08b}'[::-1] for byte in bits)[:clusters]
    return [(match.start(), match.end() - match.start()) for match in re.finditer('0+', text)]


def free_ranges(view, off=0):
    """[(from, to)] in bytes of the image."""
    size = cluster_size(view, off)
    return [(off + lcn * size, off + (lcn + count) * size) for lcn, count in free_clusters(view, off)]


def host_pieces(extents, ranges):
    """[(from, to)] in the data file of ranges of the image; sorted and merged."""
    found, merged, next_ = [], [], 0
    for start, end in ranges:
        while extents[next_][0] + extents[next_][1] <= start:
            next_ += 1
        for guest_off, length, host_off in extents[next_:]:
            first, last = max(start, guest_off), min(end, guest_off + length)
            if first >= last:
                break
            found.append((host_off + first - guest_off, host_off + last - guest_off))
    for start, end in sorted(found):
        if merged and merged[-1][1] == start:
            merged[-1] = merged[-1][0], end
        else:
            merged.append((start, end))
    return merged


def same_outside(before, after, ranges):
    """Whether two files are equal but for these ranges."""
    with open(before, 'rb') as one, open(after, 'rb') as other:
        start = 0
        for from_, to in [*ranges, (max(os.path.getsize(before), os.path.getsize(after)), None)]:
            if os.pread(one.fileno(), from_ - start, start) != os.pread(other.fileno(), from_ - start, start):
                return False
            start = to
    return True


def fill_with_junk(image, offs, source):
    """As deleted files leave it: no free cluster of a plain image is a hole."""
    with open(image, 'r+b') as file:
        for off in offs:
            for start, end in free_ranges(image, off):
                os.pwrite(file.fileno(), source.randbytes(end - start), start)
        os.fsync(file.fileno())


def allocated(image):
    path = data_path(image)
    run('sync', '-f', os.path.dirname(path))
    return os.stat(path).st_blocks * 512


class Before:
    """What an image has before a discard, and what must hold after."""

    def __init__(self, image, scratch, offs=(0,), readers=False):
        """@readers: the files are also read by two drivers of NTFS, which takes longer."""
        self.image, self.offs, self.readers = image, offs, readers
        self.view, self.after = os.path.join(scratch, 'before'), os.path.join(scratch, 'after')
        write_view(image, self.view)
        self.extents = read_extents(image)
        self.free = sorted(piece for off in offs for piece in free_ranges(self.view, off))
        self.allocated = allocated(image)
        self.files = self.hashes(self.view)

    def hashes(self, view):
        found = [run(NTFS_HASH, *(['--offset', str(off)] if off else []), view) for off in self.offs]
        return found + ([hash_files_through_driver(view), hash_files_through_sleuthkit(view)] if self.readers else [])

    def prove(self, whole=True):
        """@whole: it was not stopped."""
        write_view(self.image, self.after)
        holds(same_outside(self.view, self.after, self.free), 'bytes have changed that were in use')
        for off in self.offs:
            equal(check_ntfs(self.after, off), '', 'what ntfs-check finds')
        equal(self.hashes(self.after), self.files, 'the files')
        if whole:
            self.prove_given_back()
        result = check(self.image)
        equal(result.status, 0, f'the exit status of zcfs-check ({result!r})')


    def prove_given_back(self):
        """All blocks of the host that are free as a whole; besides there is what the host keeps of where a file is."""
        pieces = host_pieces(self.extents, self.free)
        blocks = sum(max(0, end // BLOCK - -(-start // BLOCK)) for start, end in pieces)
        now = allocated(self.image)
        holds(now <= self.allocated - blocks * BLOCK + BLOCK * (len(pieces) // 16 + 8),
              f'it takes {now} bytes, {self.allocated} before, of which {blocks} whole blocks were free')


def discard(image, *options, status=DONE):
    """Runs --discard; the report about it."""
    result = defrag('--json', '--discard', *options, image)
    equal(result.status, status, f'the exit status ({result!r})')
    return json.loads(result.out)['images'][0]


def history(image):
    with open_database(os.path.join(image, 'map.db')) as database:
        return database.execute('SELECT operation, options FROM run ORDER BY id').fetchall()


def plain_image(cases, made):
    made.fresh()
    before = Before(made.image, made.scratch, readers=made.kind == 'ext4')
    with cases.case('a dry run tells how much it would be, and changes nothing'):
        state = state_of(made.store)
        planned = discard(made.image, '--dry-run')['discard']
        equal(planned['free_bytes'], sum(end - start for start, end in before.free), 'free bytes')
        holds('would be given back' in defrag('-n', '--discard', made.image).out, 'it does not say so')
        equal(state_of(made.store), state, 'the store')
    with cases.case('a plain image: all files as they were, the space of free clusters given back, and told; it stays plain'):
        inode = os.stat(made.image).st_ino
        given = discard(made.image)['discard']
        before.prove()
        equal(os.stat(made.image).st_ino, inode, 'the inode number')
        equal(given['allocated_bytes'], {'before': before.allocated, 'after': allocated(made.image)}, 'what it tells')
        equal(given['finished'], True, 'finished')
        if made.kind != 'tmpfs':  # which does not tell what is allocated
            difference = planned['allocated_bytes']['after'] - given['allocated_bytes']['after']
            holds(abs(difference) <= BLOCK * (len(before.free) // 16 + 8), f'the dry run was wrong by {difference} bytes')
    with cases.case('once more: nothing to give back, the file is not touched'):
        state = state_of(made.store)
        result = defrag('--discard', made.image)
        equal(result.status, DONE, f'the exit status ({result!r})')
        holds('given back: 0 bytes' in result.out, result.out)
        if made.kind != 'tmpfs':
            equal(state_of(made.store), state, 'the store')
    with cases.case('preallocated space, which holds no data, is given back, too'):
        run('fallocate', '-l', str(os.path.getsize(made.image)), made.image)
        before = Before(made.image, made.scratch)
        discard(made.image)
        before.prove()


def bundle(cases, made):
    made.fresh()
    equal(defrag(made.image).status, DONE, 'the exit status of a pass')
    before = Before(made.image, made.scratch, readers=made.kind == 'ext4')
    with cases.case('after a pass: refused while it can be undone, unless asked'):
        state = state_of(made.store)
        for options in ([], ['--dry-run']):
            result = defrag('--discard', *options, made.image)
            equal(result.status, REFUSED, f'the exit status ({result!r})')
            holds('forget-undo' in result.err, result.err)
        equal(state_of(made.store), state, 'the store')
    with cases.case('after a pass: given back through the image map; no undo any more, a row of history'):
        result = defrag('--discard=forget-undo', made.image)
        equal(result.status, DONE, f'the exit status ({result!r})')
        holds('given back: ' in result.out and 'can no longer be recovered' in result.out, result.out)
        before.prove()
        result = defrag('--undo', made.image)
        equal(result.status, FAILED, f'the exit status of --undo ({result!r})')
        holds('nothing to undo' in result.err, result.err)
        equal([operation for operation, _ in history(made.image)], ['defrag', 'discard'], 'the history')
        equal(history(made.image)[-1][1], '--discard=forget-undo', 'the options there')
    with cases.case('another pass, a settle pass that is stopped, a discard, and it goes on'):
        made.junk_in_bundle()
        equal(defrag('--pack', made.image).status, DONE, 'the exit status of a pass')
        defrag('--settle', '--time-limit=0.01', made.image)
        before = Before(made.image, made.scratch)
        discard(made.image, *(['--discard=forget-undo'] if history(made.image)[-1][0] == 'defrag' else []))
        before.prove()
        equal(defrag('--settle', made.image).status, DONE, 'the exit status of --settle')
        before.prove(whole=False)
    with cases.case('after a settle pass; then plain again'):
        made.junk_in_bundle()
        before = Before(made.image, made.scratch)
        discard(made.image)
        before.prove()
        after = digest(before.after)
        equal(defrag('--plain', made.image).status, DONE, 'the exit status of --plain')
        equal(digest(made.image), after, 'the plain file')


def geometry(cases, made):
    """Clusters smaller and larger than the host's blocks, and such as lie on none."""
    for size in (512, 1 << 16, 2 << 20):
        image = made.another('clusters.img')
        with open(image, 'xb') as file:
            file.truncate(48 << 20 if size > 1 << 20 else 16 << 20)
        run('mkntfs', '--quiet', '--force', '--fast', '--cluster-size', str(size), image)
        if size < 1 << 20:
            run(NTFS_POPULATE, '--quiet', '--seed', '3', '--dirs', '2', '--files', '40', image)
        fill_with_junk(image, [0], made.source)
        with cases.case(f'clusters of {size} bytes, before and after a pass'):
            before = Before(image, made.scratch)
            discard(image)
            before.prove()
            equal(defrag('--pack', image).status, DONE, 'the exit status of a pass')
            if os.path.isdir(image):
                made.junk_in_bundle(image)
                before = Before(image, made.scratch)
                discard(image, '--discard=forget-undo')
                before.prove()
    corpus = os.path.join(made.scratch, 'corpus')
    image, offs = run('python3', os.path.join(MAKERS, 'make-corpus'), '--only', 'xp', corpus).strip().split('\t')[1:3]
    offs = [int(off) for off in offs.split(',')]
    with cases.case('partitions at sector 63, before and after a pass: a block goes when all that has parts in it is free'):
        fill_with_junk(image, offs, made.source)
        before = Before(image, made.scratch, offs)
        discard(image)
        before.prove()
        equal(defrag(image).status, DONE, 'the exit status of a pass')
        made.junk_in_bundle(image, offs)
        before = Before(image, made.scratch, offs)
        discard(image, '--discard=forget-undo')
        before.prove()
    shutil.rmtree(corpus)


def set_bits(image, clusters, marked):
    size = cluster_size(image, 0)
    runs = [(vcn, lcn, count) for attribute, vcn, lcn, count in read_runs(image, 0) if attribute[:2] == BITMAP]
    with open(image, 'r+b') as file:
        for cluster in clusters:
            vcn, byte = divmod(cluster // 8, size)
            off = next(lcn + vcn - first for first, lcn, count in runs if first <= vcn < first + count) * size + byte
            old = os.pread(file.fileno(), 1, off)[0]
            os.pwrite(file.fileno(), bytes([old | 1 << cluster % 8 if marked else old & ~(1 << cluster % 8)]), off)


def what_is_nobodys(cases, made):
    made.fresh()
    with cases.case('clusters that are marked and nobody\'s stay'):
        first, count = max(free_clusters(made.image), key=lambda piece: piece[1])
        set_bits(made.image, range(first + 1, first + count - 1), True)
        before = Before(made.image, made.scratch)
        discard(made.image)
        before.prove()
    made.fresh()
    with cases.case('a cluster that is a file\'s and free by $Bitmap is damage: nothing is changed'):
        run_ = next(lcn for attribute, _, lcn, _ in read_runs(made.image, 0) if attribute[0] >= 24 and lcn >= 0)
        set_bits(made.image, [run_], False)
        state = state_of(made.store)
        result = defrag('--discard', made.image)
        equal(result.status, DAMAGED, f'the exit status ({result!r})')
        equal(state_of(made.store), state, 'the store')


def others(cases, made):
    made.fresh()
    state = state_of(made.store)
    with cases.case('an image in use is left alone; who opens it while it is worked on gets it'):
        with open(made.image, 'rb'):
            equal(defrag('--discard', made.image).status, IN_USE, 'the exit status')
        equal(state_of(made.store), state, 'the store')
        before = Before(made.image, made.scratch)
        for _ in range(3):
            running = subprocess.Popen([ZCFS_DEFRAG, '--discard', '--quiet', made.image], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
            time.sleep(made.source.random() * 0.05)
            started = time.monotonic()
            with open(made.image, 'rb') as file:
                file.read(512)
            holds(time.monotonic() - started < 40, 'it waited for long')  # the kernel ends a lease after 45
            _, words = running.communicate(timeout=300)
            holds(running.returncode in (DONE, IN_USE), f'the exit status is {running.returncode}: {words}')
            run('cp', '--sparse=always', made.master, made.image)
        discard(made.image)
        before.prove()
    with cases.case('a volume that is not there'):
        equal(defrag('--discard', '--volume=2', made.image).status, FAILED, 'the exit status')
    with cases.case('all images of a store'):
        made.fresh()
        result = defrag('--discard', '--all', made.store)
        equal(result.status, DONE, f'the exit status ({result!r})')
        holds('a.img: given back: ' in result.out, result.out)
    with cases.case('no time: it says so'):
        result = defrag('--discard', '--time-limit=0.000001', made.image)
        holds(result.status == FAILED and 'time' in result.err, f'{result!r}')


def wait_until_caught(process, number):
    """Before it catches the signal, which is some milliseconds after its start, it would end without a word."""
    while process.poll() is None:
        with open(f'/proc/{process.pid}/status', encoding='ascii', errors='replace') as file:
            caught = next(int(line.split()[1], 16) for line in file if line.startswith('SigCgt:'))
        if caught >> (number - 1) & 1:
            break
        time.sleep(0.001)


def kills(cases, made):
    with cases.case(f'killed or stopped {KILLS} times: free clusters are as before or zeros, the rest untouched'):
        made.fresh()
        started = time.monotonic()
        discard(made.image)
        duration = time.monotonic() - started
        ends = {}
        for number in range(KILLS):
            made.fresh()
            if number % 2:
                equal(defrag(made.image).status, DONE, 'the exit status of a pass')
                made.junk_in_bundle()
            before = Before(made.image, made.scratch)
            running = subprocess.Popen([ZCFS_DEFRAG, '--discard=forget-undo', made.image], stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            time.sleep(made.source.random() * duration * 1.3)
            stop = signal.SIGINT if number % 3 == 2 else signal.SIGKILL
            if stop == signal.SIGINT:
                wait_until_caught(running, stop)
            running.send_signal(stop)
            _, words = running.communicate()
            ends[running.returncode] = ends.get(running.returncode, 0) + 1
            holds(running.returncode in (-signal.SIGKILL, DONE) or b'stopped' in words, words)
            holds(check('--repair', made.image).status in (0, CORRECTED), 'zcfs-check --repair')  # its row of history may be half there
            before.prove(whole=False)
            if number % 2 == 0:
                discard(made.image, '--discard=forget-undo')
                before.prove()
        print(f'# {ends}')


def kill_worker(made):
    """Runs --all, and kills the process that it has for the image. Its exit status and messages."""
    running = subprocess.Popen([ZCFS_DEFRAG, '--all', '--discard=forget-undo', made.store], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while running.poll() is None:
        with contextlib.suppress(OSError), open(f'/proc/{running.pid}/task/{running.pid}/children', encoding='ascii') as children:
            for worker in children.read().split():
                os.kill(int(worker), signal.SIGKILL)
    return running.returncode, running.communicate()[1]


def kills_worker(cases, made):
    with cases.case('--all, whose process for an image is killed: exit status 1, and it promises nothing'):
        made.fresh()
        for _ in range(20):
            status, words = kill_worker(made)
            if status != DONE:  # else it was faster
                break
        equal(status, FAILED, 'the exit status')
        holds('a.img: the process that worked on it was killed; what it has given back so far stays so' in words, words)


def full_disk(cases, made, root):
    made.fresh()
    before = Before(made.image, made.scratch)
    with cases.case('a full disk: that is what it is for'):
        filler = os.path.join(root, 'filler')
        with open(filler, 'wb', buffering=0) as file:
            try:
                while file.write(bytes(1 << 16)):
                    pass
            except OSError:
                pass
        given = discard(made.image)['discard']
        os.unlink(filler)
        equal(given['finished'], True, 'finished')
        before.prove()


class Made:
    """An image in a store of its own, with junk in all free clusters."""

    def __init__(self, root, kind, source):
        self.kind, self.source = kind, source
        self.store, self.scratch = os.path.join(root, 'store'), os.path.join(root, 'scratch')
        self.image, self.master = os.path.join(self.store, 'a.img'), os.path.join(root, 'master')
        for directory in (self.store, self.scratch):
            os.mkdir(directory)
        scattered_volume(self.master, megabytes=32, fragments=1500, seed=21)
        fill_with_junk(self.master, [0], source)

    def fresh(self):
        run('cp', '--sparse=always', self.master, self.another('a.img'))

    def another(self, name):
        shutil.rmtree(self.store)
        os.mkdir(self.store)
        return os.path.join(self.store, name)

    def junk_in_bundle(self, image=None, offs=(0,)):
        """In the free clusters, as a guest leaves it, through the map that the database has."""
        image, view = image or self.image, os.path.join(self.scratch, 'view')
        write_view(image, view)
        free = [piece for off in offs for piece in free_ranges(view, off)]
        with open(data_path(image), 'r+b') as data:
            for start, end in host_pieces(read_extents(image), free):
                os.pwrite(data.fileno(), self.source.randbytes(end - start), start)
        os.unlink(view)


def main():
    unmount_on_termination()
    kind = sys.argv[1]
    seed = seed_argument(2)
    cases = Cases()
    with workspace() as directory, host_file_system(kind, directory, DISK_MIB) as root:
        made = Made(root, kind, random.Random(seed))
        plain_image(cases, made)
        bundle(cases, made)
        if kind == 'ext4':  # for the rest it makes no difference
            what_is_nobodys(cases, made)
            geometry(cases, made)
            others(cases, made)
            kills(cases, made)
            kills_worker(cases, made)
        full_disk(cases, made, root)
    cases.finish()


main()
