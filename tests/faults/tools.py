# SPDX-License-Identifier: GPL-2.0-or-later
"""Each call to the host fails once, in each way, in each of the commands: no crash, no hang, the documented exit status, a message that
says on what and why, and an image that is the old one or the new one and needs nothing but zcfs-check --repair, if that.

SEED in the environment repeats a run; EVERY=1 lets every call fail and not only a sample."""
import errno
import itertools
import json
import os
import re
import subprocess
import sys

from commands import DONE, FAILED, ZCFS_DEFRAG, check
from injector import HARMLESS, KINDS, READ, SYNC, WRITE, name_of, offsets
from scenarios import CORRECTED, Scenario, between, try_all
from tap import equal, holds

NEVER = (1 << 64) - 1
COMMITS_IN_PLACE = ('pass over a bundle', 'undo')
SAMPLE = 4            # of a way in which calls may fail, this many calls
HANG_SECONDS = 300
# What a message has to say of an error, if the error is all that there is to tell.
WORDS = {errno.ENOSPC: 'space', errno.EDQUOT: 'quota', errno.EROFS: 'read-only', errno.ENOMEM: 'memory', errno.EIO: 'input/output',
         errno.EMFILE: 'too many open files', errno.ENOLCK: 'lock'}


class Trial:
    """One run of a command with one fault."""

    def __init__(self, store, injector, scenario, calls, at, error, ever):
        scenario.prepare(store)
        self.scenario, self.error, self.ever = scenario, error, ever
        injector.arm(calls, at, error, ever)
        process = subprocess.Popen([*scenario.words, store.image], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, env=injector.environment(), text=True, errors='replace')
        try:
            self.out, self.err = process.communicate(timeout=HANG_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise AssertionError(f'hangs for {HANG_SECONDS} s') from None
        finally:
            self.counted, self.happened = injector.disarm()
        self.status = process.returncode

    def judge(self, store, old, new):
        self.judge_status()
        if self.scenario.words[0] == ZCFS_DEFRAG:
            self.judge_message()
        else:
            holds('backup' not in self.out + self.err, f'calls the image damaged for what is the host\'s fault: {self.out}{self.err}')
        result = check('--repair', store.directory)
        holds(result.status in (0, CORRECTED), f'zcfs-check --repair afterwards: {result!r}')
        holds(os.listdir(store.directory) == ['a.img'], f'the store has {os.listdir(store.directory)}')
        view = store.view()
        holds(view in (old, new) or self.scenario.parts and between(view, old, new), 'the guest\'s view is neither the old nor the new one')
        if self.status == DONE:
            holds(view == new, 'exit status 0, but it is not done')
        elif self.scenario.words[0] == ZCFS_DEFRAG and not self.scenario.parts and 'not known' not in self.err:
            holds(view == old, f'exit status {self.status}, but something has changed')

    def judge_status(self):
        holds(self.status >= 0, f'ended by signal {-self.status}')
        allowed = self.scenario.statuses
        if not self.happened or (self.error in HARMLESS and not self.ever):
            allowed = allowed[:1]
        holds(self.status in allowed, f'exit status {self.status}: {self.out}{self.err}')

    def judge_message(self):
        if self.status == DONE:
            return
        holds('a.img' in self.err or self.error == errno.ENOMEM, f'no word about which image: {self.err!r}')
        words = WORDS.get(self.error, '')
        # Where it is said what came of it, it is said where the cause is to be found.
        holds(words in self.err.lower() or 'dmesg' in self.err, f'no word about {name_of(self.error)}: {self.err!r}')


def try_kind(cases, store, injector, scenario, kind, source, seen):
    calls, errors = KINDS[kind]
    old, new = seen
    total = Trial(store, injector, scenario, calls, NEVER, errno.EIO, False).counted
    problems, trials = [], 0
    for error in errors:
        for ever in (False, True) if error not in HARMLESS else (False,):
            for at in offsets(source, total, SAMPLE):
                trials += 1
                try:
                    Trial(store, injector, scenario, calls, at, error, ever).judge(store, old, new)
                except Exception as problem:  # each is told, and the next one tried
                    problems.append(f'call {at} of {total}: {name_of(error)}{", and ever after" if ever else ""}: {problem}')
    if total:
        with cases.case(f'{scenario.name}: {kind}: {trials} faults in {total} calls'):
            holds(not problems, '\n'.join(problems))


def undo_without_its_redo(cases, store, injector, scenario, seen):
    """What follows its commit cannot be written."""
    with cases.case('undo: what could not be completed is told as that, with exit status 0 as of a pass'):
        total = Trial(store, injector, scenario, (WRITE,), NEVER, errno.EIO, False).counted
        trial = Trial(store, injector, scenario, (WRITE,), total - 1, errno.EIO, True)
        trial.judge(store, *seen)
        equal((trial.status, trial.out.split(': ')[1]), (DONE, 'undone'), 'exit status and output')
        holds('a.img: undone, but the last step could not be completed' in trial.err, trial.err)
        json_too = Scenario(scenario.name, scenario.state, *scenario.words, '--json', before=scenario.before)
        image = json.loads(Trial(store, injector, json_too, (WRITE,), total - 1, errno.EIO, True).out)['images'][0]
        equal([image.get(name) for name in ('exit_code', 'changed', 'redo_pending', 'volumes')], [DONE, True, True, None], 'the document')


def unread(cases, store, injector, scenario, source):
    """A network's file system has errors of its own, and one that is damaged says what the library says of a map."""
    with cases.case(f'{scenario.name}: whatever a host says that cannot read, it is no defect of zcfs and no damage of the guest\'s'):
        total = Trial(store, injector, scenario, (READ,), NEVER, errno.EIO, False).counted
        for error, at in itertools.product((errno.ETIMEDOUT, errno.EUCLEAN), offsets(source, total, 10 * SAMPLE)):
            trial = Trial(store, injector, scenario, (READ,), at, error, True)
            done = trial.status == DONE and 'the last step could not be completed' in trial.err
            holds((done or trial.status == FAILED) and not re.search('malicious|time-limit|damaged', trial.err),
                  f'call {at} of {total}: {name_of(error)}: {trial.status}: {trial.err}')


def try_flushes(cases, store, injector, scenario, seen):
    """The host stops flushing: then not even a look at the database tells what came of a commit, and that must be said."""
    doubts = []
    with cases.case(f'{scenario.name}: after any flush all others fail'):
        for at in range(Trial(store, injector, scenario, (SYNC,), NEVER, errno.EIO, False).counted):
            trial = Trial(store, injector, scenario, (SYNC,), at, errno.EIO, True)
            trial.judge(store, *seen)
            doubts.append('not known' in trial.err)
            holds(not doubts[-1] or 'nothing has been changed' not in trial.err, trial.err)
        holds(any(doubts), 'no commit was in doubt')


def try_scenario(cases, store, injector, scenario, source, seen):
    only = sys.argv[1:]
    if scenario.name == 'undo' and (not only or 'undo' in only):
        undo_without_its_redo(cases, store, injector, scenario, seen)
    if scenario.name == 'adoption and pass' and (not only or 'adoption and pass' in only):
        unread(cases, store, injector, scenario, source)
    for kind in KINDS:
        if not only or scenario.name in only or kind in only:
            try_kind(cases, store, injector, scenario, kind, source, seen)
    if scenario.name in COMMITS_IN_PLACE and (not only or scenario.name in only or 'sync' in only):
        try_flushes(cases, store, injector, scenario, seen)


try_all(try_scenario)
