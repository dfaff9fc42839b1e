# SPDX-License-Identifier: GPL-2.0-or-later
"""zcfs-defrag as its users meet it: options, messages, exit statuses, JSON."""
import json
import os
import re

from commands import DAMAGED, DONE, FAILED, IN_USE, USAGE, ZCFS_DEFRAG, defrag, defrag_report, scattered_volume, \
    to_full_disk, to_nobody, unmount_on_termination, workspace
from guest import make_ntfs, run
from host import state_of
from tap import Cases, equal, holds


def usage(cases, image):
    wrong = [[], ['--nonsense', image], ['--volume', '0', image], ['--volume', 'two', image], ['--volume', '-1', image],
             ['--wait=soon', image], ['--wait=-1', image], ['--dry-run', '--analyze', image], ['--undo', '-n', image],
             ['--pack', '--undo', image], ['--pack', '-a', image], ['--undo', '--volume=1', image],
             ['--analyze', '--wait', image], ['-q', '-v', image], ['--volume'], ['--settle', '--pack', image],
             ['--settle', '--volume=1', image], ['--settle', '--undo', image], ['--rate=5', image], ['--settle', '--rate=-1', image],
             ['--settle', '--time-limit=x', image], ['--time-limit=-1', image], ['--undo', '--time-limit=5', image],
             ['--pack', '--only=x', image], ['--order=path', image], ['--pack', '--order=shape', image], ['--only=', image], ['--only=C:\\x', image], ['--settle', '--only=x', image],
             ['--undo', '--min-fragments=2', image], ['--min-fragments=0', image], ['--min-size=5X', image], ['--min-size=-1', image],
             ['--min-size', '0', image], [image, image, '--', 'x'], [image, '--', 'C:\\x'], ['--all', '.', '--', 'x'],
             ['--idle', image], ['--shutdown', '--analyze', image],
             ['--shutdown', '--dry-run', image], ['--shutdown', '--settle', image], ['--shutdown=5', image], ['--all'],
             ['--saved', '/no/such/place', image],
             ['--all', '--undo', '.'], ['--all', '--wait', '.'], ['--all', '--shutdown', '.'], ['--all', '--volume=1', '.'],
             ['--jobs=2', image], ['--all', '--jobs=0', '.'], ['--all', '--jobs=65', '.']]
    before = state_of(os.path.dirname(image))
    for arguments in wrong:
        words = ' '.join(arguments).replace(image, 'IMAGE') or '(nothing)'
        with cases.case(f'wrong usage, nothing done: {words}'):
            result = defrag(*arguments)
            equal(result.status, USAGE, 'the exit status')
            equal(result.out, '', 'standard output')
            holds('--help' in result.err, result.err)
            equal(state_of(os.path.dirname(image)), before, 'the store')
    with cases.case('--help fits a screen of 40 lines and 80 columns, has examples, wants no image'):
        result = defrag('--help')
        equal(result.status, DONE, 'the exit status')
        lines = result.out.splitlines()
        holds(len(lines) <= 40 and max(map(len, lines)) <= 80, f'{len(lines)} lines, {max(map(len, lines))} columns')
        holds('Examples:' in lines, result.out)
    with cases.case('--version'):
        holds(re.fullmatch(r'zcfs-defrag \d+\.\d+\.\d+\n', defrag('--version').out), defrag('--version').out)


def fails(cases, promise, arguments, status, *words):
    with cases.case(f'{promise}: exit status {status}'):
        result = defrag(*arguments)
        equal(result.status, status, 'the exit status')
        for word in words:
            holds(word in result.err, f'no "{word}" in: {result.err}')


def wrong_images(cases, store):
    path = lambda name: os.path.join(store, name)
    fails(cases, 'no such image', [path('nothing')], FAILED, 'nothing: no such image')
    fails(cases, 'no such directory', [path('nothing/a.img')], FAILED, 'no such image')
    fails(cases, 'an empty name', [''], FAILED)
    os.mkdir(path('directory'))
    fails(cases, 'a directory', [path('directory')], FAILED, 'is a directory, not an image')
    fails(cases, 'the root directory', ['/'], FAILED, 'not an image')
    fails(cases, 'a device', ['/dev/null'], FAILED)
    os.mkfifo(path('fifo'))
    fails(cases, 'a FIFO, which nobody writes', [path('fifo')], FAILED)
    os.symlink('nothing', path('dangling'))
    fails(cases, 'a dangling link', [path('dangling')], FAILED, 'no such image')
    os.link(path('a.img'), path('second-name'))
    fails(cases, 'a second hard link', [path('a.img')], FAILED, 'another hard link', 'find -samefile')
    fails(cases, 'a second hard link, a dry run', ['--dry-run', path('a.img')], FAILED, 'another hard link', 'find -samefile')
    os.unlink(path('second-name'))
    open(path('empty.img'), 'wb').close()
    with cases.case('an empty file: nothing to do'):
        result = defrag(path('empty.img'))
        equal(result.status, DONE, 'the exit status')
        holds('no NTFS volume' in result.out, result.out)
    for name, content in {'VMDK': b'# Disk DescriptorFile\nversion=1\n', 'VHD': b'conectix' + bytes(504)}.items():
        with cases.case(f'a small file in another format, {name}: told, nothing to do'):
            with open(path('other'), 'wb') as file:
                file.write(content)
            result = defrag(path('other'))
            equal(result.status, DONE, 'the exit status')
            holds(f'a {name} image, not a raw one' in result.out and 'what to do: ' in result.out, result.out)
            os.unlink(path('other'))
    with cases.case('many images: the gravest exit status counts, each is told'):
        result = defrag('--dry-run', path('a.img'), path('nothing'), path('empty.img'))
        equal(result.status, FAILED, 'the exit status')
        holds('would be defragmented' in result.out and 'no NTFS volume' in result.out, result.out)


