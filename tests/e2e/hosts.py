# SPDX-License-Identifier: GPL-2.0-or-later
"""Stores where one would not look for them: on an overlay, behind another FUSE file system without leases and exchanges, mounted read-only,
with a directory that takes no new names. Each works, or is refused with the cause and the remedy, and then nothing has changed."""
import contextlib
import os
import struct
import subprocess

from commands import DONE, FAILED, ZCFS, ZCFS_DEFRAG, check, check_ntfs, defrag, scattered_volume, unmount_on_termination, workspace
from guest import run, unmount
from host import digest, host_file_system, state_of, store_mounted, write_view
from tap import Cases, equal, holds

VOLUME = {'megabytes': 24, 'fragments': 1500, 'seed': 5, 'what': 'all'}


@contextlib.contextmanager
def mounted(*command, at):
    run(*command, at)
    try:
        yield at
    finally:
        unmount(at)


@contextlib.contextmanager
def overlay(lower, directory):
    """A store whose images come from the lower layer, which nobody may write."""
    layers = {name: os.path.join(directory, name) for name in ('upper', 'work', 'merged')}
    for layer in layers.values():
        os.mkdir(layer)
    with mounted('mount', '-t', 'overlay', '-o', f'lowerdir={lower},upperdir={layers["upper"]},workdir={layers["work"]}', 'zcfs-test',
                 at=layers['merged']) as point:
        yield point


@contextlib.contextmanager
def behind_fuse(lower, directory):
    """As a network file system looks to us: no leases, perhaps no exchange of names, and bytes that others can change."""
    point = os.path.join(directory, 'behind')
    os.mkdir(point)
    with mounted('bindfs', lower, at=point):
        yield point


@contextlib.contextmanager
def read_only(lower, directory):
    point = os.path.join(directory, 'read-only')
    os.mkdir(point)
    with mounted('mount', '--bind', lower, at=point):
        run('mount', '-o', 'remount,bind,ro', point)
        yield point


@contextlib.contextmanager
def no_new_names(lower, directory):
    """Images may be written, but no names be made."""
    run('chattr', '+i', lower)
    try:
        yield lower
    finally:
        run('chattr', '-i', lower)


def view_of(image, scratch):
    view = os.path.join(scratch, 'view')
    write_view(image, view)
    result = digest(view)
    findings = check_ntfs(view)
    os.unlink(view)
    equal(findings, '', 'what ntfs-check finds')
    return result


def shows(store, mount, expected):
    """True if the daemon's mount shows the image so."""
    with store_mounted(ZCFS, store, mount):
        equal(os.listdir(mount), ['a.img'], 'the directory')
        return digest(os.path.join(mount, 'a.img')) == expected


def works(cases, what, store, mount, scratch, original):
    image = os.path.join(store, 'a.img')
    with cases.case(f'{what}: a pass and its undo work, below the mount and through it'):
        holds(shows(store, mount, original), 'the daemon shows something else')
        equal(defrag(image).status, DONE, 'a pass')
        holds(os.path.isdir(image), 'there is no bundle')
        new = view_of(image, scratch)
        holds(new != original and shows(store, mount, new), 'the daemon shows something else')
        with store_mounted(ZCFS, store, mount):
            equal(defrag('--undo', os.path.join(mount, 'a.img')).status, DONE, 'its undo')
            equal(digest(os.path.join(mount, 'a.img')), original, 'the view')
            with open(os.path.join(mount, 'a.img'), 'r+b', buffering=0) as guest:
                guest.write(guest.read(512) and os.pread(guest.fileno(), 512, 512))
                os.fsync(guest.fileno())
        equal(check(store).status, 0, 'what zcfs-check finds')
        equal(defrag('--plain', image).status, DONE, '--plain')
        holds(os.path.isfile(image), 'it is still a bundle')


