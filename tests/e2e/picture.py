# SPDX-License-Identifier: GPL-2.0-or-later
"""zcfs-defrag --picture shows what is where on a volume and in an image map: in PNG, SVG and on terminals of every kind."""
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

from cluster_cells import cluster_uses, expected_cells, png_cells, read_png, svg_cells, svg_rectangles
from commands import DONE, MAKERS, USAGE, ZCFS_DEFRAG, defrag, scattered_volume, unmount_on_termination, workspace
from guest import run
from host import read_extents, write_view
from tap import Cases, equal, holds

sys.path.insert(0, MAKERS)

# pylint: disable=wrong-import-position,wrong-import-order
import ntfs_build
import ntfs_image as ntfs
import windows

LEFT, FIRST, HEIGHT, NEXT = 24, 90, 143, 24 + 22  # where a page of one volume has its maps, pixels
PLOT_TOP = FIRST + 2 * (HEIGHT + 24) + 22 + 46 + 22 + 22
PLOT_SIDE, PLOT_SCALE = 160, 3
PAPER = {0xeef1f4}
LABEL = 'a <b> & "c" \u05d0'


def make_volume(path):
    """In pieces, with bad clusters and such that are marked and nobody's."""
    scattered_volume(path, fragments=1500)
    run('ntfslabel', path, LABEL)
    with ntfs.Volume(path) as volume:
        builder = ntfs_build.Builder(volume)
        windows.bad_clusters(builder)
        builder.take(5, longest=1)
        builder.close()


def same_cells(found, wanted):
    equal(len(found), len(wanted), 'cells')
    wrong = [i for i, cell in enumerate(found) if cell != wanted[i]]
    holds(not wrong, f'{len(wrong)} cells are wrong, the first is {wrong and (wrong[0], found[wrong[0]], wanted[wrong[0]])}')


def read(path):
    with open(path, encoding='utf-8') as file:
        return file.read()


def files(cases, image, directory):
    png, svg, view = (os.path.join(directory, name) for name in ('picture.png', 'picture.svg', 'view'))
    before = expected_cells(cluster_uses(image))
    shown = {use for cell in before for use in cell}
    with cases.case('an analysis draws the volume as it is, and says so'):
        equal(len(shown), 6, 'uses on the volume')
        equal(defrag('--analyze', f'--picture={svg}', image).status, DONE, 'the exit status')
        same_cells(svg_cells(read(svg), LEFT, FIRST, len(before)), before)
        holds('>now<' in read(svg) and '>before<' not in read(svg), 'it is called something else')
    with cases.case('SVG is well-formed, whatever the volume is called'):
        holds('a &lt;b&gt; &amp; &quot;c&quot; \u05d0' in read(svg), re.findall('<text.*', read(svg)))
    with cases.case('a dry run draws what a pass comes to'):
        equal(defrag('--dry-run', f'--picture={svg}', image).status, DONE, 'the exit status')
        planned = svg_cells(read(svg), LEFT, FIRST + HEIGHT + NEXT, len(before))
        holds(planned != before, 'nothing moves')
    with cases.case('a pass draws before and after, in PNG'):
        equal(defrag(f'--picture={png}', image).status, DONE, 'the exit status')
        write_view(image, view)
        after = expected_cells(cluster_uses(view))
        pixels = read_png(png)
        same_cells(png_cells(pixels, LEFT, FIRST, len(before)), before)
        same_cells(png_cells(pixels, LEFT, FIRST + HEIGHT + NEXT, len(after)), after)
        same_cells(planned, after)
        run('pngcheck', png)
    with cases.case('the image map is drawn as it is in the database'):
        equal(drawn_squares(pixels), mapped_squares(read_extents(image)), 'dots')


def drawn_squares(pixels):
    left = LEFT + PLOT_SIDE * PLOT_SCALE + 48
    return {(x, PLOT_SIDE - 1 - y) for x in range(PLOT_SIDE) for y in range(PLOT_SIDE)
            if pixels[PLOT_TOP + y * PLOT_SCALE][left + x * PLOT_SCALE] not in PAPER}


