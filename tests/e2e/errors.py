# SPDX-License-Identifier: GPL-2.0-or-later
"""What goes wrong, in tables: the situation, the exit status, what is said, and what it says to do; of zcfs-defrag, its wrong
options, zcfs-check, zcfs-map and the start of zcfs. Nothing is changed in any of them. tests/e2e/refused.py has every state of a
volume that is refused, hosts.py file systems that cannot hold a bundle, users.py everybody who may use an image."""
import fcntl
import json
import os
import re
import signal
import subprocess
import time

from commands import DAMAGED, DONE, FAILED, IN_USE, MAKERS, REFUSED, USAGE, ZCFS, ZCFS_CHECK, ZCFS_DEFRAG, ZCFS_MAP, Result, defrag, \
    defrag_as_nobody, scattered_volume, unmount_on_termination, workspace
from guest import make_ntfs, run
from host import host_file_system, shut_down, state_of, store_mounted
from saved import save_by_libvirt, save_by_xl
from tap import Cases, equal, holds

NO_REMEDY = None


class Situations:
    """Each makes what it is about in a store of its own, and returns the arguments."""

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

    def below_a_file(self):
        return [os.path.join(self.good, 'x.img')]

    def root(self):
        return ['/']

    def circle(self):
        path = os.path.join(self.store, 'circle.img')
        os.symlink(path, path)
        return [path]

    def pipe(self):
        path = os.path.join(self.store, 'pipe.img')
        os.mkfifo(path)
        return [path]

    def hibernated(self):
        directory = os.path.join(self.store, 'hibernated')
        made = run(os.path.join(MAKERS, 'make-refused'), '--only', 'hibernated', directory)
        return [made.split('\t')[1]]

    def saved(self, name, save):
        path, directory = self.copy(name + '.img'), os.path.join(self.store, name)
        os.mkdir(directory)
        save(os.path.join(directory, 'win7.save'), path)
        return [f'--saved={directory}', path]

    def saved_by_xl(self):
        return self.saved('xl', save_by_xl)

    def saved_by_libvirt(self):
        return self.saved('libvirt', save_by_libvirt)

    def overlaid(self):
        path = self.copy('overlaid.img')
        run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', 'overlaid.img', '-F', 'raw', os.path.join(self.store, 'overlaid.snap1'))
        return [path]

    def wrong_file(self):
        return [self.copy('files.img'), '--', 'no/such.file']

    def exchange(self):
        return ['--plain=exchange', self.bundle('exchange.img')]

    def nothing_to_undo(self):
        return ['--undo', self.copy('undo.img')]

    def long_name(self):
        return [os.path.join(self.store, 'x' * 256)]


SITUATIONS = [
    # what, how, exit status, what is said, what to do
    ('no such image', 'missing', FAILED, r'missing\.img: no such image', NO_REMEDY),
    ('a directory', 'directory', FAILED, r'is a directory, not an image', r'--all'),
    ('a second hard link', 'linked', FAILED, r'has another hard link', r'remove the other name .*find -samefile'),
    ('a name that is too long', 'long_name', FAILED, r'no such image: its name or its path is longer than can be', r'give a shorter path'),
    ('a part of a bundle', 'inside', FAILED, r'is a part of a bundle', r'give the bundle itself'),
    ('a volume that there is not', 'no_volume', FAILED, r'has no NTFS volume 9', r'--analyze lists its volumes'),
    ('nothing to undo', 'nothing_to_undo', FAILED, r'there is nothing to undo', NO_REMEDY),
    ('a map of a newer zcfs', 'foreign_map', FAILED, r'belongs to a newer zcfs', r'use the zcfs that made it'),
    ('a part of the path is a file', 'below_a_file', FAILED, r'a part of its path is not a directory', NO_REMEDY),
    ('the root of a file system', 'root', FAILED, r'is the root of a file system, not an image', NO_REMEDY),
    ('a link to itself', 'circle', FAILED, r'is a symbolic link that leads back to itself', NO_REMEDY),
    ('a pipe', 'pipe', FAILED, r'is neither a regular file nor a bundle', NO_REMEDY),
    ('a file that there is not', 'wrong_file', FAILED, r'has no file "no/such\.file" on its NTFS volumes; nothing has been changed',
     r'give its path from the root of its volume'),
    ('a map that is more than names', 'exchange', FAILED, r'its map is not the identity', r'--plain without a method'),
    ('hibernated', 'hibernated', REFUSED, r'volume 1: refused: .*hibernat', r'shutdown /s|powercfg /h off'),
    ('saved by xl', 'saved_by_xl', REFUSED, r'refused: it is a disk of the saved domain "win7": .*/xl/win7\.save',
     r'restore the domain \(xl restore, virsh start\) and shut it down'),
    ('saved by libvirt', 'saved_by_libvirt', REFUSED, r'refused: it is a disk of the saved domain "win7": .*/libvirt/win7\.save',
     r'restore the domain \(xl restore, virsh start\) and shut it down'),
    ('beneath an overlay', 'overlaid', REFUSED, r'refused: it is the backing file of the overlay \(snapshot\) "overlaid\.snap1" beside it; .*destroy',
     r'commit the overlay \(virsh blockcommit, qemu-img commit\) and delete it, .*rebase'),
    ('in use', 'in_use', IN_USE, r'is in use by ".*" \(process \d+\)|is in use by .*process', r'stop it, or use --wait'),
    ('dirty', 'dirty', REFUSED, r'volume 1: refused: ', r'chkdsk|shut'),
    ('a damaged map', 'damaged_map', DAMAGED, r'image map is damaged', r'zcfs-check .* backup'),
    ('a damaged volume', 'damaged_volume', DAMAGED, r'volume 1: damaged: ', r'chkdsk'),
]

