# SPDX-License-Identifier: GPL-2.0-or-later
"""Overlays beside an image, made by qemu-img: what would change the image beneath them is refused. And hostile files that look like them."""
import contextlib
import fcntl
import os
import struct
import threading
import time

from commands import DONE, REFUSED, ZCFS, ZCFS_DEFRAG, defrag, defrag_as_nobody, scattered_volume, unmount_on_termination, workspace
from guest import run
from host import state_of, store_mounted
from tap import Cases, equal, holds

ALL_MODES = ([], ['--undo'], ['--dry-run'], ['--pack'], ['--discard'])
REMEDY = 'virsh blockcommit, qemu-img commit'


def create(path, backing, form='qcow2', backing_form='raw'):
    """What the backing file's name leads to need not be there."""
    run('qemu-img', 'create', '-q', '-u', '-f', form, '-b', backing, '-F', backing_form, path, '24M', cwd=os.path.dirname(path))


@contextlib.contextmanager
def beside(path):
    """What the block makes there is gone after it."""
    try:
        yield path
    finally:
        os.unlink(path)


def qcow2(backing, version=2, off=None, length=None):
    """A header as it may not come from qemu-img."""
    header = b'QFI\xfb' + struct.pack('>IQI', version, 512 if off is None else off, len(backing) if length is None else length)
    return header.ljust(512, b'\0') + backing.ljust(2048, b'\0')


def qed(backing, features=1, off=512, length=None):
    header = b'QED\0' + struct.pack('<IIIQQQQQII', 65536, 4, 1, features, 0, 0, 65536, 24 << 20, off, len(backing) if length is None else length)
    return header.ljust(512, b'\0') + backing.ljust(2048, b'\0')


def write(path, content):
    with open(path, 'wb') as file:
        file.write(content)


def is_refused(result, overlay, verb='is'):
    equal(result.status, REFUSED, 'the exit status')
    holds(f'refused: it {verb} the backing file of the overlay (snapshot) "{os.path.basename(overlay)}" beside it' in result.err and REMEDY in result.err, result.err)


def is_not_refused(*arguments):
    result = defrag('--dry-run', *arguments, timeout=300)
    equal((result.status, result.err), (DONE, ''), 'the exit status and the messages')


def found(cases, store, mount, kind):
    """However it is named."""
    images = os.path.join(mount, 'a.img'), os.path.join(store, 'a.img')
    os.symlink('a.img', os.path.join(store, 'link.img'))
    names = ['a.img', './a.img', f'../{os.path.basename(store)}/a.img', 'link.img', *images, f'file:{images[0]}',
             f'json:{{"driver":"raw","file":{{"driver":"file","filename":"{images[0]}"}}}}', f'json:{{"file.filename":"{images[1]}"}}',
             "json:{'driver':'raw','file':{'driver':'file','filename':'a.img'}}"]
    for name in names:
        shown = name.replace(store, 'STORE').replace(mount, 'MOUNT')
        with cases.case(f'{kind}, backing file {shown}: refused'), beside(os.path.join(store, 'a.snap')) as overlay:
            write(overlay, qcow2(name.encode()))
            for image in images:
                is_refused(defrag('--dry-run', image), overlay, 'may be' if "'" in name else 'is')
    os.unlink(os.path.join(store, 'link.img'))
    for form, backing in (('qcow2', 'a.img'), ('qcow2', images[0]), ('qed', 'a.img'), ('qcow', images[0])):
        with cases.case(f'{kind}, {form} by qemu-img in the mount, {"a relative" if backing == "a.img" else "an absolute"} name: refused in '
                        'every mode, nothing changed'), beside(os.path.join(mount, '.hidden ' + form)) as overlay:
            run('qemu-img', 'create', '-q', '-f', form, '-b', backing, '-F', 'raw', overlay)
            before = state_of(store)
            for image in images:
                for mode in ALL_MODES:
                    is_refused(defrag(*mode, image), overlay)
            equal(state_of(store), before, 'the store')
            equal(defrag('--analyze', images[0]).status, DONE, 'the exit status of an analysis')
    with cases.case(f'{kind}, a name that leads nowhere now, and ends in the image\'s: refused'), \
            beside(os.path.join(store, 'a.snap')) as overlay:
        create(overlay, '/no/such/mount/a.img')
        is_refused(defrag(images[1]), overlay, 'may be')


