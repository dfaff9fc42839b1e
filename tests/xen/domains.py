# SPDX-License-Identifier: GPL-2.0-or-later
"""Domains of a real Xen whose disks are images on a zcfs mount in dom0, all in one boot of it.

  disks    the guest's ntfs3 reads and writes volumes that were fragmented, through qdisk and through a loop device; what it
           flushed is there, what it discarded is given back; passes and --settle, also while it writes, change no file
  users    zcfs-defrag names the domain that has an image, be it created, paused or running; waits for it, shuts it down;
           knows the saved one, also after dom0 has shut down

ZCFS_XEN_SUITE is another suite of Debian to take Xen from (bookworm has 4.17, trixie 4.20), fetched by tests/xen/fetch-xen.
ZCFS_XEN_LOG is a directory for what dom0 has logged. An argument is another seed."""
import json
import os
import shutil
import sys
import time

from commands import DONE, IN_USE, REFUSED, ZCFS, ZCFS_CHECK, ZCFS_DEFRAG, check_ntfs, scattered_volume, \
    unmount_on_termination, workspace
from debian_packages import system_suite
from dom0 import Dom0, missing
from guest import hash_files_through_driver, run, unmount
from host import write_view
from tap import Cases, Skip, equal, holds
from xen_guest import Guest, write_initrd

MEGABYTES = 24     # of each volume
DISK_BYTES = 1 << 30  # with the store; a sparse file
SEED = 1
IMAGES = '/srv/images'
SAVED = '/var/lib/xen/save/win7'  # where Debian's xendomains puts it

# What a guest runs: mounts its volume, prints the hash of each file, reading all anew, unmounts it.
MOUNT = 'mount -t ntfs3 /dev/xvda /volume'
HASH = 'echo 3 >/proc/sys/vm/drop_caches; cd /volume && find . -type f -print0 | xargs -0 sha256sum'
UNMOUNT = 'umount /volume'
# Files come and go while /tmp/go on is there. What is left is known by /tmp/sums.
WRITE = '''mkdir -p /volume/written && touch /tmp/go && : >/tmp/sums && (n=0; while [ -e /tmp/go ]; do
dd if=/dev/urandom of=/tmp/new bs=1k count=$((n * 37 % 200 + 1)); f=/volume/written/$((n % 9));
cp /tmp/new $f && sync -f $f || exit 1;
sed -i "\\\\#$f\\$#d" /tmp/sums; echo "$(sha256sum </tmp/new | cut -c1-64)  $f" >>/tmp/sums;
n=$((n + 1)); echo $n >/tmp/rounds; done;
echo done >/tmp/rounds) >/dev/null 2>&1 &'''.replace('\n', ' ')


class Store:
    """The images in dom0 and what each must hold."""

    def __init__(self, dom0):
        self.dom0 = dom0
        self.files = {}  # image -> path -> hash

    def path(self, image):
        return f'{IMAGES}/{image}.img'

    def mount(self):
        self.dom0.run(f'zcfs {IMAGES}')

    def start_defrag(self, *arguments):
        return self.dom0.start(' '.join(['zcfs-defrag', *arguments]))

    def defrag(self, *arguments, status=DONE):
        """What it prints, and that it ends so."""
        job = self.start_defrag(*arguments)
        found = job.wait()
        if found != status:
            raise AssertionError(f'{job.script}: not {status} but {found}: {job.output()}')
        return job.output()


def parsed_hashes(text):
    return {os.path.normpath(line[66:]): line[:64] for line in text.splitlines()}


def qdisk(image):
    return f'format=raw,vdev=xvda,access=rw,backendtype=qdisk,discard,target={IMAGES}/{image}.img'


def loop(image):
    return f'format=raw,vdev=xvda,access=rw,target={IMAGES}/{image}.img'


def scratch(disk):
    return disk.replace('xvda', 'xvdb')


