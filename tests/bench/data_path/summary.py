# SPDX-License-Identifier: GPL-2.0-or-later
"""From samples to medians and ratios."""
import statistics


class Results:
    """The samples of a run: medium, row, peer -> list of what measure.Bench.cell gave."""

    def __init__(self):
        self.samples = {}

    def add(self, medium, row, peer, sample):
        self.samples.setdefault((medium, row, peer), []).append(sample)

    def good(self, medium, row, peer):
        return [s for s in self.samples.get((medium, row, peer), []) if 'error' not in s]

    def errors(self):
        return [(*key, s['error']) for key, samples in self.samples.items() for s in samples if 'error' in s]

    def peers(self, medium):
        """In the order of their first appearance."""
        return list(dict.fromkeys(peer for m, _, peer in self.samples if m == medium))

    def rows(self, medium):
        return list(dict.fromkeys(row for m, row, _ in self.samples if m == medium))

    def media(self):
        return list(dict.fromkeys(medium for medium, _, _ in self.samples))

    def rounds(self):
        """How many samples the cells have, as text: not all have the same number in a run that was interrupted."""
        counts = {len(samples) for samples in self.samples.values()} or {0}
        return f'{max(counts)}' if len(counts) == 1 else f'{min(counts)} to {max(counts)}'

    def values(self, medium, row, peer, what):
        return [what(s) for s in self.good(medium, row, peer)]

    def median(self, medium, row, peer, what):
        """None if there is no sample."""
        values = self.values(medium, row, peer, what)
        return statistics.median(values) if values else None

    def spread(self, medium, row, peer, what):
        """Half the range, as a fraction of the median."""
        values = self.values(medium, row, peer, what)
        return (max(values) - min(values)) / 2 / statistics.median(values) if len(values) > 1 else 0

    def ratio(self, medium, row, peer, other, other_row=None):
        """How many times as fast a peer is as another (in other_row, if that is not the same); None if one was not measured."""
        a, b = self.median(medium, row, peer, rate), self.median(medium, other_row or row, other, rate)
        return a / b if a is not None and b else None

    def overlap(self, medium, row, peer, other):
        """Whether the slowest sample of one is slower than the fastest of the other, both ways: no difference was seen."""
        a, b = self.values(medium, row, peer, rate), self.values(medium, row, other, rate)
        return max(a) >= min(b) and max(b) >= min(a)


def rate(sample):
    """Bytes a second in MiB: proportional to IOPS within a row."""
    return sample['mib_s']


def iops(sample):
    return sample['iops']


def server_cpu(sample):
    """Seconds of the server's CPU time for a GiB moved."""
    return sample['server_cpu'] / sample['bytes'] * 2**30


def total_cpu(sample):
    """The same with that of fio, in whose system calls much of the work is done."""
    return (sample['server_cpu'] + sample['client_cpu']) / sample['bytes'] * 2**30
