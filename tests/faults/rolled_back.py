# SPDX-License-Identifier: GPL-2.0-or-later
"""Somebody opens an image that a crash has left with a journal, and so rolls that back, while zcfs-check looks at it: at any call to the
host. What it finds is the interrupted transaction or nothing, never damage, and never that something is not there.

SEED in the environment repeats a run; EVERY=1 does it at every call and not only at a sample."""
import contextlib
import errno
import json
import os
import random
import shutil
import sqlite3
import subprocess
import time

from commands import DONE, ZCFS_CHECK, unmount_on_termination, workspace
from guest import WAIT_SECONDS, run
from host import host_file_system, hot_journal
from injector import OPEN, READ, Injector, offsets
from scenarios import LEFT, MAP_IMAGE
from tap import Cases, equal, holds

NEVER = (1 << 64) - 1
SIZE = 8 << 20
SAMPLE = 40
DELAY_MS = 60  # of the call during which it happens


class Torn:
    """A store whose image has a transaction to be rolled back, again and again."""

    def __init__(self, root, seed):
        directory = os.path.join(root, 'store')
        self.image, self.kept = os.path.join(directory, 'a.img'), os.path.join(root, 'kept')
        os.mkdir(directory)
        with open(self.image, 'xb') as file:
            file.truncate(SIZE)
        run(MAP_IMAGE, 'scatter', directory, 'a.img', str(seed % (1 << 31)), str(4096 + 512))
        hot_journal(self.image)
        shutil.copytree(self.image, self.kept)

    def restore(self):
        shutil.rmtree(self.image)
        shutil.copytree(self.kept, self.image)

    def roll_back(self):
        with contextlib.closing(sqlite3.connect(os.path.join(self.image, 'map.db'))) as database:
            database.execute('SELECT count(*) FROM extent')
        equal(sorted(os.listdir(self.image)), ['data', 'map.db'], 'the bundle')


def look(torn, injector, calls, at):
    """Exit status and document; and how many calls there were."""
    torn.restore()
    injector.arm(calls, at, errno.EINTR, delay_ms=DELAY_MS)  # and then it is tried again
    process = subprocess.Popen([ZCFS_CHECK, '--json', torn.image], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env=injector.environment(), text=True)
    while at != NEVER and not injector.happened() and process.poll() is None:
        time.sleep(0.001)
    if at != NEVER:
        torn.roll_back()
    out, err = process.communicate(timeout=WAIT_SECONDS)
    return process.returncode, json.loads(out), err, injector.disarm()[0]


def judge(status, document, err):
    image = document['images'][0]
    errors = [finding for finding in image['findings'] if finding['error']]
    holds(status == (LEFT if errors else DONE) and not err, f'exit status {status}: {err}{document}')
    holds(all(finding['kind'] == 'journal' for finding in errors), f'it finds {errors}')
    holds(image['result'] != 'not checked', str(image))


def main():
    unmount_on_termination()
    seed = int(os.environ.get('SEED', int.from_bytes(os.urandom(4), 'little')))
    print(f'# SEED={seed}', flush=True)
    source, cases = random.Random(seed), Cases()
    with workspace() as directory, host_file_system('tmpfs', directory, 200) as root:
        injector, torn = Injector(root), Torn(root, seed)
        for name, call in (('a name is opened', OPEN), ('something is read', READ)):
            status, document, _, total = look(torn, injector, (call,), NEVER)
            chosen = offsets(source, total, SAMPLE)
            with cases.case(f'rolled back while {name}: {len(chosen)} of {total} calls'):
                equal((status, document['images'][0]['findings'][0]['kind']), (LEFT, 'journal'), 'what is found without that')
                for at in chosen:
                    status, document, err, _ = look(torn, injector, (call,), at)
                    try:
                        judge(status, document, err)
                    except AssertionError as problem:
                        raise AssertionError(f'call {at}: {problem}') from problem
    cases.finish()


main()
