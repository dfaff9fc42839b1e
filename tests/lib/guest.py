# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's view of an image: making NTFS volumes, mounting them with ntfs-3g, reading every byte of every file."""
import contextlib
import hashlib
import os
import random
import re
import subprocess
import tempfile

WAIT_SECONDS = 300  # for a mount or an unmount: longer is a hang, whatever else the disk has to do


def run(*command, **arguments):
    """Runs a command that must succeed; returns its standard output."""
    arguments.setdefault('timeout', 600)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          check=False, **arguments)
    if done.returncode != 0:
        raise RuntimeError(f'{" ".join(map(str, command))} failed with status {done.returncode}:\n'
                           + (done.stdout + done.stderr).decode(errors='replace'))
    return done.stdout.decode(errors='surrogateescape')


def make_ntfs(image, megabytes, label):
    """A raw image that is one NTFS volume from its first byte to its last."""
    with open(image, 'xb') as new:
        new.truncate(megabytes << 20)
    run('mkntfs', '--quiet', '--force', '--fast', '--label', label, image)


@contextlib.contextmanager
def mounted_by(*command):
    """Runs a driver that stays in the foreground and mounts something on the last of its arguments; after the block that is unmounted,
    and the driver has ended."""
    point = command[-1]
    driver = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        wait_for_mount(point, driver)
        yield driver
    finally:
        unmount(point)
        try:
            driver.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            driver.kill()
            driver.wait()
            raise
        finally:
            driver.stdout.close()


@contextlib.contextmanager
def ntfs_mounted(image, options='ro'):
    """Mounts a volume with ntfs-3g; after the block everything is written and closed."""
    with tempfile.TemporaryDirectory(prefix='zcfs-guest-') as point:
        with mounted_by('ntfs-3g', '-o', f'no_detach,big_writes,{options}', image, point):
            yield point


def wait_for_mount(point, process):
    """Until something is mounted on point; an error if the process that should do it has ended."""
    parent = os.stat(os.path.dirname(point)).st_dev
    for _ in range(WAIT_SECONDS * 20):
        if os.stat(point).st_dev != parent:
            return
        try:
            status = process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        output = process.stdout.read().decode(errors='replace') if process.stdout else ''
        raise RuntimeError(f'{process.args[0]} ended with status {status} instead of mounting {point}:\n{output}')
    raise RuntimeError(f'nothing mounted on {point}')


def unmount(point):
    """Unmounts what is mounted there, however busy it is; nothing mounted is not an error."""
    for options in ([], [], ['-l']):
        done = subprocess.run(['umount', *options, point], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, timeout=WAIT_SECONDS, check=False)
        if done.returncode == 0 or b'not mounted' in done.stderr:
            return


def fragment(root, seed):
    """Fills a mounted volume with small files, removes every other one, and lets a few large files grow into the holes in
    turn: each of them ends in about a thousand pieces. Returns the number of files."""
    source = random.Random(seed)
    small = os.path.join(root, 'small')
    os.mkdir(small)
    count = 0
    try:
        while True:
            with open(os.path.join(small, f'{count:05}'), 'xb', buffering=0) as file:
                if file.write(source.randbytes(8192)) < 8192:
                    break
            count += 1
    except OSError:
        pass  # full
    os.unlink(os.path.join(small, f'{count:05}'))
    holes = range(0, count, 2)
    for number in holes:
        os.unlink(os.path.join(small, f'{number:05}'))
    large = ['letters.txt', 'ledger.db', 'photos.raw', 'mail.pst']
    for turn in range(len(holes) * 9 // 10):
        with open(os.path.join(root, large[turn % len(large)]), 'ab', buffering=0) as file:
            file.write(source.randbytes(8192 - turn % 2 * 300))
    return count - len(holes) + len(large)


def hash_file(path):
    """Of what the driver lets nobody read, because it is encrypted, it is known at least that it still is."""
    try:
        with open(path, 'rb') as file:
            return hashlib.sha256(file.read()).hexdigest()
    except PermissionError:
        return 'encrypted'


def stream_names(path):
    """The named streams of a file or directory on a volume that ntfs-3g has mounted; none on anything else."""
    try:
        names = os.getxattr(os.fsencode(path), 'ntfs.streams.list').split(b'\0')
        return [name.decode(errors='surrogateescape') for name in names if name]
    except OSError:
        return []


def hash_files(root):
    """Relative path -> SHA-256 of every regular file below root, and of every named stream (path:name)."""
    hashes = {}
    for directory, directories, names in os.walk(root):
        for name in directories + names:
            path = os.path.join(directory, name)
            contents = [path] if name in names and os.path.isfile(path) else []
            contents += [f'{path}:{stream}' for stream in stream_names(path)]
            for content in contents:
                hashes[os.path.relpath(content, root)] = hash_file(content)
    return hashes


def hash_files_through_driver(image):
    with ntfs_mounted(image, 'ro,streams_interface=windows') as root:
        return hash_files(root)


def hash_files_through_sleuthkit(image):
    """The same from a second reader of NTFS, which shares no code with the first. None: it cannot read this volume."""
    with open(image, 'rb') as file:
        sector = int.from_bytes(file.read(13)[11:], 'little')
    with tempfile.TemporaryDirectory(prefix='zcfs-guest-', dir=os.environ.get('TMPDIR', '/var/tmp')) as out:
        done = subprocess.run(['tsk_recover', '-a', '-f', 'ntfs', '-b', str(sector), image, out], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=600, check=False)
        if done.returncode != 0:
            return None
        return {path: digest for path, digest in hash_files(out).items()
                if not re.match(r'\$|System Volume Information', path)}