def others(cases, store, mount, directory):
    """What is no overlay of the image."""
    image = os.path.join(mount, 'a.img')
    other = os.path.join(directory, 'a.img')
    write(other, bytes(1 << 20))
    for what, backing in (('another image', 'b.img'), ('an image of the same name elsewhere', other), ('nothing that is there', 'c.img'),
                          ('a server', 'json:{"driver":"nbd","host":"a.img"}')):
        with cases.case(f'an overlay of {what}: not refused'), beside(os.path.join(store, 'x.qcow2')) as overlay:
            write(overlay, qcow2(backing.encode()))
            is_not_refused(image)
    with cases.case('a qcow2 image without a backing file: not refused'), beside(os.path.join(store, 'x.qcow2')) as overlay:
        run('qemu-img', 'create', '-q', '-f', 'qcow2', overlay, '24M')
        is_not_refused(image)
    with cases.case('an overlay that is made independent, or deleted: not refused any more'):
        with beside(os.path.join(store, 'x.qcow2')) as overlay:
            create(overlay, 'b.img')
            is_refused(defrag('--dry-run', os.path.join(store, 'b.img')), overlay)
            run('qemu-img', 'rebase', '-f', 'qcow2', '-F', 'raw', '-b', '', overlay)
            is_not_refused(os.path.join(store, 'b.img'))
    with cases.case('--all: the image beneath is refused, the other is not'), beside(os.path.join(store, 'x.qcow2')) as overlay:
        create(overlay, 'a.img')
        for jobs in ('1', '4'):
            result = defrag('--all', '--dry-run', f'--jobs={jobs}', store)
            is_refused(result, overlay)
            equal(result.err.count('refused'), 1, f'refusals with {jobs} jobs')


def hostile(cases, store, mount):
    image = os.path.join(mount, 'a.img')
    files = {
        'a magic number only': b'QFI\xfb',
        'a header that is cut off': qcow2(b'a.img')[:19],
        'a name that is cut off': qcow2(b'a.img')[:514],
        'an offset of 0': qcow2(b'a.img', off=0),
        'the greatest offset': qcow2(b'a.img', off=(1 << 64) - 1),
        'the greatest offset of a file': qcow2(b'a.img', off=(1 << 63) - 3),
        'the end of the file': qcow2(b'a.img', off=512 + 2048),
        'no name': qcow2(b'a.img', length=0),
        'a name that is too long': qcow2(b'a.img', length=1024),
        'the greatest length': qcow2(b'a.img', length=(1 << 32) - 1),
        'version 0': qcow2(b'a.img', version=0),
        'version 4': qcow2(b'a.img', version=4),
        'a name of zero bytes': qcow2(bytes(1023)),
        'a name of slashes': qcow2(b'/' * 1023),
        'JSON that is as deep as can be': qcow2(b'json:' + b'{"":' * 254),
        'JSON of lists': qcow2(b'json:{"a":' + b'[' * 500 + b']' * 500 + b'}'),
        'JSON that is no object': qcow2(b'json:"x"'),
        'QED without a backing file': qed(b'a.img', features=0),
        'QED, the greatest offset': qed(b'a.img', off=(1 << 32) - 1),
        'QED, the greatest length': qed(b'a.img', length=(1 << 32) - 1),
        'QED that is cut off': qed(b'a.img')[:60],
    }
    for what, content in files.items():
        with cases.case(f'{what}: no overlay, and the image is not refused'), beside(os.path.join(store, 'x.qcow2')) as overlay:
            write(overlay, content)
            is_not_refused(image)
    with cases.case('the longest name that there can be: refused'), beside(os.path.join(store, 'x.qcow2')) as overlay:
        write(overlay, qcow2(b'./' * 509 + b'a.img'))
        is_refused(defrag('--dry-run', image), overlay)
    with cases.case('a name with control characters: they are not printed'), beside(os.path.join(store, 'x\033[2J\n.qcow2')) as overlay:
        create(overlay, 'a.img')
        result = defrag('--dry-run', image)
        equal(result.status, REFUSED, 'the exit status')
        holds('\033' not in result.err and len(result.err.splitlines()) == 2, result.err)
    with cases.case('a FIFO, a directory, a socket and a link to an overlay: passed over, and nothing hangs'):
        paths = [os.path.join(store, name) for name in ('x.qcow2', 'y.qcow2', 'z.qcow2')]
        os.mkfifo(paths[0])
        os.mkdir(paths[1])
        os.symlink(paths[0], paths[2])
        is_not_refused(image)
        os.unlink(paths[0])
        os.rmdir(paths[1])
        os.unlink(paths[2])


