# SPDX-License-Identifier: GPL-2.0-or-later
"""A pass for chosen files makes these contiguous and leaves all others exactly where they are. The names are those that
another reader of NTFS gives to the files, the places those that the independent checker reads."""
import csv
import os
import re

from commands import DONE, FAILED, check_ntfs, attribute_runs, defrag, defrag_report, scattered_volume, unmount_on_termination, \
    workspace
from guest import hash_files_through_driver, ntfs_mounted, run
from host import digest, state_of, write_view
from proof import pieces_of, prove_promise
from tap import Cases, equal, holds

DATA = '0x80'
CLUSTER = 4096


class Store:
    """An image in its store, and what the guest sees of it."""
    def __init__(self, directory):
        self.directory = os.path.join(directory, 'store')
        os.mkdir(self.directory)
        self.image = os.path.join(self.directory, 'a.img')
        self.view = os.path.join(directory, 'view')
        self.list = os.path.join(directory, 'files.csv')

    def look(self):
        write_view(self.image, self.view)

    def runs(self):
        self.look()
        equal(check_ntfs(self.view), '', 'what ntfs-check finds')
        return attribute_runs(self.view)


def names_of_records(image):
    """MFT record -> the paths of its file, as The Sleuth Kit lists them."""
    names = {}
    for line in run('fls', '-r', '-p', '-u', image).splitlines():
        place, _, path = line.partition(':\t')
        number = place.split()[-1].split('-')[0].rstrip(':')
        path = path.split(' (deleted')[0]
        names.setdefault(int(number), set()).add(path.split(':')[0] if '$' not in path else path)
    return names


def bytes_of(runs):
    return sum(clusters for _, _, clusters in runs) * CLUSTER


