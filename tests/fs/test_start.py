# SPDX-License-Identifier: GPL-2.0-or-later
"""Starting, refusing to start, and ending."""
import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import time

from mount import *


def zcfs(*arguments, user=None):
    command = [ZCFS, *arguments]
    if user:
        command = ['setpriv', f'--reuid={user}', f'--regid={user}', '--clear-groups', *command]
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=WAIT_SECONDS)


@unmounted
def test_usage(store):
    """--help and --version go to standard output; nonsense gives exit status 2 and a usage line"""
    result = zcfs('--help')
    assert result.returncode == 0 and 'Usage: zcfs DIR' in result.stdout and 'allow_other' in result.stdout
    result = zcfs('--version')
    assert result.returncode == 0 and result.stdout.startswith('zcfs 0')
    for arguments in ((), ('a', 'b', 'c'), ('--no-such-option', store.dir), ('-o', 'no_such_option', store.dir),
                      ('-o', 'max_threads=0', store.dir)):
        result = zcfs(*arguments)
        assert result.returncode == 2, (arguments, result)
        assert result.stderr, arguments
    for option, words in (('io_uring=maybe', 'auto, yes or no'), ('passthrough=', 'auto, on or off'), ('cache=none', 'auto, host or both')):
        result = zcfs('-o', f'ro,{option}', store.dir)
        assert result.returncode == 2 and f'zcfs: -o {option}: must be {words}' in result.stderr, result
    assert mounts_at(store.dir) == []


@unmounted
def test_errors(store):
    """what cannot be mounted is refused with exit status 1 and the reason"""
    write_file(store.host('file'), b'')
    os.mkdir(store.host('inside'))
    for arguments, reason in (((store.dir + '/missing',), 'No such file'), ((store.dir + '/file',), 'is not a directory of images'),
                              ((store.dir, store.top + '/missing'), 'No such file'),
                              ((store.dir, store.dir + '/file'), 'inside the directory'),
                              ((store.dir, store.dir + '/inside'), 'inside the directory')):
        result = zcfs(*arguments)
        assert result.returncode == 1 and reason in result.stderr, (arguments, result)
        assert arguments[-1] in result.stderr and result.stderr.startswith('zcfs: ')
    assert mounts_at(store.dir) == []


def test_second_daemon_over(store):
    """a second daemon on a directory that is served by an over-mount is refused"""
    for arguments in ((store.dir,), (store.dir, store.top)):
        result = zcfs(*arguments)
        assert result.returncode == 1 and 'already' in result.stderr, result
    os.mkdir(store.path('sub'))
    result = zcfs(store.path('sub'))
    assert result.returncode == 1 and 'already' in result.stderr, result
    assert mounts_at(store.dir) == ['fuse.zcfs']


@elsewhere
def test_second_daemon_elsewhere(store):
    """and so is one on a directory that is served elsewhere, until the first has ended"""
    os.mkdir(store.top + '/other')
    for arguments in ((store.dir, store.top + '/other'), (store.dir,)):
        result = zcfs(*arguments)
        assert result.returncode == 1 and 'another zcfs' in result.stderr, result
    store.unmount()
    store.start()


def test_over_mount(store):
    """over the store itself: the store stays reachable by .zcfs/store for the same user"""
    write_file(store.path('x'), b'here')
    assert read_file(store.path('.zcfs', 'store', 'x')) == b'here'
    store.bundle('b', noise(8192))
    assert os.path.isdir(store.path('.zcfs', 'store', 'b'))
    assert os.path.isfile(store.path('b'))


def test_mount_table(store):
    """the mount shows as fuse.zcfs with the store as its source, open to others with their permissions"""
    with open('/proc/self/mountinfo') as table:
        line = [line for line in table if line.split()[4] == store.point][0]
    kind, source, options = line.split(' - ')[1].split()
    assert kind == 'fuse.zcfs' and source == store.dir
    assert 'default_permissions' in options and 'allow_other' in options


def ends(store, number):
    write_file(store.path('x'), b'data')
    os.kill(store.daemon, number)
    store.wait_for_end()
    assert mounts_at(store.point) == []
    assert read_file(store.path('x')) == b'data'
    store.start()
    assert read_file(store.path('x')) == b'data'


def test_signals(store):
    """SIGTERM, SIGINT and SIGHUP unmount cleanly"""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        ends(store, number)


