# SPDX-License-Identifier: GPL-2.0-or-later
"""Domains of a real Xen whose disks are images on a zcfs mount in dom0, all in one boot of it, by systemd.

  disks    the guest's ntfs3 reads and writes volumes that were fragmented, through qdisk and through a loop device; what it
           flushed is there, what it discarded is given back; passes and --settle, also while it writes, change no file
  users    zcfs-defrag names the domain that has an image, be it created, paused or running; waits for it, shuts it down, makes
           one that reboots wait; knows the saved one, also after dom0 has shut down
  dom0     the store is mounted before xendomains starts guests, and unmounted when it has saved or shut down the last
  README   what it says of Xen is taken from it

ZCFS_XEN_SUITE is another suite of Debian to take Xen from (bookworm has 4.17, trixie 4.20), fetched by tests/xen/fetch-xen.
ZCFS_XEN_LOG is a directory for what dom0 has logged. An argument is another seed."""
import json
import os
import re
import shutil
import sys
import time

from commands import DONE, IN_USE, REFUSED, check, check_ntfs, scattered_volume, unmount_on_termination, workspace
from debian_packages import system_suite
from dom0 import Dom0, missing
from guest import hash_files_through_driver, run, unmount
from host import write_view
from tap import Cases, Skip, equal, holds
from xen_guest import Guest, write_config, write_initrd
import readme

MEGABYTES = 24     # of each volume
DISK_BYTES = 1 << 30  # with the store; a sparse file
SEED = 1
IMAGES = '/srv/images'
MOUNT_UNIT = 'srv-images.mount'
DEFRAG_UNIT = 'zcfs-defrag@srv-images'
SAVED = '/var/lib/xen/save/win10'  # where Debian's xendomains puts it
FSTAB = readme.line('fuse.zcfs')
QDISK = re.fullmatch(r"disk = \[ '(.*)' \]", readme.line('backendtype=qdisk')).group(1)
QEMU = '/usr/libexec/xen-qemu-system-i386'
BUILD = os.environ.get('BUILD_DIRECTORY', 'build')

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


def loop(disk):
    """What libxl chooses if nothing is said."""
    return disk.replace('backendtype=qdisk,discard,', '')


def of(image, disk, device='xvda'):
    return disk.replace('xvda', device).replace('win10', image)


def make_disk(directory, seed):
    """The disk with dom0's store of two volumes and a scratch image, and (image -> path -> hash)."""
    root, disk = os.path.join(directory, 'root'), os.path.join(directory, 'disk')
    store = os.path.join(root, 'images')
    os.makedirs(store)
    files = {}
    for number, image in enumerate(('win7', 'win10')):
        path = os.path.join(store, f'{image}.img')
        scattered_volume(path, megabytes=MEGABYTES, seed=seed + number)
        files[image] = {name: sum_ for name, sum_ in hash_files_through_driver(path).items() if ':' not in name}
    with open(os.path.join(store, 'scratch.img'), 'wb') as image:
        image.truncate(8 << 20)
    with open(disk, 'wb') as image:
        image.truncate(DISK_BYTES)
    run('mke2fs', '-q', '-t', 'ext4', '-d', root, disk)
    return disk, files


# In dom0, before anything else: the installation, the disk with the images, two guests, of which one starts with dom0. While
# /run/hold-disks is there no loop device is attached to a guest that is being created.
BOOT = f'''
cp -r /lab/installed/. /
mount /dev/vdb /srv
echo '{FSTAB}' >>/etc/fstab
mkdir -p /etc/xen/auto
ln -s /lab/win10.cfg /etc/xen
ln -s ../win10.cfg /etc/xen/auto
mv /etc/xen/scripts/block /etc/xen/scripts/block.real
cat >/etc/xen/scripts/block <<'END'
#!/bin/sh
while [ -e /run/hold-disks ]; do
	sleep 0.1
done
exec /etc/xen/scripts/block.real "$@"
END
chmod +x /etc/xen/scripts/block
'''


