# SPDX-License-Identifier: GPL-2.0-or-later
"""What make-corpus and make-refused share: volumes, disks that hold them, and the command line.

A case is a function that is given a Maker and makes image files. Volumes are made as files of their own and then put
into a disk behind its partition table; both are sparse."""
import argparse
import binascii
import concurrent.futures
import os
import random
import struct
import subprocess
import sys
import tempfile
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'lib'))

# pylint: disable=wrong-import-position
from guest import ntfs_mounted, run

MIB = 1 << 20
SECTOR = 512
NTFS_GUID = 'EBD0A0A2-B9E5-4433-87C0-68B6B72699C7'  # basic data


def tool(name):
    """A tool of the build: from the variable that names it (NTFS_CHECK, ...), else from PATH."""
    return os.environ.get(name.upper().replace('-', '_'), name)


def put_volume(volume, disk, offset):
    """Copies a volume into a disk, without making data of its holes."""
    size = os.path.getsize(volume)
    with open(volume, 'rb') as source, open(disk, 'r+b') as target:
        position = 0
        while position < size:
            try:
                position = os.lseek(source.fileno(), position, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(source.fileno(), position, os.SEEK_HOLE)
            while position < end:
                data = os.pread(source.fileno(), min(MIB, end - position), position)
                os.pwrite(target.fileno(), data, offset + position)
                position += len(data)


class Maker:
    """Makes the images of one case; remembers them with what is to be printed of them."""

    def __init__(self, directory, scratch):
        self.directory, self.scratch = directory, scratch
        self.made = []  # (name, path, what else)

    def volume(self, mib=32, *options, start=0, sectors=None, name='volume'):
        """An empty NTFS volume of mib MiB or so many sectors, in a file of its own; start is its partition's sector."""
        path = os.path.join(self.scratch, name)
        with open(path, 'wb') as new:
            new.truncate(sectors * SECTOR if sectors else mib * MIB)
        run('mkntfs', '--quiet', '--force', '--fast', '--partition-start', str(start), '--heads', '255',
            '--sectors-per-track', '63', *options, path)
        return path

    def populate(self, volume, *options):
        run(tool('ntfs-populate'), '--quiet', *options, volume)
        return volume

    def odd(self, volume, *options):
        run(tool('ntfs-odd'), *options, volume)
        return volume

    def everything(self, volume, scale=1, *options):
        """Files of all kinds; scale makes more or fewer of them."""
        count = lambda number: str(max(1, int(number * scale)))
        return self.populate(volume, '--files', count(120), '--file-size', '1K..120K', '--dirs', '4', '--tiny', count(60),
                             '--streams', count(20), '--sparse', count(8), '--compressed', count(12), '--links', count(10),
                             '--names', count(60), '--delete-every', '6', '--spare', '24', *options)

    def scatter(self, volume, *options):
        run(tool('ntfs-scatter'), '--quiet', *options, volume)
        return volume

    def image(self, name):
        return os.path.join(self.directory, name + '.img')

    def bare(self, name, volume, *more):
        """A volume becomes an image, without a partition table."""
        path = self.image(name)
        os.replace(volume, path) if os.stat(volume).st_dev == os.stat(self.directory).st_dev else run(
            'cp', '--sparse=always', volume, path)
        self.made.append((name, path, *(more or ('0',))))
        return path

    def disk(self, name, table, volumes, *more, mib=None):
        """A disk with the partition table that sfdisk makes of @table, and volumes as {sector: file}."""
        path = self.image(name)
        end = max((start * SECTOR + os.path.getsize(file) for start, file in volumes.items()), default=0)
        with open(path, 'wb') as new:
            new.truncate(mib * MIB if mib else -(-end // MIB) * MIB + MIB)
        done = subprocess.run(['sfdisk', '--quiet', '--no-reread', '--no-tell-kernel', '--wipe', 'never', path],
                              input=table.encode(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            raise RuntimeError(f'sfdisk: {done.stdout.decode(errors="replace")}')
        for start, file in volumes.items():
            put_volume(file, path, start * SECTOR)
            os.unlink(file)
        self.made.append((name, path, *(more or (','.join(str(start * SECTOR) for start in sorted(volumes)),))))
        return path

    def mbr_disk(self, name, volume, *more, start=2048, kind='7'):
        sectors = os.path.getsize(volume) // SECTOR
        return self.disk(name, f'label: dos\nstart={start}, size={sectors}, type={kind}\n', {start: volume}, *more)

    def gpt_disk(self, name, volume, *more, kind=NTFS_GUID):
        sectors = os.path.getsize(volume) // SECTOR
        return self.disk(name, f'label: gpt\nstart=2048, size={sectors}, type={kind}\n', {2048: volume}, *more)


def gpt_table(sector, sectors, partitions):
    """{sector number: bytes} of a GPT with 128 entries, for sector sizes that sfdisk does not do in image files.
    Partitions are (type GUID, first, last)."""
    entries = bytearray(128 * 128)
    for number, (kind, first, last) in enumerate(partitions):
        struct.pack_into('<16s16sQQQ72s', entries, number * 128, uuid.UUID(kind).bytes_le,
                         uuid.uuid5(uuid.NAMESPACE_OID, str(number)).bytes_le, first, last, 0, 'data'.encode('utf-16-le'))
    span = -(-len(entries) // sector)

    def header(here, other, table):
        fields = lambda checksum: struct.pack('<8sIIIIQQQQ16sQIII', b'EFI PART', 0x10000, 92, checksum, 0, here, other,
                                              2 + span, sectors - span - 2, uuid.NAMESPACE_OID.bytes_le, table, 128, 128,
                                              binascii.crc32(entries))
        return fields(binascii.crc32(fields(0)))

    protective = bytearray(512)
    struct.pack_into('<B3sB3sII', protective, 446, 0, b'\0\2\0', 0xee, b'\xff\xff\xff', 1, min(sectors - 1, 0xffffffff))
    protective[510:] = b'\x55\xaa'
    return {0: bytes(protective), 1: header(1, sectors - 1, 2), 2: bytes(entries),
            sectors - 1 - span: bytes(entries), sectors - 1: header(sectors - 1, 1, sectors - 1 - span)}


def fragment_for_real(root, seed, files=4, rounds=1500, chunk=4096):
    """Through a mount: small files come and go while a few large files are appended to in turn, so that these end in many
    pieces, as on a disk that has been in use."""
    source = random.Random(seed)
    os.mkdir(os.path.join(root, 'in use'))
    large = [open(os.path.join(root, f'large{i}.dat'), 'xb', buffering=0) for i in range(files)]
    small = []
    try:
        for turn in range(rounds):
            large[turn % files].write(source.randbytes(chunk + source.randrange(chunk)))
            path = os.path.join(root, 'in use', f'small{turn:05}')
            with open(path, 'xb', buffering=0) as file:
                file.write(source.randbytes(source.randrange(1, 2 * chunk)))
            small.append(path)
            if turn % 3 == 2:
                os.unlink(small.pop(source.randrange(len(small))))
    finally:
        for file in large:
            file.close()
    for path in small[::2]:
        os.unlink(path)
    for i in range(files):
        with open(os.path.join(root, f'large{i}.dat'), 'ab', buffering=0) as file:
            for _ in range(rounds // files // 4):
                file.write(source.randbytes(chunk))


def mounted(volume, options='rw'):
    return ntfs_mounted(volume, options)


def make(directory, name, function):
    with tempfile.TemporaryDirectory(prefix='.' + name + '-', dir=directory) as scratch:
        maker = Maker(directory, scratch)
        function(maker)
        return maker.made


def main(description, cases, big=()):
    """Runs the cases that the command line asks for; prints a line for each image, tab-separated."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('directory', help='where the images go')
    parser.add_argument('--only', action='append', metavar='CASE', help='only this case (can be repeated)')
    parser.add_argument('--list', action='store_true', help='print the names of the cases and make nothing')
    parser.add_argument('--jobs', type=int, default=os.cpu_count())
    if big:
        parser.add_argument('--big', action='store_true', help='also the large cases')
    arguments = parser.parse_args()
    chosen = dict(cases)
    if big and (arguments.big or arguments.only):
        chosen.update(big)
    if arguments.only:
        unknown = [name for name in arguments.only if name not in chosen]
        if unknown:
            parser.error('no such case: ' + ', '.join(unknown))
        chosen = {name: chosen[name] for name in arguments.only}
    if arguments.list:
        print('\n'.join(chosen))
        return
    os.makedirs(arguments.directory, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        jobs = [pool.submit(make, arguments.directory, name, function) for name, function in chosen.items()]
        failed = False
        for name, job in zip(chosen, jobs):
            try:
                for line in job.result():
                    print('\t'.join(line), flush=True)
            except Exception as error:  # a case that cannot be made must not hide the others
                print(f'{name}: {error}', file=sys.stderr)
                failed = True
    sys.exit(1 if failed else 0)
