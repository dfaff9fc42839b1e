# SPDX-License-Identifier: GPL-2.0-or-later
"""zcfs-defrag --report: the page as a browser shows it, by day and by night, by mouse and by keyboard, and with hostile names in it.
Its pictures are kept in the directory that REPORT_PICTURES names."""
import os
import re
import sys
import tempfile

from browser import browser
from cluster_cells import cluster_uses, expected_cells, svg_cells
from commands import DAMAGED, DONE, FAILED, MAKERS, NTFS_SCATTER, USAGE, defrag, defrag_report, scattered_volume, \
    unmount_on_termination, workspace
from guest import make_ntfs, ntfs_mounted, run
from host import write_view
from tap import Cases, equal, holds

sys.path.insert(0, MAKERS)

# pylint: disable=wrong-import-position,wrong-import-order
import ntfs_build
import ntfs_image as ntfs
import windows

PICTURES = os.environ.get('REPORT_PICTURES') or tempfile.gettempdir()
# No name may have a slash: these get by without closing an element.
HOSTILE = ['<img src=x onerror=document.title="owned">', '"><script>document.title="owned"', "a'b&amp;&#60;", '\u202egnp.exe',
           'red \x1b[31m\x07', '--><svg onload=document.title="owned">', '\u05d0\u05d1']
LABEL = '</bdi><script>document.title="x"</script>'  # at most 128 characters
COLUMN = 'Array.from(document.querySelectorAll("{} tbody td:nth-child({})"), e => Number(e.dataset.n))'
DIRECTORY = '<b onclick="x">&'


def make_images(directory):
    """Two images with a volume each: the first has a history, the second hostile names."""
    store = os.path.join(directory, DIRECTORY)
    os.mkdir(store)
    first, second = (os.path.join(store, name) for name in ('first.img', 'second.img'))
    scattered_volume(first, fragments=900)
    equal([defrag(first).status, defrag('--undo', first).status], [DONE, DONE], 'exit statuses')
    make_ntfs(second, 24, LABEL)
    with ntfs_mounted(second, 'rw') as root:
        for name in HOSTILE:
            with open(os.path.join(root, name), 'xb') as file:
                file.write(b'x' * 40000)
    run(NTFS_SCATTER, '--quiet', '--seed', '1', '--fragments', '60', '--what', 'data', second)
    with ntfs.Volume(second) as volume:
        builder = ntfs_build.Builder(volume)
        windows.bad_clusters(builder)
        builder.close()
    return first, second


def texts(page, selector):
    return page.ask(f'Array.from(document.querySelectorAll({selector!r}), e => e.textContent)')


def inline_maps(page_text):
    """The pictures of clusters, by what they are called."""
    return dict(re.findall(r'<h4>([^<]+)</h4>\n<figure class="map">\n(<svg.*?</svg>)', page_text, re.DOTALL))


def is_quiet(page, path):
    equal(page.complaints(), [], 'what the page complains of')
    equal([url for url in page.requests() if url != 'file://' + path.replace(' ', '%20')], [], 'requests')
    equal(page.ask('document.title').split(':')[0], 'zcfs', 'the title')


