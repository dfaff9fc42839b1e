# SPDX-License-Identifier: GPL-2.0-or-later
"""libfuse's own passthrough_hp, of the release that zcfs is built with: unpacked and built in a temporary directory."""
import configparser
import os
import shutil

from guest import run

from data_path.machine import say


def pinned(top):
    """(directory, archive) of the release."""
    wrap = configparser.ConfigParser()
    wrap.read(os.path.join(top, 'subprojects', 'fuse3.wrap'))
    return wrap['wrap-file']['directory'], os.path.join(top, 'subprojects', 'packagecache', wrap['wrap-file']['source_filename'])


def build_passthrough_hp(top, directory):
    """The path of the executable; None if it cannot be built here, and why is said."""
    name, archive = pinned(top)
    missing = [tool for tool in ('meson', 'ninja', 'c++') if not shutil.which(tool)]
    if missing or not os.path.exists(archive):
        say(f'passthrough_hp is left out: there is no {missing[0] if missing else archive}; tools/setup-debian gets the archive, '
            'apt install g++ the compiler')
        return None
    build = os.path.join(directory, 'build')
    say(f'building passthrough_hp of {name}')
    shutil.unpack_archive(archive, directory)
    run('meson', 'setup', '--buildtype=release', '--wrap-mode=nodownload', '-Dexamples=true', '-Dtests=false', '-Dutils=false',
        '-Duseroot=false', '-Ddefault_library=static', '-Denable-io-uring=true', build, os.path.join(directory, name))
    run('ninja', '-C', build, 'example/passthrough_hp')
    return os.path.join(build, 'example', 'passthrough_hp')
