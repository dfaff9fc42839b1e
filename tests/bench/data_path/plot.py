# SPDX-License-Identifier: GPL-2.0-or-later
"""Bars as SVG, drawn by hand: small enough to commit and the same everywhere."""
from xml.sax.saxutils import escape

from data_path.summary import rate

BAR, GAP, LABEL, WIDTH, TOP = 9, 10, 190, 900, 46
LONGEST = 8  # times the base; what is longer is cut
COLOURS = {'raw': '#bbbbbb', 'qsd-raw': '#e69f00', 'qsd-qcow2': '#f0c060', 'hp-clone': '#56b4e9', 'hp-uring': '#0072b2',
           'hp-pass': '#003f63', 'zcfs-plain': '#d55e00', 'zcfs-1': '#009e73', 'zcfs-1M': '#66c2a5'}


def bars(results, medium, rows, base='qsd-raw'):
    """How many times as fast as base each peer is in each row; longer is better. Bars that would be off the scale are cut."""
    peers = [peer for peer in COLOURS if peer in results.peers(medium)]
    values = {(row.name, peer): results.ratio(medium, row.name, peer, base) for row in rows for peer in peers}
    zcfs = [v for (_, peer), v in values.items() if v and peer.startswith(('zcfs', 'hp'))]
    most = min(max([*zcfs, 2]) * 1.05, LONGEST)
    scale = (WIDTH - LABEL - 60) / most
    parts, y = legend(peers, medium, base), TOP
    for row in rows:
        present = [peer for peer in peers if values[row.name, peer]]
        middle = y + len(present) * BAR / 2 + 4
        parts.append(f'<text x="{LABEL - 8}" y="{middle:.0f}" text-anchor="end">{escape(row.name)}</text>')
        for peer in present:
            value = values[row.name, peer]
            spread = results.spread(medium, row.name, peer, rate)
            parts.append(bar(y, value, spread, scale, most, COLOURS[peer]))
            y += BAR
        y += GAP
    for tick in range(0, int(most) + 1, max(1, int(most) // 8)):
        x = LABEL + tick * scale
        parts.insert(0, f'<path d="M{x:.1f} {TOP - 4}V{y}" stroke="#ddd"/><text x="{x:.1f}" y="{y + 12}" text-anchor="middle">{tick}</text>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 20}" font-family="sans-serif" font-size="10">\n'
            f'<rect width="100%" height="100%" fill="white"/>\n' + '\n'.join(parts) + '\n</svg>\n')


def bar(y, value, spread, scale, most, colour):
    length = min(value, most) * scale
    text = f'{value:.1f}' + (' →' if value > most else '')
    line = f'<rect x="{LABEL}" y="{y}" width="{length:.1f}" height="{BAR - 1}" fill="{colour}"/>'
    if value <= most and spread > 0.02:
        half = spread * value * scale
        line += f'<path d="M{LABEL + length - half:.1f} {y + BAR / 2}h{2 * half:.1f}" stroke="black" stroke-width="0.7"/>'
    return line + f'<text x="{LABEL + length + 4:.1f}" y="{y + 8}" font-size="8">{text}</text>'


def legend(peers, medium, base):
    parts = [f'<text x="8" y="14" font-size="12">{medium}: times as fast as {base}</text>']
    for i, peer in enumerate(peers):
        x = 8 + i * 98
        parts.append(f'<rect x="{x}" y="22" width="10" height="10" fill="{COLOURS[peer]}"/><text x="{x + 14}" y="31">{peer}</text>')
    return parts
