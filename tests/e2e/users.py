# SPDX-License-Identifier: GPL-2.0-or-later
"""Who uses an image, waiting for him, saved domains, and all the images of a store at once."""
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import time

from commands import DAMAGED, DONE, FAILED, IN_USE, REFUSED, ZCFS, ZCFS_DEFRAG, defrag, scattered_volume, \
    unmount_on_termination, workspace
from guest import WAIT_SECONDS, run
from host import hot_journal, state_of, store_mounted
from saved import save_by_xl
from tap import Cases, equal, holds

QEMU = 'qemu-system-x86_64'


@contextlib.contextmanager
def qemu(image, *arguments):
    """A stopped machine with the image for a disk; when the block begins it has opened it."""
    with workspace() as directory:
        monitor = os.path.join(directory, 'monitor')
        machine = subprocess.Popen(
            [QEMU, '-machine', 'none', '-accel', 'tcg', '-S', '-nodefaults', '-display', 'none', *arguments,
             '-drive', f'file={image},format=raw,if=none,id=disk,cache=none,discard=unmap',
             '-qmp', f'unix:{monitor},server,nowait'], stdin=subprocess.DEVNULL)
        try:
            for _ in range(600):
                if os.path.exists(monitor):  # it is made after the drives
                    break
                time.sleep(0.1)
            holds(machine.poll() is None, 'QEMU has ended')
            yield machine
        finally:
            machine.kill()
            machine.wait()


def user_of(image):
    """Who is told to have it, of an image that must be in use."""
    result = defrag('--json', image)
    equal(result.status, IN_USE, 'the exit status')
    return json.loads(result.out)['images'][0]['user']


def names_users(cases, store, mount):
    in_store, in_mount = os.path.join(store, 'a.img'), os.path.join(mount, 'a.img')
    with qemu(in_mount, '-name', 'guest=w7,debug-threads=on') as machine:
        for image in (in_mount, in_store):
            with cases.case(f'QEMU has it open in the mount, asked about {"the mount" if image == in_mount else "the store"}'):
                result = defrag(image)
                equal(result.status, IN_USE, 'the exit status')
                holds(f'is in use by qemu-system-x86 (process {machine.pid}, guest "w7")' in result.err, result.err)
                equal(user_of(image), {'kind': 'process', 'id': machine.pid, 'name': 'qemu-system-x86', 'guest': 'w7'},
                      'the user')
    with qemu(in_store) as machine, cases.case('QEMU has it open in the store, behind the mount\'s back'):
        equal(user_of(in_mount)['id'], machine.pid, 'the process')
    for image in (in_mount, in_store):
        loop = run('losetup', '--find', '--show', image).strip()
        try:
            with cases.case(f'a loop device on {"the mount" if image == in_mount else "the store"}'):
                user = user_of(in_mount)
                equal((user['kind'], f'/dev/loop{user["id"]}'), ('loop device', loop), 'the user')
                holds(f'is in use by loop device {loop}' in defrag(in_store).err, 'not told')
        finally:
            run('losetup', '--detach', loop)


def waits(cases, mount):
    image = os.path.join(mount, 'a.img')
    with cases.case('--wait: waits for QEMU, and goes on when it ends'), qemu(image) as machine:
        waiter = subprocess.Popen([ZCFS_DEFRAG, '--wait', image], stdout=subprocess.PIPE)
        time.sleep(1.5)
        holds(waiter.poll() is None, 'it did not wait')
        machine.kill()
        out, _ = waiter.communicate(timeout=WAIT_SECONDS)
        equal(waiter.returncode, DONE, 'the exit status')
        holds(b': defragmented' in out, out)
    with cases.case('--shutdown: nobody but a Xen domain is asked, the others are waited for'), open(image, 'rb'):
        result = defrag('--shutdown', '--wait=1', image)
        equal(result.status, IN_USE, 'the exit status')
        holds('asked' not in result.err, result.err)
    with cases.case('--wait asleep in the lock: a signal ends it'), open(image, 'rb'):
        waiter = subprocess.Popen([ZCFS_DEFRAG, '--wait', image], stderr=subprocess.PIPE)
        time.sleep(1.2)
        waiter.send_signal(signal.SIGTERM)
        _, errors = waiter.communicate(timeout=WAIT_SECONDS)
        equal(waiter.returncode, FAILED, 'the exit status')
        holds(b'stopped' in errors, errors)


def other_daemon_hangs(cases, mount, directory):
    store, point = os.path.join(directory, 'other'), os.path.join(directory, 'other-mount')
    os.mkdir(store)
    os.mkdir(point)
    with store_mounted(ZCFS, store, point) as daemon:
        daemon.send_signal(signal.SIGSTOP)
        try:
            with cases.case('the daemon of another store hangs: nothing waits for it'):
                equal(defrag(os.path.join(mount, 'b.img'), '--dry-run', timeout=WAIT_SECONDS).status, DONE, 'the exit status')
        finally:
            daemon.send_signal(signal.SIGCONT)