def make_disk(directory, seed):
    """The disk with dom0's store of two volumes and a scratch image, and (image -> path -> hash)."""
    store, disk = os.path.join(directory, 'store'), os.path.join(directory, 'disk')
    os.mkdir(store)
    files = {}
    for number, image in enumerate(('win7', 'win10')):
        path = os.path.join(store, f'{image}.img')
        scattered_volume(path, megabytes=MEGABYTES, seed=seed + number)
        files[image] = {name: sum_ for name, sum_ in hash_files_through_driver(path).items() if ':' not in name}
    with open(os.path.join(store, 'scratch.img'), 'wb') as image:
        image.truncate(8 << 20)
    with open(disk, 'wb') as image:
        image.truncate(DISK_BYTES)
    run('mke2fs', '-q', '-t', 'ext4', '-d', store, disk)
    return disk, files


def prepare(dom0, store):
    dom0.run(f'''mkdir -p /usr/local/bin {IMAGES} {os.path.dirname(SAVED)}
        cp /lab/bin/* /usr/local/bin
        mount /dev/vdb {IMAGES}
        mv /etc/xen/scripts/block /etc/xen/scripts/block.real
        cat >/etc/xen/scripts/block <<'END'
#!/bin/sh
while [ -e /run/hold-disks ]; do
	sleep 0.1
done
exec /etc/xen/scripts/block.real "$@"
END
        chmod +x /etc/xen/scripts/block''')
    store.mount()


def same_files(store, guest, image):
    """The guest mounts the volume and finds what must be there, and unmounts it."""
    found = parsed_hashes(guest.run(f'{MOUNT} && {HASH}'))
    guest.run(UNMOUNT)
    equal(found, store.files[image], 'the files')


def refused_for(store, guest, image, state):
    said = store.defrag(store.path(image), status=IN_USE)
    holds(f'is in use by domain {guest.number()} "{guest.name}" ({state})' in said, said)


