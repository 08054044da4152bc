"""Imports that wait until something is needed, and are safe from forks.

A child that is forked while another thread imports a module has half of that module, and waits for ever when it imports
it too. So every import inside a function stands in ``with importing():``, which a fork waits for. Nothing in there
waits for any lock of Rack, so whoever holds one may import.

An exception may come between any two instructions, also behind the last one of the block. A lock that all share could
be left taken there. So each import has a token of its own, which nothing refers to but the running ``with``: when that
is gone, however it ended, so is the token.
"""

from __future__ import annotations

import os
from _thread import LockType, allocate_lock, get_ident  # threading takes some milliseconds to import
from _weakref import ref
from time import sleep

_under_way: dict[ref[LockType], int] = {}  # the tokens, and the threads that import
_forking: set[int] = set()  # threads


def importing() -> LockType:
    """Return the token of an import, to be used in a ``with`` statement. Waits while another thread forks."""
    me = get_ident()
    tokens = []  # no other variable refers to it: an exception's traceback would keep it alive
    try:
        while True:
            tokens.append(allocate_lock())
            _under_way[ref(tokens[0], _under_way.pop)] = me  # before it is looked whether somebody forks
            if not _forking.difference((me,)):
                return tokens.pop()
            tokens.clear()
            sleep(0.001)
    except BaseException:
        tokens.clear()
        raise


def _before_fork() -> None:
    me = get_ident()
    _forking.add(me)
    while any(thread != me for thread in list(_under_way.values())):
        sleep(0.001)


def _after_fork_in_parent() -> None:
    _forking.discard(get_ident())


def _after_fork_in_child() -> None:
    _forking.clear()
    _under_way.clear()


# Twice, as nobody gets what a hook raises: the second time does what an exception kept the first from doing.
for _ in range(2):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
