# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands under test and those that judge them; the build says where they are (see tests/e2e/meson.build)."""
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile

from guest import run

ZCFS = os.environ.get('ZCFS', 'zcfs')
ZCFS_CHECK = os.environ.get('ZCFS_CHECK', 'zcfs-check')
ZCFS_DEFRAG = os.environ.get('ZCFS_DEFRAG', 'zcfs-defrag')
ZCFS_MAP = os.environ.get('ZCFS_MAP', 'zcfs-map')
NTFS_CHECK = os.environ.get('NTFS_CHECK', 'ntfs-check')
NTFS_POPULATE = os.environ.get('NTFS_POPULATE', 'ntfs-populate')
NTFS_SCATTER = os.environ.get('NTFS_SCATTER', 'ntfs-scatter')
MAKERS = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'ntfs')  # make-corpus and make-refused

# Where temporary directories are made: not in /tmp, which some keep in memory. tests/run_suites looks there for what is left.
SCRATCH = os.environ.get('SCRATCH') or os.environ.get('TMPDIR', '/var/tmp')

CLONE_NEWNS = 0x20000                   # <linux/sched.h>
MS_REC, MS_PRIVATE = 0x4000, 0x40000  # <linux/mount.h>

DONE, FAILED, USAGE, REFUSED, IN_USE, DAMAGED = range(6)  # exit statuses of zcfs-defrag


class Result:
    def __init__(self, done):
        self.status = done.returncode
        self.out = done.stdout.decode()  # always UTF-8, whatever the guest says
        self.err = done.stderr.decode()

    def __repr__(self):
        return f'exit status {self.status}\n{self.out}{self.err}'


def check(*arguments, **environment):
    return Result(subprocess.run([ZCFS_CHECK, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                 timeout=300, check=False, env=dict(os.environ, **environment)))


def defrag(*arguments, timeout=300, **popen):
    return Result(subprocess.run([ZCFS_DEFRAG, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, timeout=timeout, check=False, **popen))


def defrag_as_nobody(directory, *arguments, before=()):
    """Run by an ordinary user, to whom that directory of ours is opened; he has a copy of the command there, because the build may be
    where he does not come."""
    command = os.path.join(directory, 'nobody-zcfs-defrag')
    os.chmod(directory, 0o755)
    shutil.copy(ZCFS_DEFRAG, command)
    result = Result(subprocess.run(['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', *before, command, *arguments], timeout=300,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False))
    os.unlink(command)
    return result


def to_full_disk(*command):
    """Exit status and messages of a command whose output cannot be written."""
    with open('/dev/full', 'wb') as full:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, timeout=300, check=False)
    return done.returncode, done.stderr.decode()


def to_nobody(*command):
    """The same of one whose reader has gone away, as head(1) does."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, 'wb') as pipe:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=subprocess.PIPE, timeout=300, check=False)
    return done.returncode, done.stderr.decode()


def defrag_report(*arguments, status=DONE):
    """Runs with --json, wants that exit status, returns the report on the (one) image."""
    result = defrag('--json', *arguments)
    if result.status != status:
        raise AssertionError(f'zcfs-defrag {" ".join(arguments)}: not {status}: {result!r}')
    document = json.loads(result.out)
    if document['exit_code'] != status:
        raise AssertionError(f'the document says {document["exit_code"]}, the exit status is {status}')
    return document['images'][0]


def check_ntfs(view, off=0):
    """The findings of the independent checker; empty if the volume is consistent."""
    done = subprocess.run([NTFS_CHECK, '--offset', str(off), view], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=300, check=False)
    return '' if done.returncode == 0 else done.stdout.decode(errors='replace') or f'status {done.returncode}'


def lost_clusters(view, off=0):
    """Clusters that are marked as used and nobody's, as the checker says it of each run of them."""
    return [line for line in run(NTFS_CHECK, '--offset', str(off), view).splitlines() if 'lost-clusters' in line]


def read_runs(view, off):
    """(record, type, name), vcn, lcn, clusters of every run, as the independent checker reads them; LCN -1 is a hole."""
    for line in run(NTFS_CHECK, '--offset', str(off), '--extents', view).splitlines():
        attribute, *numbers = line.rsplit(' ', 3)
        record, kind, name = attribute.split(' ', 2)
        yield (int(record), kind, name), *map(int, numbers)


def attribute_runs(view, off=0):
    """(record, type, name) -> [(vcn, lcn, clusters)], holes left out."""
    runs = {}
    for attribute, vcn, lcn, length in read_runs(view, off):
        if lcn != -1:
            runs.setdefault(attribute, []).append((vcn, lcn, length))
    return runs


def attribute_holes(view, off=0):
    """(record, type, name) -> [(vcn, clusters)] of its holes, neighbours merged."""
    holes = {}
    for attribute, vcn, lcn, length in read_runs(view, off):
        if lcn == -1:
            holes.setdefault(attribute, []).append((vcn, length))
    return holes


def scattered_volume(path, megabytes=48, fragments=3000, seed=1, what='data,streams,dirs'):
    """An NTFS volume with files of every kind, cut into pieces."""
    with open(path, 'xb') as image:
        image.truncate(megabytes << 20)
    run('mkntfs', '--quiet', '--force', '--fast', '--label', 'End to end', path)
    run(NTFS_POPULATE, '--quiet', '--seed', str(seed), '--dirs', '4', '--files', '250', '--tiny', '50', '--streams', '30',
        '--sparse', '20', '--compressed', '20', '--links', '10', '--names', '20', path)
    run(NTFS_SCATTER, '--quiet', '--seed', str(seed), '--fragments', str(fragments), '--what', what, path)


def workspace():
    """A temporary directory on a real file system."""
    return tempfile.TemporaryDirectory(prefix='zcfs-test-', dir=SCRATCH)


def seed_argument(position):
    """The seed that was given as the program's argument there, or one by chance; printed, so that a failure can be repeated."""
    seed = int(sys.argv[position]) if len(sys.argv) > position else int.from_bytes(os.urandom(4), 'little')
    print(f'# seed {seed}', flush=True)
    return seed


def unmount_on_termination():
    """The test runner's SIGTERM becomes an exception, so that every with-block cleans up. And what is mounted from here on is mounted
    for us alone: other tests' programs that look at all mounts (mkfs.btrfs does) do not meet a dead one of ours, nor does a
    namespace that somebody makes meanwhile keep a file system of ours in use."""
    def stop(*_):
        raise KeyboardInterrupt
    signal.signal(signal.SIGTERM, stop)
    libc = ctypes.CDLL(None)
    if libc.unshare(CLONE_NEWNS) == 0:  # an ordinary user may not
        libc.mount(None, b'/', None, MS_REC | MS_PRIVATE, None)  # a chroot has no mount there, and none that others see
