# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine: its description for the report, and FUSE over io_uring switched on for the time of a run."""
import contextlib
import os
import platform
import re
import subprocess
import sys

ENABLE_URING = '/sys/module/fuse/parameters/enable_uring'


def say(text):
    print(text, file=sys.stderr, flush=True)


def first_line(*command):
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=20, check=False)
    except OSError:
        return 'not installed'
    return done.stdout.strip().partition('\n')[0]


def read(path, default=''):
    try:
        with open(path, encoding='utf-8', errors='replace') as file:
            return file.read()
    except OSError:
        return default


def load():
    return '{:.2f} {:.2f} {:.2f}'.format(*os.getloadavg())


def file_system(directory):
    return first_line('stat', '--file-system', '--format=%T', directory).replace('ext2/ext3', 'ext4')


def describe(libfuse_version, disk):
    cpu = re.search(r'^model name\s*:\s*(.*)$', read('/proc/cpuinfo'), re.MULTILINE)
    memory = re.search(r'^MemTotal:\s*(\d+)', read('/proc/meminfo'), re.MULTILINE)
    system = re.search(r'^PRETTY_NAME="(.*)"$', read('/etc/os-release'), re.MULTILINE)
    hypervisor = re.search(r'\bhypervisor\b', read('/proc/cpuinfo'))
    return {
        'cpu': f'{os.cpu_count()} x {cpu.group(1) if cpu else platform.machine()}',
        'virtual machine': 'yes' if hypervisor else 'no',
        'memory': f'{int(memory.group(1)) / 2**20:.0f} GiB' if memory else 'unknown',
        'kernel': platform.release(),
        'system': system.group(1) if system else 'unknown',
        'disk': file_system(disk),
        'fio': first_line('fio', '--version'),
        'qemu': first_line('qemu-storage-daemon', '--version'),
        'libfuse': libfuse_version,
        'load before the run': load(),
    }


@contextlib.contextmanager
def uring_enabled():
    """Yields what was done about FUSE over io_uring: None if this kernel does not have it."""
    before = read(ENABLE_URING).strip()
    if not before:
        say('this kernel has no FUSE over io_uring: what needs it is left out')
        yield None
        return
    if before in ('Y', '1'):
        yield 'was on, left on'
        return
    set_uring('1')
    try:
        yield 'was off, on for the run, off again afterwards'
    finally:
        set_uring(before)


def set_uring(value):
    with open(ENABLE_URING, 'w', encoding='ascii') as file:
        file.write(value)
    say(f'{ENABLE_URING}: set to {value}')
