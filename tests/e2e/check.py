# SPDX-License-Identifier: GPL-2.0-or-later
"""zcfs-check finds every kind of damage, repairs what can be repaired, and the daemon never serves a guess.

Takes a seed for the random damage as its argument; prints the one that it uses. DAMAGES=N in the environment: so many
random ones."""
import contextlib
import errno
import json
import os
import random
import re
import shutil
import sqlite3
import struct

from commands import NTFS_POPULATE, NTFS_SCATTER, ZCFS, ZCFS_CHECK, check, defrag_report, seed_argument, to_full_disk, to_nobody, \
    unmount_on_termination, workspace
from guest import run
from host import digest, host_file_system, hot_journal, state_of, store_mounted, write_view
from tap import Cases, equal, holds

CLEAN, CORRECTED, UNCORRECTED, OPERATIONAL, USAGE = 0, 1, 4, 8, 16
DAMAGES = int(os.environ.get('DAMAGES', '60'))
IMAGE_BYTES = 16 << 20


def findings(path, *options):
    """Exit status and findings of one image."""
    result = check('--json', *options, path)
    document = json.loads(result.out)
    equal(document['exit_code'], result.status, 'the exit code in the document')
    return result.status, document['images'][0]


def small_volume(path):
    """A scattered NTFS volume, small, because it is copied often."""
    with open(path, 'xb') as image:
        image.truncate(IMAGE_BYTES)
    run('mkntfs', '--quiet', '--force', '--fast', path)
    run(NTFS_POPULATE, '--quiet', '--seed', '5', '--dirs', '3', '--files', '60', '--tiny', '10', '--streams', '5', path)
    run(NTFS_SCATTER, '--quiet', '--seed', '5', '--fragments', '800', path)


# ---- damage by hand ----

def sql(*statements):
    """A damage done with SQL, whatever the constraints say."""
    def do(bundle):
        database = sqlite3.connect(os.path.join(bundle, 'map.db'), isolation_level=None)
        database.execute('PRAGMA ignore_check_constraints = 1')
        database.execute('PRAGMA writable_schema = 1')
        for statement in statements:
            if callable(statement):
                statement(database)
            else:
                database.execute(statement)
        database.close()
    return do


def bytes_at(name, off, data):
    def do(bundle):
        with open(os.path.join(bundle, name), 'r+b') as file:
            file.seek(off if off >= 0 else os.path.getsize(file.name) + off)
            file.write(data)
    return do


def truncated(name, size):
    return lambda bundle: os.truncate(os.path.join(bundle, name), size(os.path.join(bundle, name)) if callable(size) else size)


def zero_page(table):
    """The root of a table's tree."""
    def do(bundle):
        with sqlite3.connect(os.path.join(bundle, 'map.db')) as database:
            size = database.execute('PRAGMA page_size').fetchone()[0]
            page = database.execute('SELECT rootpage FROM sqlite_schema WHERE name = ?', (table,)).fetchone()[0]
        bytes_at('map.db', (page - 1) * size, bytes(size))(bundle)
    return do


def entry(host_off, data):
    return struct.pack('<QII', host_off, len(data), 0xffffffff) + data


def put_redo(*entries):
    return sql(lambda db: db.execute('INSERT INTO redo(entries) VALUES (?)', (b''.join(entries),)),
               'UPDATE image SET redo_pending = 1')


def replace(name, make):
    def do(bundle):
        path = os.path.join(bundle, name)
        shutil.move(path, bundle + '.moved')
        make(path, bundle + '.moved')
    return do


def second_link(name):
    return lambda bundle: os.link(os.path.join(bundle, name), bundle + '.link')


def middle(column):
    return f'(SELECT {column} FROM extent ORDER BY guest_off LIMIT 1 OFFSET (SELECT count(*) / 2 FROM extent))'


