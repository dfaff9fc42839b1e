#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes the kept corpus of a fuzz target anew: as few and as small inputs as reach everything that those of the kept corpus and of
other directories reach.

  merge_corpus.py PROGRAM CORPUS DIRECTORY...

Inputs whose names begin with "found-" once broke a promise: they stay, whatever they reach.
"""
import os
import shutil
import subprocess
import sys
import tempfile


def main():
    program, corpus, *others = sys.argv[1:]
    with tempfile.TemporaryDirectory() as merged:
        subprocess.run([program, '-merge=1', '-use_counters=0', '-timeout=60', merged, corpus, *others], check=True, stdin=subprocess.DEVNULL)
        for name in os.listdir(corpus):
            if not name.startswith('found-'):
                os.unlink(os.path.join(corpus, name))
        for name in os.listdir(merged):
            shutil.copyfile(os.path.join(merged, name), os.path.join(corpus, name[:16]))
    sizes = [os.path.getsize(os.path.join(corpus, name)) for name in os.listdir(corpus)]
    print(f'{len(sizes)} inputs, {sum(sizes)} bytes')


if __name__ == '__main__':
    main()