@elsewhere
def test_unmount_commands(store):
    """umount and fusermount3 -u end the daemon"""
    for command in (['umount'], ['fusermount3', '-u']):
        if not shutil.which(command[0]):
            continue
        assert os.path.exists(store.path('.zcfs'))
        unmount_by(*command, store.point)
        store.wait_for_end()
        store.start()


@with_options('-o', 'passthrough=off')
def test_term_with_open_files(store):
    """SIGTERM ends the daemon although files are open; what was written is in the store"""
    file = open(store.path('x'), 'wb', buffering=0)
    file.write(b'written')
    os.kill(store.daemon, signal.SIGTERM)
    store.wait_for_end()
    assert read_file(store.host('x')) == b'written'
    with fails_with(*GONE, errno.EIO):
        file.write(b'more')
    with contextlib.suppress(OSError):
        file.close()


def test_aborted_connection(store):
    """a daemon whose connection to the kernel is aborted by the administrator ends, and takes its mount with it"""
    store.abort()
    store.wait_for_end()
    assert mounts_at(store.point) == []


def kill_daemon(store):
    os.kill(store.daemon, signal.SIGKILL)
    store.wait_for_end()
    with fails_with(*GONE):
        os.statvfs(store.point)


def test_dead_mount_is_replaced(store):
    """a mount left by a killed daemon is replaced at the next start, over the store"""
    data = store.bundle('b', noise(65536))
    assert read_file(store.path('b')) == data
    for attempt in range(3):
        kill_daemon(store)
        store.start()
        assert mounts_at(store.point) == ['fuse.zcfs']
        assert read_file(store.path('b')) == data


@elsewhere
def test_dead_mount_elsewhere(store):
    """the same where it is mounted elsewhere"""
    write_file(store.host('x'), b'data')
    kill_daemon(store)
    store.start()
    assert mounts_at(store.point) == ['fuse.zcfs'] and read_file(store.path('x')) == b'data'


@elsewhere
def test_killed_while_writing(store):
    """images in use when the daemon is killed are whole and free at the next start"""
    data = store.bundle('b', noise(65536))
    file = open(store.path('b'), 'r+b', buffering=0)
    file.write(b'written')
    kill_daemon(store)
    with contextlib.suppress(OSError):
        file.close()
    store.start()
    assert read_file(store.path('b')) == b'written' + data[7:]


@unmounted
def test_foreground(store):
    """-f stays in the foreground, ends with status 0 at SIGTERM, and complains to standard error"""
    os.mkdir(store.host('bad'))
    write_file(store.host('bad', 'map.db'), b'')
    daemon = subprocess.Popen([ZCFS, '-f', store.dir], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
    store.daemon = daemon.pid
    wait_until(lambda: mounts_at(store.dir) == ['fuse.zcfs'], 'mount')
    with fails_with(errno.EUCLEAN):
        os.stat(store.path('bad'))
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(WAIT_SECONDS) == 0
    store.daemon = None
    output = daemon.stdout.read()
    daemon.stdout.close()
    assert 'bad' in output and 'bundle' in output
    assert mounts_at(store.dir) == []


@unmounted
def test_no_descriptors_kept(store):
    """in the background the daemon lets go of the terminal, of pipes and of the working directory"""
    result = subprocess.run(f'cd {store.top} && {ZCFS} store | cat', shell=True, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, timeout=WAIT_SECONDS)
    assert result.returncode == 0
    store.daemon = int(os.readlink(store.path('.zcfs', 'store')).split('/')[2])
    assert os.readlink(f'/proc/{store.daemon}/cwd') == '/'
    for fd in (0, 1, 2):
        assert os.readlink(f'/proc/{store.daemon}/fd/{fd}') == '/dev/null'
    store.unmount()


@unmounted
def test_fstab_options(store):
    """mount.fuse3 with all the options of an fstab line"""
    helper = shutil.which('mount.fuse3', path='/sbin:/usr/sbin')
    if not helper:
        skip('mount.fuse3 is not installed')
    environment = dict(os.environ, PATH=os.path.dirname(ZCFS) + ':' + os.environ['PATH'])
    options = ('defaults,nofail,_netdev,noauto,user,users,x-systemd.requires=network.target,x-initrd.mount,comment=x,'
               'noatime,relatime,exec,async,ro')
    subprocess.run([helper, store.dir, store.dir, '-t', 'fuse.zcfs', '-o', options], check=True, env=environment,
                   timeout=WAIT_SECONDS)
    store.daemon = int(os.readlink(store.path('.zcfs', 'store')).split('/')[2])
    with fails_with(errno.EROFS):
        write_file(store.path('x'), b'')
    unmount_by('umount', store.dir)
    store.wait_for_end()


@unmounted
def test_mount_fuse3(store):
    """mount.fuse3 calls zcfs DIR MOUNTPOINT -o options, and passes its exit status on"""
    helper = shutil.which('mount.fuse3', path='/sbin:/usr/sbin')
    if not helper:
        skip('mount.fuse3 is not installed')
    environment = dict(os.environ, PATH=os.path.dirname(ZCFS) + ':' + os.environ['PATH'])
    os.mkdir(store.top + '/mnt')
    command = [helper, store.dir, store.top + '/mnt', '-t', 'fuse.zcfs', '-o', 'rw,allow_other,nosuid,nodev']
    subprocess.run(command, check=True, env=environment, timeout=WAIT_SECONDS)
    try:
        assert mounts_at(store.top + '/mnt') == ['fuse.zcfs']
        write_file(store.top + '/mnt/x', b'through')
        assert read_file(store.dir + '/x') == b'through'
        result = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, timeout=WAIT_SECONDS)
        assert result.returncode != 0 and 'another zcfs' in result.stderr
    finally:
        unmount_by('umount', store.top + '/mnt')


