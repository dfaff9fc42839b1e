# SPDX-License-Identifier: GPL-2.0-or-later
"""The part of mutations.py that breaks indexes: directories, and those of descriptors, object ids and reparse points."""
import ntfs_image as ntfs
from mutations import breaks, plain_file
from ntfs_image import get, put


def directory(volume):
    """A directory with index blocks: its record, $INDEX_ALLOCATION, the size of a block."""
    for record in volume.base_records():
        allocation = record.find(ntfs.INDEX_ALLOCATION, '$I30')
        if allocation:
            return record, allocation, get('I', record.find(ntfs.INDEX_ROOT, '$I30').value(), 8)
    raise LookupError('no such directory')


class Block:
    """The first index block of a directory, without its fixups."""

    def __init__(self, volume):
        self.volume, (self.record, self.allocation, size) = volume, directory(volume)
        self.runs = self.allocation.runs()
        self.buffer = bytearray(volume.read_runs(self.runs, 0, size))
        ntfs.fixup_read(self.buffer)

    def entries(self):
        at = 24 + get('I', self.buffer, 24)
        while not self.buffer[at + 12] & 2:
            yield at
            at += get('H', self.buffer, at + 8)

    def save(self):
        ntfs.fixup_write(self.buffer)
        self.volume.write_runs(self.runs, 0, self.buffer)


# Directories

def block_field(kind, what, change):
    @breaks(kind, what)
    def mutation(volume):
        block = Block(volume)
        change(block)
        block.save()
    return mutation


def swap_entries(block):
    """Two neighbours of one length change places."""
    places = list(block.entries())
    for one, two in zip(places, places[1:]):
        length = get('H', block.buffer, one + 8)
        if get('H', block.buffer, two + 8) == length and not block.buffer[one + 12] & 1 and not block.buffer[two + 12] & 1:
            block.buffer[one:two + length] = block.buffer[two:two + length] + block.buffer[one:two]
            return
    raise LookupError('no such entries')


def drop_entry(block):
    at = list(block.entries())[1]
    length, end = get('H', block.buffer, at + 8), 24 + get('I', block.buffer, 28)
    block.buffer[at:end - length] = block.buffer[at + length:end]
    put('I', block.buffer, 28, get('I', block.buffer, 28) - length)


def change_entry(fmt, offset, change):
    def mutation(block):
        at = next(block.entries())
        put(fmt, block.buffer, at + offset, change(get(fmt, block.buffer, at + offset)))
    return mutation


block_field('index-order', 'entries are out of order', swap_entries)
block_field('name-missing', 'a file is in no directory', drop_entry)
block_field('index-entry', 'an entry has a wrong sequence number', change_entry('H', 6, lambda v: v + 1))
block_field('index-entry', 'an entry leads to a record that is not in use', change_entry('I', 0, lambda v: 20))
block_field('index-entry', 'an entry leads to another file', change_entry('I', 0, lambda v: v + 1))
block_field('index-entry', 'an entry has another parent', change_entry('I', 16, lambda v: v + 1))
block_field('index-entry', 'an entry has another name', change_entry('H', 16 + 66, lambda v: v ^ 0x20))
block_field('index', 'an entry has a wrong length', change_entry('H', 8, lambda v: v + 8))
block_field('index', 'an entry leaves its block', change_entry('H', 8, lambda v: 60000))
block_field('index-vcn', 'a block has another VCN', lambda block: put('Q', block.buffer, 16, 77))
block_field('index', 'the header of a block is malformed', lambda block: put('I', block.buffer, 28, 60000))
block_field('index-fixup', 'a block has no signature', lambda block: put('I', block.buffer, 0, 0))


@breaks('index-fixup', 'an index block is torn')
def block_torn(volume):
    block = Block(volume)
    ntfs.fixup_write(block.buffer)
    block.buffer[510] ^= 1
    volume.write_runs(block.runs, 0, block.buffer)


def index_bits(volume, change):
    record, _, _ = directory(volume)
    bitmap = record.find(ntfs.BITMAP, '$I30')
    volume.put_data(bitmap, 0, bytes([change(volume.attribute_data(bitmap)[0])]))


@breaks('index-bitmap', 'an index block in use is marked as free')
def index_bit_clear(volume):
    index_bits(volume, lambda v: v & ~1)


@breaks('index-bitmap', 'an unused index block is marked as used')
def index_bit_set(volume):
    record, _, _ = directory(volume)
    bitmap = record.find(ntfs.BITMAP, '$I30')
    data = volume.attribute_data(bitmap)
    volume.put_data(bitmap, len(data) - 1, bytes([data[-1] | 0x80]))


@breaks('index-vcn', 'the root leads to a block that does not exist')
def index_child(volume):
    record, _, _ = directory(volume)
    root = record.find(ntfs.INDEX_ROOT, '$I30')
    at = root.value_at() + 16 + get('I', record.buffer, root.value_at() + 16)
    put('Q', record.buffer, at + get('H', record.buffer, at + 8) - 8, 1 << 20)
    record.save()


