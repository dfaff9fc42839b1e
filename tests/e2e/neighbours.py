# SPDX-License-Identifier: GPL-2.0-or-later
"""Several at once: tools on one image, an image that others rename, replace, cut or write during a pass, a daemon that is killed under load
while tools work in its store.

ROUNDS in the environment makes it longer, SEED repeats a run."""
import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading
import time

from commands import DAMAGED, DONE, FAILED, IN_USE, REFUSED, ZCFS, ZCFS_CHECK, ZCFS_DEFRAG, check, check_ntfs, defrag, scattered_volume, \
    unmount_on_termination, workspace
from guest import unmount, wait_for_mount
from host import digest, host_file_system, write_view
from tap import Cases, equal, holds

ROUNDS = int(os.environ.get('ROUNDS', '8'))
SEED = int(os.environ.get('SEED', random.SystemRandom().randrange(1 << 32)))
VOLUME = {'megabytes': 24, 'fragments': 1500, 'seed': 5, 'what': 'all'}
PIECE = 4096


class Store:
    def __init__(self, directory):
        self.directory = os.path.join(directory, 'store')
        self.original = os.path.join(directory, 'original')
        self.view = os.path.join(directory, 'view')
        self.image = os.path.join(self.directory, 'a.img')
        os.mkdir(self.directory)
        scattered_volume(self.original, **VOLUME)
        self.reset()
        self.old = self.seen()
        self.seconds = min(self.undisturbed() for _ in range(3))
        self.new = self.seen()

    def undisturbed(self):
        """The seconds that a pass takes."""
        self.reset()
        started = time.monotonic()
        equal(defrag(self.image).status, DONE, 'a pass that nobody disturbs')
        return time.monotonic() - started

    def reset(self):
        shutil.rmtree(self.directory)
        os.mkdir(self.directory)
        shutil.copy(self.original, self.image)

    def seen(self, image=None):
        """What a guest would see; composed by nothing of zcfs."""
        equal(check(image or self.image).status, 0, 'what zcfs-check finds')
        write_view(image or self.image, self.view)
        return digest(self.view)

    def prove_in_order(self):
        equal(check_ntfs(self.view), '', 'what ntfs-check finds')
        equal([name for name in os.listdir(self.directory) if 'zcfs-' in name], [], 'what is left in the store')


def start(*command):
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


# ---- two tools ----

