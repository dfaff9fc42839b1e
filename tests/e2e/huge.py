# SPDX-License-Identifier: GPL-2.0-or-later
"""A volume of nearly 16 TiB, as large as a file of ext4 can be: a pass costs what its metadata costs. The image is sparse, so what
is not data is never read. With CLUSTER_SIZE=4096 in the environment instead of 65536, $Bitmap is 500 MiB long, and this test
takes a minute."""
import hashlib
import os

from commands import NTFS_POPULATE, NTFS_SCATTER, ZCFS, attribute_runs, check_ntfs, defrag_report, unmount_on_termination, \
    workspace
from guest import hash_files_through_driver, run
from host import data_path, read_extents, store_mounted
from proof import actual_mapping, cluster_size, prove_mapping
from tap import Cases, equal, holds

SIZE = 15900 << 30
CLUSTER_SIZE = os.environ.get('CLUSTER_SIZE', '65536')


def data_digest(path):
    """SHA-256 of what is not zero in a file, and where it is."""
    found, size = hashlib.sha256(), os.path.getsize(path)
    with open(path, 'rb') as file:
        off = 0
        while off < size:
            try:
                start = os.lseek(file.fileno(), off, os.SEEK_DATA)
            except OSError:
                break
            off = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            while start < off:
                piece = os.pread(file.fileno(), min(1 << 20, off - start), start)
                if piece.count(0) != len(piece):
                    found.update(b'%d:' % start)
                    found.update(piece)
                start += len(piece)
    return found.hexdigest()


class Look:
    """What the checker and ntfs-3g see through the mount."""
    def __init__(self, store, point):
        name = os.listdir(store)[0]
        extents = read_extents(os.path.join(store, name))
        with store_mounted(ZCFS, store, point):
            view = os.path.join(point, name)
            self.findings = check_ntfs(view)
            self.mapping = actual_mapping(attribute_runs(view), extents, 0, cluster_size(view, 0))
            self.files = hash_files_through_driver(view)


def make(image):
    with open(image, 'xb') as file:
        file.truncate(SIZE)
    run('mkntfs', '--quiet', '--force', '--fast', '--cluster-size', CLUSTER_SIZE, image)
    run(NTFS_POPULATE, '--quiet', '--files', '150', '--file-size', '1K..2M', '--dirs', '5', '--streams', '20', '--tiny', '50',
        image)
    run(NTFS_SCATTER, '--quiet', '--fragments', '1500', '--what', 'all', image)


def main():
    unmount_on_termination()
    cases = Cases()
    with workspace() as directory:
        store, point = os.path.join(directory, 'store'), os.path.join(directory, 'mount')
        image = os.path.join(store, 'a.img')
        os.mkdir(store)
        os.mkdir(point)
        make(image)
        before, original = Look(store, point), data_digest(image)
        with cases.case('a volume of 15.5 TiB is defragmented'):
            report = defrag_report(image)
            volume = report['volumes'][0]
            holds(volume['fragments']['before'] > 5 * volume['fragments']['after'], f'fragments: {volume["fragments"]}')
        after = Look(store, point)
        with cases.case('consistent before and afterwards'):
            equal((before.findings, after.findings), ('', ''), 'what ntfs-check finds')
        with cases.case('every cluster of every attribute at the host byte where it was'):
            prove_mapping(before.mapping, after.mapping)
        with cases.case(f'{len(before.files)} files and streams the same through ntfs-3g'):
            equal(after.files, before.files, 'what ntfs-3g reads')
        with cases.case('--undo brings back every byte'):
            defrag_report('--undo', image)
            equal(read_extents(image), [(0, SIZE, 0)], 'the map')
            equal(data_digest(data_path(image)), original, 'the data')
    cases.finish()


main()
