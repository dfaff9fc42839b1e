# SPDX-License-Identifier: GPL-2.0-or-later
"""Patching NTFS volumes from the on-disk format: just enough to break them on purpose, one thing at a time.

Offsets of fields are those of the format: see ntfs_format.h, which names them for the tools in C."""
import os
import struct

STRIDE = 512  # of update sequences
SI, LIST, FILE_NAME, VOLUME_INFO, DATA, INDEX_ROOT, INDEX_ALLOCATION, BITMAP = 0x10, 0x20, 0x30, 0x70, 0x80, 0x90, 0xa0, 0xb0
END = 0xffffffff
IN_USE, DIRECTORY = 1, 2


def get(fmt, buffer, offset):
    return struct.unpack_from('<' + fmt, buffer, offset)[0]


def put(fmt, buffer, offset, value):
    struct.pack_into('<' + fmt, buffer, offset, value)


def fixup_read(block):
    offset, count = get('H', block, 4), get('H', block, 6)
    if count != len(block) // STRIDE + 1:
        raise ValueError('a block with a strange update sequence')
    for i in range(1, count):
        block[i * STRIDE - 2:i * STRIDE] = block[offset + 2 * i:offset + 2 * i + 2]


def fixup_write(block):
    offset, count = get('H', block, 4), get('H', block, 6)
    number = get('H', block, offset) % 0xfffe + 1
    put('H', block, offset, number)
    for i in range(1, count):
        block[offset + 2 * i:offset + 2 * i + 2] = block[i * STRIDE - 2:i * STRIDE]
        put('H', block, i * STRIDE - 2, number)


def decode_pairs(pairs, vcn=0):
    """Mapping pairs -> [(vcn, lcn or None, length)]."""
    runs, lcn, at = [], 0, 0
    while pairs[at]:
        size, delta = pairs[at] & 15, pairs[at] >> 4
        length = int.from_bytes(pairs[at + 1:at + 1 + size], 'little')
        at += 1 + size
        if delta:
            lcn += int.from_bytes(pairs[at:at + delta], 'little', signed=True)
            at += delta
        runs.append((vcn, lcn if delta else None, length))
        vcn += length
    return runs


def signed_bytes(value):
    return next(n for n in range(1, 9) if -(1 << 8 * n - 1) <= value < 1 << 8 * n - 1)


def encode_pairs(runs):
    out, previous = bytearray(), 0
    for _, lcn, length in runs:
        delta = b'' if lcn is None else (lcn - previous).to_bytes(signed_bytes(lcn - previous), 'little', signed=True)
        size = signed_bytes(length)
        out += bytes([len(delta) << 4 | size]) + length.to_bytes(size, 'little') + delta
        previous = previous if lcn is None else lcn
    return out + b'\0'


class Attribute:
    """An attribute record; its fields are read from and written to the record's buffer."""

    def __init__(self, record, at):
        self.record, self.at = record, at
        buffer = record.buffer
        self.type, self.length = get('I', buffer, at), get('I', buffer, at + 4)
        self.nonresident, name_length = buffer[at + 8], buffer[at + 9]
        name_at = at + get('H', buffer, at + 10)
        self.name = bytes(buffer[name_at:name_at + 2 * name_length]).decode('utf-16-le')

    def get(self, fmt, offset):
        return get(fmt, self.record.buffer, self.at + offset)

    def put(self, fmt, offset, value):
        put(fmt, self.record.buffer, self.at + offset, value)

    def value_at(self):
        """Where a resident value begins in the record."""
        return self.at + self.get('H', 20)

    def value(self):
        return bytes(self.record.buffer[self.value_at():self.value_at() + self.get('I', 16)])

    def runs(self):
        pairs = self.record.buffer[self.at + self.get('H', 32):self.at + self.length]
        return decode_pairs(pairs, self.get('Q', 16))

    def put_runs(self, runs):
        """New mapping pairs, which must fit where the old ones are."""
        pairs = encode_pairs(runs)
        start = self.at + self.get('H', 32)
        if start + len(pairs) > self.at + self.length:
            raise ValueError('the run list does not fit')
        self.record.buffer[start:start + len(pairs)] = pairs


class Record:
    """An MFT record without its fixups. save() writes it back, and its copy in $MFTMirr."""

    def __init__(self, volume, number, torn=False):
        self.volume, self.number = volume, number
        self.buffer = bytearray(volume.read_runs(volume.mft_runs, number * volume.record_size, volume.record_size))
        if self.buffer[:4] == b'FILE' and (self.in_use() or not torn):
            fixup_read(self.buffer)

    def in_use(self):
        return self.buffer[:4] == b'FILE' and bool(get('H', self.buffer, 22) & IN_USE)

    def base(self):
        return get('Q', self.buffer, 32) & 0xffffffffffff

    def sequence(self):
        return get('H', self.buffer, 16)

    def reference(self):
        return self.number | self.sequence() << 48

    def attributes(self):
        at = get('H', self.buffer, 20)
        while get('I', self.buffer, at) != END:
            attribute = Attribute(self, at)
            yield attribute
            at += attribute.length

    def find(self, kind, name='', nonresident=None):
        for attribute in self.attributes():
            if attribute.type == kind and attribute.name == name and nonresident in (None, attribute.nonresident):
                return attribute
        return None

    def remove(self, attribute):
        used = get('I', self.buffer, 24)
        end = attribute.at + attribute.length
        self.buffer[attribute.at:used - attribute.length] = self.buffer[end:used]
        put('I', self.buffer, 24, used - attribute.length)

    def save(self, mirror=True):
        volume, block = self.volume, bytearray(self.buffer)
        fixup_write(block)
        volume.write_runs(volume.mft_runs, self.number * volume.record_size, block)
        if mirror and self.number < volume.mirror_records:
            volume.write_at(volume.mirror_lcn * volume.cluster_size + self.number * volume.record_size, block)


