# SPDX-License-Identifier: GPL-2.0-or-later
"""Images that must not be changed are not: exit status, words, and not one byte of the store. Those that only look alike are
defragmented as ever."""
import hashlib
import os
import uuid

from commands import DAMAGED, DONE, MAKERS, REFUSED, check_ntfs, defrag, defrag_report, unmount_on_termination, \
    workspace
from guest import run
from host import read_extents, state_of, write_view
from tap import Cases, equal, holds

VSS_GUID = uuid.UUID('3808876b-c176-4e48-b7ae-04046e6cc752').bytes_le
OPTIONS = [[], ['--dry-run'], ['--pack'], ['--discard'], ['--analyze']]

# What the scan, libntfs-3g or both find fault with; an analysis of an image in use takes seconds.
ANALYZED_IN_USE = ['cluster-free', 'mirror', 'dirty-and-inconsistent', 'dirty-in-mft-only', 'second-damaged']


def prove_refused(cases, name, image, status):
    store = os.path.dirname(image)
    before = state_of(store)
    # Another volume's state counts, too; its damage is looked for only if it is to be changed.
    attempts = OPTIONS + ([['--volume=1']] if status == REFUSED else [])
    with cases.case(f'{name}: exit status {status} with a cause and a remedy'):
        for options in attempts:
            result = defrag(*options, image)
            equal(result.status, status, f'the exit status with {options}')
            lines = result.err.splitlines()
            holds(lines and os.path.basename(image) in lines[0], result.err)
            holds(any(line.startswith('  what to do: ') for line in lines), f'no remedy in: {result.err}')
    with cases.case(f'{name}: of no volume it is said that it is done, or what is different after a change'):
        for options in (['--pack'], ['--analyze']):
            report = defrag_report(*options, image, status=status)
            equal([volume for volume in report['volumes'] if volume['result'] == 'done' or not volume['cause']], [], 'volumes')
            holds(options == ['--analyze'] or not any('score' in volume for volume in report['volumes']), report)
            equal((report['changed'], report['metadata_bytes'], report['redo_bytes']), (False, 0, 0), 'what is changed')
    with cases.case(f'{name}: not one byte of the store changed'):
        equal(state_of(store), before, 'the store')


def prove_refused_in_use(cases, name, image, status):
    with cases.case(f'{name}: what is read while it is in use is a reason to refuse it, never damage'):
        with open(image, 'rb'):
            result = defrag('--analyze', image)
        equal(result.status, REFUSED, 'the exit status')
        holds('damaged: ' not in result.err and 'what to do: ' in result.err, result.err)
        equal('could not be read consistently' in result.err, status == DAMAGED, f'whether that is the cause in {result.err}')


def catalog_of(view, off):
    """The beginning of the shadow copies' catalog, where the volume's header says that it is; nothing without one."""
    with open(view, 'rb') as file:
        header = os.pread(file.fileno(), 64, off + 0x1e00)
        place = int.from_bytes(header[48:56], 'little')
        return os.pread(file.fileno(), 128, off + place) if header[:16] == VSS_GUID and place else b''


def prove_catalog_stays(cases, name, image, scratch):
    with cases.case(f'{name}: the catalog of shadow copies is where the volume says, however much is moved'):
        view = os.path.join(scratch, 'view')
        write_view(image, view)
        before = catalog_of(view, 0)
        equal(before[:16], VSS_GUID, 'what is there')
        defrag('--pack', image)
        write_view(image, view)
        equal(catalog_of(view, 0), before, 'what is there')
        os.unlink(view)


def prove_accepted(cases, name, image, offsets, scratch):
    with cases.case(f'{name}: not refused, consistent afterwards'):
        equal(defrag('--analyze', image).status, DONE, 'the exit status of an analysis')
        equal(defrag(image).status, DONE, 'the exit status')
        view = os.path.join(scratch, 'view')
        holds(read_extents(image), 'there is no map')
        write_view(image, view)
        for off in filter(str.isdigit, offsets.split(',')):
            equal(check_ntfs(view, off), '', 'what ntfs-check finds')
        os.unlink(view)


def prove_nothing_to_do(cases, name, image):
    with cases.case(f'{name}: nothing to do, and nothing changed'):
        store = os.path.dirname(image)
        before = state_of(store)
        for options in OPTIONS:
            result = defrag(*options, image)
            equal(result.status, DONE, f'the exit status with {options}')
            holds('nothing to do: no NTFS volume' in result.out, result.out)
        equal(state_of(store), before, 'the store')


def beginning(path):
    with open(path, 'rb') as file:
        return hashlib.sha256(file.read(32 << 20)).hexdigest()


def prove_too_large_refused(cases, directory):
    """As long as its boot sector says, which is more than 2^32 clusters; almost all of it holes."""
    store = os.path.join(directory, 'large')
    made = run(os.path.join(MAKERS, 'make-refused'), '--only', 'clusters-beyond-2-32', store).split('\t')[1]
    with cases.case('more than 2^32 clusters that are all there: refused, unchanged'):
        with open(made, 'r+b') as image:
            boot = image.read(512)
            sector, end = int.from_bytes(boot[11:13], 'little'), int.from_bytes(boot[40:48], 'little')
            holds(end // boot[13] >= 1 << 32, f'it has only {end} sectors')
            image.truncate((end + 1) * sector)
            os.pwrite(image.fileno(), boot, end * sector)
        before, content = os.stat(made), beginning(made)
        result = defrag(made)
        equal(result.status, REFUSED, 'the exit status')
        holds('2^32 clusters' in result.err and 'what to do' in result.err, result.err)
        after = os.stat(made)
        equal((beginning(made), after.st_ino, after.st_size, after.st_blocks, after.st_mtime_ns),
              (content, before.st_ino, before.st_size, before.st_blocks, before.st_mtime_ns), 'the image')
    run('rm', '-r', store)


def main():
    unmount_on_termination()
    cases = Cases()
    with workspace() as directory:
        made = os.path.join(directory, 'made')
        lines = run(os.path.join(MAKERS, 'make-refused'), made).splitlines()
        for number, line in enumerate(lines):
            name, path, offsets, status = line.split('\t')
            store = os.path.join(directory, str(number)) # each alone: the whole store is compared
            os.mkdir(store)
            image = os.path.join(store, os.path.basename(path))
            os.rename(path, image)
            if name == 'vss-no-snapshots':
                prove_catalog_stays(cases, name, image, directory)
            if status == '0' and offsets == '-':
                prove_nothing_to_do(cases, name, image)
            elif status == '0':
                prove_accepted(cases, name, image, offsets, directory)
            else:
                prove_refused(cases, name, image, int(status))
                if name in ANALYZED_IN_USE:
                    prove_refused_in_use(cases, name, image, int(status))
            run('rm', '-r', store)
        prove_too_large_refused(cases, directory)
    cases.finish()


main()
