# SPDX-License-Identifier: GPL-2.0-or-later
"""Promises of the daemon that are seen only with something between it and the host: what the one is slow with, fails to do or counts.

    cases.py ZCFS MAP_IMAGE [TEST...]      TRANSPORT as for the tests of the daemon
"""
import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time

from commands import defrag
from injector import ALLOCATE, DESCRIPTOR, REMOVED, THREAD, UNMOUNT, Injector
from mount import *

SIGNALS = 1000
SIGNALLED = """
import os, signal, sys
handled = 0
def handle(number, frame):
    global handled
    handled += 1
signal.signal(signal.SIGUSR1, handle)
print('ready', flush=True)
while handled < int(sys.argv[2]):
    os.stat(sys.argv[1])
os._exit(0)
"""


def injected(function):
    """The daemon is served by an injector, which is the test's second argument."""
    def wrapper(store):
        injector = Injector(store.top)
        with injector.preloaded():
            store.start()
        function(store, injector)
        store.unmount()
    wrapper.__name__, wrapper.__doc__ = function.__name__, function.__doc__
    wrapper.mounted = False
    return wrapper


def signal_during_stat(path, count):
    """Lets a process do nothing else until it has handled so many signals."""
    process = subprocess.Popen([sys.executable, '-c', SIGNALLED, path, str(count)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'ready\n'
    while process.poll() is None:
        process.send_signal(signal.SIGUSR1)
    process.stdout.close()
    assert process.returncode == 0


@injected
def test_interrupts_leave_nothing(store, injector):
    """a process that is signalled in each of its requests does not make the daemon grow"""
    write_file(store.host('a.img'), noise(65536))
    signal_during_stat(store.path('a.img'), 100)
    before = injector.blocks()
    signal_during_stat(store.path('a.img'), SIGNALS)
    grown = injector.blocks() - before
    assert grown < SIGNALS / 20, f'{SIGNALS} signals: {grown} blocks of memory more than before'


SLOW_MS = 1000


def files(store):
    """What the daemon has open, by number."""
    names = {}
    for fd in os.listdir(f'/proc/{store.daemon}/fd'):
        with contextlib.suppress(FileNotFoundError):
            names[int(fd)] = os.readlink(f'/proc/{store.daemon}/fd/{fd}')
    return names


@injected
def test_removing_a_large_file(store, injector):
    """giving back the blocks of a removed image takes the host long, and nobody else has to wait for that"""
    write_file(store.host('a.img'), b'')
    os.mkdir(store.host('others'))    # in the same directory the kernel lets them wait for the removal
    for number in range(1000):
        write_file(store.host('others', str(number)), b'')
    os.stat(store.path('others'))
    injector.arm([REMOVED], 0, 0, ever=True, delay_ms=SLOW_MS)
    thread = threading.Thread(target=os.unlink, args=(store.path('a.img'),))
    thread.start()
    wait_until(lambda: injector.happened(), 'closing the removed file')
    times = []
    while any(name.endswith(' (deleted)') for name in files(store).values()):
        begin = time.monotonic()
        os.stat(store.path('others', str(len(times))))
        times.append(time.monotonic() - begin)
        time.sleep(0.005)
    injector.disarm()
    thread.join()
    assert len(times) > 1 and max(times) < SLOW_MS / 2000, f'of {len(times)} lookups one has taken {max(times):.3f} s'


@injected
def test_end(store, injector):
    """the descriptor by which threads receive requests is not closed, and its number not given to others, while they do so"""
    device = min(fd for fd, name in files(store).items() if name == '/dev/fuse')
    injector.arm([UNMOUNT], 0, 0, delay_ms=SLOW_MS)
    os.kill(store.daemon, signal.SIGTERM)
    wait_until(injector.happened, 'unmounting')
    assert files(store).get(device) == '/dev/fuse', files(store)
    store.wait_for_end()


LATE_MS = 200


def settle_late(injector, path):
    """For a second, where the host takes long for each hole: what is begun then is finished, without pauses."""
    injector.arm([ALLOCATE], 0, 0, ever=True, delay_ms=LATE_MS)
    begin = time.monotonic()
    result = defrag('--settle', '--rate=100', '--time-limit=1', path)
    spent = time.monotonic() - begin
    holes, _ = injector.disarm()
    assert result.status == 0, result
    assert holes > 10 and spent < 1 + 1.3 * holes * LATE_MS / 1000, f'{spent:.1f} s with {holes} holes: {result}'


@injected
def test_end_of_settling(store, injector):
    """after the end of its time a settle pass makes no more pauses, in a mount or without one"""
    for name in ('a.img', 'b.img'):
        write_file(store.host(name), noise(16 << 20))
        store.tool('scatter', name, 1, 65536)
    settle_late(injector, store.path('a.img'))
    store.unmount()
    with injector.preloaded():
        settle_late(injector, os.path.join(store.dir, 'b.img'))


def read_by_device(store):
    """Rings that did not come up have no thread."""
    names = [read_file(f'/proc/{store.daemon}/task/{task}/comm') for task in os.listdir(f'/proc/{store.daemon}/task')]
    return not any(name.startswith(b'fuse-ring') for name in names)


@unmounted
def test_interrupt_without_the_rings(store):
    """who waits for a tool can be killed, and interrupted, also where the rings were agreed upon and then failed to start"""
    injector = Injector(store.top)
    write_file(store.host('a.img'), noise(65536))
    for at in range(20):
        injector.arm([THREAD], at, errno.EAGAIN)
        with injector.preloaded(), contextlib.suppress(AssertionError):
            store.start()
        injector.disarm()
        if store.daemon and read_by_device(store):
            break
        store.unmount()
    else:
        raise AssertionError('no thread is one of a ring')
    tool = store.hold('a.img')
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen(['cat', store.path('a.img')], stdout=subprocess.DEVNULL)
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(WAIT_SECONDS) == -number
    tool.kill()
    tool.wait()
    assert read_file(store.path('a.img')) == noise(65536)
    store.unmount()


@unmounted
def test_two_starters(store):
    """of two daemons that start at once on one directory the later one is refused, wherever it is when the other one mounts over it"""
    injector = Injector(store.top)
    for at in range(2):  # it has looked at the directory; it is about to open it for good
        injector.arm([DESCRIPTOR], at, 0, delay_ms=SLOW_MS)
        later = subprocess.Popen([ZCFS, *TRANSPORT_OPTIONS, store.dir], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, text=True, env=injector.environment())
        store.children.append(later)
        wait_until(injector.happened, 'it is slow')
        store.start()
        assert later.poll() is None, 'too late'
        said = later.communicate(timeout=WAIT_SECONDS)[0]
        assert later.returncode == 1 and 'is already served by zcfs' in said, (at, later.returncode, said)
        assert mounts_at(store.dir) == ['fuse.zcfs']
        store.unmount()


# Without rings no threads are left that receive when the mount ends.
ABOUT_RINGS = ('test_end', 'test_interrupt_without_the_rings')


if __name__ == '__main__':
    sys.exit(run([test for test in tests_of(globals()) if TRANSPORT == 'ring' or test.__name__ not in ABOUT_RINGS]))