def prove_scratch(cases, store, guest, what):
    """The second disk: flush and discard."""
    cached = f'sha256sum <{IMAGES}/scratch.img'
    with cases.case(f'{what}: what a guest has written and flushed is in the image'):
        there = guest.run('dd if=/dev/urandom of=/dev/xvdb bs=64k count=128 conv=fsync 2>/dev/null && sha256sum </dev/xvdb')
        equal(store.dom0.run(cached), there, 'the hash')
    with cases.case(f'{what}: what a guest discards reads as zeros, and is given back by the host'):
        before = int(store.dom0.run(f'stat -c %b {IMAGES}/scratch.img'))
        zeros = guest.run('blkdiscard -o 2097152 -l 4194304 /dev/xvdb && echo 3 >/proc/sys/vm/drop_caches && '
                          'dd if=/dev/xvdb bs=1M skip=2 count=4 2>/dev/null | tr -d "\\\\0" | wc -c')
        equal(zeros.strip(), '0', 'bytes that are not zero')
        after = int(store.dom0.run(f'stat -c %b {IMAGES}/scratch.img'))
        holds(before - after >= (4 << 20) // 512, f'{before} blocks before, {after} after')
        equal(store.dom0.run(cached), guest.run('sha256sum </dev/xvdb'), 'the hash')


def prove_qdisk(cases, store):
    """A guest through qdisk; leaves the domain shut down and the volume defragmented."""
    guest, image = Guest(store.dom0, 'win7', qdisk('win7'), scratch(qdisk('scratch'))), store.path('win7')
    with cases.case('a domain that is paused has its image: refused, and named'):
        guest.start_creating('-p').succeed()
        refused_for(store, guest, 'win7', 'paused')
    with cases.case('qdisk: ntfs3 reads every file of a fragmented volume as it was made'):
        store.dom0.run('xl unpause win7')
        guest.wait_until_up()
        same_files(store, guest, 'win7')
    prove_scratch(cases, store, guest, 'qdisk')
    with cases.case('a running domain has its image: refused, and named; --wait waits as long as it is told to'):
        refused_for(store, guest, 'win7', 'running')
        store.defrag('--wait=1', image, status=IN_USE)
    with cases.case('--analyze works while the guest runs, and says that it is approximate'):
        said = store.defrag('--analyze', image)
        holds('figures are approximate' in said, said)
    with cases.case('--shutdown ends the domain, and the pass runs'):
        said = store.defrag('--shutdown', image)
        holds(': defragmented' in said, said)
        guest.gone()
    return guest


def prove_saved(cases, store, guest):
    """As dom0 shuts down: guests are saved, then the store is unmounted; and as it comes up again."""
    image = store.path('win7')
    with cases.case('after a pass: the guest boots again, and every file is the same'):
        guest.create()
        same_files(store, guest, 'win7')
    with cases.case('the store of a running guest cannot be unmounted'):
        holds(store.dom0.start(f'umount {IMAGES}').wait() != 0, 'it was')
    with cases.case('a saved domain: refused, naming the save file, with the mount down and up'):
        guest.run(f'{MOUNT} && echo kept >/volume/kept && cd /volume && ls | wc -l')
        store.dom0.run(f'xl save win7 {SAVED} && umount {IMAGES}')
        for mount in (lambda: None, store.mount):
            mount()
            for mode in ('', '--undo'):
                said = store.defrag(mode, image, status=REFUSED)
                holds(f'"win7" remembers it as it is: {SAVED}' in said or f'"win7" may remember it' in said, said)
    with cases.case('xl restore afterwards: the guest goes on, every file is the same'):
        store.dom0.run(f'xl restore {SAVED} && rm {SAVED}')
        found = parsed_hashes(guest.run(HASH))
        holds(found.pop('kept', None), 'the file written before is not there')
        equal(found, store.files['win7'], 'the files')
        guest.run(f'rm /volume/kept; {UNMOUNT}')


def prove_waiting(cases, store, guest):
    image = store.path('win7')
    with cases.case('--wait: waits while the domain runs; when it is destroyed the pass runs at once; no file is another'):
        waiting = store.start_defrag('--wait', '--pack', image)
        refused_for(store, guest, 'win7', 'running')
        holds(not waiting.ended(), f'it did not wait: {waiting.output()}')
        store.dom0.run('xl destroy win7')
        holds(': defragmented' in waiting.succeed(), waiting.output())
        guest.create()
        same_files(store, guest, 'win7')
        guest.shutdown()


def prove_loop(cases, store):
    """A guest through a loop device, libxl's choice, with an image that is settled while it writes."""
    guest, image = Guest(store.dom0, 'win10', loop('win10')), store.path('win10')
    with cases.case('a pass in dom0 before the first boot'):
        holds(': defragmented' in store.defrag(image), 'it was not')
    with cases.case('a domain that is being created, and has nothing open yet: refused, and named'):
        store.dom0.run('touch /run/hold-disks')
        creating = guest.start_creating()
        store.dom0.wait_until('xenstore-ls -f /local/domain/0/backend/vbd | grep -q win10.img')
        refused_for(store, guest, 'win10', 'paused')
        equal(store.dom0.run('losetup -a'), '', 'the loop devices')
        store.dom0.run('rm /run/hold-disks')
        creating.succeed()
    with cases.case('loop device: ntfs3 reads every file as it was made'):
        guest.wait_until_up()
        same_files(store, guest, 'win10')
    guest.attach('xvdb', scratch(loop('scratch')))  # by itself: for the scripts of all disks at once 40 s may be too few here
    prove_scratch(cases, store, guest, 'loop device')
    with cases.case('--settle while the guest writes: data moves, and everything is as it was written'):
        guest.run(f'{MOUNT} && {WRITE}')
        guest.run('until [ -s /tmp/rounds ]; do usleep 100000; done')
        moved = json.loads(store.defrag('--json', '--settle', '--threshold=4096', image))['images'][0]['settle']
        holds(moved['bytes_moved'] > 0, moved)
        guest.run('rounds=$(cat /tmp/rounds); until [ "$(cat /tmp/rounds)" != "$rounds" ]; do usleep 100000; done; rm /tmp/go; '
                  'until [ "$(cat /tmp/rounds)" = done ]; do usleep 100000; done')
        found = parsed_hashes(guest.run(f'{HASH} && sha256sum -c /tmp/sums >/dev/null'))
        written = {path: sum_ for path, sum_ in found.items() if path.startswith('written/')}
        holds(written, 'nothing was written')
        store.files['win10'].update(written)
        equal(found, store.files['win10'], 'the files')
        guest.run(UNMOUNT)
    with cases.case('a settled image: the guest boots again, and every file is the same'):
        guest.destroy()
        guest.create()
        same_files(store, guest, 'win10')
        guest.shutdown()


def prove_end(cases, store, daemon):
    with cases.case('the daemon has outlived all domains, every image is in order, and it ends with its mount'):
        equal(store.dom0.run('pidof zcfs').strip(), daemon, 'the daemon')
        store.dom0.run(f'zcfs-check {IMAGES} && losetup -a && umount {IMAGES}')
        store.dom0.wait_until('! pidof zcfs')
        store.dom0.run(f'umount {IMAGES} && sync')


def prove_images(cases, disk, files, directory):
    """What dom0 has left, seen from the host."""
    point, view = os.path.join(directory, 'point'), os.path.join(directory, 'view')
    os.mkdir(point)
    run('mount', '-o', 'loop', disk, point)
    try:
        for image, wanted in files.items():
            with cases.case(f'{image}: consistent, and ntfs-3g reads every file as well'):
                with open(view, 'wb'):
                    pass
                write_view(os.path.join(point, f'{image}.img'), view)
                equal(check_ntfs(view), '', 'what ntfs-check finds')
                found = hash_files_through_driver(view)
                equal({path: sum_ for path, sum_ in found.items() if ':' not in path}, wanted, 'the files')
    finally:
        unmount(point)


def prove_all(cases, suite, directory, seed):
    share = os.path.join(directory, 'lab')
    os.makedirs(os.path.join(share, 'bin'))
    for program in (ZCFS, ZCFS_CHECK, ZCFS_DEFRAG):
        shutil.copy(program, os.path.join(share, 'bin'))
    write_initrd(share)
    disk, files = make_disk(directory, seed)
    with Dom0(suite, share, [disk]) as dom0:
        try:
            store = Store(dom0)
            store.files = files
            prepare(dom0, store)
            guest = prove_qdisk(cases, store)
            prove_saved(cases, store, guest)
            daemon = dom0.run('pidof zcfs').strip()
            prove_waiting(cases, store, guest)
            prove_loop(cases, store)
            prove_end(cases, store, daemon)
        finally:
            keep_logs(dom0)
    prove_images(cases, disk, files, directory)


def keep_logs(dom0):
    if log := os.environ.get('ZCFS_XEN_LOG'):
        dom0.run('cp -r /var/log/xen /lab/log; dmesg >/lab/log/dmesg; xl dmesg >/lab/log/xl-dmesg')
        shutil.copytree(dom0.share, log, dirs_exist_ok=True, ignore=shutil.ignore_patterns('port', 'bin', 'guest-initrd'))


def main():
    unmount_on_termination()
    cases = Cases()
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else SEED
    suite = os.environ.get('ZCFS_XEN_SUITE', system_suite())
    print(f'# seed {seed}, Xen of Debian {suite}')
    if reason := missing(suite):
        with cases.case('domains of Xen'):
            raise Skip(reason)
        cases.finish()
    started = time.monotonic()
    with workspace() as directory:
        prove_all(cases, suite, directory, seed)
    print(f'# {time.monotonic() - started:.0f} s')
    cases.finish()


main()
