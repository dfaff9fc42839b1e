#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The corpus is what it says: consistent, and read alike by readers that share no code; and of the images that must be
refused the damaged ones are inconsistent, the others not."""
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'lib'))

# pylint: disable=wrong-import-position
import commands
from tap import Cases, Skip, equal, holds


def read_table(script, directory):
    done = subprocess.run([os.path.join(HERE, script), directory], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=600, check=False)
    equal((done.returncode, done.stderr), (0, b''), f'{script}: status and errors')
    return [line.split('\t') for line in done.stdout.decode().splitlines()]


def test_corpus(cases, directory):
    for name, path, offsets in read_table('make-corpus', directory):
        with cases.case(f'corpus: {name} is consistent and all readers agree on it'):
            for offset in offsets.split(','):
                equal(commands.check_ntfs(path, int(offset)), '', 'findings')
                done = subprocess.run([os.path.join(HERE, 'hash-tree'), '--offset', offset, '--compare', '--sample', '25',
                                       path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600, check=False)
                equal(done.returncode, 0, f'status with {done.stdout.decode(errors="replace")}')
        os.unlink(path)


def test_refused(cases, directory):
    """The damaged ones must be inconsistent for ntfs-check, those that may be changed consistent."""
    for name, path, offsets, status in read_table('make-refused', directory):
        if offsets == '-':
            continue
        findings = ''.join(commands.check_ntfs(path, int(offset)) for offset in offsets.split(','))
        if status == '5':
            with cases.case(f'refused: {name} is inconsistent'):
                holds(findings, 'no findings')
        elif status == '0':
            with cases.case(f'refused: {name}, which may be changed, is consistent'):
                equal(findings, '', 'findings')


def main():
    cases = Cases()
    if not os.path.exists('/dev/fuse') or os.geteuid():
        with cases.case('the corpus'):
            raise Skip('no FUSE mounts for this user')
        cases.finish()
    with tempfile.TemporaryDirectory(prefix='ntfs-corpus-') as scratch:
        test_corpus(cases, scratch)
        test_refused(cases, scratch)
    cases.finish()


if __name__ == '__main__':
    main()
