# SPDX-License-Identifier: GPL-2.0-or-later
"""How far zcfs-defrag says it is: on a terminal, in a log, to SIGUSR1; and what comes of SIGINT. SEED=n repeats a run."""
import fcntl
import os
import pty
import random
import re
import select
import signal
import struct
import subprocess
import termios
import time

from commands import DONE, FAILED, ZCFS_DEFRAG, defrag, scattered_volume, unmount_on_termination, workspace
from guest import run
from host import state_of
from tap import Cases, equal, holds

SLOWLY = ['--settle', '--threshold=64', '--rate=1']  # for what is of interest while it goes on: some seconds
LINE = re.compile(r'zcfs-defrag: [^\n]*: [a-z0-9: ]+( \d+%(, [\d.,]+ ?([KM]iB|bytes)?/s, [\d:]+( s)? left)?)?; running for [\d:]+( s)?')


def run_on_terminal(columns, *arguments):
    """What a user sees, terminal escapes included."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ['TERM'] = 'xterm'
        time.sleep(0.2)  # until the terminal has its width
        os.execv(ZCFS_DEFRAG, [ZCFS_DEFRAG, *arguments])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))
    seen = b''
    while select.select([terminal], [], [], 60)[0]:
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            break  # the other end is closed
        if not piece:
            break
        seen += piece
    os.close(terminal)
    return seen.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def terminals(cases, image, copy_of):
    for columns, seconds in (100, 9), (30, 5): # a step takes four seconds, and two make a rate
        with cases.case(f'a terminal of {columns} columns: a bar with rate and estimate that fits, and is gone at the end'):
            seen, status = run_on_terminal(columns, *SLOWLY, f'--time-limit={seconds}', copy_of())
            equal(status, DONE, 'the exit status')
            lines = seen[:seen.rindex('\r\033[K')].split('\r\033[K')[1:]
            drawn = [line for line in lines if line]
            holds(len(drawn) > 3, repr(seen))
            holds(max(map(len, drawn)) < columns, f'{max(map(len, drawn))} columns: {drawn}')
            holds(any(re.search(r'settling.* \d+%', line) for line in drawn), drawn)
            if columns > 80:
                holds(any(re.search(r'settling \[#*\.+\] \d+%, [\d.]+ [KM]iB/s, [\d:]+( s)? left', line) for line in drawn), drawn)
    with cases.case('on a terminal: what takes a moment shows nothing'):
        for _ in range(10):  # on a busy machine it may take more than a moment
            seen, status = run_on_terminal(80, '-n', image)
            if '\033' not in seen:
                break
        holds(status == DONE and '\033' not in seen, repr(seen))
    with cases.case('on a terminal with --quiet: nothing'):
        equal(run_on_terminal(80, '-nq', image), ('', DONE), 'what is seen')


def logs(cases, image):
    with cases.case('in a log: with --verbose a line for each phase, otherwise none'):
        lines = defrag('-nv', image).err.splitlines()
        equal(lines, [f'zcfs-defrag: {image}: volume 1: {phase}' for phase in ('scan', 'rewrite', 'verify')] +
              [line for line in lines if ': commit' in line], 'the lines')
        equal([defrag('-n', image).err, defrag('-nq', image).err], ['', ''], 'standard error')


def start(*arguments, ignored=()):
    """Until it listens to SIGUSR1, which would end it before. ignored: signals that it begins with as nohup would have it."""
    process = subprocess.Popen([ZCFS_DEFRAG, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               preexec_fn=lambda: [signal.signal(number, signal.SIG_IGN) for number in ignored])
    for _ in range(10000):
        with open(f'/proc/{process.pid}/status', encoding='ascii') as status:
            caught = re.search(r'SigCgt:\s*([0-9a-f]+)', status.read())
        if process.poll() is not None or caught and int(caught[1], 16) >> (signal.SIGUSR1 - 1) & 1:
            break
        time.sleep(0.001)
    return process


def answers(process, wanted, seconds=60):
    """Asks until it has said that; what it said."""
    said = b''
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not re.search(wanted, said.decode()):
        process.send_signal(signal.SIGUSR1)
        if select.select([process.stderr], [], [], 0.5)[0]:
            said += os.read(process.stderr.fileno(), 65536)
    for line in said.decode().splitlines():
        holds(LINE.fullmatch(line), repr(line))
    holds(re.search(wanted, said.decode()), said)


def signals(cases, image, copy_of):
    with cases.case('SIGUSR1 while it settles'):
        process = start('-q', *SLOWLY, '--time-limit=20', copy_of())
        answers(process, r': settling( \d+%)?')
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=300)[1].decode()
        equal(process.returncode, FAILED, 'the exit status')
        holds('stopped; what has been moved so far stays moved' in err and 'run the same command again' in err, err)
    with cases.case('SIGUSR1 while it waits; then SIGINT: nothing changed'):
        before = state_of(os.path.dirname(image))
        with open(image, 'rb'):
            process = start('-q', '--wait', image)
            answers(process, 'waiting until nobody uses it; running for')
            process.send_signal(signal.SIGINT)
            err = process.communicate(timeout=300)[1].decode()
        equal(process.returncode, FAILED, 'the exit status')
        holds('stopped; nothing has been changed' in err, err)
        equal(state_of(os.path.dirname(image)), before, 'the store')
    with cases.case('signals that are ignored from the start, as by nohup and in the background, end nothing; another one does'):
        ignored = (signal.SIGHUP, signal.SIGINT)
        with open(image, 'rb'):
            process = start('-q', '--wait', image, ignored=ignored)
            for number in ignored:
                process.send_signal(number)
            answers(process, 'waiting until nobody uses it; running for')
            process.send_signal(signal.SIGTERM)
            err = process.communicate(timeout=300)[1].decode()
        equal(process.returncode, FAILED, 'the exit status')
        holds('stopped; nothing has been changed' in err, err)
    for arguments in (['-n'], [], ['--undo'], ['--pack'], ['--settle'], ['--plain=copy'], ['--all']):
        with cases.case(f'SIGUSR1 all the time: {" ".join(arguments) or "a pass"} ends well all the same'):
            process = start('-q', *arguments, image if arguments != ['--all'] else os.path.dirname(image))
            while process.poll() is None:
                process.send_signal(signal.SIGUSR1)
                time.sleep(0.0005)
            err = process.communicate()[1].decode()
            equal(process.returncode, DONE, f'the exit status, with {err}')
            for line in err.splitlines():
                holds(LINE.fullmatch(line) or 'begun with' in line, repr(line))


def interruptions(cases, image, source):
    for number in range(10):
        delay = source.random() * 0.03
        with cases.case(f'SIGINT {number + 1}: nothing is changed and it says so, or all is done'):
            before = state_of(os.path.dirname(image))
            process = start('-q', image)
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            err = process.communicate(timeout=300)[1].decode()
            if process.returncode == DONE:
                equal(defrag('--undo', image).status, DONE, 'the exit status of --undo')
                equal(defrag('--plain', image).status, DONE, 'the exit status of --plain')
            else:
                equal(process.returncode, FAILED, f'the exit status, {delay} s after the start, with {err}')
                holds('stopped; nothing has been changed' in err, err)
                equal(state_of(os.path.dirname(image)), before, 'the store')


def main():
    unmount_on_termination()
    seed = int(os.environ.get('SEED', random.randrange(1 << 32)))
    print(f'# SEED={seed}', flush=True)
    cases = Cases()
    with workspace() as directory:
        store = os.path.join(directory, 'store')
        os.mkdir(store)
        image, bundle = os.path.join(store, 'a.img'), os.path.join(directory, 'b.img')
        scattered_volume(image, megabytes=24)
        run('cp', '--sparse=always', image, bundle)
        run(ZCFS_DEFRAG, '-q', bundle)
        count = [0]

        def copy_of():
            """Another bundle that was not settled."""
            count[0] += 1
            run('cp', '-a', bundle, f'{bundle}.{count[0]}')
            return f'{bundle}.{count[0]}'

        terminals(cases, image, copy_of)
        logs(cases, image)
        interruptions(cases, image, random.Random(seed))
        signals(cases, image, copy_of)
    cases.finish()


main()
