# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes wrong, in one table: the situation, the exit status of zcfs-defrag, what it says, and what it says to do. Nothing is
changed in any of them. tests/e2e/refused.py has every state of a volume that is refused, command_line.py every wrong option."""
import json
import os
import re
import subprocess

from commands import DAMAGED, FAILED, IN_USE, REFUSED, USAGE, ZCFS, ZCFS_CHECK, ZCFS_DEFRAG, defrag, scattered_volume, \
    unmount_on_termination, workspace
from guest import make_ntfs, run
from host import state_of
from tap import Cases, equal, holds

NO_REMEDY = None


class Situations:
    """Each makes what it is about in the store and returns the arguments."""

    def __init__(self, store):
        self.store = store
        self.good = os.path.join(store, 'good.img')
        scattered_volume(self.good, megabytes=24, fragments=400)
        self.held = []

    def copy(self, name):
        path = os.path.join(self.store, name)
        run('cp', '-a', '--sparse=always', self.good, path)
        return path

    def missing(self):
        return [os.path.join(self.store, 'missing.img')]

    def directory(self):
        os.mkdir(os.path.join(self.store, 'directory'))
        return [os.path.join(self.store, 'directory')]

    def linked(self):
        path = self.copy('linked.img')
        os.link(path, path + '.too')
        return [path]

    def in_use(self):
        path = self.copy('used.img')
        self.held.append(open(path, 'rb'))
        return [path]

    def dirty(self):
        path = self.copy('dirty.img')
        run('ntfsfix', path)
        return [path]

    def no_volume(self):
        return ['--volume=9', self.copy('volume.img')]

    def bundle(self, name):
        path = self.copy(name)
        run(ZCFS_DEFRAG, '-q', path)
        return path

    def damaged_map(self):
        path = self.bundle('map.img')
        with open(os.path.join(path, 'map.db'), 'r+b') as database:
            database.seek(4096)
            database.write(b'\xff' * 4096)
        return [path]

    def foreign_map(self):
        path = self.bundle('foreign.img')
        run('sqlite3', os.path.join(path, 'map.db'), 'PRAGMA user_version = 999')
        return [path]

    def inside(self):
        return [os.path.join(self.bundle('inside.img'), 'data')]

    def damaged_volume(self):
        path = self.copy('volume-damaged.img')
        with open(path, 'r+b') as image:
            boot = image.read(512)
            cluster = int.from_bytes(boot[11:13], 'little') * boot[13]
            image.seek(int.from_bytes(boot[48:56], 'little') * cluster + 6 * 1024)  # $Bitmap's record
            image.write(b'\0' * 1024)
        return [path]

    def nothing_to_undo(self):
        return ['--undo', self.copy('undo.img')]

    def long_name(self):
        return [self.copy('x' * 250)]


SITUATIONS = [
    # what, how, exit status, what is said, what to do
    ('no such image', 'missing', FAILED, r'missing\.img: no such image', NO_REMEDY),
    ('a directory', 'directory', FAILED, r'is a directory, not an image', NO_REMEDY),
    ('a second hard link', 'linked', FAILED, r'has another hard link', r'remove the other name .*find -samefile'),
    ('a name that is too long', 'long_name', FAILED, r'its name is too long', r'at most 242 bytes'),
    ('a part of a bundle', 'inside', FAILED, r'is a part of a bundle', r'give the bundle itself'),
    ('a volume that there is not', 'no_volume', FAILED, r'has no NTFS volume 9', r'--analyze lists its volumes'),
    ('nothing to undo', 'nothing_to_undo', FAILED, r'there is nothing to undo', NO_REMEDY),
    ('a map of a newer zcfs', 'foreign_map', FAILED, r'belongs to a newer zcfs', r'use the zcfs that made it'),
    ('in use', 'in_use', IN_USE, r'is in use by ".*" \(process \d+\)|is in use by .*process', r'end it, or wait for that with --wait'),
    ('dirty', 'dirty', REFUSED, r'volume 1: refused: ', r'chkdsk|shut'),
    ('a damaged map', 'damaged_map', DAMAGED, r'image map is damaged', r'zcfs-check .* backup'),
    ('a damaged volume', 'damaged_volume', DAMAGED, r'volume 1: damaged: ', r'chkdsk'),
]

WRONG_USAGE = [
    ([], r'which image\?'),
    (['--all'], r'which directory\?'),
    (['--undo', '--analyze', 'x'], r'--undo and --analyze exclude each other'),
    (['--pack', '--undo', 'x'], r'--pack means nothing with --undo'),
    (['--analyze', '--wait', 'x'], r'it never waits'),
    (['-q', '-v', 'x'], r'--quiet and --verbose exclude each other'),
    (['--csv=/nowhere/x', 'x'], r'--csv wants a new file'),
    (['--all', '--csv=x', '.'], r'--all and --csv exclude each other'),
    (['--undo', '--csv=x', 'x'], r'--csv means nothing with --undo'),
    (['--nonsense', 'x'], r"unrecognized option '--nonsense'"),
]


def says(result, status, cause, remedy):
    equal(result.status, status, f'the exit status, with {result.err}')
    lines = result.err.splitlines()
    holds(lines and lines[0].startswith('zcfs-defrag: ') and re.search(cause, lines[0]), result.err)
    if remedy:
        holds(any(line.startswith('  what to do: ') and re.search(remedy, line) for line in lines), result.err)


def situations(cases, store):
    made = Situations(store)
    for what, how, status, cause, remedy in SITUATIONS:
        with cases.case(f'{what}: exit status {status}, told, and nothing changed'):
            arguments = getattr(made, how)()
            before = state_of(store)
            says(defrag(*arguments), status, cause, remedy)
            equal(state_of(store), before, 'the store')
            document = json.loads(defrag('--json', *arguments).out)
            equal(document['exit_code'], status, 'the exit code in JSON')
    for file in made.held:
        file.close()


def hosts(cases, directory):
    """What takes a user or a file system of its own."""
    with cases.case('not permitted: exit status 1, and as whom to try'):
        store = os.path.join(directory, 'private')
        os.mkdir(store, 0o700)
        image = os.path.join(store, 'a.img')
        make_ntfs(image, 4, 'x')
        done = subprocess.run(['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', ZCFS_DEFRAG, image], check=False,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
        if b'failed to execute' not in done.stderr:  # the build may be where nobody else comes
            equal(done.returncode, FAILED, f'the exit status, with {done.stderr}')
            holds(b'permission denied' in done.stderr and b'run as root' in done.stderr, done.stderr)
    point = os.path.join(directory, 'small')
    os.mkdir(point)
    run('mount', '-t', 'tmpfs', '-o', 'size=25m', 'tmpfs', point)
    try:
        image = os.path.join(point, 'a.img')
        scattered_volume(image, megabytes=24, fragments=400)
        with cases.case('a read-only store: exit status 1, and what works all the same'):
            run('mount', '-o', 'remount,ro', point)
            says(defrag(image), FAILED, 'mounted read-only', '--analyze and --dry-run work')
            run('mount', '-o', 'remount,rw', point)
        with cases.case('a full store: exit status 1, nothing changed, make room'):
            subprocess.run(['dd', 'if=/dev/zero', f'of={point}/filler', 'bs=4k'], check=False, stderr=subprocess.DEVNULL)
            says(defrag(image), FAILED, 'no space left .*nothing has been changed', 'make room')
    finally:
        run('umount', '-l', point)


def help_of_all(cases):
    for command in (ZCFS_DEFRAG, ZCFS_CHECK, ZCFS):
        with cases.case(f'{os.path.basename(command)} --help fits a screen of 40 lines and 80 columns, and has examples'):
            out = run(command, '--help')
            lines = out.splitlines()
            holds(len(lines) <= 40 and max(map(len, lines)) <= 80, f'{len(lines)} lines, {max(map(len, lines))} columns')
            holds('Examples:' in lines, out)


def main():
    unmount_on_termination()
    cases = Cases()
    with workspace() as directory:
        store = os.path.join(directory, 'store')
        os.mkdir(store)
        situations(cases, store)
        for arguments, message in WRONG_USAGE:
            with cases.case(f'wrong usage: {" ".join(arguments) or "(nothing)"}'):
                result = defrag(*arguments, cwd=directory)
                equal((result.status, result.out), (USAGE, ''), 'exit status and output')
                holds(re.search(message, result.err) and '--help' in result.err, result.err)
        hosts(cases, directory)
        help_of_all(cases)
    cases.finish()


main()
