"""Descriptors of what is no file to Python: a directory, a duplicate."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Any


class Descriptor:
    """A descriptor, or none, that is closed once, whatever instruction an exception comes at.

    It is opened and noted by one call of C, and so is it forgotten and closed: there is no instruction between the two.
    So whoever makes this object, opens it inside of a ``try`` and closes it on each way out leaves none. (``io.FileIO``
    is as safe, and is used for files. This one does not close itself, in Python: a finalizer's exception is lost.)
    """

    __slots__ = ("_numbers",)

    def __init__(self) -> None:
        self._numbers: list[int] = []

    def open(self, function: Callable[..., int], *args: Any) -> None:
        """Have what a function of C returns, ``os.open`` or ``os.dup``."""
        self._numbers.extend(map(function, *zip(args)))

    @property
    def is_open(self) -> bool:
        return bool(self._numbers)

    def fileno(self) -> int:
        return self._numbers[0]

    def close(self) -> None:
        """Close it. May be done again."""
        deque(map(os.close, map(self._numbers.pop, [0] * len(self._numbers))), 0)
