# SPDX-License-Identifier: GPL-2.0-or-later
"""Each call to the host fails once, in each way, in each of the commands: no crash, no hang, the documented exit status, a message that
says on what and why, and an image that is the old one or the new one and needs nothing but zcfs-check --repair, if that.

SEED in the environment repeats a run; EVERY=1 lets every call fail and not only a sample."""
import errno
import os
import random
import shutil
import subprocess
import sys

from commands import DONE, FAILED, NTFS_POPULATE, NTFS_SCATTER, ZCFS_CHECK, ZCFS_DEFRAG, check, defrag, unmount_on_termination, workspace
from guest import run
from host import host_file_system, write_view
from injector import HARMLESS, KINDS, Injector, name_of, offsets
from tap import Cases, holds

MAP_IMAGE = os.environ.get('MAP_IMAGE', 'map-image')
SAMPLE = 4            # of a way in which calls may fail, this many calls
HANG_SECONDS = 60
SECTOR = 512
CORRECTED, LEFT, OPERATIONAL = 1, 4, 8  # exit statuses of zcfs-check; the first of a scenario's is that without faults
# What a message has to say of an error, if the error is all that there is to tell.
WORDS = {errno.ENOSPC: 'space', errno.EDQUOT: 'quota', errno.EROFS: 'read-only', errno.ENOMEM: 'memory', errno.EIO: 'input/output',
         errno.EMFILE: 'too many open files', errno.ENOLCK: 'lock'}


class Store:
    """A store with one image, brought again and again into one of the states that a command begins with."""

    def __init__(self, root):
        self.root, self.directory = root, os.path.join(root, 'store')
        self.image = os.path.join(self.directory, 'a.img')
        os.mkdir(self.directory)
        self.make()
        self.save('plain')
        self.command([ZCFS_DEFRAG, self.image])
        self.save('passed')
        run(MAP_IMAGE, 'redo', self.directory, 'a.img', '8384512', 'what a crash has left undone')
        self.save('torn')

    def make(self):
        with open(self.image, 'xb') as image:
            image.truncate(8 << 20)
        run('mkntfs', '--quiet', '--force', '--fast', '--partition-start', '0', '--sectors-per-track', '0', '--heads', '0', self.image)
        run(NTFS_POPULATE, '--quiet', '--seed', '1', '--dirs', '1', '--files', '20', '--tiny', '5', '--streams', '2', '--sparse', '1',
            '--compressed', '1', '--links', '1', '--names', '1', self.image)
        run(NTFS_SCATTER, '--quiet', '--seed', '1', '--fragments', '150', '--what', 'all', self.image)
        with open(self.image, 'ab') as image:
            image.truncate((8 << 20) + 4096)

    @staticmethod
    def command(words):
        run(*words)

    def save(self, name):
        run('cp', '-a', '--sparse=always', self.directory, os.path.join(self.root, name))

    def restore(self, name):
        shutil.rmtree(self.directory)
        shutil.copytree(os.path.join(self.root, name), self.directory)

    def view(self):
        path = os.path.join(self.root, 'view')
        write_view(self.image, path)
        with open(path, 'rb') as file:
            return file.read()


def between(view, old, new):
    """Whether each sector is the old or the new one."""
    return len(view) == len(old) and all(view[at:at + SECTOR] in (old[at:at + SECTOR], new[at:at + SECTOR])
                                         for at in range(0, len(view), SECTOR))


class Scenario:
    """A command, and what it begins with."""

    def __init__(self, name, state, *words, before=None, statuses=(DONE, FAILED), parts=False):
        """@parts: a part of the change may be there, and be told of."""
        self.name, self.state, self.words, self.before, self.statuses, self.parts = name, state, words, before, statuses, parts

    def prepare(self, store):
        store.restore(self.state)
        if self.before:
            run(*self.before, store.image)


SCENARIOS = [
    Scenario('adoption and pass', 'plain', ZCFS_DEFRAG),
    Scenario('pass over a bundle', 'torn', ZCFS_DEFRAG, '--pack'),
    Scenario('undo', 'plain', ZCFS_DEFRAG, '--undo', before=[ZCFS_DEFRAG]),
    Scenario('settle', 'passed', ZCFS_DEFRAG, '--settle'),
    Scenario('discard', 'plain', ZCFS_DEFRAG, '--discard=forget-undo', before=[ZCFS_DEFRAG], parts=True),
    Scenario('plain in place', 'passed', ZCFS_DEFRAG, '--plain=settle'),
    Scenario('plain copy', 'passed', ZCFS_DEFRAG, '--plain=copy'),
    Scenario('check', 'torn', ZCFS_CHECK, statuses=(LEFT, OPERATIONAL, LEFT | OPERATIONAL)),
    Scenario('repair', 'torn', ZCFS_CHECK, '--repair',
             statuses=(CORRECTED, LEFT, OPERATIONAL, LEFT | OPERATIONAL, CORRECTED | OPERATIONAL, CORRECTED | LEFT | OPERATIONAL)),
]


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
        elif self.scenario.words[0] == ZCFS_DEFRAG and not self.ever and not self.scenario.parts and 'not known' not in self.err:
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


def views(store, scenario):
    """The guest's view before and after."""
    scenario.prepare(store)
    if scenario.state == 'torn':
        check('--repair', store.image)
    old = store.view()
    defrag_or_check(scenario, store)
    return old, store.view()


def defrag_or_check(scenario, store):
    result = (defrag if scenario.words[0] == ZCFS_DEFRAG else check)(*scenario.words[1:], store.image)
    holds(result.status in (0, 1), f'without faults: {result!r}')


def try_kind(cases, store, injector, scenario, kind, source, seen):
    calls, errors = KINDS[kind]
    old, new = seen
    total = Trial(store, injector, scenario, calls, (1 << 64) - 1, errno.EIO, False).counted
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


def main():
    unmount_on_termination()
    seed = int(os.environ.get('SEED', int.from_bytes(os.urandom(4), 'little')))
    print(f'# SEED={seed}', flush=True)
    source = random.Random(seed)
    only = sys.argv[1:]
    cases = Cases()
    with workspace() as directory, host_file_system('tmpfs', directory, 200) as root:
        injector, store = Injector(root), Store(root)
        for scenario in SCENARIOS:
            seen = views(store, scenario)
            for kind in KINDS:
                if not only or scenario.name in only or kind in only:
                    try_kind(cases, store, injector, scenario, kind, source, seen)
    cases.finish()


main()
