# SPDX-License-Identifier: GPL-2.0-or-later
"""One cell of the tables: a fresh mount, one run of fio, one sample. Every cell begins with nothing cached, neither above nor (but
on tmpfs) below the server."""
import subprocess
import time

from data_path.peers import cpu_seconds, memory_kib, opened
from data_path.workloads import run_fio


class Bench:
    def __init__(self, seconds, maps, pread_loop):
        self.seconds = seconds
        self.maps = maps
        self.pread_loop = pread_loop

    def applies(self, peer, row, medium):
        """Whether that cell tells anything that others do not."""
        if peer.name == 'pread-loop':
            return row.name == '1m read qd4' and medium.name == 'tmpfs'  # what is asked is the cost on cached data
        if peer.name.endswith('-wt'):
            return row.buffered_write
        if peer.name == 'hp-pass':
            return True
        return row.scattered or peer.pieces <= 1

    def cell(self, peer, row, medium):
        """A sample as a dictionary; with 'error' in it if the cell failed."""
        medium.forget_cached()
        try:
            with peer.serve(medium, row) as (path, process):
                if peer.name == 'pread-loop':
                    return self.loop(path, peer.pieces)
                return self.sample(peer, row, path, process, medium)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            return {'error': str(error)}

    def sample(self, peer, row, path, process, medium):
        size = medium.qcow2_size if peer.name == 'qsd-qcow2' else medium.size
        with opened(path, row) as seconds:
            before = cpu_seconds(process)
            sample = run_fio(row, path, size, self.seconds)
            sample['server_cpu'] = cpu_seconds(process) - before
            sample['server_kib'] = memory_kib(process)
        sample['open_seconds'] = seconds
        return sample

    def loop(self, path, pieces):
        with open(self.maps.listing(pieces), 'rb') as listing:
            started = time.monotonic()
            done = subprocess.run([self.pread_loop, path, str(self.seconds)], stdin=listing, stdout=subprocess.PIPE, check=True,
                                  timeout=60 + time.monotonic() - started + 10 * self.seconds)
        bytes_, seconds = done.stdout.split()
        rate = int(bytes_) / float(seconds)
        return {'seconds': float(seconds), 'bytes': int(bytes_), 'iops': rate / 2**20, 'mib_s': rate / 2**20, 'mean_us': 0, 'p99_us': 0,
                'client_cpu': float(seconds), 'server_cpu': 0, 'server_kib': 0, 'open_seconds': 0}
