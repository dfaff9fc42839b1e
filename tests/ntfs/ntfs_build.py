# SPDX-License-Identifier: GPL-2.0-or-later
"""Building NTFS structures byte by byte, from the on-disk format alone: attributes, records, B-trees, files. What libntfs-3g
would write is not what Windows writes, so none of it is asked.

A Builder works on a volume that is in order and has free clusters and free MFT records; close() writes its bitmaps and the
directories that have got new names."""
import random
import struct

import ntfs_image as ntfs
from ntfs_image import get, put

OBJECT_ID, SECURITY, REPARSE, EA_INFORMATION, EA, PROPERTY_SET, LOGGED = 0x40, 0x50, 0xc0, 0xd0, 0xe0, 0xf0, 0x100
SPARSE, ENCRYPTED, COMPRESSED = 0x8000, 0x4000, 0x0001
COLLATE_NAME, COLLATE_ULONG, COLLATE_HASH, COLLATE_ULONGS = 1, 0x10, 0x12, 0x13
POSIX, WIN32, DOS, WIN32_DOS = range(4)
FILETIME = 0x01d5000000000000  # in 2019
ROOT, EXTEND = 5, 11


class NoRoom(Exception):
    """A record that has no room for another attribute."""


def align8(value):
    return value + 7 & ~7


def pack(fmt, *values):
    return struct.pack('<' + fmt, *values)


# Attributes

def resident(kind, value, name='', flags=0, indexed=0):
    text = name.encode('utf-16-le')
    value_at = align8(24 + len(text))
    header = pack('IIBBHHHIHBB', kind, align8(value_at + len(value)), 0, len(name), 24, flags, 0, len(value), value_at, indexed, 0)
    return (header + text).ljust(value_at, b'\0') + bytes(value) + bytes(align8(len(value)) - len(value))


def nonresident(cluster_size, kind, runs, name='', flags=0, unit=0, data=None, initialised=None):
    """runs begin at the lowest VCN; only the extent at VCN 0 has sizes."""
    text, pairs = name.encode('utf-16-le'), ntfs.encode_pairs(runs)
    lowest = runs[0][0] if runs else 0
    clusters = sum(length for _, _, length in runs)
    full = flags & (SPARSE | 0xff) and not lowest
    name_at = 72 if full else 64
    pairs_at = align8(name_at + len(text))
    sizes = (0, 0, 0)
    if not lowest:
        data = clusters * cluster_size if data is None else data
        sizes = (clusters * cluster_size, data, data if initialised is None else initialised)
    out = pack('IIBBHHHQQHB5xQQQ', kind, align8(pairs_at + len(pairs)), 1, len(name), name_at, flags, 0, lowest,
               lowest + clusters - 1 & (1 << 64) - 1, pairs_at, unit, *sizes)
    if full:
        out += pack('Q', sum(length for _, lcn, length in runs if lcn is not None) * cluster_size)
    return (out + text).ljust(pairs_at, b'\0') + pairs + bytes(align8(pairs_at + len(pairs)) - pairs_at - len(pairs))


def insert(record, attribute):
    """Puts an attribute where it belongs in its record, with an instance number of its own."""
    buffer, attribute = record.buffer, bytearray(attribute)
    used = get('I', buffer, 24)
    if used + len(attribute) > len(buffer):
        raise NoRoom(f'record {record.number}')
    number = get('H', buffer, 40)
    put('H', attribute, 14, number)
    put('H', buffer, 40, number + 1)
    name_at = get('H', attribute, 10)
    key = lambda kind, name: (kind, record.volume.upper(name), name)
    mine = key(get('I', attribute, 0), attribute[name_at:name_at + 2 * attribute[9]].decode('utf-16-le'))
    at = next((other.at for other in record.attributes() if key(other.type, other.name) > mine), used - 8)
    buffer[at + len(attribute):used + len(attribute)] = buffer[at:used]
    buffer[at:at + len(attribute)] = attribute
    put('I', buffer, 24, used + len(attribute))


