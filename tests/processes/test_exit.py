"""The exit of the interpreter: what functions registered with ``atexit`` and finalizers write is kept, or refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict
from rack.shard import ENGINES

_PROGRAM = """
import atexit, sys

def write(key):
    try:
        store[key] = 1
        print(key, "kept", flush=True)
    except Exception as error:
        print(key, type(error).__name__, error, flush=True)

class Wrapper:
    def __init__(self, key):
        self.key, self.write, self.store, self.me = key, write, store, self

    def __del__(self, print=print):
        try:
            self.store[self.key] = 1
            print(self.key, "kept", flush=True)
        except Exception as error:
            print(self.key, type(error).__name__, error, flush=True)

atexit.register(write, "before import")
from rack import PersistentDict
atexit.register(write, "before opening")
store = PersistentDict(sys.argv[1], **eval(sys.argv[2]))
"""

_OPENED = """
store.open()
store["first"] = 1
atexit.register(write, "after opening")
wrapper = Wrapper("finalizer")
"""


def _run(path: Path, options: dict[str, Any], program: str) -> dict[str, str]:
    """Run a program; return what it printed of each key, and check that exactly what was said to be kept is there."""
    command = [sys.executable, "-X", "dev", "-c", _PROGRAM + program, str(path), repr(options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    said = {key: rest for key, _, rest in (line.partition(" kept") for line in done.stdout.splitlines())}
    kept = {key for key, rest in said.items() if f"{key} kept{rest}" in done.stdout.splitlines()}
    with PersistentDict(path, flag="r") as store:
        assert set(store) - {"first"} == kept
        store.check()
    return said


@pytest.fixture(params=["process", "everysec", "always"])
def durability(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("timeout", [None, 5])
@pytest.mark.parametrize("engine", list(ENGINES))
def test_what_is_left_open_can_be_written_to_until_the_last_exit_function(
    tmp_path: Path, engine: str, durability: str, timeout: float | None
) -> None:
    said = _run(tmp_path / "s", {"engine": engine, "durability": durability, "timeout": timeout}, _OPENED)
    assert {"after opening", "before opening"} < said.keys()
    late = [line for line in said if line.startswith(("before import", "finalizer"))]
    assert len(late) == 2
    for line in late:
        assert "NotOpenError the interpreter is exiting, and the store was closed" in line


@pytest.mark.parametrize("engine", list(ENGINES))
def test_what_was_closed_says_so(tmp_path: Path, engine: str) -> None:
    program = "with store:\n    store['first'] = 1\n    wrapper = Wrapper('finalizer')\n    sys.exit(0)\n"
    said = _run(tmp_path / "s", {"engine": engine}, program)
    assert len(said) == 3
    for line in said:
        assert "NotOpenError the container is not open" in line


@pytest.mark.parametrize("engine", list(ENGINES))
def test_a_store_that_an_exit_function_opens_is_closed_at_the_end(tmp_path: Path, engine: str) -> None:
    program = "atexit.register(lambda: store.open())\n"
    said = _run(tmp_path / "s", {"engine": engine}, program)
    assert "before opening" in said
    with PersistentDict(tmp_path / "s", flag="w") as store:
        assert "before opening" in store


@pytest.mark.parametrize("engine", list(ENGINES))
def test_a_finalizer_that_runs_before_the_exit_is_served(tmp_path: Path, engine: str) -> None:
    said = _run(tmp_path / "s", {"engine": engine}, "import gc\n" + _OPENED + "del wrapper; gc.collect()\n")
    assert "finalizer" in said