WRONG_USAGE = [
    ([], r'no image given'),
    (['--all'], r'no directory given'),
    (['--nonsense', 'x'], r"unrecognized option '--nonsense'"),
    (['--undo', '--analyze', 'x'], r'--undo and --analyze cannot be combined'),
    (['-q', '-v', 'x'], r'--quiet and --verbose cannot be combined'),
    (['--pack', '--undo', 'x'], r'--pack cannot be combined with --undo'),
    (['--order=path', 'x'], r'--order is for --pack'),
    (['--pack', '--order=shape', 'x'], r'--order takes path, size, created, modified or accessed, not shape'),
    (['--plain=magic', 'x'], r'--plain takes exchange, reflink, settle or copy, not magic'),
    (['--verify=all', 'x'], r'--verify takes only data, not all'),
    (['--undo', '--verify=data', 'x'], r'--verify cannot be combined with --undo'),
    (['--volume=0', 'x'], r'--volume takes a number from 1, not 0'),
    (['--undo', '--volume=1', 'x'], r'--undo is for the whole image: it cannot be combined with --volume'),
    (['--rate=5', 'x'], r'--rate, --idle and --threshold are for --settle'),
    (['--settle', '--rate=x', 'x'], r'--rate takes a number of megabytes per second, not x'),
    (['--settle', '--threshold=x', 'x'], r'--threshold takes a number of KiB, not x'),
    (['--time-limit=x', 'x'], r'--time-limit takes a number of seconds, not x'),
    (['--undo', '--time-limit=5', 'x'], r'--time-limit cannot be combined with --undo'),
    (['--wait=soon', 'x'], r'--wait takes a number of seconds, not soon'),
    (['--analyze', '--wait', 'x'], r'it never waits'),
    (['--analyze', '--shutdown', 'x'], r'--shutdown cannot be combined with --analyze'),
    (['--saved=/no/such', 'x'], r'--saved: cannot read /no/such: No such file'),
    (['--only=C:\\x', 'x'], r'a path starts at the root of its volume, without a drive letter .*: C:\\x'),
    (['--min-fragments=0', 'x'], r'--min-fragments takes a number from 1, not 0'),
    (['--min-size=5X', 'x'], r'--min-size takes a number of bytes with an optional K, M, G or T, not 5X'),
    (['--settle', '--only=x', 'x'], r'--settle works on whole images: no files can be chosen'),
    (['--pack', '--only=x', 'x'], r'--pack lays everything out anew: no files can be chosen'),
    (['x', 'y', '--', 'z'], r'files after -- need exactly one image'),
    (['--all', '.', '--', 'x'], r'with --all files are chosen by --only'),
    (['--jobs=2', 'x'], r'--jobs is for --all'),
    (['--all', '--jobs=65', '.'], r'--jobs takes a number from 1 to 64, not 65'),
    (['--all', '--undo', '.'], r'--all and --undo cannot be combined'),
    (['--all', '--wait', '.'], r'--all leaves images in use alone: it never waits'),
    (['--all', '--volume=1', '.'], r'--all and --volume cannot be combined'),
    (['--all', '--csv=x', '.'], r'--all and --csv cannot be combined'),
    (['--undo', '--csv=x', 'x'], r'--csv cannot be combined with --undo'),
    (['--csv=/nowhere/x', 'x'], r'--csv: cannot write /nowhere/x: .*it takes a new file'),
    (['--picture=x.bmp', 'x'], r'--picture takes a name that ends in \.png or \.svg, not x\.bmp'),
    (['--picture', '--json', 'x'], r'--picture draws on standard output; with --json it needs a file'),
    (['--picture=x.png', 'x', 'y'], r'--picture draws one image into a file'),
    (['--all', '--picture', '.'], r'--all draws no pictures except in --report'),
    (['--report=x.txt', 'x'], r'--report takes a name that ends in \.html, not x\.txt'),
    (['--undo', '--report=x.html', 'x'], r'--undo looks at no volume: there is nothing to draw'),
    (['--discard', '--report=x.html', 'x'], r'--discard plans nothing: there is nothing to draw'),
    (['--discard=all', 'x'], r'--discard takes only forget-undo, not all'),
    (['--discard', '--settle', 'x'], r'--discard and --settle cannot be combined'),
    (['--analyze', '--discard', 'x'], r'--analyze and --discard cannot be combined'),
    (['--discard', '--pack', 'x'], r'--pack cannot be combined with --discard'),
    (['--discard', '--only=x', 'x'], r'--discard works on whole images: no files can be chosen'),
    (['--discard', '--dry-run', '--shutdown', 'x'], r'--shutdown cannot be combined with --dry-run'),
]