def boots(cases, store):
    """The guest that runs when dom0 has booted."""
    dom0, guest = store.dom0, Guest(store.dom0, 'win10')
    with cases.case('README: by the line of fstab systemd mounts the store before it starts Xen and the guests'):
        dom0.run(f'findmnt --types fuse.zcfs {IMAGES}')
        goes_before_xen(dom0)
        started_before_xen(dom0)
        guest.wait_until_up()
    with cases.case('no thread of the daemon waits for memory that only writing back to its mount would free'):
        # PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE (include/linux/sched.h), which PR_SET_IO_FLUSHER sets.
        flags = dom0.run("sed 's/.*) //' /proc/$(pidof zcfs)/task/*/stat | cut -d' ' -f7").split()
        holds(flags and all(int(word) & 0x180000 == 0x180000 for word in flags), flags)
    return guest


def goes_before_xen(dom0):
    """What systemd makes of how the mount is configured."""
    later = dom0.run(f'systemctl show --property=Before --value {MOUNT_UNIT}').split()
    for name in 'xen', 'xen-qemu-dom0-disk-backend', 'xendomains', 'libvirtd', 'libvirt-guests':
        holds(f'{name}.service' in later, f'{name}.service is not among {later}')


def started_before_xen(dom0):
    times = [int(dom0.run(f'systemctl show --property={what}TimestampMonotonic --value {unit}')) for what, unit in (
        ('ActiveEnter', MOUNT_UNIT), ('InactiveExit', 'xen.service'), ('InactiveExit', 'xendomains.service'))]
    holds(times == sorted(times) and times[0] > 0, times)


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


def prove_qdisk(cases, store, guest):
    image = store.path('win10')
    with cases.case('qdisk: ntfs3 reads every file of a fragmented volume as it was made'):
        same_files(store, guest, 'win10')
    prove_scratch(cases, store, guest, 'qdisk')
    with cases.case('a domain that is paused has its image: refused, and named'):
        store.dom0.run('xl pause win10')
        refused_for(store, guest, 'win10', 'paused')
        store.dom0.run('xl unpause win10')
    with cases.case('README: a running domain has its image: refused, and named'):
        command, *says = readme.block('is in use by domain').splitlines()[:3]
        job = store.dom0.start(command.removeprefix('# '))
        equal(job.wait(), IN_USE, 'the exit status')
        equal(job.output().splitlines(), [line.replace('domain 5', f'domain {guest.number()}') for line in says], 'what is said')
    with cases.case('--wait waits as long as it is told to'):
        store.defrag('--wait=1', image, status=IN_USE)
    with cases.case('--analyze works while the guest runs, and says that it is approximate'):
        said = store.defrag('--analyze', image)
        holds('figures are approximate' in said, said)
    with cases.case('README: --shutdown ends the domain, the pass runs, and the guest boots again with every file the same'):
        said = guest.start_by(readme.line('zcfs-defrag --shutdown').removeprefix('# ')).succeed()
        holds(': defragmented' in said, said)
        guest.wait_until_up()
        same_files(store, guest, 'win10')


def prove_saved(cases, store, guest):
    """As dom0 shuts down: guests are saved, then the store is unmounted; and as it comes up again."""
    dom0, image = store.dom0, store.path('win10')
    with cases.case('the store of a running guest cannot be unmounted'):
        holds(dom0.start(f'umount {IMAGES}').wait() != 0, 'it was')
    with cases.case('xendomains saves the domain: refused, naming the save file, with the mount down, and up by the unit that is '
                    'installed as an example'):
        guest.run(f'{MOUNT} && echo kept >/volume/kept && cd /volume && ls | wc -l')
        dom0.run(f'systemctl stop xendomains && [ -s {SAVED} ] && systemctl stop {MOUNT_UNIT} && ! pidof zcfs')
        by_unit = f'''sed -i /fuse.zcfs/d /etc/fstab
            cp /usr/local/share/doc/zcfs/examples/{MOUNT_UNIT} /etc/systemd/system
            systemctl daemon-reload
            systemctl enable --now {MOUNT_UNIT}'''
        for script in (':', by_unit):
            dom0.run(script)
            for mode in ('', '--undo'):
                said = store.defrag(mode, image, status=REFUSED)
                holds(f'is a disk of the saved domain "win10": {SAVED}' in said or 'may be a disk of the saved domain "win10"' in said, said)
    with cases.case('xendomains restores it: the guest goes on, every file is the same'):
        dom0.run(f'systemctl start xendomains && [ ! -e {SAVED} ]')
        found = parsed_hashes(guest.run(HASH))
        holds(found.pop('kept', None), 'the file written before is not there')
        equal(found, store.files['win10'], 'the files')
        guest.run(f'rm /volume/kept; {UNMOUNT}')


