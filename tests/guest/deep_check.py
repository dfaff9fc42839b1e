# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux's ntfs3, an implementation that shares no code with any other judge here, reads and writes volumes that were
defragmented, in a guest whose disks are images on a zcfs mount, all of them in one boot.

  before    every file hashed through ntfs-3g and The Sleuth Kit; a pass over the image
  guest     ntfs3 mounts it and hashes every file; works on it (tests/guest/workload.py); hashes again, and again after remounting
            it is switched off without unmounting one more volume
  after     the checker, ntfs-3g and The Sleuth Kit find what the guest should have left; --undo is refused; another pass over
            what ntfs3 has fragmented keeps every promise (tests/lib/proof.py); the volume that was not unmounted is refused

An argument is another seed. ZCFS_GUEST_CASES names cases of make-corpus to take instead ("all": all but the ones for --big,
those with two volumes, and the one whose disk has sectors that the guest's have not).
With ZCFS_GUEST_CONTROL set, the guest does the same to copies of the images that no pass has changed: where such a control
(NAME-0) fails too, zcfs is not to blame."""
import hashlib
import os
import random
import shutil
import sys
import time

import linux_guest
from commands import DAMAGED, DONE, FAILED, MAKERS, REFUSED, ZCFS, check_ntfs, defrag, defrag_report, \
    scattered_volume, unmount_on_termination, workspace
from guest import hash_files_through_driver, hash_files_through_sleuthkit, ntfs_mounted, run
from host import digest, store_mounted
from proof import cut_out, done_volumes, prove_pass
from tap import Cases, Skip, equal, holds
from workload import NEW, NOISE, Workload

CASES = ['attribute-lists', 'compressed', 'sparse', 'mft', 'full-system', 'xp', 'cluster-64k', 'real-mixed']
UNFRAGMENTED = ['empty']
CONTROL = '-0'       # the suffix of what has never seen a pass
SUFFIXES = ['', CONTROL] if os.environ.get('ZCFS_GUEST_CONTROL') else ['']
LEFT = 'left-mounted'  # an image whose volume the guest still has mounted when it is switched off
ROOM = 16 << 20      # bytes that the work may need
SEED = 1
DISKS_PER_BOOT = 26  # slots of the emulated bus

JOB = '''
hash_all() {
	(cd "$1" && find . -type f -print0 | xargs -0 -r sha256sum) >"/results/$2"
}
mkdir /volume
while read -r name part; do
	echo "guest: $name $(cut -d' ' -f1 /proc/uptime)"
	{
		mount -t ntfs3 "/dev/disk/$name$part" /volume &&
		hash_all /volume "$name.before" &&
		(cd /volume && sh "/job/${name%@CONTROL@}.work") &&
		hash_all /volume "$name.worked" &&
		umount /volume &&
		mount -t ntfs3 -o ro "/dev/disk/$name$part" /volume &&
		hash_all /volume "$name.after"
		echo $? >"/results/$name.status"
	} >"/results/$name.output" 2>&1
	umount /volume
done </job/disks
mkdir /left
mount -t ntfs3 /dev/disk/@LEFT@ /left
cp /job/noise /left
sync
echo 1 >/proc/sys/vm/dirty_expire_centisecs
cp /job/job /left/later
sleep 8
(cd /left && exec sleep 99999) &
'''.replace('@CONTROL@', CONTROL).replace('@LEFT@', LEFT)


class Image:
    """An image with one volume, before the pass: its hashes, and what the guest is to do to it."""

    def __init__(self, name, path, off, seed, scratch):
        self.name, self.path, self.off, self.scratch = name, path, off, scratch
        self.part = f'-at-{off // 512}' if off else ''
        self.length = [volume['length'] for volume in done_volumes(defrag_report('--analyze', path)) if volume['off'] == off][0]
        alone = self.volume(path)
        self.driver, self.sleuthkit = hash_files_through_driver(alone), hash_files_through_sleuthkit(alone)
        with ntfs_mounted(alone, 'ro,streams_interface=windows') as root:
            self.work = planned_work(root, self.driver, seed)
        os.unlink(alone)

    def names(self):
        return [self.name + suffix for suffix in SUFFIXES]

    def volume(self, path):
        alone = os.path.join(self.scratch, 'alone')
        cut_out(path, self.off, self.length, alone)
        return alone


def planned_work(root, hashes, seed):
    work = Workload(root, hashes, seed)
    work.say(f'mkdir "{NEW}"')
    make_room(work, root)
    work.change_files(6, kind_of)
    work.directories(40)
    work.large_directory(1500)
    work.grow_together(4, 160, 12_000)
    return work


def make_room(work, root):
    """What fills a volume for the sake of it goes first, then the largest files."""
    free = os.statvfs(root)
    room = free.f_bavail * free.f_frsize
    size = lambda path: os.path.getsize(os.path.join(root, path))
    for path in sorted(work.files(), key=lambda path: (not os.path.basename(path).startswith('filler'), -size(path))):
        if room >= ROOM:
            break
        room += size(path)
        work.remove(path)


def kind_of(path):
    """ntfs-populate has a directory for each kind of files, with the kind's letter first."""
    parts = path.split('/')
    return parts[1][:1] if len(parts) > 2 else parts[0][:1]


def parsed_hashes(lines):
    return {os.path.normpath(line[66:]): line[:64] for line in lines}


def unnamed(hashes):
    return {path: digest for path, digest in hashes.items() if ':' not in path}


def differences(found, wanted):
    lines = [f'missing: {path}' for path in sorted(wanted.keys() - found.keys())]
    lines += [f'unexpected: {path}' for path in sorted(found.keys() - wanted.keys())]
    lines += [f'different: {path}' for path in sorted(wanted.keys() & found.keys()) if found[path] != wanted[path]]
    return '\n'.join(lines[:40])


def prove_guest(cases, image, name, outcome):
    with cases.case(f'{name}: in the guest: mounted, worked on and mounted again without an error'):
        output = outcome.results[f'{name}.output'].decode(errors='replace')
        holds(outcome.results[f'{name}.status'].decode().strip() == '0' and not output, output)
    expected = unnamed(image.work.hashes())
    for moment, what, wanted in (('before', 'what was there before', unnamed(image.driver)),
                                 ('worked', 'what it has written', expected),
                                 ('after', 'the same after mounting again', expected)):
        with cases.case(f'{name}: ntfs3 reads {what}'):
            equal(differences(parsed_hashes(outcome.lines(f'{name}.{moment}')), wanted), '', 'what differs')


def prove_after(cases, image, name, path):
    """The volume as the guest has left it, seen through the mount."""
    expected = image.work.hashes()
    with cases.case(f'{name}: consistent after the guest has written'):
        equal(check_ntfs(path, image.off), '', 'what ntfs-check finds')
    alone = image.volume(path)
    with cases.case(f'{name}: ntfs-3g reads everything that should be there ({len(expected)} files and streams)'):
        equal(differences(hash_files_through_driver(alone), expected), '', 'what differs')
    if image.sleuthkit is not None:
        with cases.case(f'{name}: The Sleuth Kit reads everything that should be there'):
            found = hash_files_through_sleuthkit(alone)
            holds(found is not None, 'it cannot read the volume any more')
            unread = image.driver.keys() - image.sleuthkit.keys()  # it never could: empty files, for one
            wanted = {path: digest for path, digest in unnamed(expected).items() if path not in unread}
            equal(differences({path: found[path] for path in found if path in wanted}, wanted), '', 'what differs')
    os.unlink(alone)


def prove_no_undo(cases, name, path):
    with cases.case(f'{name}: --undo is refused after the guest has written'):
        result = defrag('--undo', path)
        equal(result.status, FAILED, 'the exit status')
        holds('nothing to undo' in result.err, result.err)


def make_images(names, store, seed, scratch):
    images = []
    source = random.Random(seed)
    only = [word for name in names for word in ('--only', name)]
    for line in run(os.path.join(MAKERS, 'make-corpus'), *only, store).splitlines():
        name, path, offsets = line.split('\t')[:3]
        if ',' in offsets:
            os.unlink(path)
            continue
        images.append(Image(name, path, int(offsets), source.getrandbits(32), scratch))
        if CONTROL in SUFFIXES:
            run('cp', '--sparse=always', path, path.replace('.img', CONTROL + '.img'))
    return images


def boot(images, mount):
    disks = {name: os.path.join(mount, name + '.img') for image in images for name in image.names()}
    disks[LEFT] = os.path.join(mount, LEFT + '.img')
    files = {'noise': NOISE}
    files['disks'] = ''.join(f'{name} {image.part}\n' for image in images for name in image.names()).encode()
    for image in images:
        files[f'{image.name}.work'] = ('\n'.join(image.work.script) + '\n').encode(errors='surrogateescape')
    started = time.monotonic()
    outcome = linux_guest.boot(JOB, disks, files)
    print(f'# the guest took {time.monotonic() - started:.0f} s; what it said:')
    for line in outcome.console.splitlines() + [line for line in outcome.lines('dmesg') if 'ntfs3' in line]:
        print(f'#   {line}')
    return outcome


def prove_left_mounted(cases, path, hashes):
    """What ntfs3 had not written yet may be missing, so the volume may be inconsistent as well."""
    with cases.case(f'{LEFT}: refused because it is dirty, or damaged too, and not changed'):
        view = digest(path)
        result = defrag(path)
        holds(result.status in (REFUSED, DAMAGED) and 'chkdsk' in result.err, result)
        equal(digest(path), view, 'the view')
    with cases.case(f'{LEFT}: no longer marked dirty: a pass if it is consistent, else refused'):
        run('ntfsfix', '--clear-dirty', path)
        findings = check_ntfs(path)
        equal(defrag('--wait=10', path).status, DAMAGED if findings else DONE, f'with {findings!r}, the exit status')
    with cases.case(f'{LEFT}: nothing that was synced is lost'):
        wanted = {**hashes, 'noise': hashlib.sha256(NOISE).hexdigest()}
        found = hash_files_through_driver(path)
        equal(differences({name: found[name] for name in found.keys() & wanted.keys()}, wanted), '', 'what differs')


def prove_images(cases, images, store, mount, scratch):
    with store_mounted(ZCFS, store, mount):
        for image in images:
            with cases.case(f'{image.name}: a pass through the mount'):
                changed = defrag_report(os.path.join(mount, image.name + '.img'))['changed']
                equal(changed, image.name not in UNFRAGMENTED, 'changed')
        left = os.path.join(mount, LEFT + '.img')
        scattered_volume(left)
        left_hashes = hash_files_through_driver(left)
        outcome = boot(images, mount)
        prove_left_mounted(cases, left, left_hashes)
        for image in images:
            for name in image.names():
                prove_guest(cases, image, name, outcome)
                prove_after(cases, image, name, os.path.join(mount, name + '.img'))
            prove_no_undo(cases, image.name, os.path.join(mount, image.name + '.img'))
    for image in images:
        single = os.path.join(scratch, 'store')  # the proof looks at everything in a store
        os.mkdir(single)
        path = shutil.move(os.path.join(store, image.name + '.img'), single)
        prove_pass(cases, f'{image.name} again', path, scratch)
        shutil.rmtree(single)


def main():
    unmount_on_termination()
    cases = Cases()
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else SEED
    print(f'# seed {seed}')
    if reason := linux_guest.missing():
        with cases.case('ntfs3 in a guest'):
            raise Skip(reason)
        cases.finish()
    names = os.environ.get('ZCFS_GUEST_CASES', ' '.join(CASES)).split()
    if names == ['all']:
        names = [name for name in run(os.path.join(MAKERS, 'make-corpus'), '--list', 'unused').split() if name != 'disk-4kn']
    with workspace() as directory:
        mount = os.path.join(directory, 'mount')
        os.mkdir(mount)
        per_boot = (DISKS_PER_BOOT - 2) // len(SUFFIXES)
        for start in range(0, len(names), per_boot):
            scratch, store = (os.path.join(directory, f'{name}{start}') for name in ('scratch', 'store'))
            os.mkdir(scratch)
            images = make_images(names[start:start + per_boot], store, seed + start, scratch)
            prove_images(cases, images, store, mount, scratch)
            shutil.rmtree(scratch)
            shutil.rmtree(store)
    cases.finish()


main()
