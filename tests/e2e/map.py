# SPDX-License-Identifier: GPL-2.0-or-later
"""zcfs-map against the database, the data file and an independent reader of NTFS."""
import contextlib
import json
import os
import random
import sqlite3
import subprocess

from commands import DAMAGED, DONE, FAILED, USAGE, ZCFS, ZCFS_MAP, Result, defrag, read_runs, scattered_volume, to_full_disk, \
    to_nobody, unmount_on_termination, workspace
from guest import run
from host import read_extents, state_of, store_mounted, write_view
from tap import Cases, equal, holds

SEED = int(os.environ.get('SEED', random.randrange(1 << 32)))
QUESTIONS = 60
MANUAL = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'tools', 'zcfs-store.5')


def zcfs_map(*arguments):
    return Result(subprocess.run([ZCFS_MAP, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, timeout=300, check=False))


def document(*arguments):
    result = zcfs_map('--json', *arguments)
    equal((result.status, result.err), (DONE, ''), 'the end')
    return json.loads(result.out)


def extents_of(bundle):
    return list(read_extents(bundle))


def usage(cases, image):
    for arguments in ([], ['--nonsense', image], ['--guest=', image], ['--guest=x', image], ['--guest=-1', image],
                      ['--guest=1Q', image], ['--guest=1KK', image], ['--host=99999999999999999999', image],
                      ['--guest=9000000000G', image], ['--summary', '--guest=0', image], [image, image]):
        with cases.case('wrong usage: ' + (' '.join(arguments).replace(image, 'IMAGE') or '(nothing)')):
            result = zcfs_map(*arguments)
            equal((result.status, result.out), (USAGE, ''), 'the end')
            holds('--help' in result.err, result.err)
    with cases.case('--help fits a screen of 24 lines and 80 columns'):
        lines = zcfs_map('--help').out.splitlines()
        holds(len(lines) <= 24 and max(map(len, lines)) <= 80 and 'Examples:' in lines, str(lines))
    for path, words in ((image + '.none', 'no such image'), (os.path.dirname(image), 'is a directory'), ('/dev/null', '')):
        with cases.case(f'not an image: {path.replace(os.path.dirname(image), "STORE")}'):
            result = zcfs_map(path)
            equal((result.status, result.out), (FAILED, ''), 'the end')
            holds(words in result.err, result.err)
    with cases.case('standard output is full: exit status 1'):
        equal(to_full_disk(ZCFS_MAP, image)[0], FAILED, 'the exit status')
    for arguments in ([], ['--json']):
        with cases.case(f'a reader that has seen enough is no error: {" ".join(arguments) or "the table"}'):
            equal(to_nobody(ZCFS_MAP, *arguments, image), (DONE, ''), 'exit status and messages')


def table(cases, plain, bundle):
    with cases.case('the table of a plain image: one extent'):
        equal(zcfs_map(plain).out.split()[-3:], ['0', str(os.path.getsize(plain)), '0'], 'the extent')
    with cases.case('the table is the database\'s'):
        rows = [tuple(map(int, line.split())) for line in zcfs_map(bundle).out.splitlines()[1:]]
        equal(rows, extents_of(bundle), 'the extents')
    with cases.case('as JSON, too; its figures are right'):
        found = document(bundle)
        wanted = extents_of(bundle)
        equal([(e['guest_off'], e['length'], e['host_off']) for e in found['extents']], wanted, 'the extents')
        equal((found['kind'], found['extent_count'], found['size'], found['host_end'], found['identity']),
              ('bundle', len(wanted), sum(row[1] for row in wanted), max(row[1] + row[2] for row in wanted), False), 'figures')
        equal(found['allocated'], os.stat(os.path.join(bundle, 'data')).st_blocks * 512, 'allocated')
    with cases.case('the summary has the lengths that the database\'s view has'):
        with contextlib.closing(sqlite3.connect(f'file:{bundle}/map.db?mode=ro', uri=True)) as database:
            view = database.execute('SELECT * FROM fragmentation').fetchall()
        found = document('--summary', bundle)
        holds('extents' not in found, 'extents')
        equal([(c['length'], c['extents'], c['bytes']) for c in found['lengths'] if c['extents']], view, 'the classes')
        text = zcfs_map('-s', bundle).out
        holds(all(f'{row[1]:,}' in text and row[0] in text for row in view), text)


def owners(image, off):
    """LCN -> (record, type, name), VCN by the independent reader."""
    return {lcn + i: (attribute, vcn + i) for attribute, vcn, lcn, length in read_runs(image, off) if lcn != -1
            for i in range(length)}


def type_name(kind):
    return {0x80: '$DATA', 0xa0: '$INDEX_ALLOCATION', 0xb0: '$BITMAP', 0x20: '$ATTRIBUTE_LIST'}.get(kind)


def questions(cases, bundle, view, cluster):
    """view: a raw copy of what the guest sees; the volume is the whole of it."""
    rng = random.Random(SEED)
    extents = extents_of(bundle)
    owned = owners(view, 0)
    clusters = os.path.getsize(view) // cluster
    offs = [rng.randrange(clusters * cluster) for _ in range(QUESTIONS)] + [e[0] for e in extents[:5]] + \
        [lcn * cluster + 1 for lcn in rng.sample(sorted(owned), 20)]

    def lead(off):
        guest, _, host = max(e for e in extents if e[0] <= off)
        return host + off - guest

    with cases.case(f'guest offsets: the extent, the host offset and the owner (seed {SEED})'):
        answers = document(*[f'--guest={off}' for off in offs], bundle)['answers']
        for off, answer in zip(offs, answers):
            equal((answer['guest_off'], answer['host_off']), (off, lead(off)), f'{off}')
            key, vcn = owned.get(off // cluster, (None, None))
            owner = answer['owner']
            if not key:
                holds(owner['kind'] in ('free', 'nobody', 'beyond'), f'{off}: {owner}')
            elif type_name(int(key[1], 0)):
                equal((owner['kind'], owner['record'], owner['attribute'], owner['vcn']),
                      ('stream', key[0], type_name(int(key[1], 0)), vcn), f'the owner at {off}')
                holds(key[2] == '-' or f':{key[2]}' in owner['path'], f'the stream at {off}: {owner}')
    with cases.case('host offsets lead back'):
        answers = document(*[f'--host={lead(off)}' for off in offs], bundle)['answers']
        for off, answer in zip(offs, answers):
            equal((answer['guest_off'], answer['host_off']), (off, lead(off)), f'{off}')
    with cases.case('the paths are those of the files'):
        named = [answer['owner'] for answer in answers if answer['owner']['kind'] == 'stream' and answer['owner']['record'] >= 24]
        listed = run('fls', '-r', '-p', '-u', view)
        for owner in named[:10]:
            holds(any(owner['path'].split(':')[0].lstrip('\\').replace('\\', '/') in line and f'{owner["record"]}-' in line for line in listed.splitlines()), f'{owner}')
    with cases.case('beyond the end, and unmapped'):
        end = extents[-1][0] + extents[-1][1]
        answers = document(f'--guest={end}', f'--host={1 << 40}', bundle)['answers']
        equal([answer['owner'] for answer in answers], [None, None], 'owners')
        result = zcfs_map('-g', str(end), '-H', '1T', bundle)
        holds('beyond the end' in result.out and 'unmapped' in result.out, result.out)
    with cases.case('the boot sector is $Boot\'s; text, hexadecimal, sectors'):
        result = zcfs_map('-g', '0x0', '-g', '1s', bundle)
        equal((result.status, result.out.count('"\\$Boot", $DATA, cluster 0 of it; MFT record 7')), (DONE, 2), result.out)


def manual_queries():
    """The queries of zcfs-store(5), each with the sentence that leads to it."""
    with open(MANUAL, encoding='utf-8') as page:
        parts = page.read().split('.\\" query\n.Bd -literal -offset indent\n')
    for before, after in zip(parts, parts[1:]):
        yield before.splitlines()[-1], after.partition('.Ed\n')[0]


def manual(cases, bundle, copy):
    """bundle: after a settle pass and a pass that can be undone. copy: its database through a mount."""
    queries = list(manual_queries())
    with cases.case('the manual has its queries'):
        holds(len(queries) >= 10, f'{len(queries)}')
    for sentence, query in queries:
        with cases.case(f'query of the manual: {sentence}'):
            rows = run('sqlite3', '-readonly', '-header', os.path.join(bundle, 'map.db'), query)
            holds(len(rows.splitlines()) >= 2, f'{query}: {rows!r}')
            equal(run('sqlite3', '-header', copy, query), rows, 'the same through the mount')
    for sentence, query in queries:
        if sentence.startswith('Where is byte'):
            with cases.case('the manual finds a byte where zcfs-map finds it'):
                found = run('sqlite3', '-readonly', os.path.join(bundle, 'map.db'), query).split('|')
                equal(int(found[2]), document('--guest=1M', bundle)['answers'][0]['host_off'], 'the host offset')
        if 'covered' in query:
            with cases.case('the manual finds the map complete'):
                equal(run('sqlite3', '-readonly', os.path.join(bundle, 'map.db'), query).strip(), '1', 'covered')


def prepare_history(bundle):
    """A settle pass, then a pass that has to leave something in pieces, and can be undone."""
    for options in (['--settle', '--threshold=64'], ['--pack']):
        result = defrag(*options, bundle)
        equal(result.status, DONE, f'{options}: {result!r}')


def hostile(cases, bundle):
    with cases.case('a damaged map: exit status 5, and where to go'):
        with contextlib.closing(sqlite3.connect(f'{bundle}/map.db', isolation_level=None)) as database:
            database.execute('DELETE FROM extent WHERE guest_off = 0')
        result = zcfs_map(bundle)
        equal((result.status, result.out), (DAMAGED, ''), 'the end')
        holds('zcfs-check' in result.err, result.err)


def main():
    unmount_on_termination()
    cases = Cases()
    with workspace() as directory:
        store, point = os.path.join(directory, 'store'), os.path.join(directory, 'mount')
        os.mkdir(store)
        os.mkdir(point)
        plain, bundle = os.path.join(store, 'plain.img'), os.path.join(store, 'a.img')
        scattered_volume(bundle)
        run('cp', '--sparse=always', bundle, plain)
        usage(cases, plain)
        equal(defrag(bundle).status, DONE, 'the pass')
        view = os.path.join(directory, 'view')
        write_view(bundle, view)
        table(cases, plain, bundle)
        before = state_of(store)
        questions(cases, bundle, view, 4096)
        with cases.case('nothing was changed'):
            equal(state_of(store), before, 'the store')
        with store_mounted(ZCFS, store, point), open(os.path.join(point, 'a.img'), 'r+b'):
            with cases.case('through the mount, and in use'):
                equal(document(os.path.join(point, 'a.img'))['extents'], document(bundle)['extents'], 'the extents')
        prepare_history(bundle)
        with store_mounted(ZCFS, store, point):
            manual(cases, bundle, os.path.join(point, '.zcfs', 'db', 'a.img.db'))
        hostile(cases, bundle)
    cases.finish()


main()