# Runs a pass as soon as the domain reboots, and stops it in the middle, while its child computes: the image's lock and lease are
# held, and no domain was there. For that xl, which sleeps for 2 s before it creates the domain anew, does so for longer.
PASS = '''
zcfs-defrag --wait --pack {image} & pass=$!
touch /run/pass-waits
until grep -q 'Rebooting now' /var/log/xen/xl-win10.log; do usleep 10000; done
kill -STOP $(pidof xl)
until [ -n "$(cat /proc/$pass/task/$pass/children)" ]; do :; done
kill -STOP $pass
kill -CONT $(pidof xl)
grep "LEASE *ACTIVE *WRITE $pass " /proc/locks
touch /run/pass-stopped
while [ -e /run/pass-stopped ]; do usleep 100000; done
kill -CONT $pass
wait $pass'''
# A thread of QEMU's is in openat() (257) and waits for whoever serves the file system.
OPENING = f'''for pid in $(pidof {QEMU}); do
	for task in /proc/$pid/task/*; do
		! grep -q "^257 " $task/syscall || ! grep -q request_wait_answer $task/wchan || found=$task
	done
done
[ -n "$found" ]'''


def prove_reboot(cases, store, guest):
    dom0, image = store.dom0, store.path('win10')
    with cases.case('--wait: waits while the domain runs, and the pass runs when it ends; a reboot waits in open() for the pass to '
                    'end, the guest comes up, and no file is another'):
        passing = dom0.start(PASS.format(image=image))
        dom0.wait_until('[ -e /run/pass-waits ]')
        refused_for(store, guest, 'win10', 'running')
        holds(not passing.ended(), f'it did not wait: {passing.output()}')
        number = guest.number()
        guest.start_by('xl reboot win10').succeed()
        dom0.wait_until('[ -e /run/pass-stopped ]')
        dom0.wait_until(OPENING)
        dom0.run(f'sleep 1; {OPENING}; rm /run/pass-stopped')
        holds(': defragmented' in passing.succeed(), passing.output())
        guest.wait_until_up()
        holds(guest.number() != number, 'it is the same domain')
        same_files(store, guest, 'win10')


def prove_units(cases, store):
    dom0 = store.dom0
    with cases.case('README: the timer is started, and knows when to run its service'):
        dom0.run(readme.line('enable --now zcfs-defrag@'))
        shown = dom0.run(f'systemctl show --property=ActiveState,NextElapseUSecRealtime,Unit {DEFRAG_UNIT}.timer')
        for wanted in r'ActiveState=active', r'NextElapseUSecRealtime=.* 03:\d\d:\d\d .*', f'Unit={DEFRAG_UNIT}.service':
            holds(re.search(f'^{wanted}$', shown, re.MULTILINE), shown)
    with cases.case('the service runs a pass over every image that nobody uses, and tells the journal; then nothing is left to do'):
        dom0.run(f'systemctl start {DEFRAG_UNIT}.service')
        told = dom0.run(f'journalctl --output=cat --unit={DEFRAG_UNIT}.service')
        holds(f'{IMAGES}/win7.img: defragmented: ' in told, told)
        said = dom0.run(readme.line('--all --jobs'))
        holds(f'{IMAGES}/win7.img: nothing to do' in said and f'{IMAGES}/win10.img: left alone: ' in said, said)