def shows(cases, page, path, images, figures):
    page.open(path)
    with cases.case('the page is quiet: no complaint, no request, no script but its own'):
        is_quiet(page, path)
        equal(page.ask('document.scripts.length'), 1, 'scripts')
        equal(page.ask('document.querySelectorAll("img,iframe,link,object,[onclick],[onload],[style]").length'), 0, 'other elements')
    with cases.case('a section for each image, and an index that leads there'):
        equal(texts(page, 'section.image h2'), list(images), 'headings')
        equal(texts(page, 'nav td.path'), list(images), 'the index')
        equal(page.ask('Array.from(document.querySelectorAll("nav a"), a => document.querySelector(a.hash) !== null)'), [True, True],
              'links that lead somewhere')
    with cases.case('figures are those of --json'):
        volume = figures['volumes'][0]
        tiles = dict(zip(texts(page, '#image-1 dt'), texts(page, '#image-1 dd')))
        equal(tiles['Fragments'], '{:,} \u2192 {:,}'.format(*volume['fragments'].values()), 'fragments')
        equal(tiles['Extents of the image map'], '{:,} \u2192 {:,}'.format(*figures['extents'].values()), 'extents')
        equal(tiles['File data copied'], '0 bytes', 'what was copied')
    with cases.case('labels are text'):
        holds(LABEL in texts(page, '#image-2 h3')[0], texts(page, '#image-2 h3'))
    with cases.case('the files in most pieces, whatever they are called, as text'):
        rows = texts(page, '#image-2 table.files td.path')
        visible = [name.replace('\u202e', '\\u202e').replace('\x1b', '\\x1b').replace('\x07', '\\x07') for name in HOSTILE]
        equal([name for name in visible if '\\' + name not in rows], [], 'names that are missing')
        pieces = page.ask(COLUMN.format('#image-1 table.files', 2))
        holds(len(pieces) > 100 and pieces == sorted(pieces, reverse=True), pieces)
        equal(set(page.ask(COLUMN.format('#image-1 table.files', 3))), {1}, 'pieces afterwards')
    with cases.case('what stays in pieces, and why'):
        equal(texts(page, '#image-2 table.stays tbody tr td:nth-child(3)'), ['bad clusters'], 'reasons')
        equal(page.ask('document.querySelector("#image-1 table.stays")'), None, 'a table of nothing')
    with cases.case('the history of passes, the newest first'):
        equal(texts(page, '#image-1 table.history td:nth-child(2)'), ['defrag', 'undo', 'defrag'], 'operations')
        equal(len(texts(page, '#image-2 table.history tr')), 2, 'rows')


def keyboard(cases, page, path):
    page.open(path)
    with cases.case('a table is sorted from the keyboard, and says so'):
        page.press('Tab')  # the table, which may scroll
        for _ in range(3):
            page.press('Tab')
        equal(page.ask('document.activeElement.textContent'), 'Fragments before', 'what has the focus')
        for key, direction, up in (('Enter', 'descending', False), (' ', 'ascending', True)):
            page.press(key)
            equal(page.ask('document.activeElement.closest("th").ariaSort'), direction, 'aria-sort')
            values = page.ask(COLUMN.format('nav', 3))
            holds(values == sorted(values, reverse=not up) and len(set(values)) > 1, values)
        equal(page.ask('document.querySelectorAll("nav th[aria-sort]").length'), 1, 'sorted columns')
    with cases.case('texts are sorted, too'):
        page.ask('document.querySelector("nav th button").click()')
        names = texts(page, 'nav td.path')
        holds(names == sorted(names) and page.ask('document.querySelector("nav th").ariaSort') == 'ascending', names)
    with cases.case('sorting makes no complaint'):
        is_quiet(page, path)


