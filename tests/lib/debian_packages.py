# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests boot is made of Debian packages: fetched and verified by apt, in a state of its own, taken apart, kept in
subprojects/packagecache. Neither the system's sources nor its packages change, nothing is installed."""
import glob
import hashlib
import io
import lzma
import os
import re
import struct
import subprocess
import tarfile

CACHE = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'subprojects', 'packagecache')
KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg'
COMMAND_SECONDS = 300


class Unavailable(Exception):
    pass


def run(*command, **arguments):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                          timeout=COMMAND_SECONDS, **arguments)
    if done.returncode:
        raise Unavailable(f'{" ".join(command)}: status {done.returncode}: {done.stderr.decode(errors="replace")[-800:]}')
    return done.stdout


def system_suite():
    with open('/etc/os-release', encoding='utf-8') as file:
        match = re.search(r'^VERSION_CODENAME="?([a-z]+)', file.read(), re.MULTILINE)
    if not match:
        raise Unavailable('/etc/os-release names no suite')
    return match.group(1)


def mirror(suite):
    """The address that apt has Debian itself from."""
    answer = run('apt-get', 'indextargets', '--format', '$(REPO_URI)', 'Created-By: Packages', 'Origin: Debian', 'Label: Debian',
                 f'Codename: {suite}').decode().split()
    if not answer:
        raise Unavailable(f'apt has no lists of a mirror of Debian {suite}; apt-get update fetches them')
    return answer[0]


class PrivateApt:
    """apt with the system's configuration (proxies, credentials), but with sources, lists and packages of its own: those of
    @suite, below @directory."""

    def __init__(self, directory, suite):
        self.directory = directory
        for name in ('lists/partial', 'archives/partial'):
            os.makedirs(os.path.join(directory, name))
        sources = os.path.join(directory, 'sources.list')
        with open(sources, 'w', encoding='utf-8') as file:
            file.write(f'deb [signed-by={KEYRING}] {mirror(system_suite())} {suite} main\n')
        settings = {'Dir::State': directory, 'Dir::State::status': '/dev/null', 'Dir::Cache': directory,
                    'Dir::Etc::sourcelist': sources, 'Dir::Etc::sourceparts': '/dev/null', 'APT::Architecture': 'amd64',
                    'APT::Architectures::': 'amd64', 'APT::Sandbox::User': 'root', 'APT::Install-Recommends': 'false',
                    'Acquire::Languages': 'none', 'Acquire::Retries': '3', 'Acquire::http::Timeout': '30', 'Acquire::https::Timeout': '30'}
        self.options = [part for name, value in settings.items() for part in ('-o', f'{name}={value}')]
        run('apt-get', *self.options, '-q', 'update', '--error-on=any')

    def dependency(self, package, prefix):
        """The package of that prefix which @package, an empty one, stands for."""
        answer = run('apt-cache', *self.options, 'depends', package).decode()
        match = re.search(rf'^  Depends: ({prefix}\S+)$', answer, re.MULTILINE)
        if not match:
            raise Unavailable(f'{package} depends on no {prefix}...')
        return match.group(1)

    def download(self, package):
        run('apt-get', *self.options, '-q', 'download', package, cwd=self.directory)
        return glob.glob(os.path.join(self.directory, glob.escape(package) + '_*.deb'))[0]

    def download_all(self, packages):
        """These, and all that they depend on."""
        run('apt-get', *self.options, '-qy', 'install', '--download-only', *packages)
        return sorted(glob.glob(os.path.join(self.directory, 'archives', '*.deb')))


def contents(package, wanted):
    """path -> bytes of the files of a package whose paths match."""
    with tarfile.open(fileobj=io.BytesIO(run('dpkg-deb', '--fsys-tarfile', package))) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar
                if member.isfile() and re.search(wanted, member.name)}


# Kernels

KERNEL_FILES = r'^\./boot/vmlinuz-|\.ko(\.xz)?$|/modules\.builtin$'


def module_name(path):
    return os.path.basename(path).split('.')[0].replace('-', '_')


def kernel_modules(kernel, wanted):
    """name -> bytes of the modules @wanted and of all that they depend on, in the order to load them; what the kernel has
    built in needs none. @kernel: the KERNEL_FILES of a package."""
    paths = {module_name(path): path for path in kernel if path.endswith(('.ko', '.ko.xz'))}
    builtin = next((data for path, data in kernel.items() if path.endswith('/modules.builtin')), b'')
    builtin = {module_name(path) for path in builtin.decode().split()}
    modules = {}

    def add(name):
        if name in modules:
            return
        if name not in paths:
            raise Unavailable(f'the kernel has no module {name}')
        data = kernel[paths[name]]
        if paths[name].endswith('.xz'):
            data = lzma.decompress(data)
        # What a module says of itself is in its section .modinfo.
        for other in filter(None, re.search(rb'\0depends=([^\0]*)\0', data).group(1).decode().split(',')):
            add(other.replace('-', '_'))
        modules[name] = data

    for name in wanted:
        if name not in builtin:
            add(name)
    return modules


def modules_for_initrd(modules):
    """Files of an archive: the modules, and "modules/order", the order to load them in."""
    files = {f'modules/{name}.ko': (0o644, data) for name, data in modules.items()}
    files['modules/order'] = (0o644, '\n'.join([*modules, '']).encode())
    return files


def unpacked_kernel(image):
    """The ELF file that is in a bzImage: what a loader under an emulated processor would take long to unpack
    (Documentation/arch/x86/boot.rst in Linux's source: setup_sects, payload_offset, payload_length)."""
    setup_sectors, (offset, length) = image[0x1f1] or 4, struct.unpack_from('<II', image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = image[start:start + length - 4]  # the last four bytes tell the unpacked length
    if payload.startswith(b'\xfd7zXZ'):
        return lzma.decompress(payload)
    if payload.startswith(b'\x28\xb5\x2f\xfd'):
        return subprocess.run(['zstd', '-dcq'], input=payload, stdout=subprocess.PIPE, check=True).stdout
    raise Unavailable('the kernel is packed in an unknown way')


# The cache. Each thing in it is a few files, one of which, NAME-packages, tells what they were made of, and by what recipe:
# they are current as long as that is the same.

def recipe(word, scripts):
    """A word that tells what is made, and the files that say how: scripts, lists of packages."""
    sum_ = hashlib.sha256()
    for script in (*scripts, __file__):
        with open(script, 'rb') as file:
            sum_.update(file.read())
    return f'{word} {sum_.hexdigest()}'


def write(name, data):
    path = os.path.join(CACHE, name)
    with open(path + '.part', 'wb') as file:
        file.write(data)
    os.replace(path + '.part', path)


def write_list(name, made_by, packages):
    write(f'{name}-packages', '\n'.join([made_by, *map(os.path.basename, packages), '']).encode())


def current(name, made_by, files):
    try:
        with open(os.path.join(CACHE, f'{name}-packages'), encoding='utf-8') as file:
            return file.readline().rstrip('\n') == made_by and all(os.path.exists(os.path.join(CACHE, path)) for path in files)
    except FileNotFoundError:
        return False
