# SPDX-License-Identifier: GPL-2.0-or-later
"""What the commands do, each with an image that they have something to do on."""
import os
import random
import shutil

from commands import DONE, FAILED, NTFS_POPULATE, NTFS_SCATTER, ZCFS_CHECK, ZCFS_DEFRAG, check, defrag, unmount_on_termination, workspace
from guest import run
from host import host_file_system, write_view
from injector import Injector
from tap import Cases, holds

MAP_IMAGE = os.environ.get('MAP_IMAGE', 'map-image')
SECTOR = 512
CORRECTED, LEFT, OPERATIONAL = 1, 4, 8  # exit statuses of zcfs-check; the first of a scenario's is that without faults


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

    def view(self, image=None):
        path = os.path.join(self.root, 'view')
        write_view(image or self.image, path)
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


def try_all(try_scenario):
    """Calls try_scenario(cases, store, injector, scenario, source, seen) for each of them; seen: what the guest sees before and after."""
    unmount_on_termination()
    seed = int(os.environ.get('SEED', int.from_bytes(os.urandom(4), 'little')))
    print(f'# SEED={seed}', flush=True)
    source = random.Random(seed)
    cases = Cases()
    with workspace() as directory, host_file_system('tmpfs', directory, 200) as root:
        injector, store = Injector(root), Store(root)
        for scenario in SCENARIOS:
            try_scenario(cases, store, injector, scenario, source, views(store, scenario))
    cases.finish()
