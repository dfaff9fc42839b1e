# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU and libvirt with the disk that the README has for each, on a mount. zcfs-defrag tells whose it is, and leaves a saved one's
image alone.

libvirt's driver for QEMU runs within virsh, as nobody and in a directory of its own: no service of libvirt's has to be there."""
import contextlib
import json
import os
import shlex
import shutil
import subprocess
import time

from commands import DONE, IN_USE, REFUSED, ZCFS, defrag, scattered_volume, unmount_on_termination, workspace
from host import store_mounted
from tap import Cases, Skip, equal, holds
import readme

README_IMAGE = '/srv/images/win10.img'
BLOCK = 65536
SCRATCH_OFF = 28 << 20  # in the image, behind the volume
IMAGE_BYTES, VOLUME_MEBIBYTES = 32 << 20, 24
MACHINE = '''<domain type='qemu'>
  <name>win10</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    {disk}
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
'''
NOBODY = 65534
SETTINGS = 'stdio_handler = "file"\nsecurity_driver = "none"\n'


class Qemu:
    """What the README's command starts, but for its processor, which stays stopped."""

    def __init__(self, image):
        command = shlex.split(readme.line('qemu-system-x86_64 -drive').replace(README_IMAGE, image))
        equal(command.pop(), '...', 'what the README leaves to its reader')
        self.process = subprocess.Popen([*command, '-name', 'guest=win10', '-accel', 'tcg', '-S', '-nodefaults', '-display', 'none',
                                         '-qmp', 'stdio'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.said = ''  # what is not for us to read: the results of do()
        self.ask('qmp_capabilities')

    def ask(self, command, **arguments):
        """By its monitor's protocol."""
        self.process.stdin.write(json.dumps({'execute': command, 'arguments': arguments}))
        self.process.stdin.flush()
        while line := self.process.stdout.readline():
            if not line.startswith('{'):
                self.said += line
            elif 'return' in json.loads(line):
                return
        raise AssertionError(f'{command}: QEMU has ended')

    def do(self, command):
        """One of qemu-io's with the disk."""
        self.ask('human-monitor-command', **{'command-line': f'qemu-io virtio0 "{command}"'})

    def end(self):
        """What qemu-io has said."""
        return self.said + self.process.communicate(json.dumps({'execute': 'quit'}))[0]


def read_scratch(image):
    with open(image, 'rb') as file:
        return os.pread(file.fileno(), BLOCK, SCRATCH_OFF)


def proves_qemu(cases, image):
    with cases.case('README: QEMU with that disk writes, flushes, reads and discards; it is told who has the image'):
        machine = Qemu(image)
        try:
            machine.do(f'write -P 0x5a {SCRATCH_OFF} {BLOCK}')
            machine.do('flush')
            equal(read_scratch(image), b'\x5a' * BLOCK, 'what was written')
            machine.do(f'read -P 0x5a {SCRATCH_OFF} {BLOCK}')
            before = os.stat(image).st_blocks
            machine.do(f'discard {SCRATCH_OFF} {BLOCK}')
            equal(read_scratch(image), bytes(BLOCK), 'what was discarded')
            equal(before - os.stat(image).st_blocks, BLOCK // 512, 'blocks given back')
            result = defrag(image)
            equal(result.status, IN_USE, 'the exit status')
            holds(f'is in use by qemu-system-x86 (process {machine.process.pid}, guest "win10")' in result.err, result.err)
        finally:
            said = machine.end()
        for done in ('wrote', 'read', 'discard'):
            holds(f'{done} {BLOCK}/{BLOCK} bytes' in said, said)
        holds('failed' not in said, said)


class Libvirt:
    """All that it has, and whatever it starts, below a directory. What runs goes on from one command to the next."""

    def __init__(self, directory):
        self.directory = directory
        os.makedirs(os.path.join(directory, 'etc'))
        with open(os.path.join(directory, 'etc', 'qemu.conf'), 'w', encoding='ascii') as settings:
            settings.write(SETTINGS)
        for path in (directory, os.path.join(directory, 'etc')):
            os.chown(path, NOBODY, NOBODY)

    def virsh(self, command):
        """A command that must succeed; tried again while libvirt, which has just been started, looks what still runs."""
        for _ in range(100):
            done = subprocess.run(
                ['setpriv', f'--reuid={NOBODY}', f'--regid={NOBODY}', '--clear-groups', 'virsh', '--quiet', '-c',
                 f'qemu:///embed?root={self.directory}', command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, timeout=300, text=True, check=False,
                env={**os.environ, 'LC_ALL': 'C', 'HOME': self.directory, 'XDG_RUNTIME_DIR': self.directory,
                     'XDG_CACHE_HOME': self.directory})
            if 'domain is not running' not in done.stdout:
                break
            time.sleep(0.1)
        equal(done.returncode, 0, f'virsh {command}: {done.stdout}: the exit status')


def proves_libvirt(cases, image, directory):
    if not shutil.which('virsh'):
        with cases.case('a machine of libvirt'):
            raise Skip('virsh is not installed (tools/setup-debian --tests installs it)')
        return
    definition = os.path.join(directory, 'win10.xml')
    with open(definition, 'w', encoding='ascii') as file:
        file.write(MACHINE.format(disk=readme.block('<disk').replace(README_IMAGE, image)))
    libvirt = Libvirt(os.path.join(directory, 'libvirt'))
    saved = os.path.join(libvirt.directory, 'lib', 'qemu', 'save')
    try:
        with cases.case('README: libvirt starts a machine with that disk; it is told who has the image'):
            libvirt.virsh(f'define --validate {definition}; start --paused win10')
            result = defrag(image)
            equal(result.status, IN_USE, 'the exit status')
            holds('is in use by qemu-system-x86 (process ' in result.err and ', guest "win10")' in result.err, result.err)
        with cases.case('a machine that libvirt has saved: refused, naming the save file; the pass runs when it was restored and has '
                        'ended'):
            libvirt.virsh('managedsave win10')
            result = defrag(f'--saved={saved}', image)
            equal(result.status, REFUSED, 'the exit status')
            holds(f'is a disk of the saved domain "win10": {os.path.join(saved, "win10.save")}' in result.err, result.err)
            libvirt.virsh('start win10; destroy win10')
            result = defrag(f'--saved={saved}', image)
            equal(result.status, DONE, repr(result))
            holds(': defragmented' in result.out, result.out)
    finally:
        if cases.failed:
            with contextlib.suppress(AssertionError):
                libvirt.virsh('destroy win10')


def main():
    unmount_on_termination()
    cases = Cases()
    with workspace() as directory:
        os.chmod(directory, 0o755)
        store, mount = os.path.join(directory, 'store'), os.path.join(directory, 'mount')
        os.mkdir(store)
        os.mkdir(mount)
        path = os.path.join(store, 'win10.img')
        scattered_volume(path, megabytes=VOLUME_MEBIBYTES)
        os.truncate(path, IMAGE_BYTES)
        os.chown(path, NOBODY, NOBODY)
        with store_mounted(ZCFS, store, mount):
            image = os.path.join(mount, 'win10.img')
            proves_qemu(cases, image)
            proves_libvirt(cases, image, directory)
    cases.finish()


main()
