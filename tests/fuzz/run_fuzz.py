#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs one fuzz target, a libFuzzer program: replays the kept corpus, then goes on from it. Prints TAP.

  run_fuzz.py PROGRAM CORPUS

FUZZ_SECONDS in the environment says for how long (8; 0: only replay). FUZZ_KEEP names a directory where what is found is kept,
one below it for each target, to go on from the next time; merge_corpus.py makes a new kept corpus of it. An input that breaks a
promise is written to FUZZ_KEEP, or the current directory: give its name to PROGRAM to replay it.
"""
import os
import re
import subprocess
import sys
import tempfile

SECONDS = 8
INPUT_SECONDS = 20  # for one input; the machine may be busy
MEMORY_MIB = 1024   # of the program, what it keeps of the sanitizers included
ALLOCATION_MIB = 512
INPUT_BYTES = 4096


def run(program, found, corpora, *options):
    command = [program, f'-timeout={INPUT_SECONDS}', f'-rss_limit_mb={MEMORY_MIB}', f'-malloc_limit_mb={ALLOCATION_MIB}',
               f'-max_len={INPUT_BYTES}', f'-artifact_prefix={found}/', '-print_final_stats=1', *options, *corpora]
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors='replace',
                          check=False)


def report(number, what, done):
    print(f'{"ok" if done.returncode == 0 else "not ok"} {number} - {what}')
    if done.returncode != 0:
        told = [line for line in done.stdout.splitlines() if not re.match(r'#\d+\s', line)]
        print('\n'.join('# ' + line for line in told[-60:]))
    return done.returncode != 0


def number_of(name, done):
    found = re.search(rf'stat::{name}:\s*(\d+)', done.stdout)
    return int(found.group(1)) if found else 0


def main():
    program, corpus = sys.argv[1:]
    name = os.path.basename(corpus)
    seconds = int(os.environ.get('FUZZ_SECONDS', SECONDS))
    inputs = len(os.listdir(corpus))
    keep = os.environ.get('FUZZ_KEEP')
    with tempfile.TemporaryDirectory() as scratch:
        work = os.path.join(keep or scratch, name)
        os.makedirs(work, exist_ok=True)
        print(f'1..{2 if seconds else 1}')
        failed = report(1, f'{name}: {inputs} kept inputs', run(program, keep or '.', [corpus], '-runs=0'))
        if seconds:
            done = run(program, keep or '.', [work, corpus], f'-max_total_time={seconds}')
            failed |= report(2, f'{name}: {number_of("number_of_executed_units", done)} inputs in {seconds} s, '
                             f'{number_of("new_units_added", done)} of them new', done)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