CHECK_LEFT, CHECK_FAILED, CHECK_USAGE = 4, 8, 16

# command, arguments (for {store}), exit status, what is said, what to do
OTHER_COMMANDS = [
    (ZCFS_CHECK, [], CHECK_USAGE, r'no image or directory given', NO_REMEDY),
    (ZCFS_CHECK, ['-q', '-v', 'x'], CHECK_USAGE, r'--quiet and --verbose cannot be combined', NO_REMEDY),
    (ZCFS_CHECK, ['{store}/missing.img'], CHECK_FAILED, r'missing\.img: no such image or directory', NO_REMEDY),
    (ZCFS_CHECK, ['{store}/inside/inside.img/data'], CHECK_FAILED, r'is a part of a bundle, not an image', r'give the bundle itself'),
    (ZCFS_CHECK, ['{store}/pipe/pipe.img'], CHECK_FAILED, r'is neither a file nor a directory', NO_REMEDY),
    (ZCFS_CHECK, ['--repair', '{store}/empty/busy.img'], CHECK_LEFT | CHECK_FAILED, r'is in use by .*; not repaired', r'shut its guest down or stop what uses it'),
    (ZCFS_MAP, [], USAGE, r'no image given', NO_REMEDY),
    (ZCFS_MAP, ['x', 'y'], USAGE, r'one image at a time, not also y', NO_REMEDY),
    (ZCFS_MAP, ['--guest=x', 'x'], USAGE, r'not an offset: x', NO_REMEDY),
    (ZCFS_MAP, ['--summary', '--guest=1', 'x'], USAGE, r'--summary cannot be combined with --guest or --host', NO_REMEDY),
    (ZCFS_MAP, ['{store}/missing.img'], FAILED, r'missing\.img: no such image', NO_REMEDY),
    (ZCFS_MAP, ['{store}/directory/directory'], FAILED, r'is a directory, not an image', r'name one image'),
    (ZCFS_MAP, ['{store}/inside/inside.img/data'], FAILED, r'is a part of a bundle, not an image', r'give the bundle itself'),
    (ZCFS_MAP, ['{store}/pipe/pipe.img'], FAILED, r'is neither a file nor a bundle', NO_REMEDY),
    (ZCFS_MAP, ['{store}/damaged_map/map.img'], DAMAGED, r'its map is damaged', r'zcfs-check'),
    (ZCFS, [], USAGE, r'no directory given', NO_REMEDY),
    (ZCFS, ['{store}', 'y', 'z'], USAGE, r'z: one argument too many', NO_REMEDY),
    (ZCFS, ['{store}', '-o', 'max_read=4096'], USAGE, r'-o max_read=4096 is not supported; leave it out', NO_REMEDY),
    (ZCFS, ['{store}', '-o', 'max_threads=0'], USAGE, r'max_threads must be at least 1', NO_REMEDY),
    (ZCFS, ['{store}', '-o', 'io_uring_depth=5000'], USAGE, r'io_uring_depth must not be more than 4096', NO_REMEDY),
    (ZCFS, ['{store}/nowhere'], FAILED, r'nowhere: No such file or directory', NO_REMEDY),
    (ZCFS, ['{store}/good.img'], FAILED, r'good\.img: is not a directory of images', r'serve the directory that it is in'),
    (ZCFS, ['{store}/inside/inside.img'], FAILED, r'inside\.img: is not a directory of images', r'serve the directory that it is in'),
    (ZCFS, ['{store}', '{store}/directory/directory'], FAILED, r'cannot mount inside the directory that is served', r'mount over it, or elsewhere'),
    (ZCFS, ['{store}', '{store}/good.img'], FAILED, r'cannot mount inside the directory', NO_REMEDY),
]


