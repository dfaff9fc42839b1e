# SPDX-License-Identifier: GPL-2.0-or-later
"""Ways to break a consistent NTFS volume, one thing at a time: for what ntfs-check must find and zcfs-defrag must refuse.

MUTATIONS has (kind of finding of ntfs-check, what it is, function). The functions take an ntfs_image.Volume; they raise
LookupError if the volume has nothing to break in this way."""
import os

import ntfs_image as ntfs
from ntfs_image import get, put

MUTATIONS = []


def breaks(kind, what):
    """Registers a mutation and the kind of finding that it must lead to."""
    def register(function):
        MUTATIONS.append((kind, what, function))
        return function
    return register


# What a mutation needs of the volume

def plain_file(volume, runs=2):
    """A file with a fragmented unnamed $DATA in its base record."""
    for record in volume.base_records():
        data = record.find(ntfs.DATA, nonresident=1)
        if data and not data.get('H', 12) and not record.find(ntfs.LIST) and len(data.runs()) >= runs:
            return record, data
    raise LookupError('no such file')


def flagged_file(volume, flag):
    for record in volume.base_records():
        data = record.find(ntfs.DATA, nonresident=1)
        if data and data.get('H', 12) & flag and len(data.runs()) > 2:
            return record, data
    raise LookupError('no such file')


def listed_file(volume):
    """A file whose $DATA has several extents, and its attribute list."""
    for record in volume.base_records():
        entries = volume.attribute_list(record.number)
        if sum(e[0] == ntfs.DATA and not e[4] for e in entries) > 2:
            return record, record.find(ntfs.LIST), entries
    raise LookupError('no such file')


def extension(volume, which=1):
    record, _, entries = listed_file(volume)
    parts = [e for e in entries if e[0] == ntfs.DATA and not e[4]]
    return record, volume.record(parts[which][2] & 0xffffffffffff)


def change_list(volume, offset, fmt, value, entry=-1):
    _, attribute, entries = listed_file(volume)
    volume.put_data(attribute, entries[entry][5] + offset, struct_pack(fmt, value))


def struct_pack(fmt, value):
    buffer = bytearray(8)
    put(fmt, buffer, 0, value)
    return bytes(buffer[:{'B': 1, 'H': 2, 'I': 4, 'Q': 8}[fmt]])


# Boot sector, $MFT, records

@breaks('boot', 'the boot sector has no signature')
def boot_signature(volume):
    volume.write_at(3, b'NTFZ')


@breaks('boot-backup', 'the backup boot sector differs')
def boot_backup(volume):
    volume.write_at(volume.sectors * volume.sector_size + 100, b'\x77')


@breaks('volume-size', 'the image ends before the volume')
def image_short(volume):
    os.truncate(volume.path, os.path.getsize(volume.path) - volume.sector_size)


@breaks('mft', 'the boot sector leads to no $MFT')
def boot_mft(volume):
    volume.write_at(48, struct_pack('Q', volume.mft_lcn + 8))


@breaks('mirror', 'the boot sector has a wrong place of $MFTMirr')
def boot_mirror(volume):
    boot = struct_pack('Q', volume.mirror_lcn + 1)
    volume.write_at(56, boot)
    volume.write_at(volume.sectors * volume.sector_size + 56, boot)


@breaks('mirror', 'a record and its copy in $MFTMirr differ')
def mirror(volume):
    record = volume.record(1)
    put('Q', record.buffer, 8, 12345)
    record.save(mirror=False)


@breaks('fixup', 'a record is torn')
def record_torn(volume):
    record, _ = plain_file(volume)
    block = bytearray(record.buffer)
    ntfs.fixup_write(block)
    block[510] ^= 1
    volume.write_runs(volume.mft_runs, record.number * volume.record_size, block)


def record_field(kind, what, fmt, offset, change):
    @breaks(kind, what)
    def mutation(volume):
        record, _ = plain_file(volume)
        put(fmt, record.buffer, offset, change(get(fmt, record.buffer, offset)))
        record.save()
    return mutation


