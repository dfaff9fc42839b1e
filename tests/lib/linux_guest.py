# SPDX-License-Identifier: GPL-2.0-or-later
"""A small Linux in QEMU with images as its disks: what a KVM user has, by emulation where the machine has no KVM.

The guest is a kernel with ntfs3 and busybox in memory (tests/guest/fetch-guest fetches them, tests/guest/init is its first
process). Each boot runs one shell script, the job, with these around it:

  /dev/disk/NAME           a disk of the host, by the name that boot() was given; NAME-at-SECTOR its partitions
  /job                     the job and whatever files it was given; the working directory
  /results                 what the job leaves here comes back, with the kernel's messages in "dmesg"
"""
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading

from initramfs import archive

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..')
CACHE = os.path.join(TOP, 'subprojects', 'packagecache')
INIT = os.path.join(TOP, 'tests', 'guest', 'init')
QEMU = 'qemu-system-x86_64'
RESULTS_BYTES = 256 << 20  # at most; a sparse file
# QEMU before 9.0 emulates wrong flags after CMPXCHG16B when an access to memory faults before they are computed, and Linux's
# allocators use that instruction wherever a processor has it.
PROCESSOR = {'kvm': 'max', 'tcg': 'Nehalem,-cx16'}
MAX_NAME = 20              # of a disk: what a serial number of virtio-blk has room for
COMMAND_LINE = 'console=ttyS0 loglevel=3 panic=-1 oops=panic mitigations=off nokaslr cryptomgr.notests'


class GuestError(Exception):
    """The guest did not come up, or did not come to its end."""


class Outcome:
    def __init__(self, status, console, results):
        self.status = status    # of the job
        self.console = console  # all of it, text
        self.results = results  # name -> bytes

    def lines(self, name):
        return self.results[name].decode(errors='surrogateescape').splitlines()


def missing():
    """Why no guest can be booted here; None if one can."""
    if not shutil.which(QEMU):
        return f'{QEMU} is not installed (tools/setup-debian --tests installs it)'
    if not os.path.exists(os.path.join(CACHE, 'guest-packages')):
        return 'no kernel for the guest was fetched (tools/setup-debian --tests does)'
    return None


def accelerator():
    """KVM where the processor offers it; what ZCFS_GUEST_ACCEL says, if anything. There are machines whose /dev/kvm is
    made by other means, and runs next to nothing."""
    with open('/proc/cpuinfo', encoding='utf-8') as file:
        capable = re.search(r'^flags\s*:.* (vmx|svm)\b', file.read(), re.MULTILINE)
    usable = capable and os.access('/dev/kvm', os.R_OK | os.W_OK)
    return os.environ.get('ZCFS_GUEST_ACCEL', 'kvm' if usable else 'tcg')


def write_initrd(path, job, files):
    with open(INIT, 'rb') as init:
        contents = {'init': (0o755, init.read())}
    contents['job/job'] = (0o644, job.encode())
    for name, data in files.items():
        contents[f'job/{name}'] = (0o644, data)
    with open(os.path.join(CACHE, 'guest-initrd'), 'rb') as common, open(path, 'wb') as out:
        shutil.copyfileobj(common, out)
        out.write(archive(contents, ['job']))


def drive(number, name, path, options):
    if len(name) > MAX_NAME:
        raise ValueError(f'the name of disk {name} is too long')
    return ['-drive', f'file={path.replace(",", ",,")},format=raw,if=none,id=disk{number},{options}',
            '-device', f'virtio-blk-pci,drive=disk{number},serial={name}']


def command(initrd, disks, memory_mib, options, extra):
    words = [QEMU, '-nodefaults', '-no-user-config', '-display', 'none', '-serial', 'stdio', '-no-reboot', '-machine', 'pc',
             '-accel', accelerator(), '-cpu', PROCESSOR[accelerator()], '-smp', '1', '-m', str(memory_mib),
             '-kernel', os.path.join(CACHE, 'guest-kernel'), '-initrd', initrd, '-append', COMMAND_LINE, *extra]
    for number, (name, path) in enumerate(disks.items()):
        words += drive(number, name, path, options if name != 'results' else 'cache=unsafe')
    return words


def run(words, seconds, echo):
    """What QEMU prints, which is the guest's console. Ends it when it takes too long."""
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    watch = threading.Timer(seconds, process.kill)
    watch.start()
    console = []
    try:
        for line in process.stdout:
            text = line.decode(errors='replace').replace('\r', '')
            console.append(text)
            if echo:
                echo.write(text)
                echo.flush()
    finally:
        process.kill()  # where an exception has come between; otherwise it has ended
        process.wait()
        process.stdout.close()
        expired = not watch.is_alive()
        watch.cancel()
    if expired:
        console.append(f'\nstopped after {seconds} seconds\n')
    return ''.join(console)


def read_results(path):
    with tarfile.open(path) as tar:
        return {os.path.normpath(member.name): tar.extractfile(member).read() for member in tar if member.isfile()}


def boot(job, disks, files=None, memory_mib=1024, seconds=600, options='cache=writeback', extra=(), echo=None):
    """Runs the shell script @job in a new guest.

    @disks: name -> path on the host. @files: name -> bytes, for the job. @options: of the disks' -drive.
    @extra: arguments for QEMU. @echo: a text stream that gets the console while it is printed."""
    with tempfile.TemporaryDirectory(prefix='zcfs-guest-', dir=os.environ.get('TMPDIR', '/var/tmp')) as directory:
        initrd, results = os.path.join(directory, 'initrd'), os.path.join(directory, 'results')
        write_initrd(initrd, job, files or {})
        with open(results, 'wb') as new:
            new.truncate(RESULTS_BYTES)
        console = run(command(initrd, {**disks, 'results': results}, memory_mib, options, extra), seconds, echo)
        match = re.search(r'^guest: exit status (\d+) after', console, re.MULTILINE)
        if not match:
            raise GuestError('the guest ended without a status; its console:\n' + console[-4000:])
        return Outcome(int(match.group(1)), console, read_results(results))
