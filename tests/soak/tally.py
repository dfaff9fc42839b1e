# SPDX-License-Identifier: GPL-2.0-or-later
"""What a soak counts, and how it ends when a promise was broken."""
import collections
import contextlib
import threading
import time


class Broken(Exception):
    """A promise did not hold."""


class Tally:
    def __init__(self, seconds, out):
        self.counts = collections.Counter()
        self.broken = []
        self.lock = threading.Lock()
        self.started = time.monotonic()
        self.end = self.started + seconds
        self.round_end = self.end
        self.out = out
        self.recent = collections.deque(maxlen=60)  # lines of the log
        self.before = []  # those before the first loss

    def add(self, what, number=1):
        with self.lock:
            self.counts[what] += number

    def begin_round(self, seconds):
        self.round_end = min(time.monotonic() + seconds, self.end)

    def over(self):
        """The round is."""
        return bool(self.broken) or time.monotonic() >= self.round_end

    def finished(self):
        return bool(self.broken) or time.monotonic() >= self.end

    def remaining(self):
        """Of the round, in seconds."""
        return self.round_end - time.monotonic()

    def log(self, text):
        line = f'{time.monotonic() - self.started:9.3f} {text}'
        self.recent.append(line)
        self.out.write(line + '\n')
        self.out.flush()

    def report(self, what):
        with self.lock:
            self.before = self.before or list(self.recent)
            self.broken.append(what)
        self.log(f'BROKEN: {what}')

    @contextlib.contextmanager
    def reporting(self, who):
        """Whatever goes wrong in a thread ends the soak."""
        try:
            yield
        except Broken as broken:
            self.report(f'{who}: {broken}')
        except Exception as error:  # a thread has nobody above it
            import traceback
            self.report(f'{who}: {error}\n{traceback.format_exc()}')

    def figures(self):
        of = lambda *words: sum(number for what, number in self.counts.items() if what.startswith(words))
        yield f'{time.monotonic() - self.started:.0f} s'
        yield f'{of("guest ", "tool ", "name "):,} operations'
        yield f'{of("crash "):,} crashes injected'
        yield f'{self.counts["passes"]:,} passes'
        yield f'{self.counts["bytes verified"]:,} bytes verified'
        yield f'{len(self.broken)} losses'

    def details(self):
        for what, number in sorted(self.counts.items()):
            yield f'{what}: {number:,}'