def luminance(colour):
    def linear(value):
        value /= 255
        return value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4
    red, green, blue = (linear(int(part)) for part in re.findall(r'\d+', colour)[:3])
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    """By WCAG 2."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def by_day_and_night(cases, page, path):
    papers = {}
    for scheme in ('light', 'dark'):
        page.open(path, prefers_color_scheme=scheme)
        page.resize(1280, 900)
        page.screenshot(os.path.join(PICTURES, f'report-{scheme}.png'))
        with cases.case(f'{scheme}: texts stand out (WCAG AA)'):
            style = 'getComputedStyle(document.querySelector("{}")).{}'
            papers[scheme] = page.ask(style.format('section.image', 'backgroundColor'))
            for selector, paper in (('h2', 'section.image'), ('.faint', 'body'), ('dt', 'section.image'), ('nav a', 'body'),
                                    ('.verdict', '.verdict')):
                ratio = contrast(page.ask(style.format(selector, 'color')), page.ask(style.format(paper, 'backgroundColor')))
                holds(ratio >= 4.5, f'{selector} has {ratio:.2f}')
    with cases.case('dark is dark, light is light'):
        holds(luminance(papers['dark']) < 0.05 and luminance(papers['light']) > 0.9, papers)
    with cases.case('on a telephone nothing is wider than the page'):
        page.resize(360, 740)
        equal(page.ask('document.documentElement.scrollWidth'), 360, 'the width')
        page.screenshot(os.path.join(PICTURES, 'report-narrow.png'))


def maps(cases, path, image, before):
    with open(path, encoding='utf-8') as file:
        section = file.read().split('<section', 2)[1]
    drawn = inline_maps(section)
    view = path + '.view'
    write_view(image, view)
    with cases.case('the maps are those of an independent checker, before and after'):
        after = expected_cells(cluster_uses(view))
        for name, wanted in (('Before', before), ('After', after)):
            holds(svg_cells(drawn[name], 0, 0, len(wanted)) == wanted, f'the map "{name}" is another')
    os.unlink(view)


def of_a_store(cases, directory, images):
    store, path = os.path.dirname(images[0]), os.path.join(directory, 'all.html')
    with open(os.path.join(store, 'no-image.iso'), 'x', encoding='ascii') as file:
        file.write('no volume at all')
    with cases.case('--all: a section for each image with NTFS, from processes side by side'):
        equal(defrag('--all', '--jobs=3', '--analyze', f'--report={path}', store).status, DONE, 'the exit status')
        with open(path, encoding='utf-8') as file:
            text = file.read()
        equal([text.count(what) for what in ('<section', '</section>', '<a href="#image-', '<h3>Image map</h3>')], [2] * 4, 'parts')
        holds('no-image' not in text, 'what has no NTFS is in it')


def refused(cases, directory, image):
    path = os.path.join(directory, 'refused.html')
    with cases.case('an image that is not there has its section, with the cause'):
        equal(defrag(f'--report={path}', image + '.none').status, FAILED, 'the exit status')
        with open(path, encoding='utf-8') as file:
            holds('no such image' in file.read(), 'no cause')
    with cases.case('an image that is refused for its second volume: the first is shown as it is, not as it would have become'):
        made = run(os.path.join(MAKERS, 'make-refused'), '--only', 'second-damaged', os.path.join(directory, 'made')).split('\t')[1]
        equal(defrag(f'--report={path}', made).status, DAMAGED, 'the exit status')
        with open(path, encoding='utf-8') as file:
            text = file.read()
        equal(list(inline_maps(text)), ['Now'], 'maps')
        holds('class="was"' not in text and 'Pieces after</th>' not in text, 'figures of a change')
        out = defrag('--analyze', made).out
        holds('contiguous if it were not refused' in out and 'would make' not in out, out)
    with cases.case('a report is replaced whole, and leaves nothing beside it'):
        equal(defrag('--analyze', '-q', f'--report={path}', image).status, DONE, 'the exit status')
        with open(path, encoding='utf-8') as file:
            text = file.read()
        holds('no such image' not in text and text.endswith('</html>\n'), text[-200:])
        equal([name for name in os.listdir(directory) if name.startswith('.')], [], 'what is left')
    with cases.case('a link is not followed, and stays'):
        link = os.path.join(directory, 'link.html')
        os.symlink(path, link)
        result = defrag(f'--report={link}', image)
        equal((result.status, result.out, os.readlink(link)), (USAGE, '', path), 'what came of it')
    for arguments in (['--report=x.txt'], ['--report'], ['--undo', '--report=x.html']):
        with cases.case(f'wrong usage: {" ".join(arguments)} IMAGE'):
            equal(defrag(*arguments, image, cwd=directory).status, USAGE, 'the exit status')


def main():
    unmount_on_termination()
    os.makedirs(PICTURES, exist_ok=True)
    cases = Cases()
    with workspace() as directory, browser() as page:
        images = make_images(directory)
        view, path = os.path.join(directory, 'view'), os.path.join(directory, 'report.html')
        write_view(images[0], view)
        before = expected_cells(cluster_uses(view))
        figures = defrag_report('--dry-run', images[0])
        with cases.case('a pass over two images, with a report'):
            equal(defrag(f'--report={path}', *images).status, DONE, 'the exit status')
        shows(cases, page, path, images, figures)
        keyboard(cases, page, path)
        by_day_and_night(cases, page, path)
        maps(cases, path, images[0], before)
        of_a_store(cases, directory, images)
        refused(cases, directory, images[0])
    cases.finish()


main()
