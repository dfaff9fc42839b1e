# SPDX-License-Identifier: GPL-2.0-or-later
"""Archives in the form that Linux unpacks into its first root directory: cpio, "newc". Several, one after another, make one
tree (Documentation/driver-api/early-userspace/buffer-format.rst in Linux's source)."""
import stat

ALIGNMENT = 4


def padded(data):
    return data + bytes(-len(data) % ALIGNMENT)


def entry(name, mode, data=b'', number=0):
    path = name.encode() + b'\0'
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
    return padded(b'070701' + b''.join(b'%08X' % field for field in fields) + path) + padded(data)


def archive(files, directories=()):
    """@files: path -> (permissions, bytes). Directories that hold files must be named before, or be in another archive."""
    entries = [(name, stat.S_IFDIR | 0o755, b'') for name in directories]
    entries += [(name, stat.S_IFREG | permissions, data) for name, (permissions, data) in files.items()]
    entries.append(('TRAILER!!!', 0, b''))
    return b''.join(entry(name, mode, data, number) for number, (name, mode, data) in enumerate(entries, 1))
