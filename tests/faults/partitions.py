# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever memory is missing while a disk's partitions are looked for, none that forbids a change is overlooked."""
import errno
import os
import subprocess

from commands import FAILED, MAKERS, REFUSED, ZCFS_DEFRAG, unmount_on_termination, workspace
from guest import run
from injector import MEMORY, Injector
from tap import Cases, holds

IMAGES = ('volume-cut-off-from-disk', 'logical-volume-cut-off')
LAST = 120    # allocations: those before are of a time when nobody has looked yet


def refused(injector, image, at):
    """Runs the command with the call number @at failing. How many there are."""
    injector.arm((MEMORY,), at, errno.ENOMEM)
    done = subprocess.run([ZCFS_DEFRAG, '--dry-run', image], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env=injector.environment(), text=True, timeout=300, check=False)
    counted, happened = injector.disarm()
    holds(done.returncode == REFUSED or happened and done.returncode == FAILED and 'memory' in done.stdout,
          f'call {at}: exit status {done.returncode}: {done.stdout}')
    return counted


def main():
    unmount_on_termination()
    cases = Cases()
    with workspace() as directory:
        injector = Injector(directory)
        for name in IMAGES:
            image = run(os.path.join(MAKERS, 'make-refused'), '--only', name, directory).split('\t')[1]
            with cases.case(f'{name}: refused, or failed for want of memory, whichever allocation fails'):
                total = refused(injector, image, (1 << 64) - 1)
                for at in range(total - LAST, total):
                    refused(injector, image, at)
    cases.finish()


main()
