#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes a header with text files as C strings: embed.py HEADER FILE... For name.ext: name_ext[]."""
import os
import sys


def literal(line):
    return '\t"' + line.replace('\\', '\\\\').replace('"', '\\"').replace('?', '\\?') + '\\n"\n'


def main():
    with open(sys.argv[1], 'w', encoding='ascii') as header:
        for path in sys.argv[2:]:
            with open(path, encoding='ascii') as file:
                lines = file.read().splitlines()
            header.write(f'static const char {os.path.basename(path).replace(".", "_")}[] =\n')
            header.write(''.join(map(literal, lines)) + '\t;\n')


main()
