# SPDX-License-Identifier: GPL-2.0-or-later
"""All that a guest pass must leave as it is, read from $MFT by a reader of the format that shares no code with it: headers
of records, resident values, sizes and flags of attributes, unused records byte for byte."""
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'ntfs'))

# pylint: disable=wrong-import-position
import ntfs_image as ntfs
from ntfs_image import get


def header_of(record):
    """Log sequence number, sequence number, links, flags."""
    return get('Q', record.buffer, 8), record.sequence(), get('H', record.buffer, 18), get('H', record.buffer, 22)


def describe(attribute):
    """Flags, and the value or unit, allocated, data, initialised and compressed size."""
    flags = attribute.get('H', 12)
    if not attribute.nonresident:
        return flags, attribute.get('B', 22), attribute.value()
    sizes = tuple(attribute.get('Q', at) for at in (40, 48, 56))
    return flags, attribute.get('B', 34), sizes, attribute.get('Q', 64) if flags & 0x80ff else None


def is_place(base, attribute):
    """Attribute lists say where attributes are; extents behind the first have no sizes; $MFT's bitmap loses records."""
    return attribute.type == ntfs.LIST or (attribute.nonresident and attribute.get('Q', 16)) or \
        (base == 0 and attribute.type == ntfs.BITMAP and not attribute.nonresident)


def was_freed(sequence, raw):
    """An extension record that is needed no more: not in use, and nothing that knew it by its number finds it."""
    return not get('H', raw, 22) & ntfs.IN_USE and get('H', raw, 16) == sequence % 0xffff + 1


def everything_but_places(image, off=0):
    found = {}
    with ntfs.Volume(image, off) as volume:
        for number in range(volume.records):
            record = volume.record(number, torn=True)
            if not record.in_use():
                found[number, 'unused'] = bytes(record.buffer)
                continue
            base = record.base() if get('Q', record.buffer, 32) else number
            if number < 24 or not get('Q', record.buffer, 32):  # the first ones are not to be freed
                found[number, 'header'] = header_of(record)
            else:
                found[number, 'extension'] = record.sequence()
            for attribute in record.attributes():
                if not is_place(base, attribute):
                    key = base, hex(attribute.type), attribute.name
                    found.setdefault(key, []).append(describe(attribute))
    return {key: sorted(value) if isinstance(value, list) else value for key, value in found.items()}
