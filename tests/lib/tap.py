# SPDX-License-Identifier: GPL-2.0-or-later
"""Test cases in TAP: each a promise and a block that raises if it does not hold."""
import contextlib
import sys
import traceback


class Skip(Exception):
    """Raised in a case that this machine cannot run; says why."""


class Cases:
    def __init__(self):
        self.count = 0
        self.failed = 0

    @contextlib.contextmanager
    def case(self, promise):
        self.count += 1
        try:
            yield
        except Skip as reason:
            print(f'ok {self.count} - {promise} # SKIP {reason}', flush=True)
        except Exception:  # whatever goes wrong in a case is its failure, and the next one runs all the same
            self.failed += 1
            print(f'not ok {self.count} - {promise}', flush=True)
            for line in traceback.format_exc().splitlines():
                print(f'# {line}', flush=True)
        else:
            print(f'ok {self.count} - {promise}', flush=True)

    def finish(self):
        print(f'1..{self.count}', flush=True)
        sys.exit(1 if self.failed else 0)


def equal(found, wanted, what='value'):
    if found != wanted:
        raise AssertionError(f'{what} is {shorten(found)}, not {shorten(wanted)}')


def holds(condition, what):
    if not condition:
        raise AssertionError(what)


def shorten(value, limit=600):
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + '...'
