# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests of the emulated Xen: a small paravirtual Linux with ntfs3 (the one of tests/guest) whose disks xl attaches."""
import os

from debian_packages import CACHE
from dom0 import HERE, JOB_SECONDS
from initramfs import archive

CONFIG = '''name = "{name}"
kernel = "/guest/kernel"
ramdisk = "/lab/guest-initrd"
extra = "console=hvc0 loglevel=3 panic=-1 mitigations=off nokaslr cryptomgr.notests"
memory = {memory}
vcpus = 1
tsc_mode = "native"
disk = [ {disks} ]
on_poweroff = "destroy"
on_reboot = "restart"
on_crash = "destroy"
'''
MEMORY_MIB = 128


def write_initrd(share):
    """What every guest starts from."""
    with open(os.path.join(CACHE, 'guest-initrd'), 'rb') as common, open(os.path.join(HERE, 'guest-init'), 'rb') as init, \
            open(os.path.join(share, 'guest-initrd'), 'wb') as out:
        out.write(common.read() + archive({'init': (0o755, init.read())}, ['sbin']))


def write_config(share, name, *disks):
    """Of a domain: /lab/NAME.cfg. @disks: lines for it."""
    with open(os.path.join(share, f'{name}.cfg'), 'w', encoding='utf-8') as file:
        file.write(CONFIG.format(name=name, memory=MEMORY_MIB, disks=', '.join(f"'{disk}'" for disk in disks)))


class Guest:
    """A domain by the name @name, which has a configuration."""

    def __init__(self, dom0, name):
        self.dom0, self.name, self.commands = dom0, name, 0
        self.log = f'/var/log/xen/console/guest-{name}.log'

    def start_by(self, command):
        """The job of a command that starts the domain; wait_until_up() is due when it has ended."""
        return self.dom0.start(f'rm -f {self.log}; {command}')

    def start_creating(self):
        return self.start_by(f'xl create /lab/{self.name}.cfg')

    def create(self):
        self.start_creating().succeed()
        self.wait_until_up()

    def number(self):
        return self.dom0.run(f'xl domid {self.name}').strip()

    def wait_until_up(self):
        self.dom0.wait_until(f'grep -q "^guest: up" {self.log}')

    def start(self, command):
        """Starts a command in the guest, whose shell runs one at a time; the job's output and status are the command's."""
        self.commands += 1
        ours = f'{self.name}.{self.commands}'
        return self.dom0.start(f'''
            cat >$(xenstore-read /local/domain/$(xl domid {self.name})/console/tty) <<'END'
{ours} {command}
END
            until grep -q '^{ours}= ' {self.log}; do usleep 100000; done
            sed -n 's/\\r//; s/^{ours}> //p' {self.log}
            exit $(sed -n 's/\\r//; s/^{ours}= //p' {self.log})''')

    def run(self, command, seconds=JOB_SECONDS):
        return self.start(command).succeed(seconds)

    def attach(self, device, disk):
        self.dom0.run(f"xl block-attach {self.name} '{disk}'")
        self.run(f'until [ -b /dev/{device} ]; do usleep 100000; done')

    def gone(self):
        """Until the domain is no more."""
        self.dom0.wait_until(f'! xl domid {self.name}')

    def destroy(self):
        self.dom0.run(f'xl destroy {self.name}')
        self.gone()

    def shutdown(self):
        """As an administrator would, and its end."""
        self.dom0.run(f'xl shutdown {self.name}')
        self.gone()
