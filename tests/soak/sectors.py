# SPDX-License-Identifier: GPL-2.0-or-later
"""What a range of an image must contain, sector by sector, whatever happens to those who write it.

Each write has a version of its own, and each sector says of itself which version it is: a stale, lost or misplaced one is
told from any other. A sector that was written since the last flush may be any of its versions since, when the host has crashed;
one whose write has failed or was never answered may be the old one or the new one.
"""
import time

from tally import Broken

SECTOR = 512
ZEROS = 0


def content(versions):
    return b''.join(version.to_bytes(8, 'little') * (SECTOR // 8) for version in versions)


class Sectors:
    """Of one writer: nobody else writes there. start: the first byte in the image."""

    def __init__(self, number, start, length):
        self.start, self.count = start, length // SECTOR
        self.next = number << 48 | 1
        self.now = [ZEROS] * self.count      # what a reader sees
        self.flushed = [ZEROS] * self.count  # what fsync has answered for
        self.since = {}                      # sector -> its versions since then, the attempted among them
        self.when = {}                       # sector -> the time of that answer
        self.unsure = {}                     # sector -> the versions it may have, as a write to it has failed

    def fresh(self, count):
        self.next += count
        return range(self.next - count, self.next)

    def begin(self, first, versions):
        """A write starts. Until it has ended, it may have happened or not."""
        for sector, version in enumerate(versions, first):
            self.since.setdefault(sector, []).append(version)
            self.unsure.setdefault(sector, {self.now[sector]}).add(version)

    def end(self, first, versions):
        """It was answered: it has happened."""
        for sector, version in enumerate(versions, first):
            self.now[sector] = version
            self.unsure.pop(sector, None)

    def flush(self, sectors=None):
        """fsync was answered; or a write through to the disk, of these sectors."""
        for sector in [sector for sector in sectors or self.since if sector not in self.unsure]:
            self.flushed[sector] = self.now[sector]
            self.when[sector] = time.monotonic()
            self.since.pop(sector)

    def may_have_lost_cache(self):
        """The host has crashed, or fsync has failed: what was not flushed may be there or not."""
        for sector, versions in self.since.items():
            self.unsure.setdefault(sector, set()).update([self.flushed[sector], self.now[sector], *versions])

    def check(self, first, found, final):
        """Compares what was read, and takes note of what has become of unsure sectors: if final, for good."""
        count = len(found) // SECTOR
        if not self.unsure and found == content(self.now[first:first + count]):
            return
        for i in range(count):
            sector, piece = first + i, found[i * SECTOR:(i + 1) * SECTOR]
            version = int.from_bytes(piece[:8], 'little')
            allowed = self.unsure.get(sector, {self.now[sector]})
            if piece != content([version]) or version not in allowed:
                raise Broken(f'sector {sector} at {self.start + sector * SECTOR} is {version:#x} ({piece[:24].hex()}...), '
                             f'not one of {sorted(hex(v) for v in allowed)}; {self.flushed[sector]:#x} was flushed '
                             f'{time.monotonic() - self.when.get(sector, 0):.4f} s ago')
            if final:
                self.now[sector] = version
                self.unsure.pop(sector, None)

    def after_restart(self):
        """Everything has been read from a host that has come back: what is there is what its disk has."""
        self.flushed = list(self.now)
        self.since.clear()
        self.unsure.clear()
