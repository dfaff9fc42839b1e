# SPDX-License-Identifier: GPL-2.0-or-later
"""A host file system with next to no room: a pass, and taking it back, is done or has changed nothing, and says so.

A file system of the kind that the argument names is filled up, then a little is freed at a time until the pass goes through;
the same for --undo. With STEP_KIB in the environment another size of a step (default 512; 4 takes an hour). A second
argument is the seed that the first step's size follows from; the one used is printed."""
import contextlib
import os
import random
import shutil
import sys

from commands import DONE, FAILED, NTFS_POPULATE, NTFS_SCATTER, defrag, defrag_report, seed_argument, unmount_on_termination, workspace
from guest import run
from host import digest, host_file_system, write_view
from tap import Cases, equal, holds

DISK_MIB = 320  # the least that mkfs.xfs accepts, and a bit
STEP = int(os.environ.get('STEP_KIB', '512')) << 10
STEPS_MAX = 64 << 20  # bytes, freed one after another: enough for any of these images


class Filler:
    """Takes all room there is, and gives some of it back."""
    def __init__(self, directory):
        self.path = os.path.join(directory, 'filler')

    def fill(self):
        before = -1
        while (size := self.append()) != before: # a sync may give more room
            before = size
            self.sync()

    def append(self):
        """Writes until nothing more goes in; the size that the filler has then."""
        with open(self.path, 'ab', buffering=0) as file:
            for size in (1 << 20, 1 << 16, 1 << 12, 512):
                with contextlib.suppress(OSError): # full
                    while file.write(b'\xa5' * size) == size:
                        pass
                with contextlib.suppress(OSError):
                    os.fsync(file.fileno())
            return file.tell()

    def free(self, length):
        os.truncate(self.path, max(0, os.path.getsize(self.path) - length))
        self.sync()

    def sync(self):
        run('sync', '-f', os.path.dirname(self.path))


def view_digest(image, scratch):
    view = os.path.join(scratch, 'view')
    write_view(image, view)
    found = digest(view)
    os.unlink(view)
    return found


class Store:
    """The store on the file system that is to become full, and where to look at it from."""
    def __init__(self, point, scratch):
        self.directory, self.scratch = os.path.join(point, 'store'), scratch
        self.image = os.path.join(self.directory, 'a.img')
        self.filler = Filler(point)
        os.mkdir(self.directory)

    def view_digest(self):
        if os.path.isfile(self.image):
            return digest(self.image)
        view = os.path.join(self.scratch, 'view')
        write_view(self.image, view)
        found = digest(view)
        os.unlink(view)
        return found


def until_done(cases, what, store, first_step, options, old, new):
    """Runs the tool with a little more room each time until it succeeds."""
    plain = os.path.isfile(store.image)
    store.filler.fill()
    store.filler.free(first_step)
    refused = 0
    with cases.case(f'{what}: with ever more room, it has changed nothing, or is done'):
        for _ in range(0, STEPS_MAX, STEP):
            result = defrag(*options, store.image)
            equal(os.listdir(store.directory), ['a.img'], 'the store')
            if result.status == DONE:
                holds('last step' not in result.out, result.out)
                equal(store.view_digest(), new, 'the view')
                break
            equal(result.status, FAILED, f'the exit status of {result!r}')
            holds('no space left on the host' in result.err and 'nothing has been changed' in result.err, result.err)
            equal(os.path.isfile(store.image), plain, 'being a plain image')
            equal(store.view_digest(), old, 'the view')
            refused += 1
            store.filler.free(STEP)
        else:
            raise AssertionError('it never succeeds')
    print(f'# {what}: {refused} times no room')


def prove(cases, kind, what, original, source, clone=False):
    with workspace() as directory, host_file_system(kind, directory, DISK_MIB) as point:
        store = Store(point, directory)
        old = digest(original)
        shutil.copy(original, store.image)
        defrag_report(store.image)
        new = store.view_digest()
        shutil.rmtree(store.image)
        shutil.copy(original, store.image)
        if clone:
            run('cp', '--reflink=always', store.image, os.path.join(point, 'clone'))
        first_step = lambda: source.randrange(STEP) & ~511
        until_done(cases, f'{kind}, {what}: a pass', store, first_step(), [], old, new)
        until_done(cases, f'{kind}, {what}: --undo', store, first_step(), ['--undo'], new, old)


def volume(path, megabytes, fragments, populate, cluster_size=4096):
    with open(path, 'xb') as image:
        image.truncate(megabytes << 20)
    run('mkntfs', '--quiet', '--force', '--fast', '--cluster-size', str(cluster_size), path)
    run(NTFS_POPULATE, '--quiet', *populate, path)
    run(NTFS_SCATTER, '--quiet', '--fragments', str(fragments), path)


def main():
    unmount_on_termination()
    if not os.path.exists('/dev/loop-control'):
        print('1..0 # SKIP the kernel has no loop devices')
        return
    kind = sys.argv[1]
    seed = seed_argument(2)
    source = random.Random(seed)
    cases = Cases()
    with workspace() as directory:
        few, many = os.path.join(directory, 'few'), os.path.join(directory, 'many')
        volume(few, 16, 2000, ['--files', '120', '--file-size', '4K..100K'])
        volume(many, 32, 20000, ['--files', '8000', '--file-size', '1K..2K', '--dirs', '50'], cluster_size=512)
        prove(cases, kind, 'little metadata', few, source)
        prove(cases, kind, 'metadata all over $MFT', many, source)
        if kind == 'xfs':
            prove(cases, kind, 'an image that has been cloned', many, source, clone=True)
    cases.finish()


main()
