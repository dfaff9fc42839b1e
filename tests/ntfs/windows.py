# SPDX-License-Identifier: GPL-2.0-or-later
"""Volumes as Windows leaves them. mkntfs and libntfs-3g write less, and more tidily; what is here comes from published
descriptions of the format and from what is known of volumes that Windows wrote, and all of it is legal.

metadata() adds what Windows keeps on a volume, kinds() files of the kinds that it makes; wear() changes nothing that
counts: it leaves garbage, stale copies and odd encodings everywhere they may be. Between them the volume may be
scattered."""
import struct
import uuid

import ntfs_build as build
import ntfs_image as ntfs
from ntfs_build import Builder, NoRoom, insert, nonresident, pack, replace, resident
from ntfs_image import get, put

TAG_WOF, TAG_DEDUP, TAG_MOUNT_POINT, TAG_CLOUD = 0x80000017, 0x80000013, 0xa0000003, 0x9000301a
VOLUME_FLAG_OF_WINDOWS = 0x0080


def guid(number):
    return uuid.uuid5(uuid.NAMESPACE_OID, str(number)).bytes_le


# What Windows keeps on a volume

def metadata(volume, seed=1, descriptors=3000, ids=200):
    builder = Builder(volume, seed)
    system_streams(builder)
    journal(builder)
    transactions(builder)
    security(builder, descriptors)
    object_ids(builder, ids)
    bad_clusters(builder)
    builder.close()
    volume_information(volume)
    clean_log(volume)


def volume_information(volume):
    record = volume.record(3)
    at = record.find(ntfs.VOLUME_INFO).value_at() + 10
    put('H', record.buffer, at, get('H', record.buffer, at) | VOLUME_FLAG_OF_WINDOWS)
    insert(record, resident(build.OBJECT_ID, guid('volume')))
    record.save()


def system_streams(builder):
    volume = builder.volume
    for number, name, value in ((6, '$SRAT', bytes(range(64))), (10, '$Info', bytes(32))):
        record = volume.record(number)
        if not record.find(ntfs.DATA, name):
            insert(record, resident(ntfs.DATA, value, name))
            record.save()
    root = volume.record(5)
    insert(root, resident(build.LOGGED, txf_data(root), '$TXF_DATA'))
    root.save()


def txf_data(record):
    """What transactional NTFS knows of a file."""
    return pack('IHHQQQQQQ', 2, 0, 0, record.reference(), 1, 0x10, 0x20, 0, 0)


def journal(builder):
    """$J begins with a hole that is larger than the volume."""
    records = b''.join(pack('IHHQQQQIIIIHH8s', 72, 2, 0, 5 << 48 | number, 5 << 48 | 5, number * 72, build.FILETIME, 3, 0, 0,
                            0x20, 8, 60, 'name'.encode('utf-16-le')) + bytes(4) for number in range(4000))
    cluster = builder.volume.cluster_size
    hole = (3 << 30) // cluster
    runs = [(0, None, hole)] + [(hole + vcn, lcn, length) for vcn, lcn, length in builder.stored(records, longest=3)]
    builder.file(build.EXTEND, '$UsnJrnl',
                 nonresident(cluster, ntfs.DATA, runs, '$J', flags=build.SPARSE, data=hole * cluster + len(records)),
                 resident(ntfs.DATA, pack('QQQQ', 32 << 20, 4 << 20, 0x1d5000000000000, 0), '$Max'), file_attributes=0x206)


def transactions(builder):
    """$RmMetadata and what is below it."""
    metadata_dir = builder.directory(build.EXTEND, '$RmMetadata')
    builder.directory(build.EXTEND, '$Deleted')
    builder.file(metadata_dir, '$Repair', resident(ntfs.DATA, bytes(8), '$Config'),
                 builder.nonresident(ntfs.DATA, b'corrupt ' * 3000, '$Corrupt'),
                 builder.nonresident(ntfs.DATA, b'verify  ' * 3000, '$Verify'), resident(ntfs.DATA, b''))
    log_dir = builder.directory(metadata_dir, '$TxfLog')
    builder.directory(metadata_dir, '$Txf')
    builder.file(log_dir, '$Tops', resident(ntfs.DATA, bytes(100)),
                 builder.nonresident(ntfs.DATA, b'old page' * 16384, '$T', longest=7))
    builder.file(log_dir, '$TxfLog.blf', builder.nonresident(ntfs.DATA, b'CLFS log' * 8192))
    for number in (1, 2):
        builder.file(log_dir, f'$TxfLogContainer{number:020}',
                     builder.nonresident(ntfs.DATA, b'contains' * 16384, longest=5, initialised=4096))


