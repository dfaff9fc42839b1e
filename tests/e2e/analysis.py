# SPDX-License-Identifier: GPL-2.0-or-later
"""What zcfs-defrag tells about an image, judged by an independent reader of NTFS: the analysis as text, JSON and CSV."""
import csv
import io
import json
import os
import re
import uuid

import jsonschema
from commands import DONE, FAILED, IN_USE, NTFS_SCATTER, REFUSED, USAGE, attribute_runs, check_ntfs, defrag, \
    scattered_volume, unmount_on_termination, workspace
from guest import make_ntfs, ntfs_mounted, run
from tap import Cases, equal, holds

COLUMNS = ['image', 'volume', 'path', 'stream', 'record', 'bytes', 'allocated_bytes', 'fragments', 'fragments_after', 'reason']


def closed(schema):
    """The same schema for documents in which nothing is that it does not name."""
    if isinstance(schema, list):
        return [closed(element) for element in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    return {**inner, 'additionalProperties': False} if 'properties' in inner and 'type' in inner else inner


class Documents:
    """Every document that is asked for here is held against the schema."""

    def __init__(self):
        with open(os.environ['JSON_SCHEMA'], encoding='utf-8') as file:
            schema = json.load(file)
        jsonschema.Draft202012Validator.check_schema(schema)
        self.validator = jsonschema.Draft202012Validator(closed(schema))
        self.seen = set()

    def names(self, value):
        for key in value if isinstance(value, dict) else ():
            self.seen.add(key)
        for element in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            self.names(element)

    def get(self, *arguments, status=DONE):
        result = defrag('--json', *arguments)
        equal(result.status, status, f'the exit status of {arguments}: {result.err}')
        document = json.loads(result.out)
        self.validator.validate(document)
        self.names(document)
        return document['images']


def pieces(runs):
    """Pieces that runs are in, neighbours merged."""
    count, following = 0, None
    for _, lcn, length in runs:
        count += lcn != following
        following = lcn + length
    return count


def fragments_of(image):
    """(record, type, name) -> pieces, of what is in more than one, by the independent reader."""
    found = {attribute: pieces(runs) for attribute, runs in attribute_runs(image).items()}
    return {attribute: count for attribute, count in found.items() if count > 1}


def score_of(excess, clusters):
    ratio = 100 * excess / clusters
    return int(8 * ratio if ratio <= 10 else 80 + ratio / 5)


def analysis(cases, documents, image):
    with cases.case('the figures of an analysis are those of an independent reader'):
        runs = attribute_runs(image)
        many = fragments_of(image)
        volume = documents.get('--analyze', image)[0]['volumes'][0]
        excess = sum(many.values()) - len(many)
        clusters = sum(length for attribute in runs.values() for _, _, length in attribute)
        equal(volume['fragmented_attributes'], {'before': len(many)}, 'fragmented attributes')
        equal(volume['fragmented_files'], {'before': len({record for record, _, _ in many})}, 'fragmented files')
        equal(volume['excess_fragments'], {'before': excess}, 'fragments in excess')
        equal(volume['clusters_mapped'], clusters, 'clusters of all attributes')
        equal(volume['score'], {'before': score_of(excess, clusters)}, 'the score')
        equal([row['fragments']['before'] for row in volume['worst']], sorted(many.values(), reverse=True)[:20], 'the worst')
    with cases.case('an analysis promises what a dry run finds, and a pass does'):
        dry = documents.get('--dry-run', image)[0]['volumes'][0]
        for figure in ('files_mended', 'attributes_mended', 'attributes_moved', 'clusters_moved', 'stay_count', 'worst'):
            equal(volume[figure], dry[figure], figure)
        equal(dry['files_mended'], dry['fragmented_files']['before'] - dry['fragmented_files']['after'], 'files mended')
    return many


def fits(cases, what, *arguments):
    with cases.case(f'{what} fits 80 columns'):
        out = defrag(*arguments).out
        wide = [line for line in out.splitlines()[1:] if len(line) > 80]  # the first names the image, however long that is
        equal(wide, [], 'what is wider')
        return out
    return ''


def text(cases, store, image, many):
    name = os.path.basename(image)
    run_in = lambda *arguments: defrag(*arguments, cwd=store)
    out = fits(cases, 'an analysis', '--analyze', image)
    with cases.case('an analysis ends in a sentence for people'):
        files = len({record for record, _, _ in many})
        holds(re.search(rf'  {files:,} files in {sum(many.values()) - len(many):,} extra pieces;\n'
                        rf'  zcfs-defrag would make {files:,} of them contiguous\n', out), out)
        holds(re.search(r'  score \(0 best, 100 worst\) +\d+\n', out), out)
        equal(len(re.findall(r'^ +\d+ +[\d.]+ (?:[KM]iB|bytes)  \\p1\\', out, re.M)), 20, f'worst files shown in {out}')
    fits(cases, 'a dry run', '-n', image)
    fits(cases, 'a dry run with --verbose', '-nv', image)
    with cases.case('the first line names image, volume, label and size'):
        holds(run_in('-a', name).out.startswith(f'{name}: volume 1, NTFS "End to end" (24.0 MiB): fragmented\n'), out)


def read_csv(path):
    with open(path, encoding='utf-8', newline='') as file:
        content = file.read()
    holds(content.endswith('\r\n') and '\n' not in content.replace('\r\n', ''), 'lines do not end as RFC 4180 wants it')
    rows = list(csv.reader(io.StringIO(content), strict=True))
    equal(rows[0], COLUMNS, 'the columns')
    holds(all(len(row) == len(COLUMNS) for row in rows), 'rows of different lengths')
    return [dict(zip(COLUMNS, row)) for row in rows[1:]]


def list_of_files(cases, store, image, many):
    path = os.path.join(store, 'files.csv')
    with cases.case('--csv lists every fragmented attribute, those in most pieces first'):
        equal(defrag('-q', '-n', f'--csv={path}', image).status, DONE, 'the exit status')
        rows = read_csv(path)
        counts = [int(row['fragments']) for row in rows]
        equal(counts, sorted(many.values(), reverse=True), 'fragments')
        equal(sorted(int(row['record']) for row in rows), sorted(record for record, _, _ in many), 'records')
        holds(all(row['path'].startswith('\\') and row['image'] == image for row in rows), rows[:3])
        holds(all(int(row['fragments_after']) == 1 and not row['reason'] for row in rows), rows[:3])
    with cases.case('--csv of several images, one of which fails: one list'):
        defrag('-q', '-a', f'--csv={path}', image, image + '-not', image)
        equal(len(read_csv(path)), 2 * len(many), 'rows')
    for place in (store, '/dev/null/x', image):
        with cases.case(f'--csv={os.path.basename(place)}: wrong usage, nothing done'):
            result = defrag(f'--csv={place}', image)
            equal(result.status, USAGE, 'the exit status')
            equal(os.path.getsize(image), 24 << 20, 'the size of the image')
            holds('it takes a new file' in result.err, result.err)


HOSTILE = ['=cmd|calc', 'a,b', 'with "quotes"', 'line\nbreak', 'escape\033[2J', '\u202edrow', 'Ünïcödé 日本 😀', '@x', '-1+1']


def hostile_names(cases, documents, store):
    """The driver lets a POSIX name have any character; streams, too."""
    image, path = os.path.join(store, 'hostile.img'), os.path.join(store, 'hostile.csv')
    make_ntfs(image, 16, 'Hostile')
    with ntfs_mounted(image, 'rw,streams_interface=windows') as root:
        for name in HOSTILE:
            with open(os.path.join(root, name), 'xb') as file:
                file.write(bytes(40 << 10))
        with open(os.path.join(root, 'plain'), 'xb') as file:
            file.write(bytes(40 << 10))
        with open(os.path.join(root, 'plain:=1+1'), 'xb') as file:
            file.write(bytes(40 << 10))
    run(NTFS_SCATTER, '--quiet', '--seed', '1', '--fragments', '60', '--what', 'data,streams', image)
    with cases.case('names that a guest chose: in JSON as they are'):
        volume = documents.get('--dry-run', image)[0]['volumes'][0]
        equal({row['path'] for row in volume['worst'] if not row['stream']} - {'\\' + name for name in HOSTILE + ['plain']},
              set(), 'other paths')
        holds(any(row['path'] == '\\plain' and row['stream'] == ':=1+1' for row in volume['worst']), volume['worst'])
    with cases.case('names that a guest chose: in CSV without control characters, and never a formula'):
        defrag('-q', '-a', f'--csv={path}', image)
        rows = read_csv(path)
        printed = {name.replace('\n', '\\x0a').replace('\033', '\\x1b').replace('\u202e', '\\u202e') for name in HOSTILE}
        equal({row['path'][1:] for row in rows} & printed, printed, 'the names')
        holds(not any(cell[:1] in '=+-@\t\r' for row in rows for cell in row.values() if cell), rows)
        holds(not any(ord(c) < 32 or c == '\u202e' for row in rows for cell in row.values() for c in cell), rows)
    with cases.case('names that a guest chose: on a terminal without control characters'):
        out = defrag('-av', image).out
        holds('\033' not in out and '\u202e' not in out and '\\escape\\x1b[2J' in out and 'Ünïcödé 日本 😀' in out, out)
    with cases.case('an image whose name is a formula'):
        os.rename(image, os.path.join(store, '=x.img'))
        defrag('-q', '-a', f'--csv={path}', '=x.img', cwd=store)
        equal(read_csv(path)[0]['image'], './=x.img', 'the image')
        os.unlink(os.path.join(store, '=x.img'))


def other_documents(cases, documents, store, image):
    with cases.case('--json: failures, refusals, images in use, everything else that can be asked for'):
        documents.get('--analyze', image + '-not', status=FAILED)
        with open(image, 'rb'):
            documents.get(image, status=IN_USE)
            equal(documents.get('-a', image)[0]['in_use'], True, 'in use')
        documents.get('--plain', image)
        documents.get('--settle', image)
        documents.get('--all', '--analyze', store)
    with cases.case('--json: a volume that is refused is analyzed all the same'):
        dirty = os.path.join(store, 'dirty.img')
        run('cp', '--sparse=always', image, dirty)
        run('ntfsfix', dirty)  # leaves it marked for chkdsk
        volume = documents.get('--analyze', dirty, status=REFUSED)[0]['volumes'][0]
        holds(volume['result'] == 'refused' and volume['cause'] and volume['fragments']['before'] > 100, volume)
        out = defrag('--analyze', dirty).out
        holds('of them contiguous if it were not refused' in out, out)
        os.unlink(dirty)
    shadows = uuid.UUID('3808876b-c176-4e48-b7ae-04046e6cc752').bytes_le + bytes(48) + b'a volume        ' + b'and another one '
    for what, place, content in (('its backup boot sector', (24 << 20) - 512 + 72, b'\x77' * 8), ('shadow copies', 0x1e00, shadows)):
        with cases.case(f'a volume that is refused for {what} is told by its label all the same'):
            changed = os.path.join(store, 'changed.img')
            run('cp', '--sparse=always', image, changed)
            with open(changed, 'r+b') as file:
                os.pwrite(file.fileno(), content, place)
            volume = documents.get(changed, status=REFUSED)[0]['volumes'][0]
            equal((volume['result'], volume['label']), ('refused', 'End to end'), 'result and label')
            os.unlink(changed)
    with cases.case('--json: a pass, a pass with nothing to do, and what is undone and made plain'):
        documents.get(image)
        documents.get('--pack', image)
        documents.get('--undo', image)
        documents.get('--settle', image)
        documents.get('--discard', image)
        documents.get('--plain', image)
        equal(check_ntfs(image), '', 'what ntfs-check finds')
    with cases.case('every field of the schema was seen, but for those of what is not here'):
        named = set()
        for definition in documents.validator.schema['$defs'].values():
            named |= set(definition['properties'])
        equal(named - documents.seen, set(), 'what was never seen')


def main():
    unmount_on_termination()
    cases = Cases()
    documents = Documents()
    with workspace() as store:
        image = os.path.join(store, 'a.img')
        scattered_volume(image, megabytes=24)
        many = analysis(cases, documents, image)
        text(cases, store, image, many)
        list_of_files(cases, store, image, many)
        hostile_names(cases, documents, store)
        other_documents(cases, documents, store, image)
    cases.finish()


main()
