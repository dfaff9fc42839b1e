#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""windows.py makes what it says: each thing that Windows leaves on its volumes is there, or the tests with them prove
nothing."""
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'lib'))

# pylint: disable=wrong-import-position
import ntfs_build as build
import ntfs_image as ntfs
import windows
from ntfs_image import get
from tap import Cases, equal, holds


def make(directory, name):
    done = subprocess.run([os.path.join(HERE, 'make-corpus'), '--only', name, directory], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=600, check=False)
    equal((done.returncode, done.stderr), (0, b''), 'make-corpus: status and errors')
    _, path, offset = done.stdout.decode().split('\t')
    return path, int(offset)


class Contents:
    """All records, in use or not, and all attributes of those that are."""

    def __init__(self, volume):
        self.volume = volume
        self.records = [volume.record(number, torn=True) for number in range(volume.records)]
        self.used = [record for record in self.records if record.in_use()]
        self.attributes = [attribute for record in self.used for attribute in record.attributes()]

    def some(self, kind, name=None, nonresident=None, flags=None, more=lambda attribute: True):
        return [a for a in self.attributes if a.type == kind and name in (None, a.name) and
                nonresident in (None, a.nonresident) and flags in (None, a.get('H', 12)) and more(a)]

    def reparse_tags(self):
        return {get('I', self.volume.attribute_data(a), 0) for a in self.some(build.REPARSE)}


def unit_kinds(attribute):
    """What the units of 16 clusters of a compressed attribute are: stored, nothing, or compressed."""
    real = {}
    for vcn, lcn, length in attribute.runs():
        for at in range(vcn, vcn + length):
            real[at // 16] = real.get(at // 16, 0) + (lcn is not None)
    return {'stored' if count == 16 else 'compressed' if count else 'nothing' for count in real.values()}


def odd_encoding(attribute):
    """Longer than it would have to be."""
    at = attribute.at + attribute.get('H', 32)
    end = at
    while attribute.record.buffer[end]:
        end += 1 + (attribute.record.buffer[end] & 15) + (attribute.record.buffer[end] >> 4)
    return end + 1 - at > len(ntfs.encode_pairs(attribute.runs()))


def things(c):
    """(what, whether it is there)"""
    volume = c.volume
    sparse_stub = lambda a: all(lcn is None for _, lcn, _ in a.runs())
    behind = lambda a: a.get('Q', 40) - a.get('Q', 48) > 2 * volume.cluster_size
    unwritten = lambda a: not a.get('Q', 16) and a.get('Q', 56) < a.get('Q', 48)
    system = {name for record in c.used for a in record.attributes() if a.type == ntfs.FILE_NAME
              for name in [a.value()[66:].decode('utf-16-le')] if name.startswith('$')}
    yield 'the files of $Extend', system >= {'$ObjId', '$Quota', '$Reparse', '$UsnJrnl', '$RmMetadata', '$Repair', '$TxfLog',
                                             '$Txf', '$Tops', '$Deleted'}
    yield '$J with a hole larger than the volume', any(
        a.runs()[0][1] is None and a.runs()[0][2] > volume.clusters for a in c.some(ntfs.DATA, '$J'))
    yield 'named streams of system files', c.some(ntfs.DATA, '$SRAT') and c.some(ntfs.DATA, '$Info')
    yield '$TXF_DATA of the root', c.some(build.LOGGED, '$TXF_DATA')
    yield 'bad clusters', len([r for r in volume.record(8).find(ntfs.DATA, '$Bad').runs() if r[1] is not None]) > 1
    yield 'a large $Secure', c.some(ntfs.DATA, '$SDS', more=lambda a: a.get('Q', 48) > 512 << 10) and \
        c.some(ntfs.INDEX_ALLOCATION, '$SII') and c.some(ntfs.INDEX_ALLOCATION, '$SDH')
    yield 'object ids', len(c.some(build.OBJECT_ID)) > 50
    yield 'reparse points of all tags', c.reparse_tags() >= {windows.TAG_WOF, windows.TAG_DEDUP, windows.TAG_MOUNT_POINT,
                                                            windows.TAG_CLOUD}
    yield 'reparse points in clusters', c.some(build.REPARSE, nonresident=1)
    yield 'WOF: a stream, and a hole for a file', c.some(ntfs.DATA, 'WofCompressedData', flags=build.SPARSE) and \
        c.some(ntfs.DATA, 'WofCompressedData', flags=0) and c.some(ntfs.DATA, '', flags=build.SPARSE, more=sparse_stub)
    yield 'encrypted files', c.some(ntfs.DATA, flags=build.ENCRYPTED) and c.some(ntfs.DATA, flags=build.ENCRYPTED | build.SPARSE)
    yield '$EFS in clusters, and not', c.some(build.LOGGED, '$EFS', 1) and c.some(build.LOGGED, '$EFS', 0)
    yield 'extended attributes in clusters', c.some(build.EA, nonresident=1) and c.some(build.EA_INFORMATION)
    yield 'descriptors in clusters', c.some(build.SECURITY, nonresident=1)
    yield 'clusters behind the end of a file', c.some(ntfs.DATA, '', 1, 0, behind)
    yield 'files that were not written to their end', c.some(ntfs.DATA, '', 1, 0, unwritten)
    yield 'attributes without a cluster', c.some(ntfs.DATA, 'empty', 1)
    yield 'types of its own', c.some(build.PROPERTY_SET) and c.some(0x1000, nonresident=1) and c.some(0x1010, 'named')
    yield 'compression units of all kinds', any(len(unit_kinds(a)) == 3 for a in c.some(ntfs.DATA, flags=build.COMPRESSED)
                                               if not a.get('Q', 16))
    yield 'short names', any(a.value()[65] == build.DOS for a in c.some(ntfs.FILE_NAME))
    yield 'links', any(sum(a.type == ntfs.FILE_NAME for a in record.attributes()) > 4 for record in c.used)
    yield 'full records', any(get('I', record.buffer, 24) == volume.record_size for record in c.used)
    yield 'attribute lists', c.some(ntfs.LIST)
    yield 'sequence numbers above 1', any(record.sequence() > 1 for record in c.used[24:])
    yield 'records that were never used', any(not any(record.buffer) for record in c.records)
    yield 'stale attributes in free records', any(
        not record.in_use() and record.buffer[:4] == b'FILE' and get('I', record.buffer, 24) > 300 for record in c.records)
    yield 'run lists longer than they must be', sum(odd_encoding(a) for a in c.attributes if a.nonresident) > 20
    yield 'the flag that Windows sets', get('H', volume.record(3).find(ntfs.VOLUME_INFO).value(), 10) & 0x80
    yield 'a log with pages', volume.read_at(volume.log(), 4) == b'RSTR' and volume.read_at(volume.log() + 8192, 4) == b'RCRD'


def main():
    cases = Cases()
    with tempfile.TemporaryDirectory(prefix='ntfs-windows-') as scratch:
        path, offset = make(scratch, 'windows-7')
        with ntfs.Volume(path, offset) as volume:
            for what, found in things(Contents(volume)):
                with cases.case(f'there are {what}'):
                    holds(found, 'there are none')
        path, offset = make(scratch, 'windows-mft')
        with cases.case('$MFT has a list, and an extension in record 15'), ntfs.Volume(path, offset) as volume:
            holds(volume.record(0).find(ntfs.LIST), 'no list')
            equal(get('Q', volume.record(15).buffer, 32), volume.record(0).reference(), 'the base of record 15')
    cases.finish()


if __name__ == '__main__':
    main()