def says(result, status, cause, remedy):
    equal(result.status, status, f'the exit status, with {result.err}')
    lines = result.err.splitlines()
    holds(lines and re.match(r'zcfs(-\w+)?: ', lines[0]) and re.search(cause, lines[0]), result.err)
    if remedy:
        holds(any(re.match(r'  what to do: |zcfs: .*;', line) and re.search(remedy, line) for line in lines), result.err)


def situations(cases, directory):
    made = Situations(directory)
    for what, how, status, cause, remedy in SITUATIONS:
        with cases.case(f'{what}: exit status {status}, told, and nothing changed'):
            made.store = os.path.join(directory, how)
            os.mkdir(made.store)
            arguments = getattr(made, how)()
            before = state_of(made.store)
            says(defrag(*arguments), status, cause, remedy)
            equal(state_of(made.store), before, 'the store')
            document = json.loads(defrag('--json', *arguments).out)
            equal(document['exit_code'], status, 'the exit code in JSON')
    with cases.case('no NTFS: exit status 0, told, and nothing changed'):
        made.store = os.path.join(directory, 'empty')
        os.mkdir(made.store)
        empty = os.path.join(made.store, 'empty.img')
        with open(empty, 'xb') as file:
            file.truncate(1 << 20)
        before = state_of(made.store)
        result = defrag(empty)
        equal((result.status, result.out.splitlines()[-1:]), (DONE, [f'{empty}: nothing to do: no NTFS volume']), 'exit status and output')
        equal(state_of(made.store), before, 'the store')
    busy = open(os.path.join(made.bundle('busy.img'), 'data'), 'ab')
    busy.write(bytes(1 << 16))  # what zcfs-check would repair
    busy.flush()
    made.held.append(busy)
    before = state_of(directory)
    for command, arguments, status, cause, remedy in OTHER_COMMANDS:
        arguments = [argument.format(store=directory) for argument in arguments]
        with cases.case(f'{os.path.basename(command)} {" ".join(map(os.path.basename, arguments))}: exit status {status}, told'):
            says(run_any(command, *arguments), status, cause, remedy)
    with cases.case('nothing changed by any of these'):
        equal(state_of(directory), before, 'the store')
    for file in made.held:
        file.close()


def run_any(*command):
    return Result(subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300, check=False))


def mounts(cases, directory):
    """A mount that is in the way, or dead, or read-only."""
    store, point, other = (os.path.join(directory, name) for name in ('served', 'mount', 'other'))
    for path in (store, point, other):
        os.mkdir(path)
    scattered_volume(os.path.join(store, 'a.img'), megabytes=24, fragments=400)
    run(ZCFS_DEFRAG, '-q', os.path.join(store, 'a.img'))
    image = os.path.join(point, 'a.img')
    with store_mounted(ZCFS, store, point, '-o', 'ro') as daemon:
        with cases.case('zcfs on what another one serves: exit status 1, and where to look'):
            says(run_any(ZCFS, store, other), FAILED, r'another zcfs serves this directory already', r'use its mount, or unmount that first')
            says(run_any(ZCFS, point, other), FAILED, r'is already served by zcfs', r'unmount it first')
        with cases.case('--settle through a read-only mount: exit status 1, and how to mount it'):
            says(defrag('--settle', image), FAILED, r'is served read-only', r'mount the store without -o ro')
        daemon.kill()
        daemon.wait()
        for command, status in ((ZCFS_DEFRAG, FAILED), (ZCFS_CHECK, CHECK_FAILED), (ZCFS_MAP, FAILED)):
            with cases.case(f'{os.path.basename(command)} in a mount whose zcfs is gone: exit status {status}, and how to go on'):
                says(run_any(command, image), status, r'the zcfs that served this mount is gone', r'fusermount3 -u')


