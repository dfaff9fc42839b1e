# SPDX-License-Identifier: GPL-2.0-or-later
"""What the README tells its readers to type or to write into a file: the tests take it from there."""
import os
import re
import textwrap

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'README.md'), encoding='utf-8') as file:
    BLOCKS = [textwrap.dedent(block) for block in re.findall(r'(?:^    .*\n)+', file.read(), re.MULTILINE)]


def block(part):
    """The only block of such lines, of those between two empty ones, that has @part in it."""
    found = [text for text in BLOCKS if part in text]
    if len(found) != 1:
        raise AssertionError(f'the README has {len(found)} blocks with {part!r}')
    return found[0]


def line(part):
    """The only such line that has @part in it."""
    found = [text for text in block(part).splitlines() if part in text]
    if len(found) != 1:
        raise AssertionError(f'the README has {len(found)} lines with {part!r} in one block')
    return found[0]
