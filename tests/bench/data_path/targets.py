# SPDX-License-Identifier: GPL-2.0-or-later
"""What zcfs's data path should reach beside its peers, and whether it does by the medians of a run."""

SAME_TRANSPORT = {'zcfs-1': 'hp-uring', 'zcfs-1-clone': 'hp-clone'}
DISK_PEERS = {'zcfs-plain': ('qsd-raw', 'hp-clone', 'hp-uring', 'hp-pass'), 'zcfs-1': ('qsd-raw', 'hp-clone', 'hp-uring')}


class Verdict:
    """One comparison: reached is the ratio of the medians."""

    def __init__(self, results, target, medium, row, peer, other, wanted, other_row=None):
        self.target = target
        self.medium = medium
        self.row = row
        self.peer = peer
        self.other = f'{other} in {other_row}' if other_row else other
        self.wanted = wanted
        self.reached = results.ratio(medium, row, peer, other, other_row)
        self.met = self.reached is not None and self.reached >= wanted
        self.close = self.reached is not None and wanted == 1 and results.overlap(medium, row, peer, other)


def through(other, row):
    """zcfs's buffered writes go through to the host at once: so must those that it is compared with."""
    return other + '-wt' if row.buffered_write and other.startswith('hp-') and other != 'hp-pass' else other


def fast_rows(row):
    if not row.direct:
        return 1.5
    return 3 if row.name in ('4k randread qd32', '4k randwrite qd32', '1m read qd4') else 1


def device_is_limit(results, row):
    """The software could do twice what the device does, as a run on tmpfs shows."""
    software, device = (results.median(medium, row.name, peer, lambda s: s['mib_s'])
                        for medium, peer in (('tmpfs', 'zcfs-1'), ('disk', 'raw')))
    return software is not None and device is not None and software >= 2 * device


def comparisons(results, rows):
    """(target, medium, row, peer, other, wanted), perhaps with other_row, of everything that could be compared."""
    for row in rows:
        yield 'times qemu-storage-daemon', 'tmpfs', row, 'zcfs-1', 'qsd-raw', fast_rows(row)
        for peer, other in SAME_TRANSPORT.items():
            yield 'passthrough_hp over the same transport', 'tmpfs', row, peer, through(other, row), 0.95
        if row.name.startswith('4k') and row.scattered:
            yield 'a million extents as fast as one', 'tmpfs', row, 'zcfs-1M', 'zcfs-1', 0.9
        if row.name == '1m read qd4':
            yield 'a loop of preads over 4 KiB extents', 'tmpfs', row, 'zcfs-1M', 'pread-loop', 0.7
            yield 'what the disk reads at random, over 4 KiB extents', 'disk', row, 'zcfs-1M', 'raw', 0.9, '4k randread qd32'
        for peer, others in DISK_PEERS.items():
            for other in others:
                yield 'never worse than a peer, on disk', 'disk', row, peer, through(other, row), 1
            if device_is_limit(results, row):
                yield 'the raw file, where the device is the limit', 'disk', row, peer, 'raw', 0.9


def verdicts(results, rows):
    """One for each comparison of which both sides were measured."""
    all_of = [Verdict(results, target, medium, row.name, *rest) for target, medium, row, *rest in comparisons(results, rows)]
    return [v for v in all_of if v.reached is not None]