def security_hash(descriptor):
    value = 0
    for at in range(0, len(descriptor), 4):
        value = (get('I', descriptor, at) + (value >> 29 | value << 3)) & 0xffffffff
    return value


def security(builder, count):
    """$Secure with so many descriptors that $SDS goes over the first 256 KiB and their copy, and both indexes have
    blocks."""
    volume, record = builder.volume, builder.volume.record(9)
    half = 256 << 10
    stream = record.find(ntfs.DATA, '$SDS')
    old = volume.attribute_data(stream)
    heads, at = [], 0
    while at + 20 <= len(old) and get('I', old, at + 16):
        heads.append(old[at + 20:at + get('I', old, at + 16)])
        at += get('I', old, at + 16) + 15 & ~15
    owners = [heads[0][:-4] + pack('I', number + 1000) for number in range(count)]
    data, by_id, by_hash, at = bytearray(), [], [], 0
    for number, descriptor in enumerate(heads + owners):
        size = len(descriptor) + 20
        if at // half % 2 or at % half + size > half:  # none goes over a border; behind each 256 KiB comes their copy
            at = (at // (2 * half) + 1) * 2 * half
        entry = pack('IIQI', security_hash(descriptor), 256 + number, at, size)
        data.extend(bytes(max(0, at + half + size - len(data))))
        data[at:at + size] = data[at + half:at + half + size] = entry + descriptor
        by_id.append(build.view_entry(256 + number, entry[4:8], entry))
        by_hash.append(build.view_entry((get('I', entry, 0), 256 + number), entry[:8], entry + b'I\0I\0'))
        put_data_size(by_hash)
        at += size + 15 & ~15
    builder.mark(stream.runs(), False)
    replace(record, stream, builder.nonresident(ntfs.DATA, data, '$SDS'))
    builder.put_index(record, '$SII', 0, build.COLLATE_ULONG, by_id)
    builder.put_index(record, '$SDH', 0, build.COLLATE_HASH, by_hash)
    record.save()


def put_data_size(entries):
    """The last four bytes of an entry of $SDH do not count as data."""
    key, body = entries[-1]
    body = bytearray(body)
    put('H', body, 2, 20)
    entries[-1] = (key, bytes(body))


def object_ids(builder, count):
    """Files with object ids, and $ObjId's index of them."""
    volume, entries = builder.volume, []
    for record in volume.base_records():
        if len(entries) >= count:
            break
        if record.find(build.OBJECT_ID) or get('H', record.buffer, 22) & 2:
            continue
        key = guid(record.number)
        value = key + (guid('birth volume') + key + bytes(16) if record.number % 3 else b'')
        try:
            insert(record, resident(build.OBJECT_ID, value))
        except NoRoom:
            continue
        record.save()
        entries.append(build.view_entry(struct.unpack('<IIII', key), key, pack('Q', record.reference()) +
                                        guid('birth volume') + key + bytes(16)))
    entries.append(build.view_entry(struct.unpack('<IIII', guid('volume')), guid('volume'),
                                    pack('Q', volume.record(3).reference()) + bytes(48)))
    index = next(r for r in volume.base_records() if r.find(ntfs.INDEX_ROOT, '$O') and not r.find(ntfs.INDEX_ROOT, '$Q'))
    builder.put_index(index, '$O', 0, build.COLLATE_ULONGS, entries)
    index.save()


def bad_clusters(builder):
    """Three places where the disk was once bad. Windows gives $Bad neither flag nor compressed size."""
    volume, record = builder.volume, builder.volume.record(8)
    taken = sorted(run[1:] for count in (1, 7, 2) for run in builder.take(count))
    runs, vcn = [], 0
    for lcn, length in taken:
        if lcn > vcn:
            runs.append((vcn, None, lcn - vcn))
        runs.append((lcn, lcn, length))
        vcn = lcn + length
    runs.append((vcn, None, volume.clusters - vcn))
    replace(record, record.find(ntfs.DATA, '$Bad'),
            nonresident(volume.cluster_size, ntfs.DATA, runs, '$Bad', initialised=0))
    record.save()


def restart_page(log_size, lsn):
    """RSTR, version 1.1, with the 16 bytes that XP added to the restart area; one client, which does not use the log."""
    page = bytearray(4096)
    struct.pack_into('<4sHHQIIHHH', page, 0, b'RSTR', 30, 9, 0, 4096, 4096, 48, 1, 1)
    struct.pack_into('<QHHHHIHHQIHHII', page, 48, lsn, 1, 0, 0xffff, 2, 67 - log_size.bit_length(), 64 + 160, 64, log_size, 0,
                     48, 64, 3, 0)
    struct.pack_into('<QQHHH6xI8s', page, 48 + 64, lsn, lsn, 0xffff, 0xffff, 1, 8, 'NTFS'.encode('utf-16-le'))
    ntfs.fixup_write(page)
    return bytes(page)


def clean_log(volume):
    """Two restart pages that say "clean", and behind them pages of what has long been carried out."""
    data = volume.record(2).find(ntfs.DATA)
    size, runs = data.get('Q', 48), data.runs()
    pages = [restart_page(size, 0x20000), restart_page(size, 0x1f000)]
    for number in range(2, size // 4096):
        page = bytearray(4096)
        if number % 7:
            struct.pack_into('<4sHHQIHHHH4xQ', page, 0, b'RCRD', 40, 9, 0x10000 + number, 1, 1, 1, 0xf00, 0, 0x10000 + number)
            page[64:4096] = bytes(byte ^ number & 0xff for byte in range(64)) * 63
            ntfs.fixup_write(page)
        else:
            page = b'\xff' * 4096
        pages.append(bytes(page))
    volume.write_runs(runs, 0, b''.join(pages)[:size])


# Kinds of files

def kinds(volume, seed=2):
    builder = Builder(volume, seed)
    reparse = []
    top = builder.directory(build.ROOT, 'Windows')
    changed_files(builder, reparse)
    many_names(builder, top)
    large_attributes(builder, top, reparse)
    full_records(builder, top)
    index = next(r for r in volume.base_records() if r.find(ntfs.INDEX_ROOT, '$R'))
    builder.put_index(index, '$R', 0, build.COLLATE_ULONGS,
                      [build.view_entry((tag, *struct.unpack('<II', pack('Q', reference))), pack('IQ', tag, reference), b'')
                       for tag, reference in reparse])
    index.save()
    builder.close()


def ordinary_files(volume):
    for record in volume.base_records():
        data = record.find(ntfs.DATA, nonresident=1)
        if data and not data.get('H', 12) and not record.find(ntfs.LIST):
            yield record, data


def changed_files(builder, reparse):
    """Files become what Windows makes of them, each in its turn."""
    changes = [wof, dedup, encrypted, encrypted_sparse, preallocated, uninitialised, of_own_types]
    for number, (record, data) in enumerate(ordinary_files(builder.volume)):
        try:
            changes[number % (2 * len(changes))](builder, record, data, reparse)
        except (IndexError, NoRoom):
            continue
        record.save()


def add_attribute_flags(record, flags):
    information = record.find(ntfs.SI)
    at = information.value_at() + 32
    put('I', record.buffer, at, get('I', record.buffer, at) | flags)


def sparse_stub(cluster, size, unit):
    """An unnamed $DATA that is one hole, of whole 16 clusters."""
    clusters = -(-size // (16 * cluster)) * 16
    return nonresident(cluster, ntfs.DATA, [(0, None, clusters)], flags=build.SPARSE, unit=unit, data=size)


def wof(builder, record, data, reparse):
    """Compressed by the overlay filter: the bytes are in a stream, which is sparse or not, the file itself is a hole."""
    cluster, runs, size = builder.volume.cluster_size, data.runs(), data.get('Q', 48)
    flags = build.SPARSE if record.number % 2 else 0
    replace(record, data, sparse_stub(cluster, size * 3, 4),
            nonresident(cluster, ntfs.DATA, runs, 'WofCompressedData', flags=flags, data=size),
            resident(build.REPARSE, pack('IHHIIII', TAG_WOF, 16, 0, 1, 2, 1, record.number % 4)))
    add_attribute_flags(record, 0x600)
    reparse.append((TAG_WOF, record.reference()))


def dedup(builder, record, data, reparse):
    """Its content is elsewhere: nothing is left but a hole and 120 bytes that say where."""
    builder.mark(data.runs(), False)
    replace(record, data, sparse_stub(builder.volume.cluster_size, data.get('Q', 48), 0),
            resident(build.REPARSE, pack('IHH', TAG_DEDUP, 112, 0) + bytes(range(112))))
    add_attribute_flags(record, 0x600)
    reparse.append((TAG_DEDUP, record.reference()))


def encrypted(builder, record, data, _):
    """$EFS is in clusters of its own."""
    keys = bytes(builder.source.randrange(256) for _ in range(700))
    insert(record, builder.nonresident(build.LOGGED, keys, '$EFS'))
    record.find(ntfs.DATA).put('H', 12, build.ENCRYPTED)
    add_attribute_flags(record, 0x4000)


def encrypted_sparse(builder, record, data, _):
    cluster, runs, size = builder.volume.cluster_size, data.runs(), data.get('Q', 48)
    runs.append((runs[-1][0] + runs[-1][2], None, 64 - sum(run[2] for run in runs) % 16))
    replace(record, data, nonresident(cluster, ntfs.DATA, runs, flags=build.SPARSE | build.ENCRYPTED, unit=4,
                                      data=size + 20 * cluster, initialised=size),
            resident(build.LOGGED, b'keys' * 30, '$EFS'))
    add_attribute_flags(record, 0x4200)


def preallocated(builder, record, data, _):
    """Clusters behind the end of the file, as a program that wrote to its end left them."""
    runs, size, initialised = data.runs(), data.get('Q', 48), data.get('Q', 56)
    runs += builder.take(9, vcn=runs[-1][0] + runs[-1][2])
    replace(record, data, nonresident(builder.volume.cluster_size, ntfs.DATA, runs, data=size, initialised=initialised))


def uninitialised(builder, record, data, _):
    """Nothing was ever written behind the first byte, or at all; and a stream that was given no cluster."""
    data.put('Q', 56, record.number % 2)
    insert(record, nonresident(builder.volume.cluster_size, ntfs.DATA, [], 'empty'))


def of_own_types(builder, record, data, _):
    """$PROPERTY_SET is from before Windows 2000; types from 0x1000 on are a volume's own."""
    insert(record, resident(build.PROPERTY_SET, b'property'))
    insert(record, builder.nonresident(0x1000, b'a type that only this volume knows ' * 200))
    insert(record, resident(0x1010, b'another', 'named'))


def many_names(builder, top):
    """A directory of files with long and short names, and links to some of them from another."""
    volume = builder.volume
    links = builder.directory(top, 'Links to what is elsewhere', dos='LINKST~1')
    for number in range(400):
        record = builder.file(top, f'A component of the system {number:04}.manifest', resident(ntfs.DATA, b'tiny %d' % number),
                              dos=f'ACOM{number:04}.MAN')
        if number % 4 == 0:
            builder.name(record, links, f'link {number}', build.POSIX)
            builder.name(record, links, f'Another link to {number}', build.WIN32)
            builder.name(record, links, f'ANOT{number:04}', build.DOS)
            record.save()
    for number in range(40):
        builder.file(top, f'winsxs {number}.dll', builder.nonresident(ntfs.DATA, b'%08d' % number * 2000, longest=2),
                     resident(ntfs.DATA, b'[ZoneTransfer]\r\nZoneId=3\r\n', 'Zone.Identifier'))
    assert volume.records > builder.next_record, 'the volume needs more spare records'


def extended_attributes(names):
    """$EA_INFORMATION and $EA."""
    entries = b''
    for number, (name, value) in enumerate(names):
        size = 8 + len(name) + 1 + len(value)
        entries += pack('IBBH', (size + 3 & ~3) if number < len(names) - 1 else size + 3 & ~3, 0, len(name), len(value))
        entries += name + b'\0' + value + bytes(-size % 4)
    return pack('HHI', min(len(entries), 0xffff), 0, len(entries)), entries


def large_attributes(builder, top, reparse):
    """What is resident more often than not, in clusters: extended attributes, reparse points, descriptors, $EFS; and a
    compressed file with units of all three kinds."""
    cluster = builder.volume.cluster_size
    information, entries = extended_attributes([(b'$KERNEL.PURGE.ESBCACHE', bytes(900)), (b'LXUID', bytes(4)),
                                                (b'USER.LARGE', bytes(range(256)) * 40)])
    for number in range(6):
        builder.file(top, f'ea {number}', resident(build.EA_INFORMATION, information),
                     builder.nonresident(build.EA, entries, longest=1), resident(ntfs.DATA, b'with attributes'))
        target = '\\??\\C:\\' + 'a very long way to go\\' * 60
        text = target.encode('utf-16-le')
        value = pack('IHHHHHH', TAG_MOUNT_POINT, len(text) + 12, 0, 0, len(text), len(text) + 2, 0) + text + bytes(4)
        link = builder.directory(top, f'junction {number}', builder.nonresident(build.REPARSE, value, longest=1))
        reparse.append((TAG_MOUNT_POINT, builder.volume.record(link).reference()))
        record = builder.volume.record(link)
        add_attribute_flags(record, 0x400)
        record.save()
        cloud = pack('IHH', TAG_CLOUD, 300, 0) + bytes(300)
        record = builder.file(top, f'placeholder {number}', sparse_stub(cluster, 1 << 20, 4), resident(build.REPARSE, cloud),
                              file_attributes=0x501620)
        reparse.append((TAG_CLOUD, record.reference()))
        descriptor = pack('BBHIIII', 1, 0, 0x8004, 0, 0, 0, 20) + pack('BBHHH', 2, 0, 1508, 1, 0) + bytes(1500)
        builder.file(top, f'own descriptor {number}', builder.nonresident(build.SECURITY, descriptor), resident(ntfs.DATA, b''))
        if cluster <= 4096:
            builder.file(top, f'units {number}', compressed_units(builder), file_attributes=0x820)


def compressed_units(builder):
    """Units of 16 clusters: stored as they are, as nothing, and compressed to 1 to 15 clusters; then once more. What they
    hold decompresses: chunks that say that they are not compressed."""
    cluster, runs, vcn = builder.volume.cluster_size, [], 0
    for filled in (16, 0, 5, 16, 16, 1, 15, 0, 0, 9):
        if filled:
            content = bytes(builder.source.randrange(256) for _ in range(64)) * (cluster * 16 // 64)
            if filled < 16:  # as many chunks of 4 KiB as fit, each with its header; then the end of the unit
                chunks = (filled * cluster - 2) // 4098
                content = b''.join(pack('H', 0x3fff) + content[:4096] for _ in range(chunks))
            got = builder.take(filled, longest=6)
            builder.volume.write_runs(got, 0, content.ljust(filled * cluster, b'\0'))
            runs += [(vcn + at, lcn, length) for at, lcn, length in got]
        if filled < 16:
            runs.append((vcn + filled, None, 16 - filled))
        vcn += 16
    return nonresident(cluster, ntfs.DATA, merge_holes(runs), flags=build.COMPRESSED, unit=4, data=vcn * cluster - 100)


def merge_holes(runs):
    merged = []
    for vcn, lcn, length in runs:
        if merged and lcn is None and merged[-1][1] is None:
            merged[-1] = (merged[-1][0], None, merged[-1][2] + length)
        else:
            merged.append((vcn, lcn, length))
    return merged


def full_records(builder, top):
    """Not one byte of the record is left."""
    for number in range(8):
        record = builder.file(top, f'full {number}', builder.nonresident(ntfs.DATA, b'%8d' % number * 4000, longest=1))
        room = len(record.buffer) - get('I', record.buffer, 24)
        insert(record, resident(ntfs.DATA, bytes(room - 32), 'full'))
        assert get('I', record.buffer, 24) == len(record.buffer)
        record.save()


# Wear

def wear(volume, seed=3):
    """Nothing that counts changes."""
    builder = Builder(volume, seed)
    for number in range(volume.records):
        record = volume.record(number)
        if record.buffer[:4] != b'FILE' or not record.in_use():
            worn_free_record(builder, record)
            continue
        if number >= 24:
            old_sizes(builder, record)
            old_encodings(builder, record)
        garbage(builder, record)
        record.save()
    index_sizes(builder)
    stale_mirror(builder)
    if any(builder.is_free(lcn) for lcn in range(volume.clusters)):
        builder.take(1)  # marked, and nobody's
        builder.close()


def worn_free_record(builder, record):
    """Never used: zeros. Used before: attributes whose clusters are others' now; torn, as nobody reads it."""
    volume, position = builder.volume, record.number * builder.volume.record_size
    if record.number < 24:
        return
    way = record.number % 4
    if way == 0:
        volume.write_runs(volume.mft_runs, position, bytes(volume.record_size))
    elif way == 1:
        donor = next(ordinary_files(volume))[0]
        block = bytearray(donor.buffer)
        put('H', block, 22, get('H', block, 22) & ~1)
        put('H', block, 16, builder.source.randrange(1, 0x10000))
        put('I', block, 44, record.number)
        ntfs.fixup_write(block)
        volume.write_runs(volume.mft_runs, position, block)
    elif way == 2 and record.buffer[:4] == b'FILE':
        block = bytearray(record.buffer)
        ntfs.fixup_write(block)
        block[510] ^= 0x55
        volume.write_runs(volume.mft_runs, position, block)


def old_sizes(builder, record):
    for attribute in record.attributes():
        if attribute.type == ntfs.FILE_NAME:
            lagging(builder, record.buffer, attribute.value_at())


def lagging(builder, buffer, at):
    """Times, sizes and attributes of a $FILE_NAME as they were when the file got that name, or at any time since."""
    if builder.source.randrange(3) == 0:
        for field in range(8, 40, 8):
            put('Q', buffer, at + field, build.FILETIME - builder.source.randrange(1 << 40))
        put('Q', buffer, at + 40, builder.source.randrange(1 << 30))
        put('Q', buffer, at + 48, builder.source.randrange(1 << 30))
        put('I', buffer, at + 56, get('I', buffer, at + 56) ^ 0x20)


def index_sizes(builder):
    """The same in directories, each on its own."""
    volume = builder.volume
    for record in volume.base_records(5):
        root = record.find(ntfs.INDEX_ROOT, '$I30')
        runs = volume.attribute_runs(record.number, ntfs.INDEX_ALLOCATION, '$I30')
        if not root:
            continue
        size, clusters = get('I', root.value(), 8), sum(run[2] for run in runs)
        for at in range(0, clusters * volume.cluster_size // size * size, size):
            block = bytearray(volume.read_runs(runs, at, size))
            if block[:4] != b'INDX':
                continue
            ntfs.fixup_read(block)
            entry = 24 + get('I', block, 24)
            while not get('H', block, entry + 12) & 2:
                lagging(builder, block, entry + 16)
                entry += get('H', block, entry + 8)
            ntfs.fixup_write(block)
            volume.write_runs(runs, at, block)


def encode_loosely(builder, runs):
    """Mapping pairs as nobody must write them and everybody must read them: runs in two pieces though they are adjacent,
    numbers in more bytes than they need."""
    out, previous = bytearray(), 0
    for _, lcn, length in runs:
        parts = [(lcn, length)]
        if lcn is not None and length > 1 and builder.source.randrange(2):
            cut = builder.source.randrange(1, length)
            parts = [(lcn, cut), (lcn + cut, length - cut)]
        for start, count in parts:
            wide = builder.source.randrange(3)
            size = min(8, ntfs.signed_bytes(count) + wide)
            delta = b''
            if start is not None:
                delta = (start - previous).to_bytes(min(8, ntfs.signed_bytes(start - previous) + wide), 'little', signed=True)
                previous = start
            out += bytes([len(delta) << 4 | size]) + count.to_bytes(size, 'little') + delta
    return out + b'\0'


def old_encodings(builder, record):
    """Only where there is room for them in the record."""
    for attribute in list(record.attributes()):
        if not attribute.nonresident or attribute.type == ntfs.LIST or builder.source.randrange(2):
            continue
        pairs, start = encode_loosely(builder, attribute.runs()), attribute.get('H', 32)
        length, used = build.align8(start + len(pairs)), get('I', record.buffer, 24)
        more = length - attribute.length
        if more < 0 or used + more > len(record.buffer):
            continue
        end = attribute.at + attribute.length
        record.buffer[end + more:used + more] = record.buffer[end:used]
        record.buffer[attribute.at + start:attribute.at + length] = pairs.ljust(length - start, b'\0')
        put('I', record.buffer, attribute.at + 4, length)
        put('I', record.buffer, 24, used + more)
        return  # what follows it has moved


def garbage(builder, record):
    """Behind the run lists, the values and the end marker."""
    buffer, used = record.buffer, get('I', record.buffer, 24)
    noise = lambda count: bytes(builder.source.randrange(256) for _ in range(count))
    for attribute in record.attributes():
        end = attribute.at + attribute.length
        if attribute.nonresident:
            at = attribute.at + attribute.get('H', 32)
            while buffer[at]:
                at += 1 + (buffer[at] & 15) + (buffer[at] >> 4)
            at += 1
        else:
            at = attribute.value_at() + attribute.get('I', 16)
        buffer[at:end] = noise(end - at)
    buffer[used - 4:] = noise(len(buffer) - used + 4)


def stale_mirror(builder):
    """$MFTMirr has as many records as a cluster, and Windows looks after the first ones: the rest is from long ago."""
    volume = builder.volume
    base = volume.mirror_lcn * volume.cluster_size
    for number in range(min(16, volume.mirror_records)):
        record = volume.record(number)
        for at in range(get('I', record.buffer, 24), volume.record_size):
            if at % ntfs.STRIDE < ntfs.STRIDE - 2:  # behind the bytes in use, but for the update sequence
                volume.write_at(base + number * volume.record_size + at, bytes([builder.source.randrange(256)]))
    for number in range(24, volume.mirror_records):
        volume.write_at(base + number * volume.record_size, bytes(builder.source.randrange(256) for _ in range(512)))


# $MFT

def mft_extension_in_record_15(volume):
    """The first extension of $MFT is in the record that NTFS keeps for it."""
    divide_mft(volume, 15)


def mft_divided_in_its_record(volume):
    """Both parts of $MFT's run list are in its own record, as they are while an attribute is being divided."""
    divide_mft(volume, 0)


def make_extension(record, base):
    """An empty one."""
    block = record.buffer
    start = get('H', block, 20)
    block[start:] = pack('II', ntfs.END, 0).ljust(len(block) - start, b'\0')
    put('H', block, 18, 0)
    put('H', block, 22, 1)
    put('I', block, 24, start + 8)
    put('Q', block, 32, base.reference())
    put('H', block, 40, 0)


def divide_mft(volume, number):
    """$MFT must have more than two runs, and no list. The second part of its run list comes into the record of that number."""
    Builder(volume)  # which knows how names are sorted
    record = volume.record(0)
    extension = volume.record(number) if number else record
    data = record.find(ntfs.DATA)
    runs, sizes = data.runs(), [data.get('Q', at) for at in (48, 56)]
    total = sum(run[2] for run in runs)
    cut = next(i for i, run in enumerate(runs) if i and run[0] * volume.cluster_size >= 64 * volume.record_size)
    first = bytearray(nonresident(volume.cluster_size, ntfs.DATA, runs[:cut], data=sizes[0], initialised=sizes[1]))
    put('Q', first, 40, total * volume.cluster_size)
    replace(record, data, first)
    if number:
        make_extension(extension, record)
    insert(extension, nonresident(volume.cluster_size, ntfs.DATA, runs[cut:]))
    entries = b''
    for holder, attribute in [(holder, a) for holder in dict.fromkeys((record, extension)) for a in holder.attributes()]:
        lowest = attribute.get('Q', 16) if attribute.nonresident else 0
        entry = pack('IHBBQQH', attribute.type, 32, 0, 26, lowest, holder.reference(), attribute.get('H', 14))
        entries += entry.ljust(32, b'\x5a')  # what is behind the number means nothing
    by_type = sorted((entries[at:at + 32] for at in range(0, len(entries), 32)), key=lambda e: (get('I', e, 0), get('Q', e, 8)))
    insert(record, resident(ntfs.LIST, b''.join(by_type)))
    if number:
        extension.save()
    record.save()
