# SPDX-License-Identifier: GPL-2.0-or-later
"""The Debian package: it is built, lintian finds nothing wrong with it, and in a clean Debian it installs, works and goes away.

SUITE in the environment: in that release of Debian (bookworm, trixie) instead of this machine's; it is built there as well."""
import contextlib
import glob
import os
import shutil
import subprocess

from commands import unmount_on_termination, workspace
from guest import run
from tap import Cases, Skip, holds

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..')
OWN = run('sh', '-c', '. /etc/os-release && echo "$VERSION_CODENAME"').strip()
SUITE = os.environ.get('SUITE', OWN)
BUILT_TREE = '/opt/zcfs'  # in the clean Debian, if it is not this machine's release


def mirror():
    sites = run('apt-get', 'indextargets', '--format', '$(SITE)', 'Created-By: Packages').split()
    if not sites:
        raise Skip('apt knows no mirror; run tools/setup-debian --tests')
    return sites[0]


@contextlib.contextmanager
def clean_debian(directory):
    """The smallest Debian that apt can install to, with what a booted one has mounted."""
    root = os.path.join(directory, 'opt')
    run('debootstrap', '--variant=minbase', SUITE, root, mirror(), timeout=600)
    with contextlib.ExitStack() as stack:
        for kind, source, target in (('proc', 'proc', 'proc'), ('tmpfs', 'run', 'run'), ('sysfs', 'sys', 'sys')):
            run('mount', '-t', kind, source, os.path.join(root, target))
            stack.callback(run, 'umount', '-l', os.path.join(root, target))
        fuse = os.path.join(root, 'dev', 'fuse')
        if not os.path.exists(fuse):
            run('mknod', fuse, 'c', '10', '229')
        shutil.copy('/etc/resolv.conf', os.path.join(root, 'etc', 'resolv.conf'))
        yield root


def inside(root, *command, timeout=600):
    """Runs a command there; what it prints."""
    done = subprocess.run(['chroot', root, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=timeout, check=False,
                          env={'PATH': '/usr/sbin:/usr/bin:/sbin:/bin', 'HOME': '/opt', 'DEBIAN_FRONTEND': 'noninteractive'})
    output = done.stdout.decode(errors='replace')
    holds(done.returncode == 0, f'{command} in {SUITE}: status {done.returncode}: {output[-3000:]}')
    return output


def without_what_was_built(directory, names):
    """Of the source tree, for copytree: not the builds that lie in it, nor what other tests boot."""
    return [name for name in names if name == '.git' or name.startswith(('xen-', 'guest-')) or
            (directory == TOP and name.startswith('build'))]


def build(root, directory):
    """The package, in the clean Debian's /opt."""
    if SUITE == OWN:
        run(os.path.join(TOP, 'tools', 'build-deb'), directory, timeout=600)
        built = glob.glob(os.path.join(directory, 'zcfs_*.deb'))
        holds(len(built) == 1, f'{built}')
        shutil.copy(built[0], os.path.join(root, 'opt'))
    else:
        shutil.copytree(TOP, root + BUILT_TREE, symlinks=True, ignore=without_what_was_built)
        inside(root, BUILT_TREE + '/tools/build-deb', '/opt', timeout=1800)
    return '/opt/' + os.path.basename(glob.glob(os.path.join(root, 'opt', 'zcfs_*.deb'))[0])


def main():
    unmount_on_termination()
    cases = Cases()
    with workspace() as directory, contextlib.ExitStack() as stack:
        with cases.case(f'a clean Debian, {SUITE}'):
            root = stack.enter_context(clean_debian(directory))
        with cases.case('tools/build-deb makes a package that lintian has nothing against'):
            package = build(root, directory)
        with cases.case('it installs, with what it depends on'):
            inside(root, 'apt-get', '-q', 'update')
            inside(root, 'apt-get', '-qy', 'install', '--no-install-recommends', package, 'ntfs-3g')
        with cases.case('it works: mounted by fstab, two files defragmented, found as they were, plain again'):
            shutil.copy(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'smoke'), os.path.join(root, 'opt', 'smoke'))
            inside(root, '/opt/smoke')
        with cases.case('it goes away'):
            inside(root, 'apt-get', '-qy', 'purge', 'zcfs')
            holds(not glob.glob(root + '/usr/bin/zcfs*') and not glob.glob(root + '/usr/share/doc/zcfs'), 'what is left')
    cases.finish()


main()