def two_tools(cases, made):
    with cases.case('two passes at once: one works, the other works after it or is refused as in use'):
        for options in ([], ['--wait']):
            for _ in range(ROUNDS // 4):
                made.reset()
                both = [start(ZCFS_DEFRAG, '--quiet', *options, made.image) for _ in range(2)]
                statuses = sorted(tool.wait(300) for tool in both)
                holds(statuses[0] == DONE and statuses[1] in (DONE, DONE if options else IN_USE), f'exit statuses {statuses}')
                equal(made.seen(), made.new, 'the view')
                made.prove_in_order()
    with cases.case('a pass, its undo, --plain, zcfs-check and --repair on one image, all at once and again: nothing is lost'):
        source = random.Random(SEED)
        made.reset()
        for _ in range(ROUNDS):
            commands = [[ZCFS_DEFRAG, '--quiet', made.image], [ZCFS_DEFRAG, '--undo', made.image], [ZCFS_DEFRAG, '--plain', made.image],
                        [ZCFS_CHECK, made.image], [ZCFS_CHECK, '--repair', made.image], [ZCFS_DEFRAG, '--analyze', made.image]]
            tools = [start(*command) for command in source.sample(commands, 4)]
            for tool in tools:
                said = tool.communicate(timeout=300)[0].decode(errors='replace')
                holds(tool.returncode >= 0 and not (tool.args[0] == ZCFS_DEFRAG and tool.returncode == DAMAGED),
                      f'{tool.args}: {tool.returncode}: {said}')
            holds(made.seen() in (made.old, made.new), 'a view that is neither the old one nor the new one')
            made.prove_in_order()


# ---- an image that changes under a pass ----

def rename_it(made):
    os.rename(made.image, made.image + '.moved')
    return made.image + '.moved'


def replace_it(made):
    other = os.path.join(made.directory, 'new')
    with open(other, 'wb') as file:
        file.write(b'another file' * 1000)
    try:
        os.rename(other, made.image)
    except IsADirectoryError:  # the pass was faster: a bundle is not replaced by a rename
        os.unlink(other)
    return made.image


def remove_it(made):
    if os.path.isdir(made.image):
        shutil.rmtree(made.image)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(made.image)


def exchange_it(made):
    """As an editor saves: away with the old one, a new one in its place."""
    os.rename(made.image, made.image + '.moved')
    with open(made.image, 'xb') as file:
        file.write(b'another file' * 1000)
    return made.image + '.moved'


def changed_during_a_pass(made, source, change):
    """What the change said, at a random moment of a pass over a fresh image; the pass's exit status and output."""
    made.reset()
    tool = start(ZCFS_DEFRAG, '--quiet', made.image)
    time.sleep(source.random() * made.seconds)
    left = change(made)
    said = tool.communicate(timeout=300)[0].decode(errors='replace')
    return left, tool.returncode, said


def names_change(cases, made, what, change):
    """No lease tells of it. What has the image's bytes afterwards shows the old view or the new one, wherever that is; what came in its place is
    not touched."""
    with cases.case(f'{what} during a pass: the old view or the new one, and what came in its place is untouched'):
        source = random.Random(SEED)
        statuses = {}
        for _ in range(ROUNDS):
            left, status, said = changed_during_a_pass(made, source, change)
            statuses[status] = statuses.get(status, 0) + 1
            holds(status in (DONE, FAILED, IN_USE), f'exit status {status}: {said}')
            holds(status == DONE or made.image in said, f'no word on the image: {said}')
            if left != made.image and os.path.isfile(made.image):
                with open(made.image, 'rb') as file:
                    equal(file.read(), b'another file' * 1000, 'what came in its place')
            if left and (left != made.image or os.path.isdir(left)):
                holds(made.seen(left) in (made.old, made.new), 'a view that is neither the old one nor the new one')
            elif left:
                with open(left, 'rb') as file:
                    equal(file.read(), b'another file' * 1000, 'what came in its place')
            if status == DONE and not left:
                holds(not os.path.lexists(made.image), 'it came back')
            run_repair(made)
        print(f'# {what}: exit statuses {statuses}')


def run_repair(made):
    """Names that a pass was building when it lost its image are gone at the latest after a repair."""
    check('--repair', made.directory)
    equal([name for name in os.listdir(made.directory) if 'zcfs-' in name], [], 'what is left in the store')


def open_waits(cases, made, what, change, expected):
    """Opening breaks the lease: who writes or cuts the image behind the mount's back waits until the pass is over, or stops it."""
    with cases.case(f'{what} during a pass: it comes before the pass or after it'):
        source = random.Random(SEED)
        for _ in range(ROUNDS):
            where, status, said = changed_during_a_pass(made, source, change)
            holds(status in (DONE, FAILED, REFUSED, IN_USE, DAMAGED), f'exit status {status}: {said}')
            if where == 'plain' and os.path.isfile(made.image):
                equal(digest(made.image), expected, 'the image')
            elif where == 'plain': # done after it: then the change is what damages the bundle, and it must be seen
                holds(check(made.image).status != 0 or made.seen() != made.new, 'the change is lost')
            run_repair(made)


def write_it(made):
    try:
        with open(made.image, 'r+b') as file:
            file.seek(0, 2)
            file.seek(file.tell() - 512)
            file.write(b'written behind the back of all'.ljust(512))
    except IsADirectoryError:
        return 'bundle'
    return 'plain'


def cut_it(made):
    try:
        os.truncate(made.image, 20 << 20)
    except IsADirectoryError:
        return 'bundle'
    return 'plain'


def original_with(made, change):
    copy = made.image + '.copy'
    shutil.copy(made.original, copy)
    image, made.image = made.image, copy
    change(made)
    made.image = image
    result = digest(copy)
    os.unlink(copy)
    return result


# ---- a daemon that is killed ----

class Writer(threading.Thread):
    """A guest that writes an image of its own through the mount, flushes, and knows what was flushed."""

    def __init__(self, path, source):
        super().__init__()
        self.path, self.source = path, source
        self.flushed = {}  # piece -> number
        self.stop = False

    def run(self):
        number = max(self.flushed.values(), default=0)
        with contextlib.suppress(OSError):
            with open(self.path, 'r+b', buffering=0) as file:
                pieces = os.fstat(file.fileno()).st_size // PIECE
                while not self.stop:
                    written = {}
                    for _ in range(8):
                        number += 1
                        piece = self.source.randrange(pieces)
                        os.pwrite(file.fileno(), number.to_bytes(8, 'little') * (PIECE // 8), piece * PIECE)
                        written[piece] = number
                    os.fsync(file.fileno())
                    self.flushed.update(written)

    def prove(self):
        """Nothing that was flushed is lost; a later write may be there."""
        with open(self.path, 'rb') as file:
            for piece, number in self.flushed.items():
                found = os.pread(file.fileno(), PIECE, piece * PIECE)
                first = int.from_bytes(found[:8], 'little')
                holds(first >= number and found[:8] * (PIECE // 8) == found or first > number,
                      f'{self.path}: piece {piece} is from write {first}, {number} was flushed')


class Toolbox(threading.Thread):
    """Passes and undos over an image that no guest has open."""

    def __init__(self, image):
        super().__init__()
        self.image = image
        self.stop = False
        self.wrong = []

    def run(self):
        while not self.stop:
            for command in ([ZCFS_DEFRAG, '--quiet', self.image], [ZCFS_CHECK, self.image], [ZCFS_DEFRAG, '--undo', self.image]):
                done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300, check=False)
                if done.returncode not in (DONE, FAILED, IN_USE):
                    self.wrong.append((command, done.returncode, done.stdout.decode(errors='replace')))


def prove_only_leaks(made):
    """A killed settle pass leaves space that nothing uses, and that a check finds: nothing else, and nothing that a repair does not end."""
    found = check(made.directory)
    errors = [line for line in found.out.splitlines() if 'error: ' in line]
    holds(all('error: leak: ' in line for line in errors) and found.status == (4 if errors else 0), f'zcfs-check: {found!r}')
    repaired = check('--repair', made.directory)
    equal(repaired.status, 1 if errors else 0, 'the exit status of a repair')


def daemon_is_killed(cases, made, directory):
    mount = os.path.join(directory, 'mount')
    os.mkdir(mount)
    source = random.Random(SEED)
    made.reset()
    guests = []
    for name in ('plain.img', 'bundle.img'):
        path = os.path.join(made.directory, name)
        shutil.copy(made.original, path)
        guests.append(Writer(os.path.join(mount, name), random.Random(source.random())))
    equal(defrag(os.path.join(made.directory, 'bundle.img')).status, DONE, 'a pass')
    with cases.case(f'a daemon killed {ROUNDS // 2} times while guests write and tools work: every flushed byte is there, every map is in order'):
        for _ in range(ROUNDS // 2):
            daemon = subprocess.Popen([ZCFS, '-f', made.directory, mount], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                wait_for_mount(mount, daemon)
                for guest in guests:
                    guest.prove()
                # By the store's own path: the mount is about to die.
                toolbox = Toolbox(made.image)
                writers = [Writer(guest.path, random.Random(source.random())) for guest in guests]
                for writer, guest in zip(writers, guests):
                    writer.flushed = guest.flushed
                for thread in [toolbox, *writers]:
                    thread.start()
                settle = start(ZCFS_DEFRAG, '--settle', os.path.join(mount, 'bundle.img'))
                time.sleep(0.3 + source.random())
            finally:
                daemon.send_signal(signal.SIGKILL)
                daemon.wait()
                unmount(mount)
            for thread in [*writers, toolbox]:
                thread.stop = True
                thread.join(300)
            settle.communicate(timeout=300)
            equal(toolbox.wrong, [], 'tools that failed')
            holds(made.seen() in (made.old, made.new), 'a view that is neither the old one nor the new one')
            prove_only_leaks(made)
    holds(all(guest.flushed for guest in guests), 'no guest has ever flushed anything')


def main():
    unmount_on_termination()
    print(f'# SEED={SEED}', flush=True)
    cases = Cases()
    # In memory: whether a disk keeps up is not what this is about.
    with workspace() as top, host_file_system('tmpfs', top, 400) as directory:
        made = Store(directory)
        two_tools(cases, made)
        names_change(cases, made, 'renamed', rename_it)
        names_change(cases, made, 'replaced', replace_it)
        names_change(cases, made, 'removed', remove_it)
        names_change(cases, made, 'exchanged for a new file', exchange_it)
        open_waits(cases, made, 'written', write_it, original_with(made, write_it))
        open_waits(cases, made, 'cut', cut_it, original_with(made, cut_it))
        daemon_is_killed(cases, made, directory)
    cases.finish()


main()
