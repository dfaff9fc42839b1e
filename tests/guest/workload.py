# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest does to a volume, and what must be on it afterwards.

A Workload writes a shell script for the guest, operation by operation, and keeps book of what each file contains then. It
starts from the volume as ntfs-3g has mounted it; the seed decides everything. Named streams stay with their files."""
import collections
import hashlib
import os
import random
import shlex

NOISE = random.Random(0).randbytes(4 << 20)  # the file that the guest takes its data from
LARGE = 16 << 20       # files beyond that are left alone
# ntfs3 allocates sparse files by 16 clusters. Where libntfs-3g has left a shorter hole before data, Linux 6.12 puts new clusters
# over those that the file has, and loses what was in them: on any volume, whether zcfs has ever seen it or not.
# Windows makes no such holes. So these files are not written to.
SAFE_FOR_SPARSE = ['shorter', 'longer', 'empty', 'remove', 'rename', 'replace']
OPERATIONS = SAFE_FOR_SPARSE + ['append', 'overwrite', 'beyond', 'link']
NEW = 'written by the guest'
COPY = 'dd if=/job/noise bs=64k iflag=skip_bytes,count_bytes status=none'


class Workload:
    def __init__(self, root, hashes, seed):
        """@root: where the volume is mounted now; @hashes: its files and streams, as hash_files() has them."""
        self.root, self.expected = root, dict(hashes)
        self.random = random.Random(seed)
        self.script = ['set -e']
        self.contents = {}  # path -> bytes, of the files that were touched
        self.names = collections.defaultdict(set)  # path -> all paths of that file, if it has several
        by_inode = collections.defaultdict(set)
        for path in self.files():
            by_inode[os.stat(os.path.join(root, path)).st_ino].add(path)
        for paths in by_inode.values():
            for path in paths:
                self.names[path] = paths

    def files(self):
        return sorted(path for path in self.expected if ':' not in path)

    def say(self, *lines):
        self.script += lines

    def load(self, path):
        if path not in self.contents:
            with open(os.path.join(self.root, path), 'rb') as file:
                self.store(path, file.read())
        return self.contents[path]

    def store(self, path, data):
        for name in self.names[path] or {path}:
            self.contents[name] = data
            self.expected[name] = None  # to be told from the contents

    def data(self, most):
        """Some bytes of the noise: (arguments for dd, bytes)."""
        length = self.random.randint(1, most)
        start = self.random.randrange(len(NOISE) - length)
        return f'skip={start} count={length}', NOISE[start:start + length]

    # Operations

    def create(self, path, most):
        where, data = self.data(most)
        self.say(f'{COPY} {where} of={shlex.quote(path)}')
        self.store(path, data)

    def append(self, path, most):
        where, data = self.data(most)
        self.say(f'{COPY} {where} of={shlex.quote(path)} oflag=append conv=notrunc')
        self.store(path, self.load(path) + data)

    def overwrite(self, path, most, beyond=0):
        """Somewhere in the file, or up to so many bytes behind its end."""
        old, (where, data) = self.load(path), self.data(most)
        position = self.random.randint(0, len(old) + beyond)
        self.say(f'{COPY} {where} of={shlex.quote(path)} oflag=seek_bytes seek={position} conv=notrunc')
        self.store(path, old[:position].ljust(position, b'\0') + data + old[position + len(data):])

    def truncate(self, path, size):
        self.say(f'truncate -s {size} {shlex.quote(path)}')
        self.store(path, self.load(path)[:size].ljust(size, b'\0'))

    def drop(self, path):
        for _ in self.forget(path):
            pass
        self.contents.pop(path, None)

    def forget(self, path):
        """Takes a name out of the book; yields what is told of the file and its streams."""
        for key in [key for key in self.expected if key == path or key.startswith(path + ':')]:
            yield key, self.expected.pop(key)
        self.names.pop(path, set()).discard(path)

    def remove(self, path):
        self.say(f'rm {shlex.quote(path)}')
        self.drop(path)

    def rename(self, path, new):
        self.say(f'mv {shlex.quote(path)} {shlex.quote(new)}')
        others = self.names[path] - {path}
        self.drop(new)
        for key, value in list(self.forget(path)):
            self.expected[new + key[len(path):]] = value
        if path in self.contents:
            self.contents[new] = self.contents.pop(path)
        others.add(new)
        for name in others:
            self.names[name] = others

    def link(self, path, new):
        self.load(path)
        self.say(f'ln {shlex.quote(path)} {shlex.quote(new)}')
        names = (self.names[path] or {path}) | {new}
        for name in names:
            self.names[name] = names
        self.store(path, self.contents[path])
        for key in [key for key in self.expected if key.startswith(path + ':')]:
            self.expected[new + key[len(path):]] = self.expected[key]

    # What uses them

    def change_one(self, path, number):
        most = 200_000
        operation = self.random.choice(SAFE_FOR_SPARSE if 'sparse' in os.path.basename(path) else OPERATIONS)
        new = f'{NEW}/{operation} {number}'
        size = os.path.getsize(os.path.join(self.root, path))
        if operation == 'append':
            self.append(path, most)
        elif operation == 'overwrite':
            self.overwrite(path, most)
        elif operation == 'beyond':
            self.overwrite(path, most, 1 << 20)
        elif operation == 'shorter':
            self.truncate(path, self.random.randint(0, size))
        elif operation == 'longer':
            self.truncate(path, size + self.random.randint(1, 1 << 20))
        elif operation == 'empty':
            self.truncate(path, 0)
            self.append(path, most)
        elif operation == 'remove':
            self.remove(path)
        elif operation == 'rename':
            self.rename(path, new)
        elif operation == 'link':
            self.link(path, new)
            self.append(new, most)
        else:
            self.create(new, most)
            self.rename(new, path)

    def change_files(self, count, kinds):
        """Existing files, as many of each directory below the top ones (which hold one kind each)."""
        groups = collections.defaultdict(list)
        for path in self.files():
            if os.path.getsize(os.path.join(self.root, path)) <= LARGE:
                groups[kinds(path)].append(path)
        number = 0
        for group in groups.values():
            for path in self.random.sample(group, min(count, len(group))):
                if path in self.expected:
                    number += 1
                    self.change_one(path, number)

    def grow_together(self, files, turns, most):
        """New files in many pieces, sparse ones among them."""
        paths = [f'{NEW}/growing {i}' for i in range(files)]
        for path in paths:
            self.create(path, most)
        for turn in range(turns):
            path = paths[turn % files]
            if turn % 11 == 10:
                self.overwrite(path, most, 300_000)
            else:
                self.append(path, most)
            if turn % 9 == 8:
                self.truncate(path, self.random.randint(1, len(self.contents[path])))

    def large_directory(self, count):
        """Thousands of entries come, a part of them goes again."""
        directory = f'{NEW}/many'
        name = 'an entry with a name that is long enough to fill index blocks'
        self.say(f'mkdir "{directory}"', 'i=0', f'while [ $i -lt {count} ]; do',
                 f'\techo $i >"{directory}/{name} $i"', '\ti=$((i + 1))', 'done',
                 'i=0', f'while [ $i -lt {count} ]; do', f'\techo "{directory}/{name} $i"', '\ti=$((i + 3))',
                 "done | tr '\\n' '\\0' | xargs -0 rm")
        for i in range(count):
            if i % 3:
                self.store(f'{directory}/{name} {i}', f'{i}\n'.encode())

    def directories(self, count):
        for i in range(count):
            self.say(f'mkdir -p "{NEW}/tree {i % 7}/branch {i % 5}/twig {i}"')
            if i % 3 == 0:
                self.create(f'{NEW}/tree {i % 7}/branch {i % 5}/twig {i}/leaf', 5000)
            if i % 10 == 9:
                self.say(f'rmdir "{NEW}/tree {i % 7}/branch {i % 5}/twig {i}" 2>/dev/null || true')

    def hashes(self):
        """Relative path -> SHA-256 of everything that must be on the volume now."""
        return {path: digest or hashlib.sha256(self.contents[path]).hexdigest() for path, digest in self.expected.items()}