record_field('header', 'bytes in use are too many', 'I', 24, lambda v: v + 8)
record_field('header', 'bytes in use are beyond the record', 'I', 24, lambda v: 70000)
record_field('header', 'bytes allocated are wrong', 'I', 28, lambda v: v * 2)
record_number = record_field('header', 'the record has another number', 'I', 44, lambda v: v + 1)
record_field('header', 'attributes begin at no multiple of 8', 'H', 20, lambda v: v + 4)
sequence_zero = record_field('header', 'the sequence number is 0', 'H', 16, lambda v: 0)
record_field('header', 'a file is said to be a directory', 'H', 22, lambda v: v | 2)
record_field('links', 'the link count is wrong', 'H', 18, lambda v: v + 5)
record_field('instance', 'the next instance has been used', 'H', 40, lambda v: 0)
record_field('mft-bitmap', 'a record in use is said not to be', 'H', 22, lambda v: v & ~1)
record_field('index-entry', 'a sequence number differs from that in the index', 'H', 16, lambda v: v + 1)
record_field('base-reference', 'a base record becomes an extension of nothing', 'Q', 32, lambda v: 1 << 48 | 20)


@breaks('mft-bitmap', 'a record in use is marked as free')
def mft_bit_clear(volume):
    volume.put_mft_bit(plain_file(volume)[0].number, 0)


@breaks('mft-bitmap', 'a free record is marked as used')
def mft_bit_set(volume):
    volume.put_mft_bit(volume.free_record(), 1)


@breaks('orphan', 'a file has lost its name')
def name_lost(volume):
    record, _ = plain_file(volume)
    record.remove(record.find(ntfs.FILE_NAME))
    record.save()


@breaks('attribute', 'a file has no $STANDARD_INFORMATION')
def no_information(volume):
    record, _ = plain_file(volume)
    record.remove(record.find(ntfs.SI))
    record.save()


@breaks('order', 'two attributes are in the wrong order')
def attribute_order(volume):
    record, _ = plain_file(volume)
    first, second = list(record.attributes())[:2]
    end = second.at + second.length
    record.buffer[first.at:end] = record.buffer[second.at:end] + record.buffer[first.at:second.at]
    record.save()


@breaks('instance', 'two attributes have one instance')
def instance_twice(volume):
    record, data = plain_file(volume)
    data.put('H', 14, next(record.attributes()).get('H', 14))
    record.save()


def insert(record, attribute, before):
    """Puts another attribute into a record, with an instance number of its own; false if it does not fit."""
    used, at = get('I', record.buffer, 24), before.at
    if used + len(attribute) > len(record.buffer):
        return False
    record.buffer[at:used + len(attribute)] = attribute + record.buffer[at:used]
    put('H', record.buffer, at + 14, get('H', record.buffer, 40))
    put('H', record.buffer, 40, get('H', record.buffer, 40) + 1)
    put('I', record.buffer, 24, used + len(attribute))
    return True