def median(numbers):
    numbers = sorted(numbers)
    return numbers[len(numbers) // 2]


def prove_selection(cases, store, what, options, chosen, files=()):
    """chosen: of an attribute (record, type, name) and its pieces, whether the pass is for it."""
    arguments = [*options, store.image, *(['--', *files] if files else [])]
    with cases.case(f'{what}: what is chosen is in one piece afterwards, nothing else has moved'):
        before = store.runs()
        contents = hash_files_through_driver(store.view)
        seen = digest(store.view)
        promise = defrag_report('--analyze', f'--csv={store.list}', *arguments)
        report = defrag_report(*arguments)
        after = store.runs()
        moved = {attribute for attribute in before if after[attribute] != before[attribute]}
        wanted = {attribute for attribute, runs in before.items() if pieces_of(runs) > 1 and chosen(attribute, runs)}
        holds(wanted, 'a test of nothing')
        equal((moved - wanted, wanted - moved), (set(), set()), 'what has moved, and ought not to; what has not')
        equal({pieces_of(after[attribute]) for attribute in moved}, {1}, 'their pieces')
        equal(report['volumes'][0]['stay_count'], 0, 'what stays and ought not to')
        equal(hash_files_through_driver(store.view), contents, 'what ntfs-3g reads')
        equal(report['volumes'][0]['fragments']['after'], sum(map(pieces_of, after.values())), 'fragments')
        equal(defrag_report(*arguments)['changed'], False, 'a second pass changes something:')
        defrag_report('--undo', store.image)
        store.look()
        equal(digest(store.view), seen, 'the view after --undo')
    with cases.case(f'{what}: the analysis counts and lists what is chosen, and says what the pass costs'):
        pieces = [pieces_of(before[attribute]) for attribute in wanted]
        equal(promise['volumes'][0]['selected'], {'files': len({record for record, _, _ in wanted}), 'attributes': len(wanted),
                                                  'excess_fragments': sum(pieces) - len(pieces)}, 'what is selected')
        with open(store.list, encoding='utf-8', newline='') as rows:
            listed = [(int(row['record']), int(row['fragments'])) for row in csv.DictReader(rows)]
        equal(sorted(listed), sorted((attribute[0], pieces_of(before[attribute])) for attribute in wanted), 'the list')
        equal([row['fragments']['before'] for row in promise['volumes'][0]['worst']], sorted(pieces, reverse=True)[:20], 'the worst')
        holds(promise['extents']['after'] > promise['extents']['before'] and promise['redo_bytes'] > 0, promise)
        prove_promise(promise, report)


def selections(cases, store):
    names = names_of_records(store.image)  # as long as it is a plain image
    def below(prefix):
        return lambda attribute, _: any(path == prefix or path.startswith(prefix + '/') for path in names.get(attribute[0], ()))
    directories = sorted({path.rsplit('/', 1)[0] for paths in names.values() for path in paths if '/file' in path})
    directory = directories[0]
    prove_selection(cases, store, 'a directory by --only', [f'--only=/{directory.upper()}'], below(directory))
    prove_selection(cases, store, 'a pattern by --only', ['--only=*/FILE*5'],
                    lambda attribute, _: any(re.search('/file[^/]*5$', path) for path in names.get(attribute[0], ())))
    prove_selection(cases, store, '--exclude', [f'--exclude={directory}'],
                    lambda attribute, runs: not below(directory)(attribute, runs))
    runs_of = store.runs()
    pieces = median(map(pieces_of, runs_of.values()))
    prove_selection(cases, store, '--min-fragments', [f'--min-fragments={pieces}'], lambda _, runs: pieces_of(runs) >= pieces)
    size = median(map(bytes_of, runs_of.values()))
    prove_selection(cases, store, '--min-size', [f'--min-size={size / 1024}k'], lambda _, runs: bytes_of(runs) >= size)
    records = {attribute[0] for attribute, runs in runs_of.items()
               if attribute[1] == DATA and pieces_of(runs) > 1 and attribute[0] in names}
    chosen = sorted(records)[::40][:3]
    paths = [sorted(names[record])[0] for record in chosen]
    prove_selection(cases, store, 'single files', [], lambda attribute, _: attribute[0] in chosen,
                    files=[paths[0].replace('/', '\\').upper(), *paths[1:]])
    missing(cases, store, paths[0])


def in_a_fleet(cases, store):
    with cases.case('--all --analyze counts the files that are chosen, too'):
        chosen = defrag_report('--analyze', '--only=*5', store.image)['volumes'][0]
        line = f"{store.image}: fragmented: {chosen['fragments']['before']:,} fragments; files selected: {chosen['selected']['files']:,}"
        equal(defrag('--all', '-a', '--only=*5', store.directory).out.splitlines()[0], line, 'the line of the image')


def missing(cases, store, path):
    before = state_of(store.directory)
    with cases.case('a pattern that no fragmented file matches: it says so, nothing is changed'):
        for mode in ([], ['-n'], ['-a']):
            result = defrag(*mode, '--only=*.no-such', store.image)
            equal(result.status, DONE, 'the exit status')
            holds('extra pieces; none of them is selected' in result.out, result.out)
        equal(state_of(store.directory), before, 'the store')
    with cases.case('one of several files that is not there: it is named, nothing is changed'):
        result = defrag(store.image, '--', path, 'no/such.file')
        equal(result.status, FAILED, 'the exit status')
        holds('"no/such.file"' in result.err and 'what to do' in result.err, result.err)
        equal(state_of(store.directory), before, 'the store')
    with cases.case('a file with nothing to do is one that is there'):
        result = defrag(store.image, '--', 'RESIDENT')
        equal(result.status, DONE, 'the exit status')
        holds('nothing to do' in result.out, result.out)
    with cases.case('behind "--" without an image before it are images'):
        equal(defrag('-n', '--', store.image).status, DONE, 'the exit status')


def many_names(cases, store):
    """So many that they are in extension records; and one name more than usual."""
    with ntfs_mounted(store.image, 'rw') as root:
        file = os.path.join(root, 'first name')
        others = [open(os.path.join(root, f'other{i}'), 'wb') for i in range(2)]
        with open(file, 'wb') as data:
            for _ in range(6):
                for one in (data, *others):
                    one.write(bytes(20000))
                    one.flush()
                    os.fsync(one.fileno())
        for other in others:
            other.close()
        os.mkdir(os.path.join(root, 'links'))
        for i in range(80):
            os.link(file, os.path.join(root, 'links', f'a name as long as it takes to fill a record {i}'))
        for place in ('one', 'two'):
            os.mkdir(os.path.join(root, place))
        os.link(os.path.join(root, 'other0'), os.path.join(root, 'one', 'name of two'))
        os.rename(os.path.join(root, 'other0'), os.path.join(root, 'two', 'name of two'))
    wanted = [attribute for attribute, runs in store.runs().items() if attribute[1] == DATA and pieces_of(runs) > 1]
    names = names_of_records(store.image)
    record = next(number for number, paths in names.items() if 'first name' in paths)
    linked = next(number for number, paths in names.items() if paths == {'one/name of two', 'two/name of two'})
    holds([attribute for attribute in wanted if attribute[0] == record], 'the file is in one piece')
    prove_selection(cases, store, 'a file by the last of 81 names', [], lambda attribute, _: attribute[0] == record,
                    files=['links/a name as long as it takes to fill a record 79'])
    for name in ('first name', 'links/*record 0', 'links/*record 79'):
        prove_selection(cases, store, f'one of 81 names by --exclude={name}', [f'--exclude={name}'],
                        lambda attribute, _: attribute[0] != record)
    for place in ('one', 'two'):
        prove_selection(cases, store, f'one of two names by --exclude={place}', [f'--exclude={place}'],
                        lambda attribute, _: attribute[0] != linked)
        prove_selection(cases, store, f'one of two names by --only={place}', [f'--only={place}'],
                        lambda attribute, _: attribute[0] == linked)
    with cases.case('chosen by one name, excluded by another: nothing is changed'):
        before = state_of(store.directory)
        for options in (['--only=one', '--exclude=two'], ['--only=two', '--exclude=one'], ['--only=first*', '--exclude=links/*79']):
            result = defrag(*options, store.image)
            holds(result.status == DONE and 'none of them is selected' in result.out, result)
        equal(state_of(store.directory), before, 'the store')


def time_limit(cases, store):
    before = state_of(store.directory)
    for options in (['--time-limit=0.000001'], ['--time-limit=0.000001', '-n'], ['--time-limit=0.000001', '-a']):
        with cases.case(f'{" ".join(options)}: ends with nothing changed'):
            result = defrag(*options, store.image)
            equal(result.status, FAILED, 'the exit status')
            holds('--time-limit is up; nothing has been changed' in result.err, result.err)
            equal(state_of(store.directory), before, 'the store')
    with cases.case('--time-limit with --all: no other image is begun'):
        result = defrag('--all', '--time-limit=0.000001', store.directory)
        equal(result.status, FAILED, 'the exit status')
        holds('not every image has been looked at' in result.err, result.err)
        equal(state_of(store.directory), before, 'the store')
    with cases.case('--time-limit that is long enough'):
        equal(defrag('--time-limit=300', '-n', store.image).status, DONE, 'the exit status')


def main():
    unmount_on_termination()
    cases = Cases()
    with workspace() as directory:
        store = Store(directory)
        scattered_volume(store.image, seed=7)
        with ntfs_mounted(store.image, 'rw') as root, open(os.path.join(root, 'resident'), 'w', encoding='ascii') as file:
            file.write('x')
        time_limit(cases, store)
        in_a_fleet(cases, store)
        selections(cases, store)
    with workspace() as directory:
        store = Store(directory)
        scattered_volume(store.image, fragments=500, seed=8)
        many_names(cases, store)
    cases.finish()


main()
