# SPDX-License-Identifier: GPL-2.0-or-later
"""Defragments a demonstration image in a store of its own and proves that no file changed and no file data moved."""
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from guest import fragment, hash_files_through_driver, hash_files_through_sleuthkit, make_ntfs, ntfs_mounted, run
from host import changed_ranges, differing_ranges, outside, store_mounted

IMAGE = 'win-demo.img'
MEGABYTES = 160


def say(text):
    print(f'\n== {text}', flush=True)


def show(*command):
    """Prints a command as a user would type it, runs it, and lets its output through."""
    print('$ ' + ' '.join(f"'{word}'" if ' ' in word else word for word in (os.path.basename(command[0]), *command[1:])), flush=True)
    subprocess.run(command, check=True, timeout=300)


class Demo:
    def __init__(self, build, directory):
        self.zcfs = os.path.join(build, 'fs', 'zcfs')
        self.defrag = os.path.join(build, 'tools', 'zcfs-defrag')
        self.store = os.path.join(directory, 'store')
        self.mount = os.path.join(directory, 'mount')
        self.image = os.path.join(self.mount, IMAGE)  # as a guest opens it
        self.copy = os.path.join(directory, 'before')
        os.mkdir(self.store)
        os.mkdir(self.mount)

    def make_image(self):
        say(f'An NTFS volume of {MEGABYTES} MiB, badly fragmented by its own driver (ntfs-3g)')
        path = os.path.join(self.store, IMAGE)
        make_ntfs(path, MEGABYTES, 'Demonstration')
        with ntfs_mounted(path, 'rw') as root:
            print(f'{fragment(root, seed=1)} files')
        run('cp', '--sparse=always', '--reflink=auto', path, self.copy)

    def defragment(self):
        say('How bad is it? And what do its files hold, read through the mount by two NTFS implementations?')
        show(self.defrag, '--analyze', self.image)
        driver = hash_files_through_driver(self.image)
        sleuthkit = hash_files_through_sleuthkit(self.image)
        print(f'{len(driver)} files hashed with ntfs-3g, {len(sleuthkit)} with The Sleuth Kit')

        say('Defragment')
        print(f'$ zcfs-defrag {self.image}', flush=True)
        report = json.loads(run(self.defrag, '--json', self.image))['images'][0]
        show(self.defrag, '--analyze', self.image)
        return driver, sleuthkit, report

    def prove(self, driver, sleuthkit):
        """Each proof is (what, holds)."""
        database = os.path.join(self.mount, '.zcfs', 'db', IMAGE + '.db')
        replaced = changed_ranges(database)
        different = differing_ranges(self.copy, os.path.join(self.store, IMAGE, 'data'))
        say('What the map database says')
        show('sqlite3', '-header', '-column', database,
             'SELECT operation, fragments_before, fragments_after, extents_before, extents_after, metadata_bytes '
             'FROM run_history')
        show('sqlite3', '-header', '-column', database,
             'SELECT path, bytes, fragments_before AS before, fragments_after AS after FROM worst_files LIMIT 5')
        show('sqlite3', '-header', '-column', database, 'SELECT * FROM fragmentation')
        yield (f'{len(driver)} files are the same, read by ntfs-3g',
               len(driver) > 0 and hash_files_through_driver(self.image) == driver)
        yield (f'{len(sleuthkit)} files are the same, read by The Sleuth Kit',
               len(sleuthkit) > 0 and hash_files_through_sleuthkit(self.image) == sleuthkit)
        yield (f'the host\'s data file differs in {sum(b - a for a, b in different):,} bytes of '
               f'{os.path.getsize(self.copy):,}, all of them metadata that the pass recorded',
               bool(different) and outside(different, replaced) == 0)

    def run(self):
        self.make_image()
        with store_mounted(self.zcfs, self.store, self.mount):
            driver, sleuthkit, report = self.defragment()
            proofs = list(self.prove(driver, sleuthkit))
        say('Result')
        self.print_table(report)
        for what, holds in proofs:
            print(f'{"proven" if holds else "NOT TRUE"}: {what}')
        return all(holds for _, holds in proofs) and report['exit_code'] == 0

    @staticmethod
    def print_table(report):
        volume = report['volumes'][0]
        print(f'{"":28}{"before":>12}{"after":>12}')
        for label, pair in (('fragments', volume['fragments']),
                            ('fragmented attributes', volume['fragmented_attributes']),
                            ('pieces of free space', volume['free_runs']),
                            ('extents of the image map', report['extents'])):
            print(f'{label:28}{pair["before"]:>12,}{pair["after"]:>12,}')
        print(f'{"metadata written":28}{"":12}{report["metadata_bytes"]:>12,} bytes')
        print(f'{"file data copied":28}{"":12}{report["data_bytes_copied"]:>12,} bytes')
        print(f'{"time":28}{"":12}{report["seconds"]:>12.2f} s')


def main():
    # A terminated demonstration unmounts and removes what it made, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    started = time.monotonic()
    directory = tempfile.mkdtemp(prefix='zcfs-demo-', dir=os.environ.get('TMPDIR', '/var/tmp'))
    try:
        proven = Demo(sys.argv[1], directory).run()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(f'\n{"All as promised" if proven else "SOMETHING IS WRONG"}; {time.monotonic() - started:.0f} s')
    return 0 if proven else 1


if __name__ == '__main__':
    sys.exit(main())
