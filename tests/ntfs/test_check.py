#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""ntfs-check finds each thing that can be wrong with a volume: a consistent volume is broken in one place at a time, and
the checker must name the right kind of finding, and exit 1. Before that it must accept what is consistent."""
import os
import random
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))

# pylint: disable=wrong-import-position
import commands
import ntfs_image as ntfs
from guest import run
import windows
from mutations import listed_file, MUTATIONS
from mutations_index import directory
from tap import Cases, equal, holds


def check(image, *options):
    done = subprocess.run([commands.NTFS_CHECK, *options, image], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=300, check=False)
    return done.returncode, done.stdout.decode(errors='replace'), done.stderr.decode(errors='replace')


def make_volume(image, options=()):
    """A volume with everything that the mutations look for."""
    with open(image, 'xb') as new:
        new.truncate(24 << 20)
    run('mkntfs', '--quiet', '--force', '--fast', '--cluster-size', '1024', *options, image)
    run(commands.NTFS_POPULATE, '--quiet', '--files', '150', '--dirs', '2', '--file-size', '3K..20K', '--compressed', '5',
        '--sparse', '5', '--streams', '5', '--links', '5', '--names', '20', '--tiny', '9', '--delete-every', '7', image)
    run(commands.NTFS_POPULATE, '--quiet', '--seed', '2', '--files', '2', '--file-size', '2M..2M', image)
    run(commands.NTFS_POPULATE, '--quiet', '--seed', '3', '--spare', '650', image)
    with ntfs.Volume(image) as volume:
        windows.metadata(volume, descriptors=300, ids=20)
    with ntfs.Volume(image) as volume:
        windows.kinds(volume)
    run(commands.NTFS_SCATTER, '--quiet', '--max-run', '3', '--what', 'data,streams,dirs', image)


def broken_copy(image, copy, mutation):
    run('cp', '--sparse=always', image, copy)
    with ntfs.Volume(copy) as volume:
        mutation(volume)


def test_mutations(cases, image, copy):
    for kind, what, mutation in MUTATIONS:
        with cases.case(f'found: {what} ({kind})'):
            broken_copy(image, copy, mutation)
            status, out, _ = check(copy)
            equal(status, 1, f'exit status with findings {out!r}')
            holds(any(line.split(': ')[1] == kind for line in out.splitlines()), f'no finding of kind {kind}: {out!r}')


def test_lost_clusters(cases, image, copy):
    with cases.case('clusters that nobody owns are warned of, and are no error'):
        def lose(volume):
            volume.put_bitmap_bit(volume.free_cluster(), 1)
        broken_copy(image, copy, lose)
        status, out, _ = check(copy)
        equal(status, 0, f'exit status with findings {out!r}')
        holds('warning: lost-clusters' in out, out)


def test_offset(cases, image, copy):
    with cases.case('a volume at an offset is found there, and not at 0'):
        run('cp', '--sparse=always', image, copy)
        with open(copy, 'rb') as plain:
            data = plain.read()
        with open(copy, 'wb') as shifted:
            shifted.seek(32256)
            shifted.write(data)
        equal(check(copy, '--offset', '32256')[0], 0, 'exit status')
        equal(check(copy)[0], 1, 'exit status without the offset')


def test_usage(cases, image):
    with cases.case('wrong usage and unreadable images exit 2'):
        for arguments in ([], ['--offset', 'x', image], ['--bogus', image], [image + '.not-there'],
                          ['--offset', str(1 << 40), image]):
            done = subprocess.run([commands.NTFS_CHECK, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, timeout=300, check=False)
            equal(done.returncode, 2, f'exit status of {arguments}')


def test_garbage(cases, image, copy, seed):
    """The checker must survive anything: it must not crash (nor be caught by a sanitizer), and it must end."""
    source = random.Random(seed)
    with cases.case(f'random bytes are inconsistent, never a crash (seed {seed})'):
        for size in (0, 100, 512, 4096, 1 << 20):
            with open(copy, 'wb') as garbage:
                garbage.write(source.randbytes(size))
            holds(check(copy)[0] in (1, 2), 'garbage was accepted')
    with cases.case(f'damage anywhere in the metadata never crashes it (seed {seed})'):
        with ntfs.Volume(image) as volume:
            targets = metadata_ranges(volume)
        run('cp', '--sparse=always', image, copy)
        with open(copy, 'r+b', buffering=0) as file:
            for turn in range(120):
                undo = damage(file.fileno(), source, targets)
                status, _, err = check(copy, *source.choice(([], ['--json'], ['--extents'], ['--fragments'])))
                holds(status in (0, 1) and 'runtime error' not in err and 'Sanitizer' not in err,
                      f'turn {turn}: status {status}, {err[-2000:]!r}')
                for at, byte in reversed(undo):
                    os.pwrite(file.fileno(), byte, at)
        equal(check(copy)[:2], (0, ''), 'after undoing all damage')


def damage(fd, source, targets):
    """Changes some bytes of the metadata; returns what they were."""
    undo = []
    for _ in range(source.choice((1, 3, 30, 1000))):
        start, length = source.choice(targets)
        at = start + source.randrange(length)
        if at % 512 >= 510:  # leave the update sequence, or nothing behind it is ever reached
            continue
        undo.append((at, os.pread(fd, 1, at)))
        os.pwrite(fd, bytes([source.choice((0, 1, 0xff, 0x80, source.randrange(256)))]), at)
    return undo


def metadata_ranges(volume):
    cs = volume.cluster_size
    runs = volume.mft_runs + volume.record(5).find(ntfs.INDEX_ALLOCATION, '$I30').runs() + directory(volume)[1].runs()
    record, attribute, _ = listed_file(volume)
    if attribute.nonresident:
        runs += attribute.runs()
    ranges = [(0, 512), (record.volume.log(), 8192)]
    return ranges + [(lcn * cs, length * cs) for _, lcn, length in runs]


def main():
    cases = Cases()
    seed = int(os.environ.get('SEED', random.randrange(1 << 32)))
    with tempfile.TemporaryDirectory(prefix='ntfs-check-') as scratch:
        image, copy = os.path.join(scratch, 'image'), os.path.join(scratch, 'copy')
        make_volume(image)
        with cases.case('a consistent volume is accepted without a word'):
            equal(check(image)[:2], (0, ''), 'result')
        test_mutations(cases, image, copy)
        test_lost_clusters(cases, image, copy)
        test_offset(cases, image, copy)
        test_usage(cases, image)
        test_garbage(cases, image, copy, seed)
    cases.finish()


if __name__ == '__main__':
    main()