# what, how, the kind that finds it, a word of its message
DAMAGE = [
    ('an extent in the middle is missing', sql(f'DELETE FROM extent WHERE guest_off = {middle("guest_off")}'), 'map', 'mapped nowhere'),
    ('the first extent is missing', sql('DELETE FROM extent WHERE guest_off = 0'), 'map', 'mapped nowhere'),
    ('the last extent is missing', sql('DELETE FROM extent WHERE guest_off = (SELECT max(guest_off) FROM extent)'), 'map', 'the map ends at'),
    ('no extents at all', sql('DELETE FROM extent'), 'map', 'the map ends at 0'),
    ('an extent is longer', sql(f'UPDATE extent SET length = length + 512 WHERE guest_off = {middle("guest_off")}'), 'map', 'mapped twice'),
    ('an extent is shorter', sql(f'UPDATE extent SET length = length - 512 WHERE guest_off = {middle("guest_off")}'), 'map', 'mapped nowhere'),
    ('an extent of no length', sql(f'UPDATE extent SET length = 0 WHERE guest_off = {middle("guest_off")}'), 'map', 'impossible'),
    ('an extent of negative length', sql(f'UPDATE extent SET length = -4096 WHERE guest_off = {middle("guest_off")}'), 'map', 'negative'),
    ('an extent beyond all offsets', sql(f'UPDATE extent SET host_off = {2**63 - 512} WHERE guest_off = {middle("guest_off")}'), 'map', 'impossible'),
    ('two extents share host bytes', sql(f'UPDATE extent SET host_off = 512 WHERE guest_off = {middle("guest_off")}'), 'map', 'belong to two guest offsets'),
    ('a host offset that is no sector', sql(f'UPDATE extent SET host_off = host_off + 1 WHERE guest_off = {middle("guest_off")}'), 'map', 'multiples of 512'),
    ('a negative host offset', sql(f'UPDATE extent SET host_off = -512 WHERE guest_off = {middle("guest_off")}'), 'map', 'negative'),
    ('an odd length in the middle', sql(f'UPDATE extent SET length = length - 1 WHERE guest_off = {middle("guest_off")}'), 'map', 'mapped nowhere'),
    ('an image size too large', sql('UPDATE image SET size = size + 512'), 'map', 'the map ends at'),
    ('an image size too small', sql('UPDATE image SET size = size - 512'), 'map', 'the map ends at'),
    ('a negative image size', sql('UPDATE image SET size = -1'), 'map', 'makes no sense'),
    ('no row about the image', sql('DELETE FROM image'), 'map', 'no row'),
    ('a generation of zero', sql('UPDATE image SET generation = 0'), 'map', 'makes no sense'),
    ('extents past the data file', sql(f'UPDATE extent SET host_off = {1 << 40} WHERE guest_off = {middle("guest_off")}'), 'data', 'too short'),
    ('the data file was cut', truncated('data', IMAGE_BYTES - 4096), 'data', 'too short'),
    ('the data file is empty', truncated('data', 0), 'data', 'too short'),
    ('another application\'s database', sql('PRAGMA application_id = 1'), 'database', "another program's"),
    ('a newer schema', sql('PRAGMA user_version = 99'), 'database', 'version 99'),
    ('WAL mode', sql('PRAGMA journal_mode = WAL'), 'database', 'WAL'),
    ('an empty map.db', truncated('map.db', 0), 'database', 'empty'),
    ('a map.db of half its length', truncated('map.db', lambda path: os.path.getsize(path) // 2 // 4096 * 4096), 'database', ''),
    ('a map.db of 50 bytes', truncated('map.db', 50), 'database', 'header'),
    ('no header', bytes_at('map.db', 0, bytes(16)), 'database', 'header'),
    ('a page size that is none', bytes_at('map.db', 16, b'\xff\xff'), 'database', 'SQLite cannot read'),
    ('a schema page of zeros', bytes_at('map.db', 100, bytes(3996)), 'database', 'SQLite cannot read'),
    ('the extents\' first page is zeros', zero_page('extent'), 'database', ''),
    ('the undo\'s first page is zeros', zero_page('undo'), 'database', 'damaged'),
    ('a table is missing', sql('DROP TABLE undo'), 'schema', 'undo is missing'),
    ('a table with another column', sql('ALTER TABLE image ADD COLUMN more INTEGER'), 'schema', 'table image is not the one'),
    ('a view in place of a table', sql('ALTER TABLE extent RENAME TO rows', 'CREATE VIEW extent AS SELECT * FROM rows'), 'schema', 'extent'),
    ('redo of nonsense', put_redo(b'nonsense that is no entry at all'), 'redo', 'malformed'),
    ('redo past the data file', put_redo(entry(1 << 40, b'x')), 'redo', 'past the data file'),
    ('redo that overlaps', put_redo(entry(4096, b'xy'), entry(4097, b'z')), 'redo', 'overlap'),
    ('history of no run', sql('UPDATE file SET run = 77'), 'history', 'a run that is not there'),
    ('data is missing', replace('data', lambda path, old: None), 'bundle', 'data file is missing'),
    ('data is a directory', replace('data', lambda path, old: os.mkdir(path)), 'bundle', 'not a regular file'),
    ('data is a symbolic link', replace('data', lambda path, old: os.symlink(old, path)), 'bundle', 'not a regular file'),
    ('data is a FIFO', replace('data', lambda path, old: os.mkfifo(path)), 'bundle', 'not a regular file'),
    ('data has another link', second_link('data'), 'bundle', 'another hard link'),
    ('map.db is a symbolic link', replace('map.db', lambda path, old: os.symlink(old, path)), 'bundle', 'not a regular file'),
    ('map.db is a FIFO', replace('map.db', lambda path, old: os.mkfifo(path)), 'bundle', 'not a regular file'),
    ('map.db has another link', second_link('map.db'), 'bundle', 'another hard link'),
    ('a stranger in the bundle', lambda bundle: shutil.copy(bundle + '/map.db', bundle + '/map.db-old'), 'foreign', 'map.db-old'),
]


def leak(bundle):
    """Host space that no extent names, as a settle pass that crashed leaves it."""
    with open(os.path.join(bundle, 'data'), 'r+b') as data:
        data.seek(3 * IMAGE_BYTES)
        data.write(os.urandom(1 << 20))


def staging(bundle):
    parent, name = os.path.split(bundle)
    hidden = os.path.join(parent, f'.{name}.zcfs-aBcD12')
    os.mkdir(hidden)
    shutil.copy(os.path.join(bundle, 'map.db'), hidden)


def removed(bundle):
    parent, name = os.path.split(bundle)
    shutil.copytree(bundle, os.path.join(parent, f'.{name}.zcfs-removed-aBcD12'))


REPAIRABLE = [
    ('space that no extent names', leak, 'leak', '1048576 bytes'),
    ('a hot journal', hot_journal, 'journal', 'rolled back'),
    ('redo that was never written', put_redo(entry(8192, b'the same bytes?')), 'redo', 'has not reached'),
    ('an adoption cut short', staging, 'leftover', '.zcfs-aBcD12'),
    ('a removal cut short', removed, 'leftover', 'removed-'),
    ('an undo of nonsense', sql("UPDATE undo SET entries = x'00' WHERE seq = (SELECT min(seq) FROM undo)"), 'undo', 'malformed'),
    ('an undo of half a map', sql('DELETE FROM undo_extent WHERE guest_off = (SELECT max(guest_off) FROM undo_extent)'), 'undo', 'undo_extent'),
    ('an undo of no known change', sql('DELETE FROM undo_stamp'), 'undo', 'pieces of an undo'),
    ('an undo from the future', sql('UPDATE undo_stamp SET generation = generation + 5'), 'undo', 'not made yet'),
]

# What is remarkable but no error.
NOTES = [
    ('a trigger', sql("CREATE TRIGGER t AFTER INSERT ON run BEGIN DELETE FROM extent; END"), 'schema', 'trigger t was added'),
    ('an index', sql('CREATE INDEX i ON extent(host_off)'), 'schema', 'index i was added'),
    ('a table', sql('CREATE TABLE more (a CHECK (a > 0))', 'INSERT INTO more VALUES (0)'), 'skipped', "SQLite's own checks"),
    ('no view', sql('DROP VIEW summary'), 'schema', 'view summary is missing'),
    ('a map.db that everybody may write', lambda bundle: os.chmod(bundle + '/map.db', 0o666), 'access', 'map.db'),
    ('a bundle that everybody may change', lambda bundle: os.chmod(bundle, 0o777), 'access', 'the bundle'),
    ('something written after the pass', bytes_at('data', 0, b'\xeb'), 'undo', 'no longer be undone'),
]


def stamp_undo(path):
    """Makes the undo valid for the data file as it is now."""
    status = os.stat(os.path.join(path, 'data'))
    with sqlite3.connect(os.path.join(path, 'map.db')) as database:
        database.execute('UPDATE undo_stamp SET data_size = ?, ctime_ns = ?', (status.st_size, status.st_ctime_ns))


class Bundles:
    """Copies of one bundle, made by a real pass."""

    def __init__(self, directory):
        self.directory = directory
        self.pristine = os.path.join(directory, 'pristine')
        self.store = os.path.join(directory, 'store')
        self.point = os.path.join(directory, 'mount')
        self.made = os.path.join(directory, 'made')
        for path in (self.store, self.point, self.made):
            os.mkdir(path)
        image = os.path.join(self.made, 'image')
        small_volume(image)
        self.undone = digest(image)
        defrag_report(image)
        write_view(image, os.path.join(directory, 'view'))
        self.truth = digest(os.path.join(directory, 'view'))
        self.pristine = image

    def copy(self, name):
        path = os.path.join(self.store, name)
        run('cp', '-a', '--reflink=auto', '--sparse=always', self.pristine, path)
        # A copy's ctime is its own; the undo shall be valid all the same.
        stamp_undo(path)
        return path

    def reset(self):
        shutil.rmtree(self.store)
        os.mkdir(self.store)


def served(path):
    """The digest of what the mount shows, or the error."""
    try:
        return digest(path)
    except OSError as error:
        return error.errno


def damaged(cases, bundles):
    for number, (what, do, kind, word) in enumerate(DAMAGE):
        with cases.case(f'found: {what}'):
            path = bundles.copy(f'{number}.img')
            do(path)
            before = state_of(path)
            status, report = findings(path)
            equal(status, UNCORRECTED, f'the exit status ({report})')
            found = [f for f in report['findings'] if f['kind'] == kind and f['error'] and word in f['text']]
            holds(found and not any(f['repaired'] for f in report['findings']), f'no {kind} with "{word}" in {report["findings"]}')
            holds(found[0]['remedy'], 'no remedy is told')
            holds(f'{path}: damaged' in check(path).out, 'it is not called damaged')
            equal(state_of(path), before, 'the bundle')
            status, report = findings(path, '--repair')
            holds(status & UNCORRECTED, f'--repair claims to have repaired it: {report}')
            equal(state_of(path), before, 'the bundle after --repair')


def never_a_guess(cases, bundles):
    harmless = {'history', 'foreign'}
    with store_mounted(ZCFS, bundles.store, bundles.point):
        for number, (what, _, kind, word) in enumerate(DAMAGE):
            path = os.path.join(bundles.point, f'{number}.img')
            with cases.case(f'the daemon serves the truth or nothing: {what}'):
                seen = served(path)
                if kind in harmless:
                    equal(seen, bundles.truth, 'what is served')
                    continue
                holds(seen in (errno.EUCLEAN, bundles.truth), f'what is served is {seen}')
                if kind in ('map', 'data', 'schema', 'redo'):
                    equal(seen, errno.EUCLEAN, 'what is served')
                if kind != 'bundle' and seen == errno.EUCLEAN:
                    reason = os.getxattr(path, 'user.zcfs.error').decode()
                    holds(word in reason, f'"{word}" is not in the reason {reason}')
                    holds('user.zcfs.error' in os.listxattr(path), 'the attribute is not listed')
        with cases.case('a good image has no such attribute, and nobody can give it one'):
            path = bundles.copy('good.img')
            seen = os.path.join(bundles.point, 'good.img')
            equal(served(seen), bundles.truth, 'what is served')
            for attempt in (lambda: os.getxattr(seen, 'user.zcfs.error'), lambda: os.setxattr(seen, 'user.zcfs.error', b'x')):
                try:
                    attempt()
                    raise AssertionError('it has')
                except OSError as error:
                    holds(error.errno in (errno.ENODATA, errno.EPERM), str(error))
            equal(os.listxattr(seen), [], 'its attributes')
        with cases.case('images in a mount are found and checked in the store below it'):
            result = check(os.path.join(bundles.point, '0.img'), os.path.join(bundles.point, 'good.img'))
            equal(result.status, UNCORRECTED, 'the exit status')
            holds('mapped nowhere' in result.out and 'good.img: clean' in result.out, result.out)
        with cases.case('a whole mount is checked as the store is: a line each, and a summary'):
            mounted, below = check(bundles.point), check(bundles.store)
            equal(mounted.status, UNCORRECTED, 'the exit status')
            equal(mounted.out.replace(bundles.point, ''), below.out.replace(bundles.store, ''), 'the output')
            holds(f'{len(DAMAGE) + 1} bundles, ' in mounted.out.splitlines()[-1], mounted.out.splitlines()[-1])
        with cases.case('mended, a damaged image is served again'):
            seen = os.path.join(bundles.point, '0.img')
            shutil.copy(os.path.join(bundles.pristine, 'map.db'), os.path.join(bundles.store, '0.img', 'map.db'))
            equal(served(seen), bundles.truth, 'what is served')
            equal(os.listxattr(seen), [], 'its attributes')


def repaired(cases, bundles):
    for what, do, kind, word in REPAIRABLE:
        with cases.case(f'found, repaired, and nothing of the content changed: {what}'):
            bundles.reset()
            path = bundles.copy('a.img')
            if kind == 'redo':
                with open(os.path.join(path, 'data'), 'rb') as data:
                    data.seek(8192)
                    put_redo(entry(8192, data.read(100)))(path)
            else:
                do(path)
            before = state_of(bundles.store)
            space = os.stat(os.path.join(path, 'data')).st_blocks
            status, report = findings(path)
            equal(status, UNCORRECTED, f'the exit status ({report})')
            found = [f for f in report['findings'] if f['kind'] == kind and f['repairable'] and word in f['text']]
            holds(found, f'no {kind} with "{word}" in {report["findings"]}')
            equal(state_of(bundles.store), before, 'the store')
            holds(f'{path}: to be repaired' in check(path).out, check(path).out)
            result = check('--repair', path)
            equal(result.status, CORRECTED, f'the exit status ({result})')
            holds(f'repaired: {kind}:' in result.out, result.out)
            result = check('-v', bundles.store)
            equal(result.status, CLEAN, f'the exit status afterwards ({result})')
            equal(os.listdir(bundles.store), ['a.img'], 'the store')
            equal(sorted(os.listdir(path)), ['data', 'map.db'], 'the bundle')
            view = os.path.join(bundles.directory, 'view')
            write_view(path, view)
            equal(digest(view), bundles.truth, 'the content')
            if kind == 'leak':
                holds(os.stat(os.path.join(path, 'data')).st_blocks <= space - 2000, 'the space has not been given back')
            if kind in ('journal', 'leftover'):
                equal(run('sqlite3', path + '/map.db', 'SELECT count(*) FROM undo_stamp').strip(), '1', 'undos left')


def undo_kept(cases, bundles):
    """Space leaked before the pass, say, of which the undo knows nothing."""
    with cases.case('an undo that is valid is so after a repair, and takes the pass back'):
        bundles.reset()
        path = bundles.copy('a.img')
        leak(path)
        stamp_undo(path)
        space = os.stat(os.path.join(path, 'data')).st_blocks
        result = check('--repair', path)
        equal(result.status, CORRECTED, f'the exit status ({result})')
        holds(os.stat(os.path.join(path, 'data')).st_blocks <= space - 2000, 'the space has not been given back')
        defrag_report('--undo', path)
        write_view(path, os.path.join(bundles.directory, 'view'))
        equal(digest(os.path.join(bundles.directory, 'view')), bundles.undone, 'the content')


def notes(cases, bundles):
    for what, do, kind, word in NOTES:
        with cases.case(f'told, but no error: {what}'):
            bundles.reset()
            path = bundles.copy('a.img')
            do(path)
            status, report = findings(path)
            equal(status, CLEAN, f'the exit status ({report})')
            holds([f for f in report['findings'] if f['kind'] == kind and word in f['text']], str(report))
            holds(word in check('-v', path).out, check('-v', path).out)
            holds(word not in check(path).out, 'without -v it is told, too')


def in_use(cases, bundles):
    bundles.reset()
    path = bundles.copy('a.img')
    leak(path)
    with store_mounted(ZCFS, bundles.store, bundles.point):
        with open(os.path.join(bundles.point, 'a.img'), 'rb') as image:
            with cases.case('an image in use is checked; what may be on its way is a note'):
                status, report = findings(path)
                equal((status, report['in_use']), (CLEAN, True), str(report))
                holds([f for f in report['findings'] if f['kind'] == 'leak' and not f['error']], str(report))
            with cases.case('it is not repaired, and who has it is told'):
                result = check('--repair', path)
                equal(result.status, CLEAN, str(result))
                removed(path)
                staging(path)
                result = check('--repair', path)
                holds(result.status & OPERATIONAL, str(result))
                holds(re.search(rf'in use by .* \(process {os.getpid()}\)', result.err), str(result))
            equal(len(image.read(10)), 10, 'bytes read')


def untouched(cases, bundles):
    bundles.reset()
    path = bundles.copy('a.img')
    with cases.case('looking changes nothing, not even access times'):
        for parent, directories, files in os.walk(bundles.store):
            for name in ['.'] + files:
                os.utime(os.path.join(parent, name), ns=(10**18, os.stat(os.path.join(parent, name)).st_mtime_ns))
        times = {os.path.join(parent, name): os.stat(os.path.join(parent, name)).st_atime_ns
                 for parent, _, files in os.walk(bundles.store) for name in ['.'] + files}
        equal(check('-v', bundles.store).status, CLEAN, 'the exit status')
        for name, time in times.items():
            equal(os.stat(name).st_atime_ns, time, f'the access time of {name}')
    with cases.case('usage: exit status 16, and --help fits a screen'):
        for arguments in ([], ['--nonsense', path], ['-q', '-v', path]):
            equal(check(*arguments).status, USAGE, f'the exit status of {arguments}')
        lines = check('--help').out.splitlines()
        holds(len(lines) <= 24 and max(map(len, lines)) <= 80, f'{len(lines)} lines')
    for arguments in ([], ['--json']):
        with cases.case(f'the output cannot be written: exit status 8; its reader has seen enough: no error {" ".join(arguments)}'):
            status, err = to_full_disk(ZCFS_CHECK, *arguments, path)
            equal(status, OPERATIONAL, 'the exit status')
            holds('could not be written' in err, err)
            equal(to_nobody(ZCFS_CHECK, *arguments, path), (CLEAN, ''), 'exit status and messages')
    with cases.case('what is no image: exit status 8'):
        for name in ('nothing', 'a.img/data'):
            equal(check(os.path.join(bundles.store, name)).status, OPERATIONAL, f'the exit status of {name}')
    with cases.case('a plain image is clean'):
        with open(os.path.join(bundles.store, 'plain.img'), 'wb') as file:
            file.truncate(5000)
        result = check(os.path.join(bundles.store, 'plain.img'))
        equal((result.status, 'clean, a plain image' in result.out), (CLEAN, True), str(result))


def says(result, status, cause, remedy):
    equal(result.status, status, f'the exit status ({result})')
    holds(re.search(cause, result.err) and re.search(f'what to do: {remedy}', result.err), result.err)


def fill(directory):
    with open(os.path.join(directory, 'filler'), 'wb', buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))


def copies(cases, bundles):
    """It is the directory of the copies that is wrong, not the image."""
    bundles.reset()
    path = bundles.copy('a.img')
    with cases.case('TMPDIR is not there: exit status 8, and which directory'):
        says(check(path, TMPDIR='/nonexistent'), OPERATIONAL, r'cannot be copied to /nonexistent and .*: No such file', 'set TMPDIR')
    with host_file_system('tmpfs', bundles.directory, 1) as full:
        fill(full)
        with cases.case('TMPDIR is full: exit status 8, and where to make room'):
            says(check(path, TMPDIR=full), OPERATIONAL, rf'cannot be copied to {full} and .*: No space left', 'make room for it there')
        run('mount', '-o', 'remount,ro', full)
        with cases.case('TMPDIR is read-only: exit status 8, and which directory'):
            says(check('--repair', path, TMPDIR=full), OPERATIONAL, rf'cannot be copied to {full} and .*: Read-only', 'set TMPDIR')


def full_store(cases, bundles):
    with host_file_system('tmpfs', bundles.directory, 2 * IMAGE_BYTES >> 20) as store:
        path = os.path.join(store, 'a.img')
        run('cp', '-a', '--sparse=always', bundles.pristine, path)
        sql('DELETE FROM undo_stamp')(path)
        fill(store)
        with cases.case('--repair in a store that is full: exit status 12, and where to make room'):
            says(check('--repair', path), UNCORRECTED | OPERATIONAL, 'a.img: no space left on its file system; not repaired', 'make room there')


def random_damage(cases, bundles, source):
    """Bytes of map.db changed at random: clean or told, never a crash, never a guess."""
    bundles.reset()
    size = os.path.getsize(os.path.join(bundles.pristine, 'map.db'))
    for number in range(DAMAGES):
        path = bundles.copy(f'{number}.img')
        for _ in range(source.choice((1, 1, 3, 20))):
            length = source.choice((1, 1, 2, 8, 512))
            off = source.choice((source.randrange(size), source.randrange(4096), source.randrange(16384)))
            bytes_at('map.db', off, source.randbytes(length))(path)
    clean = set()
    with cases.case(f'{DAMAGES} databases with random damage: a verdict on each, no crash'):
        for number in range(DAMAGES):
            path = os.path.join(bundles.store, f'{number}.img')
            result = check(path)
            holds(result.status in (CLEAN, UNCORRECTED), f'{number}: {result}')
            if result.status == CLEAN:
                clean.add(number)
    print(f'# {len(clean)} of them are clean')
    with cases.case('and the daemon serves each as it was, or not at all'):
        with store_mounted(ZCFS, bundles.store, bundles.point):
            counts = {'served': 0, 'refused': 0}
            for number in range(DAMAGES):
                seen = served(os.path.join(bundles.point, f'{number}.img'))
                holds(seen == bundles.truth or isinstance(seen, int), f'{number}: other bytes are served')
                counts['served' if seen == bundles.truth else 'refused'] += 1
                holds(seen == bundles.truth or number not in clean, f'{number}: clean, but {seen}')
        print(f'# {counts}')


def main():
    unmount_on_termination()
    seed = seed_argument(1)
    cases = Cases()
    with workspace() as directory:
        bundles = Bundles(directory)
        with cases.case('what a pass has made is clean'):
            result = check('-v', bundles.made)
            equal(result.status, CLEAN, str(result))
        damaged(cases, bundles)
        never_a_guess(cases, bundles)
        repaired(cases, bundles)
        undo_kept(cases, bundles)
        notes(cases, bundles)
        in_use(cases, bundles)
        untouched(cases, bundles)
        copies(cases, bundles)
        full_store(cases, bundles)
        random_damage(cases, bundles, random.Random(seed))
    cases.finish()


main()