def replace(record, attribute, *new):
    """Puts others in an attribute's place."""
    before, instance = bytes(record.buffer), attribute.get('H', 14)
    record.remove(attribute)
    try:
        for one in new:
            insert(record, one)
    except NoRoom:
        record.buffer[:] = before
        raise
    return instance


def information(attributes=0x20, security_id=0x100, usn=0):
    return resident(ntfs.SI, pack('QQQQIIIIIIQQ', FILETIME, FILETIME, FILETIME, FILETIME, attributes, 0, 0, 0, 0, security_id,
                                  0, usn))


def file_name(parent, name, space, attributes=0x20, size=0):
    """The sizes in it are those of some day, as those that Windows keeps."""
    text = name.encode('utf-16-le')
    return pack('QQQQQQQIIBB', parent, FILETIME, FILETIME, FILETIME, FILETIME, align8(size), size, attributes, 0,
                len(text) // 2, space) + text


# Index entries: (sorting key, bytes without a child)

def directory_entry(volume, reference, name_value):
    body = pack('QHHHH', reference, 0, len(name_value), 0, 0) + name_value
    return finish_entry((volume.upper(name_value[66:].decode('utf-16-le', 'surrogatepass')), name_value[66:]), body)


def view_entry(sort_key, key, data):
    body = pack('HHIHHHH', 16 + len(key), len(data), 0, 0, len(key), 0, 0) + key + data
    return finish_entry(sort_key, body)


def finish_entry(sort_key, body):
    body = bytearray(body.ljust(align8(len(body)), b'\0'))
    put('H', body, 8, len(body))
    return sort_key, bytes(body)


def with_child(body, vcn):
    body = bytearray(body + pack('Q', vcn))
    put('H', body, 8, len(body))
    put('H', body, 12, get('H', body, 12) | 1)
    return bytes(body)


def end_entry(child=None):
    entry = pack('QHHHH', 0, 16, 0, 2, 0)
    return entry if child is None else with_child(entry, child)


class Tree:
    """A B-tree with blocks as full as they get; the root keeps what separates them."""

    def __init__(self, volume, block, entries, root_room):
        self.volume, self.block, self.blocks = volume, block, []
        self.unit = min(volume.cluster_size, block) if block >= volume.cluster_size else ntfs.STRIDE
        self.per_block = block // self.unit
        level, last = [(body, None) for _, body in sorted(entries)], None
        while sum(len(self.body(entry)) for entry in level) + 24 > root_room:
            level, last = self.divide(level, last)
        self.root = b''.join(map(self.body, level)) + end_entry(last)
        self.large = bool(self.blocks)

    @staticmethod
    def body(entry):
        return entry[0] if entry[1] is None else with_child(*entry)

    def divide(self, level, last):
        """Makes blocks of a level; what lies between two blocks goes up."""
        sizes = [len(self.body(entry)) for entry in level]
        room = self.block - 24 - align8(16 + 2 * (self.block // ntfs.STRIDE + 1)) - 24 - max(sizes)  # for the last one
        above, here, used = [], [], 0
        for number, entry in enumerate(level):
            if used + sizes[number] > room and number < len(level) - 1:
                above.append((entry[0], self.add_block(here, entry[1])))
                here, used = [], 0
            else:
                here.append(entry)
                used += sizes[number]
        return above, self.add_block(here, last)

    def add_block(self, entries, last):
        """A block of entries; last is the child behind all of them. Returns its VCN."""
        count = self.block // ntfs.STRIDE + 1
        vcn = len(self.blocks) * self.per_block
        first = align8(16 + 2 * count)
        body = b''.join(map(self.body, entries)) + end_entry(last)
        block = bytearray(self.block)
        struct.pack_into('<4sHHQQIIII', block, 0, b'INDX', 40, count, 0, vcn, first, first + len(body), self.block - 24,
                         int(last is not None))
        block[24 + first:24 + first + len(body)] = body
        ntfs.fixup_write(block)
        self.blocks.append(bytes(block))
        return vcn

    def root_value(self, kind, collation):
        length = 16 + len(self.root)
        return pack('IIIB3xIIII', kind, collation, self.block, self.per_block, 16, length, length, int(self.large)) + self.root


class Builder:
    def __init__(self, volume, seed=1):
        self.volume, self.source = volume, random.Random(seed)
        self.bitmap_runs = volume.attribute_runs(6, ntfs.DATA)
        self.bits = bytearray(volume.read_runs(self.bitmap_runs, 0, -(-volume.clusters // 8)))
        self.names = {}  # directory -> entries to come
        table = volume.attribute_data(volume.record(10).find(ntfs.DATA))
        self.upcase = struct.unpack('<65536H', table)
        volume.upper = self.upper
        self.next_record = 24

    def upper(self, name):
        units = name.encode('utf-16-le', 'surrogatepass')
        return [self.upcase[get('H', units, at)] for at in range(0, len(units), 2)]

    def close(self):
        for directory, entries in self.names.items():
            record = self.volume.record(directory)
            self.put_index(record, '$I30', ntfs.FILE_NAME, COLLATE_NAME, self.index_entries(record, '$I30') + entries)
            record.save()
        self.volume.write_runs(self.bitmap_runs, 0, self.bits)

    # Clusters

    def is_free(self, lcn):
        return not self.bits[lcn // 8] >> lcn % 8 & 1

    def mark(self, runs, used=True):
        for _, lcn, length in runs:
            for at in range(lcn, lcn + length) if lcn is not None else ():
                self.bits[at // 8] = self.bits[at // 8] & ~(1 << at % 8) | used << at % 8

    def take(self, count, longest=1 << 20, vcn=0):
        """Free clusters, from a place of chance on, in runs that are no longer than that."""
        runs, lcn, first = [], self.source.randrange(self.volume.clusters // 2), vcn
        for _ in range(2 * self.volume.clusters):
            if vcn - first == count:
                break
            lcn = (lcn + 1) % self.volume.clusters
            if not self.is_free(lcn):
                continue
            if runs and runs[-1][1] + runs[-1][2] == lcn and runs[-1][2] < longest:
                runs[-1] = (runs[-1][0], runs[-1][1], runs[-1][2] + 1)
            else:
                lcn += longest < 1 << 20 and lcn + 1 < self.volume.clusters and self.is_free(lcn + 1)
                runs.append((vcn, lcn, 1))
            self.mark([(0, lcn, 1)])
            vcn += 1
        else:
            raise LookupError('the volume is full')
        return runs

    def stored(self, data, longest=1 << 20):
        """Runs of new clusters with that in them."""
        runs = self.take(-(-len(data) // self.volume.cluster_size), longest)
        self.volume.write_runs(runs, 0, data)
        return runs

    def nonresident(self, kind, data, name='', longest=1 << 20, **more):
        return nonresident(self.volume.cluster_size, kind, self.stored(data, longest), name, data=len(data), **more)

    # Indexes

    def index_entries(self, record, name):
        """All entries of a B-tree, without children, in no order that counts."""
        root = record.find(ntfs.INDEX_ROOT, name).value()
        found = self.node_entries(root, 16)
        allocation, bitmap = record.find(ntfs.INDEX_ALLOCATION, name), record.find(ntfs.BITMAP, name)
        if allocation:
            block, bits = get('I', root, 8), self.volume.attribute_data(bitmap)
            data = self.volume.read_runs(allocation.runs(), 0, allocation.get('Q', 48))
            for number in range(len(data) // block):
                if bits[number // 8] >> number % 8 & 1:
                    one = bytearray(data[number * block:(number + 1) * block])
                    ntfs.fixup_read(one)
                    found += self.node_entries(one, 24)
        return found

    def node_entries(self, node, header):
        at, found = header + get('I', node, header), []
        while not get('H', node, at + 12) & 2:
            length, child = get('H', node, at + 8), get('H', node, at + 12) & 1
            body = bytearray(node[at:at + length - 8 * child])
            put('H', body, 8, len(body))
            put('H', body, 12, 0)
            name = bytes(body[16 + 66:16 + get('H', body, 10)])
            found.append(((self.upper(name.decode('utf-16-le', 'surrogatepass')), name), bytes(body)))
            at += length
        return found

    def put_index(self, record, name, kind, collation, entries, block=4096, scattered=True):
        """Replaces a B-tree, or makes one."""
        for old in (ntfs.INDEX_ROOT, ntfs.INDEX_ALLOCATION, ntfs.BITMAP):
            attribute = record.find(old, name)
            if attribute and attribute.nonresident:
                self.mark(attribute.runs(), False)
            if attribute:
                record.remove(attribute)
        room = len(record.buffer) - get('I', record.buffer, 24) - 72
        if sum(len(body) for _, body in entries) + 16 > room:
            room = min(room - 200, 600)
        tree = Tree(self.volume, block, entries, room)
        insert(record, resident(ntfs.INDEX_ROOT, tree.root_value(kind, collation), name))
        if tree.blocks:
            bits = bytearray(-(-len(tree.blocks) // 64) * 8)
            for number in range(len(tree.blocks)):
                bits[number // 8] |= 1 << number % 8
            insert(record, self.nonresident(ntfs.INDEX_ALLOCATION, b''.join(tree.blocks), name,
                                            longest=max(1, block // self.volume.cluster_size) if scattered and
                                            len(tree.blocks) < 12 else 1 << 20))
            insert(record, resident(ntfs.BITMAP, bits, name))

    # Files

    def new_record(self, flags=1, base=0):
        """A record that was free; it is not saved yet."""
        volume = self.volume
        while volume.record(self.next_record).in_use():
            self.next_record += 1
        record, size = volume.record(self.next_record), volume.record_size
        sequence = record.sequence() if record.buffer[:4] == b'FILE' else 0
        self.next_record += 1
        count = size // ntfs.STRIDE + 1
        first = align8(48 + 2 * count)
        record.buffer[:] = bytes(size)
        struct.pack_into('<4sHHQHHHHIIQHHI', record.buffer, 0, b'FILE', 48, count, self.source.randrange(1, 1 << 20),
                         sequence or 1, 0, first, flags, first + 8, size, base, 0, 0, record.number)
        put('I', record.buffer, first, ntfs.END)
        volume.put_mft_bit(record.number, 1)
        return record

    def name(self, record, parent, name, space=WIN32_DOS, attributes=0x20):
        """Another name for a file; its directory gets it when all are together."""
        value = file_name(self.volume.record(parent).reference(), name, space, attributes)
        insert(record, resident(ntfs.FILE_NAME, value, indexed=1))
        put('H', record.buffer, 18, get('H', record.buffer, 18) + 1)
        self.names.setdefault(parent, []).append(directory_entry(self.volume, record.reference(), value))

    def file(self, parent, name, *attributes, dos=None, file_attributes=0x20, flags=1):
        """A file with those attributes; its record, saved."""
        record = self.new_record(flags)
        insert(record, information(file_attributes))
        self.name(record, parent, name, WIN32 if dos else WIN32_DOS, file_attributes)
        if dos:
            self.name(record, parent, dos, DOS, file_attributes)
        for attribute in attributes:
            insert(record, attribute)
        record.save()
        return record

    def directory(self, parent, name, *attributes, dos=None):
        record = self.file(parent, name, *attributes, dos=dos, file_attributes=0x10000000, flags=3)
        self.put_index(record, '$I30', ntfs.FILE_NAME, COLLATE_NAME, [])
        record.save()
        return record.number