def hosts(cases, directory):
    """What takes a user or a file system of its own."""
    with cases.case('not permitted: exit status 1, and as whom to try'):
        store = os.path.join(directory, 'private')
        os.mkdir(store, 0o700)
        image = os.path.join(store, 'a.img')
        make_ntfs(image, 4, 'x')
        says(defrag_as_nobody(directory, image), FAILED, 'permission denied', 'run as root')
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


def kept_out(cases, directory):
    """A mount as an ordinary user's zcfs makes it. Who is not that user gets no further than the kernel, so nobody has to serve it."""
    point = os.path.join(directory, 'of-another')
    os.mkdir(point)
    device = os.open('/dev/fuse', os.O_RDWR)
    try:
        run('mount', '-i', '-t', 'fuse.zcfs', '-o', f'fd={device},rootmode=40000,user_id=65534,group_id=65534', 'zcfs-test', point,
            pass_fds=[device])
        for command, *arguments, status in ((ZCFS_DEFRAG, f'{point}/a.img', FAILED), (ZCFS_DEFRAG, '--settle', f'{point}/a.img', FAILED),
                                            (ZCFS_DEFRAG, '--all', point, FAILED), (ZCFS_MAP, f'{point}/a.img', FAILED),
                                            (ZCFS_CHECK, f'{point}/a.img', CHECK_FAILED), (ZCFS_CHECK, point, CHECK_FAILED)):
            options = ' '.join(map(os.path.basename, [command, *arguments]))
            with cases.case(f'root in the mount of an ordinary user: {options}: exit status {status}, and as whom to try'):
                says(run_any(command, *arguments), status, 'permission denied',
                     'of-another is the zcfs mount of another user: run as that user, or mount it with -o allow_other')
    finally:
        run('umount', '-l', point)
        os.close(device)


