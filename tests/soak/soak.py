# SPDX-License-Identifier: GPL-2.0-or-later
"""Everything at once, for long: guests that write, guest passes, undo, settling, --plain, checks, renames, copies, changes of size, while
daemon and tools are killed, the host's disk fills up, turns read-only, and loses what was not flushed. Ends with figures.

    soak.py [ext4|xfs]      SOAK_SECONDS in the environment is how long it runs (180), SEED repeats its choices (not the order in
                            which threads make them), SOAK_LOG names a file for everything that happens, SOAK_KEEP=1 keeps the
                            store of a run that has found something
"""
import os
import random
import signal
import subprocess
import sys
import threading

from commands import check, unmount_on_termination, workspace
from host import write_view
from image import Image
from machine import Machine
from tally import Broken, Tally

IMAGES = 3
DISK_MIB = 512
ROUND_SECONDS = 30
JOIN_SECONDS = 300  # whoever has not ended so long after the end hangs


def run(directory, kind, seed, tally):
    source = random.Random(seed)
    machine = Machine(directory, kind, DISK_MIB, random.Random(source.random()), tally)
    try:
        images = [Image(machine, number, source.randrange(1 << 30)) for number in range(IMAGES)]
        machine.start()
        for image in images:
            image.learn()
        subprocess.run(['sync', '-f', machine.store], check=True)
        while not tally.finished():
            tally.begin_round(ROUND_SECONDS)
            everything_at_once([machine.befall, *[image.run for image in images]], tally)
            if not tally.broken:
                with tally.reporting('after a round'):
                    after_a_round(directory, machine, images)
        if tally.broken and os.environ.get('SOAK_KEEP'):
            subprocess.run(['cp', '-a', '--sparse=always', machine.store, directory + '-kept'], check=False)
            print(f'# kept in {directory}-kept')
    finally:
        machine.end()


def everything_at_once(threads, tally):
    threads = [threading.Thread(target=what, daemon=True) for what in threads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0, tally.remaining()) + JOIN_SECONDS)
        if thread.is_alive():
            tally.report('a thread of the soak hangs')


def after_a_round(directory, machine, images):
    """Without a daemon: nothing is damaged, nothing of what was interrupted is left, and what the map says is what the guest saw."""
    for image in images:
        image.verify()
    machine.end_daemon(signal.SIGTERM)
    for options, expected in ((['--repair'], (0, 1)), ([], (0,))):
        result = check(*options, machine.store)
        if result.status not in expected:
            raise Broken(f'zcfs-check: {result!r}')
    view = os.path.join(directory, 'view')
    for image in images:
        write_view(image.below(), view)
        fd = os.open(view, os.O_RDONLY)
        image.verify_bytes(fd)
        image.verify_volume(image.digest(fd))
        os.close(fd)
        os.unlink(view)
    machine.start()


def main():
    unmount_on_termination()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background, and what we start would leave it at that
    kind = sys.argv[1] if len(sys.argv) > 1 else 'ext4'
    seconds = float(os.environ.get('SOAK_SECONDS', 180))
    seed = int(os.environ.get('SEED', int.from_bytes(os.urandom(4), 'little')))
    print(f'# SEED={seed} SOAK_SECONDS={seconds:g} {kind}', flush=True)
    log = open(os.environ['SOAK_LOG'], 'w', encoding='utf-8') if 'SOAK_LOG' in os.environ else open(os.devnull, 'w', encoding='utf-8')
    tally = Tally(seconds, log)
    with log, workspace() as directory:
        run(directory, kind, seed, tally)
    for detail in tally.details():
        print(f'# {detail}')
    figures = ', '.join(tally.figures())
    print(f'{"not ok" if tally.broken else "ok"} 1 - {kind}: nothing that was answered for is lost: {figures}')
    for line in '\n'.join([*tally.broken, *tally.before]).splitlines():
        print(f'# {line}')
    print('1..1')
    return 1 if tally.broken else 0


sys.exit(main())
