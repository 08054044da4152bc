"""An exception, or another use of the store, at the instructions of the operations (:mod:`tests.interrupts.run`).

A sample in each run: all instructions of a few operations, and some of each other one. With ``--long`` all of them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rack.shard import ENGINES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is left is looked for in /proc")

ROOT = Path(__file__).parent.parent.parent


def run(seed: int, *arguments: str) -> None:
    command = [sys.executable, "-m", "tests.interrupts.run", "--seed", str(seed), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr[-4000:]}"
    assert not done.stdout.endswith("\n0 cases\n")


@pytest.mark.parametrize("engine", list(ENGINES))
def test_an_exception_at_each_instruction_of_set_and_get_leaves_all_as_it_should_be(engine: str, seed: int) -> None:
    run(seed, "--engine", engine, "--kind", "dict", "--operations", "put", "get", "contains")


@pytest.mark.parametrize("configuration", ["plain", "timeout"])
@pytest.mark.parametrize("engine", list(ENGINES))
def test_an_exception_at_any_instruction_leaves_all_as_it_should_be(
    engine: str, configuration: str, seed: int, long: bool
) -> None:
    few = [] if long else ["--sample", "4"]
    groups = ["one", "many", "reading", "store", "life"]
    run(seed, "--engine", engine, "--configuration", configuration, "--group", *groups, *few)


@pytest.mark.parametrize("configuration", ["plain", "timeout"])
@pytest.mark.parametrize("action", ["write", "read", "close"])
@pytest.mark.parametrize("engine", list(ENGINES))
def test_a_handler_that_uses_the_store_at_any_instruction_is_served_or_told_why_not(
    engine: str, action: str, configuration: str, seed: int, long: bool
) -> None:
    few = [] if long else ["--sample", "3"]
    groups = ["one", "many", "reading"]
    run(seed, "--engine", engine, "--action", action, "--configuration", configuration, "--group", *groups, *few)


@pytest.mark.parametrize("engine", list(ENGINES))
def test_the_recursion_limit_in_any_operation_leaves_all_as_it_should_be(engine: str, seed: int, long: bool) -> None:
    few = [] if long else ["--kind", "dict", "--operations", "put", "get", "incr", "transform", "get_many"]
    run(seed, "--engine", engine, "--action", "depth", "--group", "one", "many", *few)