def unreadable(cases, directory):
    with cases.case('an overlay that may not be read is passed over'):
        store = os.path.join(directory, 'nobody')
        os.mkdir(store)
        image, overlay = os.path.join(store, 'a.img'), os.path.join(store, 'a.qcow2')
        scattered_volume(image, megabytes=24, fragments=400)
        create(overlay, 'a.img')
        os.chmod(overlay, 0)
        for path in (store, image):
            os.chown(path, 65534, 65534)
        result = defrag_as_nobody(directory, '--dry-run', image)
        equal(result.status, DONE, f'the exit status, with {result.err}')


def leased(cases, store):
    image = os.path.join(store, 'b.img')
    with beside(os.path.join(store, 'b.qcow2')) as overlay:
        create(overlay, 'b.img')
        with cases.case('a tool looks at the overlay for a moment: waited for, refused, the tool is not disturbed'):
            file = os.open(overlay, os.O_RDWR)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            lease = []

            def end():
                time.sleep(0.7)
                lease.append(fcntl.fcntl(file, fcntl.F_GETLEASE))
                os.close(file)
            holder = threading.Thread(target=end)
            holder.start()
            result = defrag('--dry-run', image)
            holder.join()
            is_refused(result, overlay)
            equal(lease, [fcntl.F_WRLCK], 'the lease')
        with cases.case('a lease that stays: the lease is not broken'):
            file = os.open(overlay, os.O_RDWR)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            is_not_refused(image)
            equal(fcntl.fcntl(file, fcntl.F_GETLEASE), fcntl.F_WRLCK, 'the lease')
            os.close(file)


def guest_is_whole(cases, store):
    """What it is all for: the overlay reads as before."""
    image = os.path.join(store, 'c.img')
    scattered_volume(image, megabytes=24, fragments=400, seed=7)
    with cases.case('an overlay reads the same after a pass was refused; committed and deleted, the pass runs'):
        with beside(os.path.join(store, 'c.snap1')) as overlay:
            run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', 'c.img', '-F', 'raw', overlay)
            run('qemu-io', '-f', 'qcow2', '-c', 'write -q -P 7 23M 64k', overlay)
            is_refused(defrag(image), overlay)
            run('qemu-img', 'commit', '-q', overlay)
            is_refused(defrag(image), overlay)
        equal(defrag(image).status, DONE, 'the exit status')
        holds(os.path.isdir(image), 'no pass has run')


def main():
    unmount_on_termination()
    cases = Cases()
    with workspace() as directory:
        store, mount = os.path.join(directory, 'store'), os.path.join(directory, 'mount')
        os.mkdir(store)
        os.mkdir(mount)
        for number, name in enumerate(('a', 'b')):
            scattered_volume(os.path.join(store, f'{name}.img'), megabytes=24, fragments=400, seed=number)
        with store_mounted(ZCFS, store, mount):
            found(cases, store, mount, 'a plain image')
            others(cases, store, mount, directory)
            hostile(cases, store, mount)
            run(ZCFS_DEFRAG, '-q', os.path.join(mount, 'a.img'))
            found(cases, store, mount, 'a bundle')
        leased(cases, store)
        guest_is_whole(cases, store)
        unreadable(cases, directory)
    cases.finish()


main()