# As nobody, because fusermount3 wants a user with a name; in a mount namespace of its own, where /dev/fuse is open to everybody, as it is
# where udev has made it. In a chroot / is no mount whose propagation could be changed: hence not by unshare, and the umount.
AS_ROOT = """
mount --make-rprivate / 2>/dev/null || mount --make-private /dev 2>/dev/null
mknod "$TOP/fuse" c 10 229 && chmod 666 "$TOP/fuse" && mount --bind "$TOP/fuse" /dev/fuse || exit 77
status=0
setpriv --reuid=65534 --regid=65534 --clear-groups sh -euxc "$0" "$@" || status=$?
umount -l /dev/fuse
exit $status
"""

AS_USER = """
cd /
"$ZCFS" "$STORE"
cd "$STORE"
echo text >x
chmod 400 x
cat x
! (echo y >x) || exit 1
cp x y
chmod 600 x
echo more >>x
test "$(cat x)" = "text
more"
install -m 444 x z
cmp x .zcfs/store/z
mkdir d
mv x d
ln d/x w
rm -f d/x w y z
rmdir d
test "$(ls -A)" = b.img
cmp b.img ../expected
truncate -s 10000 b.img
cat b.img | cmp -n 10000 - ../expected
mv b.img c.img
rm c.img
cd /
! "$ZCFS" "$STORE" || exit 1
fusermount3 -u "$STORE"
test -z "$(ls -A "$STORE")"
"$ZCFS" -f "$STORE" & daemon=$!
while ! test -L "$STORE/.zcfs/store"; do sleep 0.05; done
kill -9 $daemon
wait $daemon || true
"$ZCFS" "$STORE"
touch "$STORE/again"
fusermount3 -u "$STORE"
test -f "$STORE/again"
"""


@unmounted
def test_ordinary_user(store):
    """an ordinary user serves his own directory, for himself; a dead mount of his is replaced"""
    for program in ('fusermount3', 'setpriv', 'unshare'):
        if not shutil.which(program):
            skip(f'{program} is not installed')
    write_file(store.top + '/expected', store.bundle('b.img', noise(65536)))
    subprocess.run(['chown', '-R', '65534:65534', store.dir], check=True)
    os.chmod(store.top, 0o777)
    program = os.path.join(store.top, 'zcfs')  # where the user may reach it
    shutil.copy(ZCFS, program)
    environment = dict(os.environ, TOP=store.top, STORE=store.dir, ZCFS=program)
    command = ['unshare', '-m', '--propagation', 'unchanged', 'sh', '-c', AS_ROOT, AS_USER]
    result = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, timeout=WAIT_SECONDS)
    if result.returncode == 77:
        skip('no device nodes in this directory; the kernel offers no other way in')
    assert result.returncode == 0, f'exit status {result.returncode}:\n{result.stdout}'


@unmounted
def test_odd_paths(store):
    """relative paths, blanks, commas and symbolic links in the names of store and mount point"""
    odd = os.path.join(store.top, 'a b,c')
    os.mkdir(odd)
    os.symlink(odd, store.top + '/link')
    for where in ('a b,c', './a b,c/', 'link', odd):
        result = subprocess.run([ZCFS, where], cwd=store.top, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, timeout=WAIT_SECONDS)
        assert result.returncode == 0, (where, result.stdout)
        assert os.path.islink(odd + '/.zcfs/store')
        unmount_by('umount', odd)
        end = time.monotonic() + WAIT_SECONDS
        while zcfs(odd, store.top + '/nowhere').stderr.count('another zcfs'):
            assert time.monotonic() < end
            time.sleep(0.02)