def mapped_squares(extents):
    """Squares in which there is a byte, by walking in the unit of the map."""
    size = sum(length for _, length, _ in extents)
    end = max(host + length for _, length, host in extents)
    squares = set()
    for guest, length, host in extents:
        for step in range(0, length, 512):
            for off in (step, step + 511):
                squares.add((((guest + off + 1) * PLOT_SIDE - 1) // size, ((host + off + 1) * PLOT_SIDE - 1) // end))
    return squares


def on_terminal(arguments, columns, **environment):
    """What the command prints to a terminal."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack('HHHH', 50, columns, 0, 0))
    variables = {name: value for name, value in os.environ.items() if name not in ('NO_COLOR', 'COLUMNS', 'LC_ALL', 'LANG')}
    with subprocess.Popen([ZCFS_DEFRAG, *arguments], stdin=subprocess.DEVNULL, stdout=side, stderr=subprocess.DEVNULL,
                          env={**variables, 'TERM': 'xterm-256color', 'LC_ALL': 'C.UTF-8', **environment}):
        os.close(side)
        output = b''
        while True:
            try:
                piece = os.read(main, 65536)
            except OSError:
                piece = b''
            if not piece:
                break
            output += piece
    os.close(main)
    return output.decode().replace('\r\n', '\n')


def map_lines(output):
    plain = re.sub(r'\033\[[0-9;]*m', '', output)
    return [line for line in plain.splitlines() if re.fullmatch(r'  [.fdm#x \u2581-\u2588]+', line)]


def terminals(cases, image):
    arguments = ['--analyze', '--picture', image]
    for columns in (40, 80, 200):
        with cases.case(f'a terminal of {columns} columns: blocks in two of 256 colours, not wider'):
            output = on_terminal(arguments, columns)
            lines = map_lines(output)
            holds(2 <= len(lines) <= 8 and '\033[38;5;208;48;5;' in output, output)
            equal({len(line) for line in lines[:-1]}, {columns}, 'columns')
            holds(set(''.join(lines)) & set('▁▂▃▄▅▆▇█'), lines)
    for what, environment, colour, blocks in (('NO_COLOR', {'NO_COLOR': '1'}, False, False), ('TERM=dumb', {'TERM': 'dumb'}, False, False),
                                              ('a locale without UTF-8', {'LC_ALL': 'C'}, True, False),
                                              ('an empty NO_COLOR', {'NO_COLOR': ''}, True, True)):
        with cases.case(f'{what}: {"colour" if colour else "no colour"}, {"blocks" if blocks else "letters"}'):
            output = on_terminal(arguments, 80, **environment)
            equal('\033[' in output, colour, 'colour')
            equal(bool(set(output) & set('▁▂▃▄▅▆▇█')), blocks, 'blocks')
            holds(blocks or '#' in ''.join(map_lines(output)), output)
    with cases.case('into a pipe: letters'):
        output = defrag(*arguments).out
        holds('\033' not in output and len(map_lines(output)) == 8, output)
        holds(''.join(map_lines(output)).isascii(), output)


def refuses(cases, image, directory):
    target, link = os.path.join(directory, 'target'), os.path.join(directory, 'link.png')
    os.symlink(target, link)
    os.mkdir(os.path.join(directory, 'folder.svg'))
    os.mkfifo(os.path.join(directory, 'pipe.svg'))
    for name in ('link.png', 'folder.svg', 'pipe.svg', 'nowhere/x.png'):
        with cases.case(f'a picture that cannot be made: {name}: nothing is tried'):
            before = sorted(os.listdir(directory))
            result = defrag(f'--picture={os.path.join(directory, name)}', image)
            equal(result.status, USAGE, 'the exit status')
            equal(result.out, '', 'standard output')
            holds(f'{name}: cannot be made' in result.err, result.err)
            holds(os.path.islink(link) and not os.path.exists(target), 'the link was followed or replaced')
            equal(sorted(os.listdir(directory)), before, 'the directory')
    for arguments in (['--picture=x.gif'], ['--picture=.png'], ['--undo', '--picture'], ['--settle', '--picture'], ['--json', '--picture'],
                      ['-q', '--picture'], ['--picture=x.png', image]):
        with cases.case(f'wrong usage: {" ".join(arguments).replace(image, "IMAGE")} IMAGE'):
            equal(defrag(*arguments, image, cwd=directory).status, USAGE, 'the exit status')
    with cases.case('of an image that is not there, there is no picture; the old one stays'):
        old = os.path.join(directory, 'old.svg')
        with open(old, 'x', encoding='utf-8') as file:
            file.write('old')
        before = sorted(os.listdir(directory))
        holds(defrag(f'--picture={old}', image + '.none').status != DONE, 'it is there')
        equal((read(old), sorted(os.listdir(directory))), ('old', before), 'what is there')


def main():
    unmount_on_termination()
    cases = Cases()
    with workspace() as directory:
        image = os.path.join(directory, 'disk.img')
        make_volume(image)
        terminals(cases, image)
        files(cases, image, directory)
        refuses(cases, image, directory)
    cases.finish()


main()
