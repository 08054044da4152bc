"""Does something at the k-th instruction of Rack's own code: raises, as Ctrl-C would, or calls, as a handler would.

Counted are the instructions of the package and of the parts of the standard library that are written in Python and
that it calls in the middle of its operations: an exception can come there too.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any, ClassVar

import rack

_THEIRS = {os.path.abspath(str(module.__file__)) for module in (contextlib, threading, weakref)}


class Interrupt(BaseException):
    """Stands for KeyboardInterrupt."""


class TimeLimit(Exception):
    """Stands for the exception of a task runner, which derives from Exception."""


class Injector:
    """Runs a function and does ``action()`` before instruction number ``at`` of it; counts them in ``seen``.

    ``where`` is the place it was done at, None if there were not as many instructions.
    """

    #: Folders of the code that is counted.
    packages: ClassVar[tuple[str, ...]] = (os.path.dirname(rack.__file__) + os.sep,)

    @classmethod
    def count_also(cls, package: ModuleType) -> None:
        """Have the instructions of a package counted that Rack's own code calls."""
        cls.packages += (os.path.dirname(str(package.__file__)) + os.sep,)

    def __init__(self, at: int, action: Callable[[], Any]) -> None:
        self.at = at
        self.seen = 0
        self.where: str | None = None
        self._action = action

    def run(self, function: Callable[[], Any]) -> Any:
        sys.settrace(self._enter)
        try:
            return function()
        finally:
            sys.settrace(None)

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        name = frame.f_code.co_filename
        if self.where is not None or not (name.startswith(self.packages) or name in _THEIRS):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode" and self.where is None:
            if self.seen == self.at and _is_finalizer(frame):
                self.at += 1  # nothing comes out of one
            elif self.seen == self.at:
                code = frame.f_code
                self.where = (
                    f"{code.co_qualname}:{frame.f_lineno}+{frame.f_lasti} ({os.path.basename(code.co_filename)})"
                )
                sys.settrace(None)
                self._action()
            self.seen += 1
        return self._step


def _is_finalizer(frame: FrameType | None) -> bool:
    """Return whether it is, or was called by, a finalizer of redis-py's."""
    while frame is not None:
        if frame.f_code.co_name == "__del__" and os.sep + "redis" + os.sep in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def raising(kind: type[BaseException]) -> Callable[[], None]:
    def action() -> None:
        raise kind

    return action


def count(function: Callable[[], Any]) -> int:
    """Return how many instructions a function has."""
    injector = Injector(-1, lambda: None)
    injector.run(function)
    return injector.seen


def at_depth(left: int, function: Callable[[], Any]) -> Any:
    """Call a function where only about ``left`` more calls may be nested; raises RecursionError if that is too few."""

    def deeper(calls: int) -> Any:
        return function() if calls <= 0 else deeper(calls - 1)

    depth, frame = 0, sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back  # type: ignore[assignment]
    return deeper(sys.getrecursionlimit() - depth - left)
