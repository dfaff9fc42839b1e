# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's Xen and its dom0 in an emulated machine: QEMU needs no hypervisor to run one.

  with Dom0(suite, share) as dom0:
      print(dom0.run('xl list'))

Shell scripts run in dom0, side by side if need be; @share, a directory of the host, is /lab there; disks are /dev/vdb and so on.
fetch-xen fetches what is booted, dom0-init makes it ready for systemd, dom0-jobs is what runs jobs there. Nothing that dom0 writes
elsewhere outlives it."""
import os
import re
import shutil
import socket
import subprocess
import sys
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'lib'))

# pylint: disable=wrong-import-position
from debian_packages import CACHE

QEMU = 'qemu-system-x86_64'
# Of what QEMU emulates: before 9.1 SMAP faults on the IRET of a paravirtual kernel, and CMPXCHG16B (before 9.0) leaves wrong flags
# after a fault, see tests/lib/linux_guest.py. XSAVE and what needs it only make switching between domains slower.
PROCESSOR = 'max,-smap,-cx16,-xsave,-xsaveopt,-xsavec,-avx,-avx2,-fma,-f16c,-pku,-mpx'
MEMORY_MIB, DOM0_MIB = 2048, 1024
XEN_LINE = f'console=com1 com1=115200,8n1 dom0_mem={DOM0_MIB}M,max:{DOM0_MIB}M dom0_max_vcpus=1 spec-ctrl=no xpti=no ucode=no'
LINUX_LINE = 'console=hvc0 loglevel=4 panic=-1 mitigations=off nokaslr cryptomgr.notests ' \
    'systemd.show_status=yes systemd.status_unit_format=name'
BOOT_SECONDS = 900
JOB_SECONDS = 900  # generous: other tests may run beside


class Dom0Error(Exception):
    """dom0 did not come up, went away, or a job in it took too long or ended with another status than it should."""


class Job:
    def __init__(self, dom0, number, script):
        self.dom0, self.number, self.script = dom0, number, script

    def ended(self):
        return self.number in self.dom0.statuses

    def output(self):
        """What it has printed so far."""
        try:
            with open(self.dom0.job_path(self.number) + '.out', encoding='utf-8', errors='replace') as file:
                return file.read()
        except FileNotFoundError:
            return ''

    def wait(self, seconds=JOB_SECONDS):
        """Its exit status."""
        self.dom0.wait_for(self.ended, seconds, f'the job {self.script!r}')
        return self.dom0.statuses[self.number]

    def succeed(self, seconds=JOB_SECONDS):
        """What it has printed when it has ended, with status 0."""
        if status := self.wait(seconds):
            raise Dom0Error(f'{self.script}: exit status {status}:\n{self.output()}')
        return self.output()


class Dom0:
    def __init__(self, suite, share, disks=(), boot=''):
        """@suite: of Debian. @share: a directory of the host, must not be in use by another one. @disks: paths of raw images.
        @boot: a shell script that runs before everything else."""
        self.share, self.statuses, self.jobs = share, {}, 0
        self.changed = threading.Condition()
        self.console_path = os.path.join(share, 'console')
        os.mkdir(os.path.join(share, 'jobs'))
        for script in ('dom0-init', 'dom0-jobs'):
            shutil.copy(os.path.join(HERE, script), share)
        with open(os.path.join(share, 'boot'), 'w', encoding='utf-8') as file:
            file.write(boot)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.join(share, 'port'))
            listener.listen()
            self.process = subprocess.Popen(command(suite, share, disks), stdin=subprocess.DEVNULL)
            listener.settimeout(BOOT_SECONDS)
            self.port = listener.accept()[0]
        self.reader = threading.Thread(target=self.read_port, daemon=True)
        self.reader.start()

    def __enter__(self):
        try:
            self.wait_for(lambda: 'ready' in self.statuses, BOOT_SECONDS, 'dom0')
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.reader.join()
        self.port.close()

    def read_port(self):
        with self.port.makefile(encoding='ascii', errors='replace') as lines:
            for line in lines:
                name, status = line.split()
                with self.changed:
                    self.statuses[name] = int(status)
                    self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()

    def wait_for(self, condition, seconds, what):
        with self.changed:
            self.changed.wait_for(lambda: condition() or not self.reader.is_alive(), seconds)
            if not condition():
                raise Dom0Error(f'{what}: not there after {seconds} s, or dom0 is gone; its console:\n{self.console()[-3000:]}')

    def console(self):
        """What it has printed there, without what colours it."""
        with open(self.console_path, encoding='utf-8', errors='replace') as file:
            return re.sub('\x1b\\[[0-9;]*[mK]|\r', '', file.read())

    def job_path(self, number):
        return os.path.join(self.share, 'jobs', number)

    def start(self, script):
        """Starts a shell script; its working directory is /lab."""
        self.jobs += 1
        number = str(self.jobs)
        with open(self.job_path(number), 'w', encoding='utf-8') as file:
            file.write(script + '\n')
        self.port.sendall(f'{number}\n'.encode())
        return Job(self, number, script)

    def run(self, script, seconds=JOB_SECONDS):
        """What a shell script prints, which must succeed."""
        return self.start(script).succeed(seconds)

    def wait_until(self, script, seconds=JOB_SECONDS):
        """Until the script succeeds, which is tried again and again in dom0."""
        self.run(f'until {{ {script}\n}} >/dev/null 2>&1; do usleep 200000; done', seconds)

    def power_off(self, seconds=JOB_SECONDS):
        """As an administrator would, and its end."""
        self.start('systemctl poweroff')
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Dom0Error(f'dom0: does not power off; its console:\n{self.console()[-3000:]}') from None


def missing(suite):
    """Why no dom0 can be booted here; None if one can."""
    if not shutil.which(QEMU):
        return f'{QEMU} is not installed (tools/setup-debian --tests installs it)'
    if not os.path.exists(os.path.join(CACHE, f'xen-{suite}-packages')):
        return f'Xen of Debian {suite} was not fetched (tools/setup-debian --tests, or tests/xen/fetch-xen --suite {suite})'
    return None


def command(suite, share, disks):
    part = lambda name: os.path.join(CACHE, f'xen-{suite}-{name}')
    comma = lambda text: text.replace(',', ',,')
    words = [QEMU, '-nodefaults', '-no-user-config', '-display', 'none', '-serial', f'file:{comma(os.path.join(share, "console"))}',
             '-no-reboot', '-machine', 'pc', '-accel', 'tcg,tb-size=512', '-cpu', PROCESSOR, '-smp', '1', '-m', str(MEMORY_MIB),
             '-kernel', part('hypervisor'), '-append', XEN_LINE,
             '-initrd', f'{comma(part("kernel"))} {comma(LINUX_LINE)},{comma(part("initrd"))}',
             '-virtfs', f'local,path={comma(share)},mount_tag=lab,security_model=none,id=lab,multidevs=remap',
             '-device', 'virtio-serial-pci', '-chardev', f'socket,id=port,path={comma(os.path.join(share, "port"))}',
             '-device', 'virtserialport,chardev=port,name=lab']
    for number, (path, options) in enumerate([(part('root'), 'snapshot=on'), *((disk, 'snapshot=off') for disk in disks)]):
        words += ['-drive', f'file={comma(path)},format=raw,if=none,id=disk{number},cache=unsafe,discard=unmap,{options}',
                  '-device', f'virtio-blk-pci,drive=disk{number}']
    return words