def saved_domains(cases, store, mount, directory):
    saved = os.path.join(directory, 'saved')
    os.mkdir(saved)
    save = os.path.join(saved, 'w7.save')
    images = os.path.join(mount, 'b.img'), os.path.join(store, 'b.img')
    option = f'--saved={saved}'
    for image in images:
        save_by_xl(save, images[0])
        with cases.case(f'a saved domain has it: refused, nothing changed ({"mount" if image == images[0] else "store"})'):
            before = state_of(store)
            for mode in ([], ['--undo'], ['--dry-run'], ['--pack'], ['--discard']):
                result = defrag(option, *mode, image)
                equal(result.status, REFUSED, f'the exit status with {mode}')
                holds('"win7"' in result.err and save in result.err, result.err)
            equal(state_of(store), before, 'the store')
    with cases.case('a saved domain has it: what does not move the guest\'s metadata is not refused'):
        equal(defrag(option, '--analyze', images[0]).status, DONE, 'the exit status')
    with cases.case('a saved domain that names the image where it was before'):
        save_by_xl(save, '/no/such/mount/b.img')
        result = defrag(option, images[0])
        equal(result.status, REFUSED, 'the exit status')
        holds('may be a disk of the saved domain' in result.err, result.err)
    with cases.case('a saved domain has another image, and a file is compressed: a warning, the pass runs'):
        save_by_xl(save, os.path.join(mount, 'a.img'))
        with open(os.path.join(saved, 'other.gz'), 'wb') as file:
            file.write(b'\x1f\x8b\x08' + bytes(100))
        result = defrag(option, images[0])
        equal(result.status, DONE, 'the exit status')
        holds('other.gz' in result.err and 'warning' in result.err and 'w7.save' not in result.err, result.err)
    with cases.case('of a bundle, too'):
        save_by_xl(save, images[0])
        equal(defrag(option, '--pack', images[1]).status, REFUSED, 'the exit status')


def fleet(cases, directory):
    store = os.path.join(directory, 'fleet')
    os.makedirs(os.path.join(store, 'sub'))
    for number, name in enumerate(('a', 'b', 'c', 'sub/d')):
        scattered_volume(os.path.join(store, f'{name}.img'), megabytes=24, seed=number)
    with open(os.path.join(store, 'notes.txt'), 'w', encoding='ascii') as notes:
        notes.write('no image\n')
    with open(os.path.join(store, 'b.img'), 'rb'), cases.case('--all: a line for each, the one in use is left alone'):
        result = defrag('--all', store)
        equal((result.status, result.err), (DONE, ''), 'the exit status and the errors')
        lines = result.out.splitlines()
        equal([line.split(': ')[:2] for line in lines[:-1]],
              [[os.path.join(store, 'a.img'), 'defragmented'], [os.path.join(store, 'b.img'), 'left alone'],
               [os.path.join(store, 'c.img'), 'defragmented'], [os.path.join(store, 'sub', 'd.img'), 'defragmented']],
              'the lines')
        equal(lines[-1], f'{store}: 5 files: 3 defragmented, 1 in use, 1 without NTFS', 'the summary')
    with cases.case('--all --jobs: what was in use, and nothing to do for the rest'):
        result = defrag('--all', '--jobs=3', store + '/')
        equal(result.status, DONE, 'the exit status')
        holds(result.out.endswith('5 files: 1 defragmented, 3 with nothing to do, 1 without NTFS\n'), result.out)
    with cases.case('--all --quiet prints nothing if nothing is wrong'):
        equal((defrag('--all', '-q', store).out, defrag('--all', '-q', store).err), ('', ''), 'the output')
    with cases.case('--all --json: all of them in one document'):
        document = json.loads(defrag('--all', '--json', '--analyze', '--jobs=2', store).out)
        equal(len(document['images']), 5, 'the images')
    with open(os.path.join(store, 'a.img', 'map.db'), 'r+b') as database:
        database.seek(4096)
        database.write(b'\xff' * 4096)
    with cases.case('--all: one that is damaged is told, and counts; the others are done'):
        result = defrag('--all', '--pack', store)
        equal(result.status, DAMAGED, 'the exit status')
        holds('a.img: its image map is damaged' in result.err, result.err)
        holds(', 1 damaged, ' in result.out and '3 defragmented' in result.out, result.out)
    with cases.case('--all: one with a transaction that was interrupted is no less an image'):
        hot_journal(os.path.join(store, 'c.img'))
        result = defrag('--all', store)
        holds(os.path.join(store, 'c.img') + ': nothing to do\n' in result.out and ' 5 files: ' in result.out, result.out)
        equal(sorted(os.listdir(os.path.join(store, 'c.img'))), ['data', 'map.db'], 'the bundle')
    with cases.case('--all: one whose database is locked is told'), \
            contextlib.closing(sqlite3.connect(os.path.join(store, 'c.img', 'map.db'))) as database:
        database.execute('BEGIN EXCLUSIVE')
        result = defrag('--all', store)
        holds(os.path.join(store, 'c.img') + ': left alone: ' in result.out and ' 5 files: ' in result.out, result.out)
    for name in 'b.img', 'notes.txt':
        with cases.case(f'--all of an image or a file: {name}'):
            result = defrag('--all', os.path.join(store, name))
            equal((result.status, result.out), (FAILED, ''), 'the exit status and the output')
            holds(f'{name}: is not a directory of images' in result.err, result.err)


def main():
    unmount_on_termination()
    cases = Cases()
    with workspace() as directory:
        store, mount = os.path.join(directory, 'store'), os.path.join(directory, 'mount')
        os.mkdir(store)
        os.mkdir(mount)
        for name in ('a.img', 'b.img'):
            scattered_volume(os.path.join(store, name), megabytes=24)
        with store_mounted(ZCFS, store, mount):
            names_users(cases, store, mount)
            waits(cases, mount)
            other_daemon_hangs(cases, mount, directory)
            saved_domains(cases, store, mount, directory)
        fleet(cases, directory)
    cases.finish()


main()