def ignore_children():
    """As some supervisors have it, and exec() keeps it: the system then tells nobody how they have ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


def surroundings(cases, directory, good):
    """What whoever starts the command forbids it, or has left set."""
    store = os.path.join(directory, 'surroundings')
    os.mkdir(store)
    os.chmod(store, 0o755)
    image = os.path.join(store, 'a.img')
    run('cp', '--sparse=always', good, image)
    for arguments in (['-n', image], ['-n', '--all', store]):
        with cases.case(f'started where SIGCHLD is ignored: {" ".join(map(os.path.basename, arguments))}: as always'):
            equal(defrag(*arguments, preexec_fn=ignore_children).status, DONE, 'the exit status')
    with cases.case('no more processes: exit status 1 at once, nothing changed, which limits to raise'):
        os.chown(image, 65534, 65534)
        says(defrag_as_nobody(directory, '-n', image, before=['prlimit', '--nproc=0']), FAILED, 'no process could be started', 'ulimit -u')
    with cases.case('without /proc: exit status 1, nothing changed, and no accusation of the image'):
        says(run_any('unshare', '--mount', 'sh', '-c', 'mount -t tmpfs tmpfs /proc && exec "$@"', 'sh', ZCFS_DEFRAG, '-n', image), FAILED,
             'could not be shut off from the rest of the system; nothing has been changed', '/proc, which a container')


def fleets(cases, directory):
    """What --all cannot look into."""
    store, point = os.path.join(directory, 'fleet'), os.path.join(directory, 'fleet-mount')
    os.makedirs(os.path.join(store, 'lost+found'), 0o700)
    os.chmod(store, 0o755)
    os.mkdir(point)
    with cases.case('--all of a directory that is not there: exit status 1'):
        says(defrag('--all', os.path.join(store, 'nothing')), FAILED, r'nothing: no such directory', NO_REMEDY)
    with cases.case('--all with a directory in it that may not be read: exit status 1, and which'):
        says(defrag_as_nobody(directory, '--all', store), FAILED, r'/fleet/lost\+found: permission denied', 'run as root')
    with cases.case('--all through a mount whose store may not be read: exit status 1, why, and as whom to try'):
        with store_mounted(ZCFS, store, point, '-o', 'allow_other'):
            result = defrag_as_nobody(directory, '--all', point)
        says(result, FAILED, 'fleet-mount: permission denied', r'run as root, or as the user whose zcfs serves .*/fleet-mount')


def quota(cases, directory, good):
    """A subvolume of a btrfs that has no room for anything more."""
    with host_file_system('btrfs', directory, 256) as point:
        store = os.path.join(point, 'store')
        run('btrfs', 'quota', 'enable', point)
        run('btrfs', 'subvolume', 'create', store)
        plain, bundle = os.path.join(store, 'plain.img'), os.path.join(store, 'bundle.img')
        for image in (plain, bundle):
            run('cp', '--sparse=always', good, image)
        run(ZCFS_DEFRAG, '-q', bundle)
        pieces = os.path.join(store, 'pieces.img')
        run('cp', '-a', '--sparse=always', bundle, pieces)
        run('sqlite3', os.path.join(pieces, 'map.db'), 'DELETE FROM undo_stamp')
        run('sync', '--file-system', point)
        run('btrfs', 'qgroup', 'limit', '1M', store)
        before = state_of(store)
        for arguments, changed in (([plain], 'nothing has been changed'), (['--undo', bundle], 'nothing has been changed'),
                                   (['--settle', bundle], 'what has been moved so far stays moved'),
                                   (['--plain=copy', bundle], 'it is still a bundle')):
            with cases.case(f'a quota is reached: {" ".join(map(os.path.basename, arguments))}: exit status 1, nothing changed, raise it'):
                says(defrag(*arguments), FAILED, f'a disk quota is used up; {changed}', r'raise it \(.*subvolume\) or make room')
                equal(state_of(store), before, 'the store')
        with cases.case('a quota is reached: zcfs-check --repair: exit status 12, raise it'):
            says(run_any(ZCFS_CHECK, '--repair', pieces), CHECK_LEFT | CHECK_FAILED, 'a disk quota is used up; not repaired',
                 r'raise it \(.*subvolume\) or make room')


def broken_disk(cases, directory, good):
    """A file system that gives nothing any more: its disk is gone."""
    with host_file_system('ext4', directory, 128) as point:
        image = os.path.join(point, 'a.img')
        run('cp', '--sparse=always', good, image)
        run(ZCFS_DEFRAG, '-q', image)
        shut_down(point)
        for command, arguments, status in ((ZCFS_DEFRAG, [image], FAILED), (ZCFS_DEFRAG, ['-a', image], FAILED), (ZCFS_DEFRAG, ['--undo', image], FAILED),
                                           (ZCFS_DEFRAG, ['--settle', image], FAILED), (ZCFS_CHECK, [image], CHECK_FAILED),
                                           (ZCFS_CHECK, [point], CHECK_FAILED), (ZCFS_MAP, [image], FAILED)):
            what = ' '.join(map(os.path.basename, [command, *arguments]))
            with cases.case(f'a broken disk: {what}: exit status {status}, and where to look'):
                result = run_any(command, *arguments)
                says(result, status, 'input/output error', r'the kernel\'s log \(dmesg\)')
                holds(arguments != [point] or '1 could not be checked' in result.out, result.out)


def waits_for_lock(process):
    with open('/proc/locks') as locks:
        return any(re.search(rf' -> FLOCK .* {process} ', line) for line in locks)


def renamed(cases, directory, good):
    """While one waits for it; tests/faults/renamed.py does it at any other moment."""
    image, other = os.path.join(directory, 'waited-for.img'), os.path.join(directory, 'other.img')
    with cases.case('renamed meanwhile: exit status 1, and to look for it'):
        run('cp', '--sparse=always', good, image)
        with open(image, 'rb') as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            waiting = subprocess.Popen([ZCFS_DEFRAG, '--wait', image], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            while waiting.poll() is None and not waits_for_lock(waiting.pid):
                time.sleep(0.05)
            os.rename(image, other)
            before = state_of(directory)
        out, err = waiting.communicate(timeout=300)
        says(Result(subprocess.CompletedProcess([], waiting.returncode, out, err)), FAILED, 'was renamed or removed meanwhile', 'look where it is now')
        equal(state_of(directory), before, 'the store')


def help_of_all(cases):
    for command in (ZCFS_DEFRAG, ZCFS_CHECK, ZCFS_MAP, ZCFS):
        with cases.case(f'{os.path.basename(command)} --help fits a screen of 24 lines and 80 columns, and has examples'):
            out = run(command, '--help')
            lines = out.splitlines()
            holds(len(lines) < 24 and max(map(len, lines)) <= 80, f'{len(lines)} lines, {max(map(len, lines))} columns')
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
        kept_out(cases, directory)
        fleets(cases, directory)
        surroundings(cases, directory, os.path.join(store, 'good.img'))
        for what in (quota, broken_disk, renamed):
            what(cases, directory, os.path.join(store, 'good.img'))
        mounts(cases, directory)
        help_of_all(cases)
    cases.finish()


main()
