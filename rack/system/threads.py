"""Threads of Rack's own, and what tells whether they still run."""

from __future__ import annotations

from _thread import start_new_thread
from collections.abc import Callable
from typing import Any
from weakref import ref

#: Returns None once a thread has ended.
Running = Callable[[], object]


class _Token:
    """Is there as long as a thread is, which alone refers to it."""

    __slots__ = ("__weakref__",)


def start(function: Callable[..., object], *args: Any, ended: Callable[[object], object] | None = None) -> Running:
    """Start a thread that calls a function; return what tells whether it still runs.

    That can be relied upon however the thread ends, be it before its first instruction, for want of memory. In a forked
    child, where there is no such thread any more, it is not known.

    :param ended: is called with one argument when the thread has ended. A function of C: in another one an exception
        that comes at any instruction would be lost.
    :raises RuntimeError: there may be no more threads.
    """
    token = _Token()
    running = ref(token, ended)
    start_new_thread(_call, (token, function, args))
    return running


def _call(token: _Token, function: Callable[..., object], args: tuple[Any, ...]) -> None:
    function(*args)