@breaks('index', 'the root has an impossible block size')
def index_size(volume):
    record, _, _ = directory(volume)
    put('I', record.buffer, record.find(ntfs.INDEX_ROOT, '$I30').value_at() + 8, 12345)
    record.save()


# What other indexes say

def view_entries(volume, number, name):
    """Where the entries of a small index, or of the blocks of a large one, are: (buffer, offset, save)."""
    record = volume.record(number)
    root, allocation = record.find(ntfs.INDEX_ROOT, name), record.find(ntfs.INDEX_ALLOCATION, name)
    if not allocation:
        yield from entries_of(record.buffer, root.value_at() + 16, record.save)
        return
    runs, size = allocation.runs(), get('I', root.value(), 8)
    for position in range(0, allocation.get('Q', 48), size):
        block = bytearray(volume.read_runs(runs, position, size))
        ntfs.fixup_read(block)

        def save(block=block, position=position):
            ntfs.fixup_write(block)
            volume.write_runs(runs, position, block)
        yield from entries_of(block, 24, save)


def entries_of(buffer, header, save):
    at = header + get('I', buffer, header)
    while not buffer[at + 12] & 2:
        yield buffer, at, save
        at += get('H', buffer, at + 8)


def view_field(kind, what, index, fmt, offset, change):
    @breaks(kind, what)
    def mutation(volume):
        number, name = index(volume)
        buffer, at, save = next(view_entries(volume, number, name))
        put(fmt, buffer, at + offset, change(get(fmt, buffer, at + offset)))
        save()
    return mutation


def index_named(name, without=None):
    def find(volume):
        for record in volume.base_records(9):
            if record.find(ntfs.INDEX_ROOT, name) and not (without and record.find(ntfs.INDEX_ROOT, without)):
                return record.number, name
        raise LookupError('no such index')
    return find


# Key at 16; data at 20 in $SII, at 24 in $SDH, at 32 in $O: hash, id, offset, length; or reference, ids.
view_field('security', 'an id in $SII is another than its data', index_named('$SII'), 'I', 16, lambda v: v - 1)
view_field('security', '$SII has another hash than $SDS', index_named('$SII'), 'I', 20, lambda v: v ^ 1)
view_field('security', '$SII has a wrong place of a descriptor', index_named('$SII'), 'Q', 28, lambda v: v + 16)
view_field('security', '$SII has a place in the copy', index_named('$SII'), 'Q', 28, lambda v: v + (256 << 10))
view_field('security', '$SII has a wrong length', index_named('$SII'), 'I', 36, lambda v: v + 1 << 20)
view_field('security', '$SDH and $SII do not agree', index_named('$SDH'), 'I', 40, lambda v: v + 4)
view_field('index-entry', 'an object id of no file', index_named('$O', '$Q'), 'Q', 32, lambda v: v + (1 << 48))
view_field('object-id', 'an object id of another file', index_named('$O', '$Q'), 'B', 31, lambda v: v ^ 1)
view_field('reparse', 'the index has another tag', index_named('$R'), 'I', 16, lambda v: v - 1)
view_field('index-entry', 'a reparse point of no file', index_named('$R'), 'H', 26, lambda v: v + 1)


def sds_byte(volume, position):
    runs = volume.attribute_runs(9, ntfs.DATA, '$SDS')
    volume.write_runs(runs, position, bytes([volume.read_runs(runs, position, 1)[0] ^ 1]))


@breaks('security', 'a descriptor and its hash differ')
def sds_descriptor(volume):
    sds_byte(volume, 24)
    sds_byte(volume, (256 << 10) + 24)


@breaks('security', 'a descriptor and its copy differ')
def sds_copy(volume):
    sds_byte(volume, (256 << 10) + 24)


@breaks('security', 'a file has a descriptor that does not exist')
def security_id(volume):
    record, _ = plain_file(volume)
    put('I', record.buffer, record.find(ntfs.SI).value_at() + 52, 0x12345)
    record.save()


@breaks('reparse', 'a reparse point is in no index')
def reparse_lost(volume):
    record, _ = plain_file(volume)
    used = get('I', record.buffer, 24)
    attribute = bytearray(32)
    for offset, fmt, value in ((0, 'I', 0xc0), (4, 'I', 32), (10, 'H', 24), (14, 'H', get('H', record.buffer, 40)), (16, 'I', 8),
                               (20, 'H', 24), (24, 'I', 0x80000013)):
        put(fmt, attribute, offset, value)
    at = next((a.at for a in record.attributes() if a.type > 0xc0), used - 8)
    record.buffer[at + 32:used + 32] = record.buffer[at:used]
    record.buffer[at:at + 32] = attribute
    put('I', record.buffer, 24, used + 32)
    put('H', record.buffer, 40, get('H', record.buffer, 40) + 1)
    record.save()


@breaks('unreachable', 'a directory is in itself')
def directory_ring(volume):
    record, _, _ = directory(volume)
    name = record.find(ntfs.FILE_NAME)
    put('Q', record.buffer, name.value_at(), record.reference())
    record.save()