def is_refused(cases, what, store, mount, original, *words, discard=None, dry_run=DONE):
    """@discard: what is said of --discard, if that is refused, too; dry_run: whether that finds out."""
    image = os.path.join(store, 'a.img')
    with cases.case(f'{what}: looked at and served, a pass is refused with cause and remedy, and nothing changes'):
        before = state_of(store)
        holds(shows(store, mount, original), 'the daemon shows something else')
        equal(defrag('--analyze', image).status, DONE, 'the exit status with --analyze')
        tried = defrag('--dry-run', image)
        equal(tried.status, dry_run, 'the exit status with --dry-run')
        result = defrag(image)
        holds(dry_run == DONE or tried.err == result.err, f'the dry run says {tried.err}, the pass {result.err}')
        equal(result.status, FAILED, 'the exit status')
        holds('what to do: ' in result.err and all(word in result.err for word in words), result.err)
        if discard:
            result = defrag('--discard', image)
            equal(result.status, FAILED, 'the exit status of --discard')
            holds('what to do: ' in result.err and discard in result.err, result.err)
        equal(check(store).status, 0, 'what zcfs-check finds')
        equal(state_of(store), before, 'the store')


def without_leases(cases, store):
    """The kernel gives leases on everything but true network file systems; but none to who neither owns the file nor may override that."""
    image = os.path.join(store, 'a.img')
    with cases.case('where no lease is to be had: the pass works, and says that only flock has kept others out'):
        os.chown(image, 1500, 1500)
        done = subprocess.run(['setpriv', '--bounding-set=-lease', ZCFS_DEFRAG, '--verbose', image], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False)
        equal(done.returncode, DONE, 'the exit status')
        holds('no leases: only flock' in done.stdout, done.stdout)
    with cases.case('and with a lease it says nothing of that'):
        holds('leases' not in defrag('--verbose', '--undo', image).out, 'it does')


def short_files(cases, store, directory):
    """Files in memory are files to ulimit -f, too. What is only looked at need not be short."""
    image = os.path.join(directory, 'disk.img')
    with open(image, 'xb') as disk, open(os.path.join(store, 'a.img'), 'rb') as volume:
        disk.seek(446)
        disk.write(struct.pack('<4xB3xII', 7, 2048, os.path.getsize(volume.name) // 512).ljust(64, b'\0') + b'\x55\xaa')
        disk.seek(1 << 20)
        disk.write(volume.read())

    def analyze(*limits):
        done = subprocess.run([*limits, ZCFS_DEFRAG, '--analyze', image], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=300, check=False)
        return done.returncode, done.stdout
    hard = ['prlimit', '--fsize=1048576']
    modest = ['setpriv', '--bounding-set=-sys_resource']
    with cases.case('a limit on the length of files is none on the images that are looked at, if it can be lifted'):
        equal(analyze('prlimit', '--fsize=1048576:', *modest)[0], DONE, 'the exit status')
        if not subprocess.run([*hard, 'prlimit', '--fsize=unlimited', 'true'], stderr=subprocess.DEVNULL, check=False).returncode:
            equal(analyze(*hard)[0], DONE, 'the exit status with a hard one')
    with cases.case('if it cannot, it is told what keeps the image from being looked at'):
        status, text = analyze(*hard, *modest)
        equal(status, FAILED, 'the exit status')
        holds('ulimit -f' in text and 'bug' not in text, text)
    os.unlink(image)


def main():
    unmount_on_termination()
    cases = Cases()
    with workspace() as top, host_file_system('ext4', top, 200) as directory:
        store, mount = os.path.join(directory, 'store'), os.path.join(top, 'mount')
        os.mkdir(store)
        os.mkdir(mount)
        scattered_volume(os.path.join(store, 'a.img'), **VOLUME)
        original = digest(os.path.join(store, 'a.img'))
        with read_only(store, directory) as point:
            is_refused(cases, 'a read-only mount', point, mount, original, 'read-only', discard='read-only')
        with behind_fuse(store, directory) as point:
            is_refused(cases, 'behind another FUSE file system', point, mount, original, 'RENAME_EXCHANGE', 'local file system', discard='punch a hole',
                       dry_run=FAILED)
        with no_new_names(store, directory) as point:
            is_refused(cases, 'a directory that takes no new names', point, mount, original)
        with overlay(store, directory) as point:
            works(cases, 'an overlay, the image in its lower layer', point, mount, top, original)
        equal(digest(os.path.join(store, 'a.img')), original, 'the lower layer')
        short_files(cases, store, directory)
        without_leases(cases, store)
    cases.finish()


main()