def first_pass(cases, image):
    told = 'is a bundle (a directory) now: mount its store with zcfs'
    with cases.case('a pass over an image that no mount serves says that its guest needs one now'):
        out = defrag(image).out
        holds(out.count(told) == 1, out)
    with cases.case('the next one does not'):
        run(ZCFS_DEFRAG, '--undo', image)
        out = defrag(image).out
        holds(': defragmented' in out and told not in out, out)


def inside_a_bundle(cases, image):
    fails(cases, 'a bundle\'s data', [os.path.join(image, 'data')], FAILED, 'part of a bundle', 'give the bundle itself')
    fails(cases, 'a bundle\'s map', [os.path.join(image, 'map.db')], FAILED, 'part of a bundle')
    with cases.case('a bundle as the shell completes it, with a slash at the end'):
        equal(defrag(image + '/').status, DONE, 'the exit status')
    with cases.case('from inside the bundle, as "."'):
        equal(defrag('.', cwd=image).status, DONE, 'the exit status')


def damaged_map(cases, image):
    with open(os.path.join(image, 'map.db'), 'r+b') as database:
        database.seek(4096)
        database.write(b'\xff' * 4096)
    before = state_of(image)
    fails(cases, 'a damaged map.db', [image], DAMAGED, 'image map is damaged')
    with cases.case('a damaged map.db stays as it is'):
        equal(state_of(image), before, 'the bundle')


def text_output(cases, image):
    with cases.case('--quiet prints nothing if nothing is wrong'):
        result = defrag('--quiet', '--dry-run', image)
        equal((result.status, result.out, result.err), (DONE, '', ''), 'the result')
    with cases.case('a dry run tells what would be'):
        out = defrag('-n', image).out
        for wanted in ('would be defragmented', 'file data copied: 0 bytes', 'metadata to write', 'extents of the image map'):
            holds(wanted in out, f'no "{wanted}" in: {out}')
    with cases.case('--verbose adds times'):
        out = defrag('-nv', image).out
        holds('scan' in out and 'peak memory' in out, out)
    with cases.case('--volume of which there is none'):
        result = defrag('-n', '--volume=7', image)
        equal(result.status, FAILED, 'the exit status')
        holds('has no NTFS volume 7' in result.err, result.err)


def incomplete_output(cases, image):
    for arguments in (['-n'], ['--json', '-n'], ['--all', '--json', '-n']):
        path = os.path.dirname(image) if '--all' in arguments else image
        with cases.case(f'a full disk under the output is told, and does no harm: {" ".join(arguments)}: exit status 1'):
            status, err = to_full_disk(ZCFS_DEFRAG, *arguments, path)
            equal(status, FAILED, 'the exit status')
            holds('report could not be written' in err, err)
        with cases.case(f'a reader that has seen enough is no error: {" ".join(arguments)}'):
            equal(to_nobody(ZCFS_DEFRAG, *arguments, path), (DONE, ''), 'exit status and messages')
    with cases.case('a full disk under --csv is told: exit status 1, in the JSON document, too'):
        result = defrag('-a', '--json', '--csv=/dev/full', image)
        equal((result.status, json.loads(result.out)['exit_code']), (FAILED, FAILED), 'the exit status')
        holds('report could not be written' in result.err, result.err)


def json_output(cases, image):
    with cases.case('--json: one document, also for images that fail'):
        result = defrag('--json', '-n', image, image + '-not')
        document = json.loads(result.out)
        equal(result.status, FAILED, 'the exit status')
        equal(document['exit_code'], FAILED, 'the exit code in the document')
        equal([one['exit_code'] for one in document['images']], [DONE, FAILED], 'the exit codes')
        holds(document['images'][1]['cause'] != '', 'no cause')
    with cases.case('--json: a path that is no UTF-8'):
        document = json.loads(defrag('--json', b'/nothing/\xff\n').out)
        equal(document['images'][0]['image'], '/nothing/\\xff\\x0a', 'the path')
    with cases.case('--json: all phases and figures are there'):
        report = defrag_report('-n', image)
        equal(sorted(report['phase_seconds']), sorted(['read', 'scan', 'plan', 'rewrite', 'verify', 'commit', 'apply']),
              'the phases')
        volume = report['volumes'][0]
        holds(volume['fragments']['before'] > volume['fragments']['after'] > 0, volume)


def hostile_label(cases, store):
    image = os.path.join(store, 'hostile.img')
    label = 'bad\033[2J\u202e\u009blabel'
    make_ntfs(image, 8, label)
    with cases.case('a label with terminal escapes is printed harmlessly'):
        out = defrag('--analyze', image).out
        holds('\033' not in out and '\u202e' not in out and '\u009b' not in out and 'bad\\x1b[2J\\u202e\\x9blabel' in out, repr(out))
    with cases.case('so it is with --json, from which it can be read again'):
        out = defrag('--analyze', '--json', image).out
        holds(out.isascii() and '\033' not in out, repr(out))
        equal(json.loads(out)['images'][0]['volumes'][0]['label'], label, 'the label')


def main():
    unmount_on_termination()
    cases = Cases()
    with workspace() as store:
        image = os.path.join(store, 'a.img')
        scattered_volume(image, megabytes=24)
        usage(cases, image)
        wrong_images(cases, store)
        text_output(cases, image)
        incomplete_output(cases, image)
        json_output(cases, image)
        hostile_label(cases, store)
        with open(image, 'rb'):
            fails(cases, 'an image in use', [image], IN_USE, 'in use by ', f'(process {os.getpid()})', '--wait')
        first_pass(cases, image)
        inside_a_bundle(cases, image)
        damaged_map(cases, image)
    cases.finish()


main()
