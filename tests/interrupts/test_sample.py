"""An exception, or another use of the store, at the instructions of the operations (:mod:`tests.interrupts.run`).

A sample in each run, the same one: all instructions of a few operations; and of each other operation some instruction
with most actions, on each engine in each configuration. With ``--long`` all of them; on a server all that an exception
can cut off in an operation of one key or many, and a larger sample of the others.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rack.shard import ENGINES
from tests.interrupts.run import ACTIONS
from tests.interrupts.world import CONFIGURATIONS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is left is looked for in /proc")

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of the sample: each run takes the same, unless it is told another one."""
    given = request.config.getoption("--seed")
    return 1 if given is None else int(given)


def run(seed: int, *arguments: str) -> None:
    command = [sys.executable, "-m", "tests.interrupts.run", "--seed", str(seed), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=7200)
    assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr[-4000:]}"
    assert not done.stdout.endswith("\n0 cases\n")


@pytest.mark.parametrize("engine", list(ENGINES))
def test_an_exception_at_each_instruction_of_set_and_get_leaves_all_as_it_should_be(engine: str, seed: int) -> None:
    run(seed, "--engine", engine, "--kind", "dict", "--operations", "put", "get", "contains")


@pytest.mark.parametrize("configuration", list(CONFIGURATIONS))
@pytest.mark.parametrize("engine", list(ENGINES))
def test_whatever_comes_at_any_instruction_of_any_operation_leaves_all_as_it_should_be(
    engine: str, configuration: str, seed: int, long: bool
) -> None:
    few = [] if long else ["--sample", "0.7"]
    run(seed, "--engine", engine, "--configuration", configuration, "--action", *ACTIONS, *few)


#: Engines that are servers, and the configurations that differ there.
SERVED = [("redis", "timeout"), ("redis-hash", "plain"), ("redis", "always")]


@pytest.mark.timeout(7200)  # for the long form
@pytest.mark.parametrize(("engine", "configuration"), SERVED)
def test_whatever_comes_at_any_instruction_of_any_operation_on_a_server_leaves_all_as_it_should_be(
    engine: str, configuration: str, seed: int, long: bool
) -> None:
    pytest.importorskip("tests.support.servers")  # which skips where there is no redis-server
    actions = [each for each in ACTIONS if each != "snapshot"]  # which a server has not
    few = ["--sample", "9"] if long else ["--sample", "0.15", "--seconds", "9"]
    run(seed, "--engine", engine, "--configuration", configuration, "--action", *actions, *few)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("group", ["one", "many"])
def test_an_exception_at_each_instruction_of_an_operation_on_a_server_leaves_all_as_it_should_be(
    group: str, seed: int, long: bool
) -> None:
    if not long:
        pytest.skip("runs with --long")
    pytest.importorskip("tests.support.servers")  # which skips where there is no redis-server
    run(seed, "--engine", "redis", "--configuration", "timeout", "--group", group)


@pytest.mark.parametrize("engine", list(ENGINES))
def test_the_recursion_limit_in_any_operation_leaves_all_as_it_should_be(engine: str, seed: int) -> None:
    few = ["--kind", "dict", "--operations", "put", "get", "incr", "transform", "get_many"]
    run(seed, "--engine", engine, "--configuration", "timeout", "--action", "depth", *few)
