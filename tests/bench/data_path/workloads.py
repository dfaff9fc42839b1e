# SPDX-License-Identifier: GPL-2.0-or-later
"""What is done to the image: a row of the tables each."""
import json
import os
import subprocess


class Row:
    """direct: O_DIRECT. once: no byte twice, lest the kernel's cache answers. scattered: worth measuring with many extents."""

    def __init__(self, name, operation, block, depth=1, engine='libaio', direct=True, jobs=1, fsync=0, once=False, end_fsync=False,
                 scattered=False):
        self.name = name
        self.operation = operation
        self.block = block
        self.depth = depth
        self.engine = engine
        self.direct = direct
        self.jobs = jobs
        self.fsync = fsync
        self.once = once
        self.end_fsync = end_fsync
        self.scattered = scattered

    @property
    def reads(self):
        return self.operation in ('read', 'randread')

    @property
    def buffered_write(self):
        return not self.direct and not self.reads

    @property
    def unit(self):
        return 'MiB/s' if self.block == '1m' else 'IOPS'

    def options(self, size, seconds):
        options = [f'--rw={self.operation}', f'--bs={self.block}', f'--iodepth={self.depth}', f'--ioengine={self.engine}',
                   f'--direct={int(self.direct)}', f'--numjobs={self.jobs}', f'--runtime={seconds}']
        if self.operation == 'randrw':
            options += ['--rwmixread=70']
        if self.fsync:
            options += [f'--fsync={self.fsync}']
        if self.end_fsync:
            options += ['--end_fsync=1', f'--size={size // 4}']
        elif self.jobs > 1 and not self.operation.startswith('rand'):
            options += [f'--size={size // self.jobs}', f'--offset_increment={size // self.jobs}']
        else:
            options += [f'--size={size}']
        if not self.once and not self.end_fsync:
            options += ['--time_based']
        return options


def buffered(name, operation, block, **more):
    return Row(name, operation, block, engine='psync', direct=False, **more)


ROWS = [
    Row('4k randread qd1', 'randread', '4k', 1, scattered=True),
    Row('4k randwrite qd1', 'randwrite', '4k', 1, scattered=True),
    Row('4k randread qd32', 'randread', '4k', 32, scattered=True),
    Row('4k randwrite qd32', 'randwrite', '4k', 32, scattered=True),
    Row('4k 70/30 qd32', 'randrw', '4k', 32),
    Row('4k randread qd32 io_uring', 'randread', '4k', 32, engine='io_uring'),
    Row('4k randwrite qd32 io_uring', 'randwrite', '4k', 32, engine='io_uring'),
    Row('4k randread qd32 4 jobs', 'randread', '4k', 32, jobs=4),
    Row('4k randwrite qd32 4 jobs', 'randwrite', '4k', 32, jobs=4),
    Row('64k randread qd8', 'randread', '64k', 8, scattered=True),
    Row('64k randwrite qd8', 'randwrite', '64k', 8, scattered=True),
    Row('1m read qd4', 'read', '1m', 4, scattered=True),
    Row('1m write qd4', 'write', '1m', 4, scattered=True),
    buffered('4k randread buffered', 'randread', '4k', once=True),
    buffered('4k randwrite buffered', 'randwrite', '4k'),
    buffered('4k randwrite buffered fsync', 'randwrite', '4k', fsync=1),
    buffered('1m read buffered', 'read', '1m', once=True, scattered=True),
    buffered('1m read buffered 4 jobs', 'read', '1m', once=True, jobs=4),
    buffered('1m write buffered', 'write', '1m'),
    buffered('1m write buffered end fsync', 'write', '1m', end_fsync=True),
]

QUICK_ROWS = ['4k randread qd1', '4k randread qd32', '4k randwrite qd32', '1m read qd4', '1m write qd4', '1m read buffered',
              '1m write buffered']


def run_fio(row, path, size, seconds):
    """What fio measured: operations and bytes a second, latencies, its own CPU time. RuntimeError if it failed."""
    command = ['fio', '--name=bench', f'--filename={path}', '--thread', '--group_reporting', '--output-format=json',
               '--randrepeat=0', '--fallocate=none', '--allow_file_create=0', *row.options(size, seconds)]
    if not row.once:
        command.append('--norandommap')
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        output, _ = process.communicate(timeout=60 + 10 * seconds)
    except BaseException:
        process.kill()
        process.wait()
        raise
    text = output.decode(errors='replace')
    if process.returncode != 0:
        told = [line for line in text.replace(path, 'the image').splitlines() if line.startswith('fio:')]
        raise RuntimeError(told[0] if told else f'fio ended with status {process.returncode}')
    return parse(text)


def parse(text):
    job = json.loads(text[text.index('{'):])['jobs'][0]
    if job['error']:
        raise RuntimeError(f'fio: {os.strerror(job["error"])}')
    halves = [job['read'], job['write']]
    seconds = max(half['runtime'] for half in halves) / 1000
    busiest = max(halves, key=lambda half: half['total_ios'])
    return {
        'seconds': seconds,
        'bytes': sum(half['io_bytes'] for half in halves),
        'iops': sum(half['total_ios'] for half in halves) / seconds,
        'mib_s': sum(half['io_bytes'] for half in halves) / seconds / 2**20,
        'mean_us': busiest['clat_ns']['mean'] / 1000,
        'p99_us': busiest['clat_ns'].get('percentile', {}).get('99.000000', 0) / 1000,
        'client_cpu': (job['usr_cpu'] + job['sys_cpu']) / 100 * job['job_runtime'] / 1000,
    }
