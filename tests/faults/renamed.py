# SPDX-License-Identifier: GPL-2.0-or-later
"""Somebody renames the image while a command works on it, and perhaps gives its name to another one: at any call to the host, in each of
the commands. The image is the old one or the new one under the name that it has now, whoever has its old name is not touched, and
zcfs-defrag is done or says that it was renamed.

SEED in the environment repeats a run; EVERY=1 renames at every call and not only at a sample."""
import errno
import os
import subprocess
import time

from commands import DONE, FAILED, ZCFS_DEFRAG, check
from injector import ALLOCATE, NAME, OPEN, READ, SYNC, TRUNCATE, WRITE, offsets
from scenarios import CORRECTED, between, try_all
from tap import equal, holds

# Calls during which it happens, and of how many of them in a command.
CALLS = {'a name': ((NAME,), 12), 'anything else': ((READ, WRITE, SYNC, ALLOCATE, TRUNCATE, OPEN), 4)}
NEVER = (1 << 64) - 1
DELAY_MS = 30         # of such a call, so that there is time
HANG_SECONDS = 300
BEFORE_OPEN = 3       # calls at most: of its directory, of the image as a file, and as a directory
OTHER = b'another image'


class Trial:
    """One run of a command; @other: its name is another image's then."""

    def __init__(self, store, injector, scenario, calls, at, other):
        scenario.prepare(store)
        self.store, self.scenario, self.other = store, scenario, other
        self.early = OPEN in calls and at < BEFORE_OPEN
        self.moved = os.path.join(store.directory, 'b.img')
        injector.arm(calls, at, errno.EINTR, delay_ms=DELAY_MS)   # and then it is tried again
        process = self.start(injector.environment())
        while at != NEVER and not injector.happened() and process.poll() is None:
            time.sleep(0.001)
        self.renamed = at != NEVER and self.rename()
        try:
            self.out, self.err = process.communicate(timeout=HANG_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise AssertionError(f'hangs for {HANG_SECONDS} s') from None
        self.counted, _ = injector.disarm()
        self.status = process.returncode

    def start(self, environment=None):
        return subprocess.Popen([*self.scenario.words, self.store.image], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, env=environment, text=True, errors='replace')

    def rename(self):
        other = os.path.join(self.store.root, 'other')
        with open(other, 'wb') as file:
            file.write(OTHER)
        os.rename(self.store.image, self.moved)
        if self.other:
            os.rename(other, self.store.image)
        return True

    def has_not_seen_it(self):
        """It was renamed before it was opened: what the command says is what it says of what has the name now."""
        if not self.early:
            return False
        process = self.start()
        return (*process.communicate(timeout=HANG_SECONDS), process.returncode) == (self.out, self.err, self.status)

    def judge(self, old, new):
        if self.has_not_seen_it():
            new = old
        else:
            self.judge_outcome()
        result = check('--repair', self.store.directory)
        holds(result.status in (DONE, CORRECTED), f'zcfs-check --repair afterwards: {result!r}')
        equal(sorted(os.listdir(self.store.directory)), ['a.img', 'b.img'] if self.other else ['b.img'], 'what the store has')
        if self.other:
            with open(self.store.image, 'rb') as file:
                equal(file.read(), OTHER, 'the other image')
        view = self.store.view(self.moved)
        holds(view in (old, new) or self.scenario.parts and between(view, old, new), 'the guest\'s view is neither the old nor the new one')
        if self.status == DONE:
            holds(view == new, 'exit status 0, but it is not done')
        elif self.scenario.words[0] == ZCFS_DEFRAG and not self.scenario.parts:
            holds(view == old, f'exit status {self.status}, but something has changed')

    def judge_outcome(self):
        holds(self.status in self.scenario.statuses, f'exit status {self.status}: {self.out}{self.err}')
        if self.scenario.words[0] == ZCFS_DEFRAG and self.status == FAILED:
            holds('was renamed or removed meanwhile' in self.err, f'not told why: {self.err}')


def try_calls(cases, store, injector, scenario, what, source, seen):
    calls, sample = CALLS[what]
    total = Trial(store, injector, scenario, calls, NEVER, False).counted
    problems, trials = [], 0
    for at in offsets(source, total, sample):
        other = source.random() < 0.5
        trials += 1
        try:
            Trial(store, injector, scenario, calls, at, other).judge(*seen)
        except Exception as problem:  # each is told, and the next one tried
            problems.append(f'call {at} of {total}{", another one in its place" if other else ""}: {problem}')
    if total:
        with cases.case(f'{scenario.name}: renamed during {what}: {trials} of {total} calls'):
            holds(not problems, '\n'.join(problems))


def try_scenario(cases, store, injector, scenario, source, seen):
    for what in CALLS:
        try_calls(cases, store, injector, scenario, what, source, seen)


try_all(try_scenario)
