# SPDX-License-Identifier: GPL-2.0-or-later
"""Kills and stops at any moment: the guest sees the old image or the new one, and the store needs no repair.

Takes a seed as its argument; prints the one that it uses."""
import os
import random
import shutil
import signal
import subprocess
import time

from commands import FAILED, ZCFS, ZCFS_DEFRAG, check_ntfs, defrag_report, scattered_volume, seed_argument, unmount_on_termination, \
    workspace
from host import digest, store_mounted
from tap import Cases, equal, holds

KILLS = 60
CHILD_SECONDS = 60
VOLUME = {'megabytes': 32, 'fragments': 4000, 'seed': 11, 'what': 'all'}


class Store:
    def __init__(self, directory):
        self.directory = os.path.join(directory, 'store')
        self.mount = os.path.join(directory, 'mount')
        self.original = os.path.join(directory, 'original')
        os.mkdir(self.directory)
        os.mkdir(self.mount)
        scattered_volume(self.original, **VOLUME)
        self.image = os.path.join(self.directory, 'a.img')

    def reset(self):
        shutil.rmtree(self.directory)
        os.mkdir(self.directory)
        shutil.copy(self.original, self.image)

    def view(self):
        """As a guest finds it after the daemon's start, which cleans up, and its open, which recovers."""
        with store_mounted(ZCFS, self.directory, self.mount):
            equal(os.listdir(self.mount), ['a.img'], 'the directory')
            return digest(os.path.join(self.mount, 'a.img'))


def interrupted(image, seconds, number, *options, patient=True):
    """Runs a pass and signals it after some time. The exit status; negative: the signal has ended it. The pass's child is not
    signalled: it must notice by itself, and until then it keeps the lock."""
    running = subprocess.Popen([ZCFS_DEFRAG, *options, image], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, start_new_session=True)
    time.sleep(seconds)
    running.send_signal(number)
    status = running.wait(300)
    deadline = time.monotonic() + CHILD_SECONDS
    while patient and group_lives(running.pid):
        holds(time.monotonic() < deadline, 'the child outlives its parent')
        time.sleep(0.001)
    return status


def group_lives(leader):
    """Whether any process of that group still runs; who reaps the dead is not our business."""
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{pid}/stat', encoding='latin-1') as stat:
                state, _, group = stat.read().rsplit(')', 1)[1].split()[:3]
        except OSError:
            continue  # gone meanwhile
        if int(group) == leader and state != 'Z':
            return True
    return False


def kill_passes(cases, made, source):
    made.reset()
    old = made.view()
    started = time.monotonic()
    defrag_report(made.image)
    duration = time.monotonic() - started
    new = made.view()
    ends = {'old': 0, 'new': 0, 'killed': 0}
    with cases.case(f'killed {KILLS} times in the {duration * 1000:.0f} ms of a pass: the old view or the new one'):
        for _ in range(KILLS):
            made.reset()
            ends['killed'] += interrupted(made.image, source.random() * duration * 1.1, signal.SIGKILL) < 0
            view = made.view()
            holds(view in (old, new), 'the view is neither the old nor the new one')
            ends['old' if view == old else 'new'] += 1
            leftovers = [name for name in os.listdir(made.directory) if name != 'a.img']
            equal(leftovers, [], 'what is left in the store')
    print(f'# {ends}')
    with cases.case(f'killed {KILLS // 3} times without a daemon ever looking: the next pass finishes the work'):
        for _ in range(KILLS // 3):
            made.reset()
            interrupted(made.image, source.random() * duration * 1.1, signal.SIGKILL, patient=False)
            equal(defrag_report(made.image)['exit_code'], 0, 'the exit status')
            equal(os.listdir(made.directory), ['a.img'], 'the store')
            equal(made.view(), new, 'the view')
    return old, new, duration


def kill_undo(cases, made, source, old, new):
    with cases.case(f'--undo killed {KILLS // 3} times: the old view or the new one'):
        for _ in range(KILLS // 3):
            made.reset()
            defrag_report(made.image)
            interrupted(made.image, source.random() * 0.03, signal.SIGKILL, '--undo')
            holds(made.view() in (old, new), 'the view is neither the old nor the new one')


def stop_passes(cases, made, source, old, new, duration):
    with cases.case(f'stopped with SIGINT and SIGTERM {KILLS // 2} times: exit status 1 and the old view, or the new one'):
        for _ in range(KILLS // 2):
            made.reset()
            status = interrupted(made.image, source.random() * duration, source.choice((signal.SIGINT, signal.SIGTERM)))
            view = made.view()
            if status == FAILED:
                equal(view, old, 'the view')
            else: # a signal before main() can catch it kills
                holds((status < 0 and view == old) or (status == 0 and view == new), f'exit status {status}')


def main():
    unmount_on_termination()
    seed = seed_argument(1)
    source = random.Random(seed)
    cases = Cases()
    with workspace() as directory:
        made = Store(directory)
        with cases.case('the image to be tortured is consistent'):
            equal(check_ntfs(made.original), '', 'what ntfs-check finds')
        old, new, duration = kill_passes(cases, made, source)
        kill_undo(cases, made, source, old, new)
        stop_passes(cases, made, source, old, new, duration)
    cases.finish()


main()
