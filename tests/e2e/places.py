# SPDX-License-Identifier: GPL-2.0-or-later
"""What something outside of NTFS finds by its place keeps it, however much is moved: what the boot sector leads to, boot
loaders, bad clusters, what is left of shadow copies, clusters that are marked and nobody's."""
import os
import sys
import uuid

from commands import DONE, MAKERS, NTFS_POPULATE, NTFS_SCATTER, attribute_runs, check_ntfs, defrag, lost_clusters, \
    unmount_on_termination, workspace
from guest import ntfs_mounted, run
from host import write_view
from tap import Cases, equal, holds

sys.path.insert(0, MAKERS)

# pylint: disable=wrong-import-position,wrong-import-order
import ntfs_build
import ntfs_image as ntfs
import windows

HIDDEN_SYSTEM = (6).to_bytes(4, 'big')
CATALOG = '{3808876b-c176-4e48-b7ae-04046e6cc752}'
STORE = '{%s}%s' % (uuid.UUID(int=7), CATALOG.upper())
STAY = ['bootmgr', 'blocks.lst', f'System Volume Information/{CATALOG}', f'System Volume Information/{STORE}']
MOVE = ['pagefile.sys', 'ordinary', 'ntldr']  # the last one because it is in pieces
MANY_NAMES = ['grldr', f'System Volume Information/{{a}}{CATALOG}']  # the last of their names, and not in their first record
RUNS, SIZE = 5, 20000


def make_volume(path):
    """Files at the end of what is in use, where --pack would not leave them."""
    run('truncate', '--size=48M', path)
    run('mkntfs', '--quiet', '--force', '--fast', path)
    run(NTFS_POPULATE, '--quiet', '--files', '300', '--file-size', '3K..60K', '--delete-every', '2', '--streams', '20', path)
    run(NTFS_SCATTER, '--quiet', '--max-run', '3', '--free-pieces', '1', path)
    with ntfs_mounted(path, 'rw') as root:
        os.mkdir(os.path.join(root, 'System Volume Information'))
        for name in STAY + MOVE:
            with open(os.path.join(root, name), 'xb') as file:
                file.write(os.path.basename(name).encode() * SIZE)
        for name in ('blocks.lst', 'pagefile.sys'):
            os.setxattr(os.path.join(root, name), 'system.ntfs_attrib_be', HIDDEN_SYSTEM)
        numbers = {name: make_many_names(root, name) for name in MANY_NAMES}
    with ntfs.Volume(path) as volume:
        builder = ntfs_build.Builder(volume)
        records = {name: next(r.number for r in volume.base_records() if name_of(r) == os.path.basename(name))
                   for name in STAY + MOVE}
        for name in STAY + MOVE:
            place(builder, records[name], pieces=4 if name == 'ntldr' else 1)
        windows.bad_clusters(builder)
        builder.take(RUNS, longest=1)  # marked, and nobody's
        builder.close()
        for number in numbers.values():
            holds(volume.record(number).find(ntfs.LIST), f'record {number} has all its names')
    return records | numbers


def make_many_names(root, name):
    """Returns the number of the file's record. What is linked first has the first record."""
    first = os.path.join(root, os.path.basename(name) + '-0')
    with open(first, 'xb') as file:
        file.write(b'many names' * SIZE)
    for number in range(1, 12):
        os.link(first, os.path.join(root, f'{os.path.basename(name)}-{number}-{"x" * 100}'))
    os.link(first, os.path.join(root, name))
    return os.stat(first).st_ino


def name_of(record):
    name = record.find(ntfs.FILE_NAME)
    return name.value()[66:].decode('utf-16-le') if name else ''


def place(builder, number, pieces):
    """Puts a file's clusters into so many pieces."""
    record = builder.volume.record(number)
    data = record.find(ntfs.DATA)
    content, size = builder.volume.attribute_data(data), sum(length for _, _, length in data.runs())
    builder.mark(data.runs(), False)
    runs, step = [], -(-size // pieces)
    for _ in range(1000):
        builder.mark(runs, False)
        runs = []
        for vcn in range(0, size, step):
            runs += builder.take(min(step, size - vcn), vcn=vcn)
        if len(runs) == pieces:
            break
    holds(len(runs) == pieces, f'the volume has no room for {pieces} pieces')
    builder.volume.write_runs(runs, 0, content)
    ntfs_build.replace(record, data, ntfs_build.nonresident(builder.volume.cluster_size, ntfs.DATA, runs, data=len(content)))
    record.save()


class Places:
    def __init__(self, image, directory):
        view = os.path.join(directory, 'view')
        write_view(image, view)
        self.findings, self.runs, self.lost = check_ntfs(view), attribute_runs(view), lost_clusters(view)
        with open(view, 'rb') as file:
            self.boot = file.read(8192)
        os.unlink(view)

    def data(self, record, name='-'):
        return self.runs[record, '0x80', name]


def prove_places(cases, image, records, directory, options):
    before = Places(image, directory)
    what = 'with ' + ' '.join(options) if options else 'by default'
    with cases.case(f'{what}: the volume is changed, and in order'):
        equal(defrag(*options, image).status, DONE, 'the exit status')
        holds(os.path.isdir(image), 'nothing was done')
        equal(Places(image, directory).findings, '', 'what ntfs-check finds')
    after = Places(image, directory)
    with cases.case(f'{what}: $Boot with all that is in it, $MFTMirr, the first cluster of $MFT stay'):
        equal(after.boot, before.boot, 'the first 8 KiB')
        for record in (1, 7):
            equal(after.data(record), before.data(record), f'record {record}')
        equal(after.data(0)[0][:2], before.data(0)[0][:2], 'where $MFT begins')
    with cases.case(f'{what}: bad clusters, and clusters that are marked and nobody\'s, stay'):
        equal(after.data(8, '$Bad'), before.data(8, '$Bad'), 'bad clusters')
        holds(len(before.lost) > 1, 'there are no lost clusters')
        equal(after.lost, before.lost, 'lost clusters')
    for name in STAY + MANY_NAMES:
        with cases.case(f'{what}: {name} stays'):
            equal(after.data(records[name]), before.data(records[name]), 'its runs')
    with cases.case(f'{what}: a boot loader in pieces does not stay so'):
        equal((len(before.data(records['ntldr'])), len(after.data(records['ntldr']))), (4, 1), 'its pieces')
    if '--pack' in options:
        with cases.case(f'{what}: what is opened by its path moves like anything else'):
            for name in MOVE:
                holds(after.data(records[name]) != before.data(records[name]), f'{name} has stayed')


def main():
    unmount_on_termination()
    cases = Cases()
    with workspace() as directory:
        for number, options in enumerate(([], ['--pack'])):
            store = os.path.join(directory, f'store{number}')
            os.mkdir(store)
            image = os.path.join(store, 'disk.img')
            prove_places(cases, image, make_volume(image), directory, options)
    cases.finish()


main()
