# SPDX-License-Identifier: GPL-2.0-or-later
"""stress-ng's file system stressors over the mount, verifying what they read: all that programs do to files, many at a time.

    test_stress_ng.py ZCFS MAP_IMAGE [TEST...]      SECONDS in the environment makes it longer
"""
import os
import shutil
import subprocess
import sys

from mount import *

SECONDS = int(os.environ.get('SECONDS', 3))

# Not io-uring: it asks for the status of a file that is not there, on any file system.
GROUPS = {
    'data': ['aio', 'aiol', 'copy-file', 'fallocate', 'fpunch', 'hdd', 'iomix', 'mmap', 'msync', 'readahead', 'revio', 'seek', 'sendfile',
             'splice', 'sync-file'],
    'names': ['chmod', 'chown', 'dentry', 'dir', 'dirdeep', 'dirmany', 'dup', 'filename', 'fstat', 'getdent', 'link', 'open', 'rename',
              'symlink', 'touch', 'utime', 'xattr'],
    'locks and the rest': ['access', 'fcntl', 'fiemap', 'file-ioctl', 'flock', 'fsize', 'handle', 'inotify', 'io', 'lease', 'locka', 'lockf',
                           'lockofd'],
}


def stress(store, stressors):
    if not shutil.which('stress-ng'):
        skip('stress-ng is not installed')
    command = ['stress-ng', '--temp-path', store.point, '--verify', '--oom-avoid', '--timeout', str(SECONDS), '--hdd-bytes', '32m',
               '--aio-requests', '16', '--aiol-requests', '16', '--mmap-bytes', '16m', '--mmap-file', '--iomix-bytes', '16m',
               '--fallocate-bytes', '16m', '--copy-file-bytes', '128m', '--readahead-bytes', '16m', '--revio-bytes', '16m',
               '--sync-file-bytes', '16m', '--seek-size', '16m', '--sendfile-size', '1m', '--dirdeep-inodes', '4k', '--dirmany-bytes', '0']
    for name in stressors:
        command += ['--' + name, '1']
    result = subprocess.run(command, cwd=store.top, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            timeout=TEST_SECONDS + 5 * SECONDS)
    # "fail" is a finding; a stressor that this kernel has nothing for says so and is left out.
    findings = [line for line in result.stdout.splitlines() if ': fail:' in line]
    assert result.returncode == 0 and not findings, f'{result.returncode}: ' + ('\n'.join(findings) or result.stdout)
    left = os.listdir(store.point)
    assert left == [], left


def test_of(group):
    def test(store):
        stress(store, GROUPS[group])
    test.__name__ = group
    test.__doc__ = f'stress-ng, {group}: {", ".join(GROUPS[group])}'
    return test


if __name__ == '__main__':
    sys.exit(run([test_of(group) for group in GROUPS], seconds=TEST_SECONDS + 5 * SECONDS))
