# SPDX-License-Identifier: GPL-2.0-or-later
"""What a picture of a volume must show, from what the independent checker and a reader of $Bitmap say of the volume, and the
pictures themselves, taken apart: PNG (ISO/IEC 15948) and SVG."""
import re
import struct
import sys
import zlib
from xml.etree import ElementTree

from commands import MAKERS, attribute_runs
from proof import pieces_of

sys.path.insert(0, MAKERS)

import ntfs_image as ntfs  # pylint: disable=wrong-import-position,wrong-import-order

CELLS, COLUMNS, ROWS = 2048, 128, 8
USES = ['free', 'file', 'directory', 'metadata', 'fragmented', 'fixed']
BOTTOM_UP = ['fixed', 'metadata', 'directory', 'file', 'fragmented', 'free']
COLOURS = {'free': 0xdfe3e8, 'file': 0x2f7fc1, 'directory': 0x7cc4ee, 'metadata': 0x009e73, 'fragmented': 0xd55e00, 'fixed': 0x4a5160}
PINNED = {(1, '0x80'), (7, '0x80'), (8, '0x80')}  # $MFTMirr, $Boot, $BadClus
ROOT, RESERVED = 5, 24


def cluster_uses(view, off=0):
    """The use of every cluster."""
    with ntfs.Volume(view, off) as volume:
        uses = ['fixed' if volume_bit else 'free' for volume_bit in bits(volume)]  # marked: nobody's, unless somebody is found
        directories = {record.number for record in volume.base_records(0) if ntfs.get('H', record.buffer, 22) & ntfs.DIRECTORY}
    for (record, kind, _), runs in attribute_runs(view, off).items():
        if (record, kind) in PINNED:
            use = 'fixed'
        elif pieces_of(runs) > 1:
            use = 'fragmented'
        elif record < RESERVED and record != ROOT:
            use = 'metadata'
        else:
            use = 'directory' if record in directories else 'file'
        for _, lcn, length in runs:
            uses[lcn:lcn + length] = [use] * length
    return uses


def bits(volume):
    data = volume.read_runs(volume.attribute_runs(6, ntfs.DATA), 0, (volume.clusters + 7) // 8)
    return [data[lcn // 8] >> lcn % 8 & 1 for lcn in range(volume.clusters)]


def share_out(uses):
    """The eight rows of a cell, from the bottom up."""
    counts = {use: uses.count(use) for use in USES if use in uses}
    rows = {use: 1 for use in counts}
    while sum(rows.values()) < ROWS:
        rows[max(counts, key=lambda use: (counts[use] / rows[use], -USES.index(use)))] += 1
    return [use for use in BOTTOM_UP for _ in range(rows.get(use, 0))]


def expected_cells(uses):
    cells = min(CELLS, len(uses))
    return [share_out(uses[i * len(uses) // cells:(i + 1) * len(uses) // cells]) for i in range(cells)]


def read_png(path):
    """Rows of 0xrrggbb, of an image with a palette."""
    with open(path, 'rb') as file:
        data = file.read()
    if data[:8] != b'\x89PNG\r\n\x1a\n':
        raise ValueError('no PNG')
    at, chunks = 8, {}
    while at < len(data):
        length, kind = struct.unpack_from('>I4s', data, at)
        body = data[at + 8:at + 8 + length]
        if zlib.crc32(kind + body) != struct.unpack_from('>I', data, at + 8 + length)[0]:
            raise ValueError(f'a damaged {kind}')
        chunks[kind] = chunks.get(kind, b'') + body
        at += 12 + length
    width, height, depth, colour, _, _, interlace = struct.unpack('>IIBBBBB', chunks[b'IHDR'])
    if colour != 3 or interlace or b'IEND' not in chunks:
        raise ValueError('not as it is made')
    palette = [int.from_bytes(chunks[b'PLTE'][i:i + 3], 'big') for i in range(0, len(chunks[b'PLTE']), 3)]
    stride = (width * depth + 7) // 8
    raw, rows = zlib.decompress(chunks[b'IDAT']), []
    for y in range(height):
        line = raw[y * (stride + 1):(y + 1) * (stride + 1)]
        if line[0]:
            raise ValueError('a filter: none is usual with a palette')
        rows.append([palette[line[1 + x * depth // 8] >> 8 - depth - x * depth % 8 & (1 << depth) - 1] for x in range(width)])
    return rows


def png_cells(pixels, left, top, cells):
    names = {colour: use for use, colour in COLOURS.items()}
    found = []
    for cell in range(cells):
        x, y = left + cell % COLUMNS * (ROWS + 1), top + cell // COLUMNS * (ROWS + 1)
        square = [set(pixels[y + row][x:x + ROWS]) for row in range(ROWS)]
        found.append([names[line.pop()] if len(line) == 1 else None for line in reversed(square)])
    return found


def svg_rectangles(svg):
    """(class, x, y, width, height) of everything that is filled."""
    for path in ElementTree.fromstring(svg).iter('{http://www.w3.org/2000/svg}path'):
        for numbers in re.findall(r'M(\d+) (\d+)h(\d+)v(\d+)h-\d+z', path.get('d')):
            yield (path.get('class'), *map(int, numbers))


def svg_cells(svg, left, top, cells):
    found = [[None] * ROWS for _ in range(cells)]
    height = (cells + COLUMNS - 1) // COLUMNS * (ROWS + 1)
    for name, x, y, width, rows in svg_rectangles(svg):
        if int(name[1:]) >= len(USES) or width != ROWS or not top <= y < top + height:
            continue
        cell = (y - top) // (ROWS + 1) * COLUMNS + (x - left) // (ROWS + 1)
        for row in range(rows):
            found[cell][ROWS - 1 - (y - top) % (ROWS + 1) - row] = USES[int(name[1:])]
    return found
