# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the images lie. One data file of the full size is all there is on a medium, moved into place for whoever serves it next:
its content does not matter to anybody, and every peer gets the same blocks. Only qcow2 has a file of its own, a quarter of the
size."""
import contextlib
import os
import shutil
import subprocess

from guest import run, unmount

FILL = 1 << 20      # bytes written at a time
NAME = 'bench.img'


class Medium:
    """A directory, to be thrown away, on the file system that is measured."""

    def __init__(self, name, directory, size, maps):
        self.name = name
        self.size = size
        self.maps = maps
        self.store = os.path.join(directory, 'store')  # what zcfs and passthrough_hp serve
        self.point = os.path.join(directory, 'mount')
        self.file_point = os.path.join(directory, 'export')  # qemu-storage-daemon mounts over a file
        self.image = os.path.join(self.store, NAME)
        self.qcow2 = os.path.join(directory, 'bench.qcow2')
        self.qcow2_size = size // 4
        os.mkdir(self.store)
        os.mkdir(self.point)
        with open(self.file_point, 'xb'):
            pass
        fill(self.image, size)

    def make_qcow2(self):
        if os.path.exists(self.qcow2):
            return
        run('qemu-img', 'create', '-q', '-f', 'qcow2', '-o', 'preallocation=falloc', self.qcow2, str(self.qcow2_size))
        run('qemu-io', '-f', 'qcow2', '-c', f'write -q -P 90 0 {self.qcow2_size}', self.qcow2)

    @contextlib.contextmanager
    def as_bundle(self, pieces):
        """The image is a bundle of that many extents for the time of the block."""
        data = self.image + '.data'
        os.rename(self.image, data)
        try:
            os.mkdir(self.image)
            shutil.copy(self.maps.database(pieces), os.path.join(self.image, 'map.db'))
            os.rename(data, os.path.join(self.image, 'data'))
            yield
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.rename(os.path.join(self.image, 'data'), data)
            shutil.rmtree(self.image, ignore_errors=True)
            os.rename(data, self.image)

    def forget_cached(self):
        """Everything is on the medium and nothing of it in memory (where the medium is not memory itself)."""
        for path in (self.image, self.qcow2):
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(path, os.O_RDWR)
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(fd)


def fill(path, size):
    """Not holes, and nothing that anything could compress."""
    block = os.urandom(FILL)
    with open(path, 'xb', buffering=0) as file:
        for _ in range(size // FILL):
            file.write(block)
        os.fsync(file.fileno())


class Maps:
    """The maps of the bundles: equal pieces of the image in random order, made by tests/fs/map_image.c, kept as databases."""

    def __init__(self, directory, map_image, size):
        self.directory = directory
        self.map_image = map_image
        self.size = size
        os.mkdir(directory)

    def database(self, pieces):
        path = os.path.join(self.directory, f'{pieces}.db')
        if not os.path.exists(path):
            self.make(pieces, path)
        return path

    def listing(self, pieces):
        """A file with a line for each extent: guest offset, length, host offset."""
        self.database(pieces)
        return os.path.join(self.directory, f'{pieces}.txt')

    def make(self, pieces, path):
        """A sparse image of the same size is as good as any."""
        name = f'{pieces}.img'
        block = max(self.size // pieces // 4096 * 4096, 4096)
        with open(os.path.join(self.directory, name), 'xb') as image:
            image.truncate(self.size)
        run(self.map_image, 'scatter', self.directory, name, '1', str(block))
        with open(os.path.join(self.directory, f'{pieces}.txt'), 'xb') as listing:
            subprocess.run([self.map_image, 'print', self.directory, name], stdout=listing, check=True)
        os.rename(os.path.join(self.directory, name, 'map.db'), path)
        shutil.rmtree(os.path.join(self.directory, name))

    def extents(self, pieces):
        with open(self.listing(pieces), 'rb') as listing:
            return sum(1 for _ in listing)


@contextlib.contextmanager
def mounted_tmpfs(directory, size):
    os.mkdir(directory)
    run('mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', directory)
    try:
        yield directory
    finally:
        unmount(directory)
