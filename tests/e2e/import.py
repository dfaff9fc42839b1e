# SPDX-License-Identifier: GPL-2.0-or-later
"""Images in other formats come in, and go out, through the mount with qemu-img: same content, and a pass on them is a pass like any other.

Takes a seed for the order in which clusters are allocated as its argument; prints the one that it uses."""
import json
import os
import random

from commands import DONE, ZCFS, check_ntfs, defrag, defrag_report, scattered_volume, seed_argument, unmount_on_termination, \
    workspace
from guest import hash_files_through_driver, run
from host import digest, store_mounted
from tap import Cases, equal, holds

FORMATS = {'qed': [], 'qcow2': ['-o', 'cluster_size=65536'], 'vhdx': ['-o', 'block_size=1M'], 'vmdk': []}
PIECE = 256 << 10
MEGABYTES = 48


def out_of_order(form, options, raw, path, source):
    """Writes the image piece by piece in any order, so that its clusters are allocated in that order."""
    size = os.path.getsize(raw)
    run('qemu-img', 'create', '-q', '-f', form, *options, path, str(size))
    offsets = list(range(0, size, PIECE))
    source.shuffle(offsets)
    commands = []
    with open(raw, 'rb') as file:
        for number, off in enumerate(offsets):
            file.seek(off)
            data = file.read(PIECE)
            if data.count(0) == len(data):
                continue
            with open(f'{path}.{number}', 'wb') as piece:
                piece.write(data)
            commands += ['-c', f'write -q -s {path}.{number} {off} {len(data)}']
    run('qemu-io', '-f', form, *commands, path)
    for number in range(len(offsets)):
        if os.path.exists(f'{path}.{number}'):
            os.unlink(f'{path}.{number}')


def in_order(form, path):
    """Whether the image's data lie in guest order, as qemu-img sees it."""
    mapped = json.loads(run('qemu-img', 'map', '--output=json', '-f', form, path))
    offsets = [entry['offset'] for entry in mapped if 'offset' in entry]
    return len(offsets) > 1 and offsets == sorted(offsets)


def convert(cases, store, point, raw, files, form, options, source):
    path = os.path.join(os.path.dirname(raw), f'old.{form}')
    image = os.path.join(point, f'{form}.img')
    with cases.case(f'{form}, allocated out of order, comes in: the same bytes'):
        out_of_order(form, options, raw, path, source)
        holds(not in_order(form, path), 'it is in order')
        run('qemu-img', 'check', '-q', '-f', form, path)
        run('qemu-img', 'convert', '-f', form, '-O', 'raw', path, image)
        equal(digest(image), digest(raw), 'the content')
        equal(os.listdir(store), [f'{form}.img'], 'the store')
        holds(os.path.isfile(os.path.join(store, f'{form}.img')), 'it is no plain image')
    with cases.case(f'a pass on it, and every file is as it was: {form}'):
        report = defrag_report(image)
        equal((report['result'], report['changed'], report['data_bytes_copied']), ('done', True, 0), 'the outcome')
        equal(check_ntfs(image), '', 'what ntfs-check finds')
        equal(hash_files_through_driver(image), files, 'the files')
    with cases.case(f'a pass on the {form} image leaves it alone, and says what it is and how it becomes a raw one'):
        before = digest(path)
        for options in (['--dry-run'], ['--analyze'], []):
            result = defrag(*options, path)
            equal(result.status, DONE, f'the exit status with {options}')
            name = form if form == 'qcow2' else form.upper()
            equal(result.out.splitlines(), [f'{path}: nothing to do: a {name} image, not a raw one',
                                            '  what to do: make a raw image of it with qemu-img convert -O raw'], 'what is said')
        volume, = defrag_report(path)['volumes']
        equal((volume['result'], volume['file_system']), ('skipped', form), 'what the report says')
        holds('qemu-img convert' in volume['remedy'], volume['remedy'])
        equal(digest(path), before, 'the file')
    with cases.case(f'what the guest sees goes out as {form}'):
        os.unlink(path)
        run('qemu-img', 'convert', '-f', 'raw', '-O', form, image, path)
        run('qemu-img', 'compare', '-q', '-f', 'raw', '-F', form, image, path)
    os.unlink(path)
    os.unlink(image)


def main():
    unmount_on_termination()
    seed = seed_argument(1)
    source = random.Random(seed)
    cases = Cases()
    with workspace() as directory:
        store, point, raw = (os.path.join(directory, name) for name in ('store', 'mount', 'raw'))
        os.mkdir(store)
        os.mkdir(point)
        scattered_volume(raw, megabytes=MEGABYTES, seed=31)
        files = hash_files_through_driver(raw)
        with store_mounted(ZCFS, store, point):
            for form, options in FORMATS.items():
                convert(cases, store, point, raw, files, form, options, source)
    cases.finish()


main()