def prove_loop(cases, store):
    """A guest through a loop device, libxl's choice, with an image that is settled while it writes."""
    guest, image = Guest(store.dom0, 'win7'), store.path('win7')
    with cases.case('a domain that is being created, and has nothing open yet: refused, and named'):
        store.dom0.run('touch /run/hold-disks')
        creating = guest.start_creating()
        store.dom0.wait_until('xenstore-ls -f /local/domain/0/backend/vbd | grep -q win7.img')
        refused_for(store, guest, 'win7', 'paused')
        equal(store.dom0.run('losetup -a'), '', 'the loop devices')
        store.dom0.run('rm /run/hold-disks')
        creating.succeed()
    with cases.case('loop device: ntfs3 reads every file as it was made'):
        guest.wait_until_up()
        same_files(store, guest, 'win7')
    # By itself: for the scripts of all disks at once 40 s may be too few here.
    guest.attach('xvdb', of('scratch', loop(QDISK), 'xvdb'))
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
        store.files['win7'].update(written)
        equal(found, store.files['win7'], 'the files')
        guest.run(UNMOUNT)
    with cases.case('a settled image: the guest boots again, and every file is the same'):
        guest.destroy()
        guest.create()
        same_files(store, guest, 'win7')
        guest.shutdown()


def prove_end(cases, store, guest, daemon):
    dom0 = store.dom0
    with cases.case('the daemon has outlived all domains, and every image is in order'):
        equal(dom0.run('pidof zcfs').strip(), daemon, 'the daemon')
        dom0.run(f'zcfs-check {IMAGES}')
    with cases.case('dom0 shuts down: the guest is shut down, then the store is unmounted, and the daemon ends'):
        dom0.run("sed -i 's/^XENDOMAINS_SAVE=.*/XENDOMAINS_SAVE=/' /etc/default/xendomains")
        store.files['win10']['late'] = guest.run(f'{MOUNT} && dd if=/dev/urandom of=/volume/late bs=64k count=16 2>/dev/null && '
                                                 'sha256sum </volume/late')[:64]
        goes_before_xen(dom0)
        running = len(dom0.console())
        dom0.power_off()
        told = re.findall(r'(?:Stopped|Unmounted|Failed).*?([-\w]+\.(?:service|mount))', dom0.console()[running:])
        found = [unit for unit in told if unit in ('xendomains.service', 'xen.service', MOUNT_UNIT, 'srv.mount')]
        holds(found == ['xendomains.service', 'xen.service', MOUNT_UNIT, 'srv.mount'], dom0.console()[running:])


def prove_images(cases, disk, files, directory):
    """What dom0 has left, seen from the host."""
    point, view = os.path.join(directory, 'point'), os.path.join(directory, 'view')
    os.mkdir(point)
    run('mount', '-o', 'loop', disk, point)
    try:
        with cases.case('the store is in order'):
            result = check(os.path.join(point, 'images'))
            equal(result.status, DONE, repr(result))
        for image, wanted in files.items():
            with cases.case(f'{image}: consistent, and ntfs-3g reads every file as well'):
                with open(view, 'wb'):
                    pass
                write_view(os.path.join(point, 'images', f'{image}.img'), view)
                equal(check_ntfs(view), '', 'what ntfs-check finds')
                found = hash_files_through_driver(view)
                equal({path: sum_ for path, sum_ in found.items() if ':' not in path}, wanted, 'the files')
    finally:
        unmount(point)


def prove_all(cases, suite, directory, seed):
    share = os.path.join(directory, 'lab')
    os.mkdir(share)
    run('meson', 'install', '-C', BUILD, '--no-rebuild', '--skip-subprojects', '--destdir', os.path.join(share, 'installed'))
    write_initrd(share)
    write_config(share, 'win10', QDISK, of('scratch', QDISK, 'xvdb'))
    write_config(share, 'win7', of('win7', loop(QDISK)))
    disk, files = make_disk(directory, seed)
    with Dom0(suite, share, [disk], BOOT) as dom0:
        try:
            store = Store(dom0)
            store.files = files
            guest = boots(cases, store)
            prove_qdisk(cases, store, guest)
            prove_saved(cases, store, guest)
            daemon = dom0.run('pidof zcfs').strip()
            prove_reboot(cases, store, guest)
            prove_units(cases, store)
            prove_loop(cases, store)
            keep_logs(dom0)
            prove_end(cases, store, guest, daemon)
        except BaseException:
            keep_logs(dom0)
            raise
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
