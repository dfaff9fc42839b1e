#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What ntfs-populate and ntfs-scatter make are volumes as they should be: consistent, read identically by readers that
share no code before and after, as fragmented as asked for, and still good for writing to by ntfs-3g."""
import os
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))

# pylint: disable=wrong-import-position
import commands
from guest import ntfs_mounted, run
from tap import Cases, Skip, equal, holds

GEOMETRIES = [(), ('--cluster-size', '512'), ('--cluster-size', '1024'), ('--cluster-size', '65536'),
              ('--sector-size', '4096')]
EVERYTHING = ('--files', '150', '--dirs', '4', '--file-size', '0..150K', '--tiny', '50', '--streams', '20', '--sparse', '8',
              '--compressed', '15', '--links', '20', '--names', '60', '--delete-every', '5', '--spare', '60')


def make(image, mebibytes, geometry, *content):
    with open(image, 'wb') as new:
        new.truncate(mebibytes << 20)
    run('mkntfs', '--quiet', '--force', '--fast', *geometry, image)
    if content:
        run(commands.NTFS_POPULATE, '--quiet', *content, image)


def hashes(image):
    return sorted(run(os.environ.get('NTFS_HASH', 'ntfs-hash'), image).splitlines())


def consistent(image, what):
    equal(commands.check_ntfs(image), '', f'findings {what}')


def fragments(image, record_type):
    """{record: fragments} of the attributes of a type."""
    lines = [line.split() for line in run(commands.NTFS_CHECK, '--fragments', image).splitlines()]
    return {int(line[0]): int(line[3]) for line in lines if line[0] != 'total' and int(line[1], 16) == record_type}


def test_geometry(cases, image, geometry):
    name = ' '.join(geometry) or 'default geometry'
    with cases.case(f'{name}: populated and scattered again and again, a volume stays consistent and reads the same'):
        make(image, 64, geometry, *EVERYTHING)
        consistent(image, 'after populating')
        before = hashes(image)
        holds(len(before) > 250, f'only {len(before)} files and streams')
        for number, options in enumerate([(), ('--what', 'all', '--max-run', '8'), ('--what', 'all', '--max-run', '2'),
                                          ('--what', 'all', '--min-run', '30', '--max-run', '90', '--poison')]):
            run(commands.NTFS_SCATTER, '--quiet', '--seed', str(number), *options, image)
            consistent(image, f'after scattering with {options}')
            equal(hashes(image), before, f'hashes after scattering with {options}')


def test_writing(cases, image):
    with cases.case('ntfs-3g can go on writing to a scattered volume'):
        if not os.path.exists('/dev/fuse') or os.geteuid():
            raise Skip('no FUSE mounts for this user')
        make(image, 64, ('--cluster-size', '1024'), *EVERYTHING)
        run(commands.NTFS_SCATTER, '--quiet', '--what', 'all', '--max-run', '2', image)
        with ntfs_mounted(image, 'rw') as root:
            for directory, _, names in os.walk(root):
                for number, name in enumerate(sorted(names)):
                    path = os.path.join(directory, name)
                    if number % 3 == 0:
                        os.unlink(path)
                    elif number % 3 == 1:
                        with open(path, 'ab') as file:
                            file.write(b'more' * 3000)
                    else:
                        os.truncate(path, os.path.getsize(path) // 2)
            for number in range(300):
                with open(os.path.join(root, f'new{number}'), 'xb') as file:
                    file.write(b'%d' % number * 1000)
        consistent(image, 'after writing')


def test_counts(cases, image):
    with cases.case('--fragments N makes N fragments, with attribute lists where they do not fit'):
        make(image, 64, (), '--files', '1', '--file-size', '40M')
        run(commands.NTFS_SCATTER, '--quiet', '--fragments', '9000', '--what', 'data', image)
        consistent(image, 'after scattering')
        found = max(fragments(image, 0x80).values())
        holds(9000 <= found <= 9010, f'{found} fragments')
        holds(fragments(image, 0x20), 'no attribute list that is non-resident')


def test_mft(cases, image):
    with cases.case('$MFT in hundreds of pieces still mounts, its first records being where they were'):
        make(image, 48, ('--cluster-size', '1024'), '--files', '3000', '--file-size', '0..1000', '--dirs', '5', '--spare', '80')
        before = hashes(image)
        run(commands.NTFS_SCATTER, '--quiet', '--what', 'mft,mftbmp', '--max-run', '3', image)
        consistent(image, 'after scattering')
        holds(fragments(image, 0x80)[0] > 800, 'too few fragments')
        equal(hashes(image), before, 'hashes')


def test_full(cases, image):
    with cases.case('a volume filled to the last cluster can be scattered, too'):
        make(image, 48, (), *EVERYTHING)
        run(commands.NTFS_POPULATE, '--quiet', '--seed', '2', '--fill', image)
        consistent(image, 'after filling')
        said = run(commands.NTFS_POPULATE, '--seed', '2', '--fill', image)
        holds(' 0 clusters free' in said, said)
        before = hashes(image)
        run(commands.NTFS_SCATTER, '--quiet', '--what', 'data,streams,dirs,mft', '--min-run', '2', '--max-run', '40', image)
        consistent(image, 'after scattering')
        equal(hashes(image), before, 'hashes')


def test_determinism(cases, image):
    with cases.case('the same seed gives the same names and contents'):
        found = []
        for _ in range(2):
            make(image, 48, (), *EVERYTHING, '--seed', '7')
            found.append(hashes(image))
        equal(found[0], found[1], 'hashes')


def main():
    cases = Cases()
    with tempfile.TemporaryDirectory(prefix='ntfs-generators-') as scratch:
        image = os.path.join(scratch, 'image')
        for geometry in GEOMETRIES:
            test_geometry(cases, image, geometry)
        test_writing(cases, image)
        test_counts(cases, image)
        test_mft(cases, image)
        test_full(cases, image)
        test_determinism(cases, image)
    cases.finish()


if __name__ == '__main__':
    main()