def resident(kind, value):
    """An attribute without a name."""
    buffer = bytearray(24 + (len(value) + 7) // 8 * 8)
    put('I', buffer, 0, kind)
    put('I', buffer, 4, len(buffer))
    put('I', buffer, 16, len(value))
    put('H', buffer, 20, 24)
    buffer[24:24 + len(value)] = value
    return buffer


@breaks('duplicate', 'an attribute exists twice')
def attribute_twice(volume):
    for record in volume.base_records():
        first = record.find(ntfs.SI)
        if not record.find(ntfs.LIST) and insert(record, record.buffer[first.at:first.at + first.length], first):
            record.save()
            return
    raise LookupError('no record with room')


@breaks('duplicate', 'a file has data in its record and elsewhere')
def data_twice(volume):
    for record in volume.base_records():
        data = record.find(ntfs.DATA, nonresident=1)
        if data and not record.find(ntfs.LIST) and insert(record, resident(ntfs.DATA, b'x'), data):
            record.save()
            return
    raise LookupError('no record with room')


@breaks('duplicate', '$MFT has a bitmap in its record and another one elsewhere')
def mft_bitmap_twice(volume):
    record = volume.record(0)
    bitmap = record.find(ntfs.BITMAP, nonresident=1)
    bits = volume.attribute_data(bitmap)[:(volume.records + 7) // 8] if bitmap else b''
    if not bitmap or not insert(record, resident(ntfs.BITMAP, bits), bitmap):
        raise LookupError('no room')
    record.save()


@breaks('list-order', 'two of the records of a file have its data from the beginning')
def data_twice_in_list(volume):
    """The last extent becomes a resident attribute; the others are all that the sizes speak of."""
    record, _, entries = listed_file(volume)
    entry = [e for e in entries if e[0] == ntfs.DATA and not e[4]][-1]
    last = volume.record(entry[2] & 0xffffffffffff)
    data = last.find(ntfs.DATA, nonresident=1)
    last.buffer[data.at + 8] = 0
    last.buffer[data.at + 16:data.at + data.length] = bytes(data.length - 16)
    data.put('H', 20, 24)
    last.save()
    first = volume.record(next(e[2] for e in entries if e[0] == ntfs.DATA and not e[4]) & 0xffffffffffff)
    for field in (40, 48, 56):
        first.find(ntfs.DATA, nonresident=1).put('Q', field, entry[1] * volume.cluster_size)
    first.save()
    volume.put_data(volume.record(record.number).find(ntfs.LIST), entry[5] + 8, bytes(8))


def data_field(kind, what, fmt, offset, change):
    @breaks(kind, what)
    def mutation(volume):
        record, data = plain_file(volume)
        data.put(fmt, offset, change(data.get(fmt, offset), volume))
        record.save()
    return mutation


data_field('attribute', 'a length is no multiple of 8', 'I', 4, lambda v, _: v + 4)
data_field('attribute', 'a length leaves the record', 'I', 4, lambda v, _: v + 4096)
unknown_type = data_field('attribute', 'an attribute has an unknown type', 'I', 0, lambda v, _: 0x88)
data_field('attribute', 'the run list is outside its attribute', 'H', 32, lambda v, _: 0x4000)
data_field('runlist', 'mapping pairs end before the highest VCN', 'Q', 24, lambda v, _: v + 1)
data_field('runlist', 'mapping pairs end after the highest VCN', 'Q', 24, lambda v, _: v - 1)
data_field('sizes', 'the allocated size is too large', 'Q', 40, lambda v, volume: v + volume.cluster_size)
data_field('sizes', 'the allocated size is too small', 'Q', 40, lambda v, volume: v - volume.cluster_size)
data_field('sizes', 'the data size exceeds the allocated size', 'Q', 48, lambda v, volume: v + 100 * volume.cluster_size)
data_field('sizes', 'the initialised size exceeds the data size', 'Q', 56, lambda v, _: v + 1)
data_field('extent-gap', 'the first extent does not begin at 0', 'Q', 16, lambda v, _: 1)


@breaks('attribute', 'a resident attribute has an unknown type')
def unknown_type_resident(volume):
    record, _ = plain_file(volume)
    record.find(ntfs.FILE_NAME).put('I', 0, 0x3f)
    record.save()


@breaks('attribute', 'a $FILE_NAME is not resident')
def name_nonresident(volume):
    record, data = plain_file(volume)
    data.put('I', 0, ntfs.FILE_NAME)
    record.save()


@breaks('attribute', 'an $INDEX_ALLOCATION is resident')
def index_allocation_resident(volume):
    for record in volume.base_records():
        data = record.find(ntfs.DATA, nonresident=0)
        if data and list(record.attributes())[-1].at == data.at:
            data.put('I', 0, ntfs.INDEX_ALLOCATION)
            record.save()
            return
    raise LookupError('no such file')


@breaks('attribute', 'a resident value leaves its attribute')
def value_outside(volume):
    record, _ = plain_file(volume)
    record.find(ntfs.SI).put('I', 16, 2000)
    record.save()


@breaks('file-name', 'a $FILE_NAME is malformed')
def name_malformed(volume):
    record, _ = plain_file(volume)
    name = record.find(ntfs.FILE_NAME)
    record.buffer[name.value_at() + 64] += 1
    record.save()


# Runs and clusters

@breaks('runlist', 'a mapping pair has impossible sizes')
def pair_malformed(volume):
    record, data = plain_file(volume)
    record.buffer[data.at + data.get('H', 32)] = 0xf1
    record.save()


@breaks('run-outside', 'a run leaves the volume')
def run_outside(volume):
    record, data = plain_file(volume)
    runs = data.runs()
    data.put_runs([(0, volume.clusters - 1, runs[0][2] + sum(r[2] for r in runs[1:]))])
    record.save()


@breaks('hole', 'a hole in an attribute that may have none')
def hole_illegal(volume):
    record, data = plain_file(volume)
    runs = data.runs()
    data.put_runs([(0, None, runs[0][2])] + runs[1:])
    record.save()


@breaks('cross-link', 'two files share a cluster')
def cross_link(volume):
    record, data = plain_file(volume)
    lcn = data.runs()[0][1]
    for other in volume.base_records(record.number + 1):
        data = other.find(ntfs.DATA, nonresident=1)
        if data and not data.get('H', 12) and len(data.runs()) > 1:
            runs = data.runs()
            try:
                data.put_runs([(0, lcn, 1), (1, runs[0][1] + 1, runs[0][2] - 1)][:1 + (runs[0][2] > 1)] + runs[1:])
            except ValueError:
                continue  # no room for the longer run list
            other.save()
            return
    raise LookupError('no such file')


@breaks('bitmap', 'a cluster of a file is marked as free')
def cluster_free(volume):
    volume.put_bitmap_bit(plain_file(volume)[1].runs()[1][1], 0)


@breaks('bitmap-tail', 'bits beyond the end of the volume are clear')
def bitmap_tail(volume):
    if volume.clusters % 64 == 0:
        raise LookupError('no bits beyond the end')
    volume.put_bitmap_bit(volume.clusters, 0)


@breaks('bitmap', '$Bitmap is too short')
def bitmap_short(volume):
    record = volume.record(6)
    data = record.find(ntfs.DATA)
    for field in (48, 56):
        data.put('Q', field, (volume.clusters - 1) // 8)
    record.save()


@breaks('mft-bitmap', 'the bitmap of $MFT is too short')
def mft_bitmap_short(volume):
    record = volume.record(0)
    bitmap = record.find(ntfs.BITMAP)
    for field in (48, 56) if bitmap.nonresident else ():
        bitmap.put('Q', field, 8)
    if not bitmap.nonresident:
        bitmap.put('I', 16, 8)
    record.save()


@breaks('sizes', 'a compressed size is wrong')
def compressed_size(volume):
    record, data = flagged_file(volume, 1)
    data.put('Q', 64, data.get('Q', 64) + volume.cluster_size)
    record.save()


@breaks('sizes', 'the compressed size of a sparse file is wrong')
def sparse_size(volume):
    record, data = flagged_file(volume, 0x8000)
    data.put('Q', 64, data.get('Q', 64) - volume.cluster_size)
    record.save()


@breaks('compression', 'a compression unit begins with its hole')
def unit_order(volume):
    for record in volume.base_records():
        data = record.find(ntfs.DATA, nonresident=1)
        if not data or not data.get('H', 12) & 1:
            continue
        runs = data.runs()
        for i in range(len(runs) - 1):
            if runs[i][0] % 16 == 0 and runs[i][1] is not None and runs[i + 1][1] is None and runs[i][2] < 16:
                runs[i], runs[i + 1] = runs[i + 1], runs[i]
                data.put_runs(runs)
                record.save()
                return
    raise LookupError('no such unit')


@breaks('compression', 'a compression unit of another size')
def unit_size(volume):
    record, data = flagged_file(volume, 1)
    data.put('B', 34, 5)
    record.save()


# Attribute lists

@breaks('base-reference', 'an extension record has a wrong sequence number of its base')
def extension_sequence(volume):
    _, record = extension(volume)
    put('H', record.buffer, 38, get('H', record.buffer, 38) + 1)
    record.save()


@breaks('orphan-extension', 'an extension record that no list names')
def extension_orphan(volume):
    _, record = extension(volume)
    orphan = volume.record(volume.free_record())
    sequence = orphan.sequence()
    orphan.buffer[:] = record.buffer
    put('H', orphan.buffer, 16, sequence or 1)
    put('I', orphan.buffer, 44, orphan.number)
    data = orphan.find(ntfs.DATA)
    while data:
        orphan.remove(data)
        data = orphan.find(ntfs.DATA)
    orphan.save()
    volume.put_mft_bit(orphan.number, 1)


@breaks('extent-gap', 'an extent begins at a wrong VCN')
def extent_gap(volume):
    _, record = extension(volume)
    data = record.find(ntfs.DATA)
    data.put('Q', 16, data.get('Q', 16) + 1)
    data.put('Q', 24, data.get('Q', 24) + 1)
    record.save()


@breaks('extent-gap', 'an extent has other flags')
def extent_flags(volume):
    _, record = extension(volume)
    record.find(ntfs.DATA).put('H', 12, 0x4000)
    record.save()


@breaks('list-entry', 'a list entry has a wrong instance')
def list_instance(volume):
    change_list(volume, 24, 'H', 0x1234)


@breaks('list-entry', 'a list entry has a wrong VCN')
def list_vcn(volume):
    change_list(volume, 8, 'Q', 1 << 40)


@breaks('list-entry', 'a list entry has a wrong sequence number')
def list_sequence(volume):
    change_list(volume, 22, 'H', 0x4321)


@breaks('list-entry', 'a list entry leads to an unused record')
def list_record(volume):
    change_list(volume, 16, 'I', volume.free_record())


@breaks('list-missing', 'a list entry is listed as something else')
def list_type(volume):
    change_list(volume, 0, 'I', 0x100)


@breaks('attribute-list', 'a list entry is malformed')
def list_malformed(volume):
    change_list(volume, 4, 'H', 9)


@breaks('list-order', 'list entries are in the wrong order')
def list_order(volume):
    _, attribute, entries = listed_file(volume)
    data = volume.attribute_data(attribute)
    one, two = entries[-2][5], entries[-1][5]
    volume.put_data(attribute, one, data[two:] + data[one:two])


@breaks('list-missing', 'an attribute is missing from the list')
def list_missing(volume):
    record, attribute, entries = listed_file(volume)
    if attribute.nonresident:
        attribute.put('Q', 48, entries[-1][5])
        attribute.put('Q', 56, entries[-1][5])
    else:
        attribute.put('I', 16, entries[-1][5])
    record.save()


@breaks('list-missing', 'the attribute list is gone')
def list_gone(volume):
    record, attribute, _ = listed_file(volume)
    record.remove(attribute)
    record.save()


# State

@breaks('volume-flags', 'the volume is dirty')
def dirty(volume):
    record = volume.record(3)
    put('H', record.buffer, record.find(ntfs.VOLUME_INFO).value_at() + 10, 1)
    record.save()


@breaks('volume', 'the volume has another version of NTFS')
def version(volume):
    record = volume.record(3)
    record.buffer[record.find(ntfs.VOLUME_INFO).value_at() + 8] = 1
    record.save()


@breaks('log', 'the log is neither empty nor a log')
def log_torn(volume):
    volume.write_at(volume.log(), b'\0' * 4096)


@breaks('log', 'the log is empty at its beginning only')
def log_partly_empty(volume):
    volume.write_at(volume.log(), b'\xff' * 8192)
    volume.write_at(volume.log() + 40960, b'RCRD')


@breaks('upcase', '$UpCase is short')
def upcase(volume):
    record = volume.record(10)
    data = record.find(ntfs.DATA)
    data.put('Q', 48, 1000)
    data.put('Q', 56, 1000)
    record.save()