class Volume:
    def __init__(self, path, offset=0):
        self.file = open(path, 'r+b', buffering=0)
        self.path, self.offset = path, offset
        boot = self.read_at(0, 512)
        self.sector_size, per = get('H', boot, 11), boot[13]
        self.cluster_size = self.sector_size * (per if per <= 0x80 else 1 << 256 - per)
        self.sectors, self.mft_lcn, self.mirror_lcn = get('Q', boot, 40), get('Q', boot, 48), get('Q', boot, 56)
        self.clusters = self.sectors * self.sector_size // self.cluster_size
        size = get('b', boot, 64)
        self.record_size = 1 << -size if size < 0 else size * self.cluster_size
        self.mirror_records = max(4, self.cluster_size // self.record_size)
        self.mft_runs = [(0, self.mft_lcn, 16 * self.record_size // self.cluster_size + 1)]
        self.mft_runs = self.attribute_runs(0, DATA)
        self.records = self.record(0).find(DATA).get('Q', 56) // self.record_size

    def close(self):
        self.file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def read_at(self, position, length):
        return os.pread(self.file.fileno(), length, self.offset + position)

    def write_at(self, position, data):
        os.pwrite(self.file.fileno(), data, self.offset + position)

    def pieces(self, runs, position, length):
        """Volume positions and lengths of a range of an attribute; None for holes."""
        while length:
            vcn, lcn, count = next(r for r in runs if r[0] <= position // self.cluster_size < r[0] + r[2])
            inside = position - vcn * self.cluster_size
            step = min(length, count * self.cluster_size - inside)
            yield (None if lcn is None else lcn * self.cluster_size + inside), step
            position += step
            length -= step

    def read_runs(self, runs, position, length):
        return b''.join(bytes(n) if at is None else self.read_at(at, n) for at, n in self.pieces(runs, position, length))

    def write_runs(self, runs, position, data):
        done = 0
        for at, step in self.pieces(runs, position, len(data)):
            self.write_at(at, data[done:done + step])
            done += step

    def record(self, number, torn=False):
        """With torn, an unused record is left as it is on disk."""
        return Record(self, number, torn)

    def attribute_list(self, number):
        """Entries (type, lowest VCN, reference, instance, name, offset) of a base record's list; empty without one."""
        attribute = self.record(number).find(LIST)
        if not attribute:
            return []
        data = self.attribute_data(attribute)
        entries, at = [], 0
        while at < len(data):
            name_at = at + data[at + 7]
            entries.append((get('I', data, at), get('Q', data, at + 8), get('Q', data, at + 16), get('H', data, at + 24),
                            data[name_at:name_at + 2 * data[at + 6]].decode('utf-16-le'), at))
            at += get('H', data, at + 4)
        return entries

    def attribute_data(self, attribute):
        """The content of an attribute that is in one record."""
        if not attribute.nonresident:
            return attribute.value()
        return self.read_runs(attribute.runs(), 0, attribute.get('Q', 48))

    def put_data(self, attribute, position, data):
        """Changes bytes of an attribute that is in one record; a resident one is written with the record."""
        if attribute.nonresident:
            self.write_runs(attribute.runs(), position, data)
        else:
            at = attribute.value_at() + position
            attribute.record.buffer[at:at + len(data)] = data
            attribute.record.save()

    def attribute_runs(self, number, kind, name=''):
        """All runs of an attribute, from all records that hold a part of it."""
        entries = [entry for entry in self.attribute_list(number) if entry[0] == kind and entry[4] == name]
        if not entries:
            attribute = self.record(number).find(kind, name)
            return attribute.runs() if attribute else []
        runs = []
        for _, _, reference, instance, _, _ in entries:
            runs = runs + next(attribute for attribute in self.record(reference & 0xffffffffffff).attributes()
                               if attribute.type == kind and attribute.get('H', 14) == instance).runs()
            if not number and kind == DATA:
                self.mft_runs = runs
        return runs

    def base_records(self, first=24):
        """Base records in use."""
        for number in range(first, self.records):
            record = self.record(number)
            if record.in_use() and not get('Q', record.buffer, 32):
                yield record

    def bitmap_bit(self, lcn):
        return self.read_runs(self.attribute_runs(6, DATA), lcn // 8, 1)[0] >> lcn % 8 & 1

    def put_bitmap_bit(self, lcn, value):
        runs = self.attribute_runs(6, DATA)
        byte = self.read_runs(runs, lcn // 8, 1)[0]
        self.write_runs(runs, lcn // 8, bytes([byte | 1 << lcn % 8 if value else byte & ~(1 << lcn % 8)]))

    def put_mft_bit(self, number, value):
        attribute = self.record(0).find(BITMAP)
        byte = self.attribute_data(attribute)[number // 8]
        self.put_data(attribute, number // 8, bytes([byte | 1 << number % 8 if value else byte & ~(1 << number % 8)]))

    def free_cluster(self):
        return next(lcn for lcn in range(self.clusters - 1, 0, -1) if not self.bitmap_bit(lcn))

    def free_record(self):
        return next(n for n in range(24, self.records) if not self.record(n).in_use())

    def log(self):
        """(position in the volume, first two pages' size): where $LogFile is; it is in one piece in new volumes."""
        return self.record(2).find(DATA).runs()[0][1] * self.cluster_size
