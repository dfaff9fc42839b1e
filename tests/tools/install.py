# SPDX-License-Identifier: GPL-2.0-or-later
"""What meson install puts where. The argument: the build directory."""
import os
import shutil
import subprocess
import sys
import tempfile

from guest import run
from tap import Cases, Skip, equal, holds

COMMANDS = 'zcfs', 'zcfs-check', 'zcfs-defrag', 'zcfs-map'
WANTED = {'bin/zcfs', 'bin/zcfs-check', 'bin/zcfs-defrag', 'bin/zcfs-map', 'share/man/man8/zcfs.8', 'share/man/man8/zcfs-check.8',
          'share/man/man8/zcfs-defrag.8', 'share/man/man8/zcfs-map.8', 'share/man/man7/zcfs-ntfs.7', 'share/man/man7/zcfs.7',
          'share/man/man5/zcfs-store.5',
          'share/zcfs/zcfs-defrag.schema.json',
          'share/doc/zcfs/LICENSE', 'share/doc/zcfs/README.md', 'share/doc/zcfs/SECURITY.md', 'share/doc/zcfs/examples/srv-images.mount',
          'lib/systemd/system/zcfs-defrag@.service', 'lib/systemd/system/zcfs-defrag@.timer', 'share/zsh/site-functions/_zcfs',
          *('share/bash-completion/completions/' + command for command in COMMANDS),
          *(f'share/fish/vendor_completions.d/{command}.fish' for command in COMMANDS)}


def units_are_sound(cases, root, prefix):
    """As systemd sees them: instances, with the commands where they are installed here."""
    directory = os.path.join(root, 'units')
    os.mkdir(directory)
    for path in sorted(path for path in WANTED if path.endswith(('.service', '.timer', '.mount'))):
        name = os.path.basename(path)
        with open(os.path.join(root, prefix, path), encoding='utf-8') as unit, \
                open(os.path.join(directory, name), 'w', encoding='utf-8') as copy:
            copy.write(unit.read().replace('ExecStart=', f'ExecStart={root}'))
    for name in sorted(os.listdir(directory)):
        with cases.case(f'{name} is what systemd understands'):
            if not shutil.which('systemd-analyze'):
                raise Skip('systemd is not installed')
            unit = os.path.join(directory, name.replace('@', '@srv-images'))
            done = subprocess.run(['systemd-analyze', 'verify', '--man=no', unit], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300, check=False)
            equal((done.returncode, done.stdout.decode()), (0, ''), 'what systemd-analyze says')


def main():
    build = sys.argv[1]
    cases = Cases()
    with tempfile.TemporaryDirectory(prefix='zcfs-test-') as root:
        with cases.case('meson install with a DESTDIR puts everything below it, and nothing of the subprojects'):
            run('meson', 'install', '-C', build, '--no-rebuild', '--skip-subprojects', '--destdir', root)
            found = {os.path.relpath(os.path.join(directory, name), root)
                     for directory, _, names in os.walk(root) for name in names}
            prefix = os.path.commonpath(found)
            equal({os.path.relpath(path, prefix) for path in found} ^ WANTED, set(), 'what differs')
        for page in sorted(path for path in WANTED if '/man/' in path):
            with cases.case(f'{os.path.basename(page)} is sound mdoc'):
                try:
                    done = subprocess.run(['mandoc', '-T', 'lint', '-W', 'warning', os.path.join(root, prefix, page)],
                                          stdout=subprocess.PIPE, timeout=300, check=False)
                except FileNotFoundError as error:
                    raise Skip('mandoc is not installed') from error
                holds(done.returncode == 0, done.stdout.decode())
        units_are_sound(cases, root, prefix)
    cases.finish()


main()
