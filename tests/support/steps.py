"""Processes that are killed at each single step of what they do to files."""

from __future__ import annotations

import fcntl
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import lmdb
import pytest

from tests.support.processes import Crew, FailedError

STEPS = [
    (
        os,
        ["open", "close", "rename", "unlink", "fsync", "pwrite", "ftruncate", "posix_fallocate", "mkdir", "rmdir"]
        + ["write", "fdatasync", "link", "truncate"],
    ),
    (fcntl, ["flock"]),
    (lmdb, ["open"]),
    (sqlite3, ["connect"]),
]


def _die_at(step: int) -> None:
    """Have this process killed before it makes its call number ``step`` to the file system."""
    left = step

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **options)

        return call

    for module, names in STEPS:
        for name in names:
            setattr(module, name, dying(getattr(module, name)))


Steps = Callable[[Callable[[], object]], Iterator[int]]


@pytest.fixture
def killed_at_each_step(seed: int, long: bool) -> Steps:
    """What runs a function in a process that is killed at its first step, then in one killed at its second, and so on.

    In the short form at every fifth step only, from one that the seed chooses.
    """
    steps = range(1000) if long else range(seed % 5, 1000, 5)
    return lambda function: _killed_at(steps, function)


def _killed_at(steps: range, function: Callable[[], object]) -> Iterator[int]:

    def work(step: int) -> None:
        _die_at(step)
        function()
        os.kill(os.getpid(), signal.SIGTERM)

    for step in steps:
        with Crew() as crew:
            try:
                crew.start(work, step).result(30)
            except FailedError as error:
                if f"ended with -{int(signal.SIGTERM)}" in str(error):
                    return
                if f"ended with -{int(signal.SIGKILL)}" not in str(error):
                    raise
        yield step
    raise AssertionError("it never ends")
