"""The command ``rack``, run in a process of its own, or in this one, which is quicker."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import rack as package
from rack import PersistentSet

RACK = [sys.executable, "-m", "rack"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parent.parent), "PYTHONWARNINGS": "error"}


class Done(NamedTuple):
    code: int
    output: str
    errors: str


def run(*args: object, **options: Any) -> Done:
    """Run ``rack ARGS...`` in a process of its own, as a user does."""
    command = [*RACK, *map(str, args)]
    options = {"stdin": subprocess.DEVNULL, "timeout": 60, **options}
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, **options)
    return Done(done.returncode, done.stdout, done.stderr)


def filled(path: Path, count: int = 1000, **options: Any) -> Path:
    with PersistentSet[int](path, **{"shards": 2, **options}) as store:
        store.update(range(count))
    return path


def content(path: Path) -> set[int]:
    with PersistentSet[int](path, flag="r") as store:
        return set(store)


#: ``rack(*args, data="...")``: run a command with that on its standard input.
Rack = Callable[..., Done]


@pytest.fixture
def rack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Rack:
    """What runs a command in this process, in the test's own directory."""
    from rack.cli import main

    monkeypatch.chdir(tmp_path)

    def run_here(*args: object, data: str | bytes = b"") -> Done:
        with _standard_input(data.encode() if isinstance(data, str) else data):
            code = main([str(arg) for arg in args])
        return Done(code, *capfd.readouterr())

    return run_here


@contextmanager
def _standard_input(data: bytes) -> Iterator[None]:
    before = os.dup(0)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        os.dup2(file.fileno(), 0)
    try:
        yield
    finally:
        os.dup2(before, 0)
        os.close(before)
