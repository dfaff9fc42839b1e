# SPDX-License-Identifier: GPL-2.0-or-later
"""Those that serve the image. Each peer is a context manager: the image is served within it, and nothing is left of it afterwards.

    raw          the file itself
    qsd-raw      qemu-storage-daemon's FUSE export of it: cache.direct=on,aio=native for direct rows, its defaults for buffered ones
    qsd-qcow2    the same of a preallocated qcow2 image (a quarter of the size: to its advantage)
    hp-clone     libfuse's passthrough_hp, a device descriptor for each thread
    hp-uring     passthrough_hp over io_uring
    hp-*-wt      the same with --nocache, so without the kernel's write-back cache: buffered writes go through, as with zcfs
    hp-pass      passthrough_hp with kernel passthrough
    zcfs-plain   zcfs as it comes, a plain image: kernel passthrough, but for those who open it for writing with O_DIRECT
    zcfs-pass    a plain image with kernel passthrough for all, zcfs-nopass for none
    zcfs-1       a bundle of one extent; zcfs-1-clone: without io_uring
    zcfs-10k     bundles of 10,000, 100,000 and a million extents
    zcfs-100k
    zcfs-1M
    pread-loop   a loop of preads over the pieces of the million-extent map, by themselves: no FUSE, no zcfs
"""
import contextlib
import os
import signal
import subprocess
import time

from guest import WAIT_SECONDS, unmount, wait_for_mount

from data_path.media import NAME


class Peer:
    def __init__(self, name, serve, tool=None, pieces=0, uring=False):
        self.name = name
        self.serve = serve    # (medium, row) -> context manager of (path, process or None)
        self.tool = tool      # what must be there
        self.pieces = pieces  # extents of the map
        self.uring = uring    # cannot be measured without FUSE over io_uring


@contextlib.contextmanager
def serving(command, point, log):
    """Runs a server in the foreground until the end of the block. Ends it by unmounting, and by force if that does not help."""
    with open(log, 'w+b') as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            try:
                wait_for_mount(point, process)
            except RuntimeError as error:
                output.seek(0)
                raise RuntimeError(f'{error}{output.read().decode(errors="replace")}') from error
            yield process
        finally:
            unmount(point)
            end(process)


def end(process):
    for number, seconds in ((None, 2), (signal.SIGTERM, WAIT_SECONDS), (signal.SIGKILL, WAIT_SECONDS)):
        if number:
            process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2 if is_qemu(process) and not number else seconds)
            return
    raise RuntimeError(f'process {process.pid} ({process.args[0]}) cannot be ended')


def is_qemu(process):
    return process.args[0] == 'qemu-storage-daemon'  # lives on without its mount


class Peers:
    def __init__(self, zcfs, passthrough_hp, directory):
        self.zcfs = zcfs
        self.passthrough_hp = passthrough_hp
        self.log = os.path.join(directory, 'server.log')
        self.all = [
            Peer('raw', self.raw),
            Peer('qsd-raw', self.qsd_raw, tool='qemu-storage-daemon'),
            Peer('qsd-qcow2', self.qsd_qcow2, tool='qemu-storage-daemon'),
            self.hp('hp-clone', '--nopassthrough', '--clone-fd'),
            self.hp('hp-uring', '--nopassthrough', '-o', 'io_uring'),
            self.hp('hp-clone-wt', '--nopassthrough', '--clone-fd', '--nocache'),
            self.hp('hp-uring-wt', '--nopassthrough', '-o', 'io_uring', '--nocache'),
            self.hp('hp-pass'),
            self.plain('zcfs-plain'),
            self.plain('zcfs-pass', '-o', 'passthrough=on'),
            self.plain('zcfs-nopass', '-o', 'passthrough=off'),
            self.bundle('zcfs-1', 1),
            self.bundle('zcfs-1-clone', 1, '-o', 'io_uring=no'),
            self.bundle('zcfs-10k', 10_000),
            self.bundle('zcfs-100k', 100_000),
            self.bundle('zcfs-1M', 1_000_000),
            Peer('pread-loop', self.raw, pieces=1_000_000),
        ]

    def hp(self, name, *options):
        return Peer(name, lambda medium, row: self.serve_hp(medium, options), tool='passthrough_hp', uring='uring' in name)

    def plain(self, name, *options):
        return Peer(name, lambda medium, row: self.serve_zcfs(medium, options))

    def bundle(self, name, pieces, *options):
        return Peer(name, lambda medium, row: self.serve_bundle(medium, pieces, options), pieces=pieces)

    @contextlib.contextmanager
    def raw(self, medium, row):
        yield medium.image, None

    @contextlib.contextmanager
    def qsd(self, medium, row, path, *formats):
        cache = ',cache.direct=on,aio=native' if row.direct else ''
        command = ['qemu-storage-daemon', '--blockdev', f'driver=file,node-name=file,filename={path}{cache}', *formats,
                   '--export', f'type=fuse,id=export,node-name={"image" if formats else "file"},'
                   f'mountpoint={medium.file_point},writable=on']
        with serving(command, medium.file_point, self.log) as process:
            yield medium.file_point, process

    def qsd_raw(self, medium, row):
        return self.qsd(medium, row, medium.image)

    def qsd_qcow2(self, medium, row):
        medium.make_qcow2()
        return self.qsd(medium, row, medium.qcow2, '--blockdev', 'driver=qcow2,node-name=image,file=file')

    @contextlib.contextmanager
    def serve_hp(self, medium, options):
        command = [self.passthrough_hp, '--foreground', *options, medium.store, medium.point]
        with serving(command, medium.point, self.log) as process:
            yield os.path.join(medium.point, NAME), process

    @contextlib.contextmanager
    def serve_zcfs(self, medium, options):
        command = [self.zcfs, '-f', *options, medium.store, medium.point]
        with serving(command, medium.point, self.log) as process:
            yield os.path.join(medium.point, NAME), process

    @contextlib.contextmanager
    def serve_bundle(self, medium, pieces, options):
        with medium.as_bundle(pieces), self.serve_zcfs(medium, options) as served:
            yield served


def cpu_seconds(process):
    """User and system time of all threads, those that the kernel runs for its io_urings included. 0: nobody serves."""
    if not process:
        return 0.0
    with open(f'/proc/{process.pid}/stat', encoding='utf-8') as file:
        fields = file.read().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def memory_kib(process):
    """Resident memory."""
    if not process:
        return 0
    with open(f'/proc/{process.pid}/status', encoding='utf-8') as file:
        return next((int(line.split()[1]) for line in file if line.startswith('VmRSS:')), 0)


@contextlib.contextmanager
def opened(path, row):
    """Holds the image open, as fio opens it: zcfs loads the map at the first open(), which is not to be in fio's time, and decides who
    caches the image. Yields how long that open() took, in seconds."""
    started = time.monotonic()
    fd = os.open(path, (os.O_RDONLY if row.reads else os.O_RDWR) | (os.O_DIRECT if row.direct else 0))
    try:
        yield time.monotonic() - started
    finally:
        os.close(fd)