KEPT = {'chown': 0, 'dac_override': 1, 'fowner': 3, 'fsetid': 4, 'setgid': 6, 'setuid': 7, 'sys_admin': 21, 'mknod': 27, 'setfcap': 31}


def as_user(*command):
    return subprocess.run(['setpriv', '--reuid=1500', '--regid=1500', '--groups=1501', *command], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=WAIT_SECONDS).returncode == 0


def test_capabilities(store):
    """every thread of root's daemon has the capabilities that it uses and no others, and none can come back"""
    os.chmod(store.point, 0o1777)
    assert as_user('touch', store.path('x')) and os.stat(store.path('x')).st_uid == 1500
    store.bundle('b', noise(65536))
    assert len(read_file(store.path('b'))) == 65536
    kept = sum(1 << number for number in KEPT.values())
    for task in os.listdir(f'/proc/{store.daemon}/task'):
        with open(f'/proc/{store.daemon}/task/{task}/status') as status:
            said = dict(line.split(':\t') for line in status)
        sets = {name: int(said[name], 16) for name in ('CapEff', 'CapPrm', 'CapBnd', 'CapInh', 'CapAmb')}
        assert sets == {'CapEff': kept, 'CapPrm': kept, 'CapBnd': kept, 'CapInh': 0, 'CapAmb': 0}, {n: hex(s) for n, s in sets.items()}
        assert int(said['NoNewPrivs']) == 1


def can_use(store):
    """What each capability is for, tried through the mount."""
    def works(action, *arguments):
        try:
            action(*arguments)
        except PermissionError:
            return False
        return True
    os.chmod(store.below, 0o1777)
    for name in ('root', 'his'):
        with contextlib.suppress(OSError):
            os.unlink(store.host(name))
        write_file(store.host(name), b'')
    os.chown(store.host('his'), 1500, 1501)
    os.chmod(store.host('his'), 0o600)
    found = {'chown': works(os.chown, store.path('root'), 1, 1),
             'dac_override': works(os.truncate, store.path('his'), 10),
             'fowner': as_user('chmod', '640', store.path('his')),
             'fsetid': as_user('chmod', '2750', store.path('his')) and os.stat(store.host('his')).st_mode & 0o2000 != 0,
             'setuid': as_user('sh', '-c', 'mkdir "$0" && rmdir "$0"', store.path('d')),
             'mknod': works(os.mknod, store.path('device'), 0o20600, os.makedev(1, 3)),
             'setfcap': works(os.setxattr, store.path('root'), 'security.capability', bytes.fromhex('0100000200200000000000000000000000000000'))}
    found['setgid'] = found['setuid']
    with contextlib.suppress(OSError):
        os.unlink(store.path('device'))
    return {name for name, works in found.items() if works}


@unmounted
def test_capabilities_are_used(store):
    """without any one of those capabilities, what it is for fails; all but the one for mounting are tried"""
    for missing in [None, *sorted(set(KEPT) - {'sys_admin'})]:
        where = ['setpriv', f'--bounding-set=-{missing}'] if missing else []
        result = subprocess.run([*where, ZCFS, store.dir], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                text=True, timeout=WAIT_SECONDS)
        assert result.returncode == 0, (missing, result.stdout)
        store.daemon = int(os.readlink(store.path('.zcfs', 'store')).split('/')[2])
        works = can_use(store)
        if missing:
            assert missing not in works, f'it works without {missing}'
        else:
            assert works == set(KEPT) - {'sys_admin'}, works
        store.unmount()


def test_open_file_limit(store):
    """more files than the usual limit of descriptors can be known at a time"""
    with open(f'/proc/{store.daemon}/limits') as limits:
        line = [line for line in limits if line.startswith('Max open files')][0]
    assert int(line.split()[3]) >= 16384
    os.mkdir(store.host('many'))
    for i in range(3000):
        os.close(os.open(store.host('many', str(i)), os.O_CREAT | os.O_WRONLY))
    assert sum(1 for e in os.scandir(store.path('many')) if e.stat().st_size == 0) == 3000


if __name__ == '__main__':
    sys.exit(run(tests_of(globals())))
