"""An exception, or another use of the store, at the instructions of the operations (:mod:`tests.interrupts.run`).

A sample in each run, the same one: all instructions of a few operations; and of each other operation some instruction
with most actions, on each engine in each configuration. With ``--long`` all of them; on a server all that an exception
can cut off in an operation of one key or many, and a larger sample of the others.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
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


@pytest.fixture
def run(seed: int, long: bool, tmp_path: Path) -> Callable[..., None]:
    def run(*arguments: str) -> None:
        command = [sys.executable, "-X", "faulthandler", "-m", "tests.interrupts.run", "--seed", str(seed), *arguments]
        case = tmp_path / "case"
        # Files, and not pipes: a child that hangs would have them open when the process has ended.
        with open(tmp_path / "output", "w+") as output, open(tmp_path / "errors", "w+") as errors:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=output,
                stderr=errors,
                env={**os.environ, "INTERRUPTS_LOG": str(case)},
                start_new_session=True,
            )
            try:
                process.wait(7000 if long else 200)
            except subprocess.TimeoutExpired:  # no case hangs, as each has a limit of its own; but they are slow
                os.killpg(process.pid, signal.SIGABRT)  # each of them tells where it is
                process.wait(20)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            output.seek(0)
            errors.seek(0)
            said, told = output.read(), errors.read()
        last = case.read_text().splitlines()[-1:]
        assert process.returncode == 0, f"{' '.join(arguments)}: {last}\n{said}\n{told[-4000:]}"
        assert not said.endswith("\n0 cases\n")

    return run


@pytest.mark.parametrize("engine", list(ENGINES))
def test_an_exception_at_each_instruction_of_set_and_get_leaves_all_as_it_should_be(
    engine: str, run: Callable[..., None]
) -> None:
    run("--engine", engine, "--kind", "dict", "--operations", "put", "get", "contains")


@pytest.mark.parametrize("configuration", list(CONFIGURATIONS))
@pytest.mark.parametrize("engine", list(ENGINES))
def test_whatever_comes_at_any_instruction_of_any_operation_leaves_all_as_it_should_be(
    engine: str, configuration: str, run: Callable[..., None], long: bool
) -> None:
    few = [] if long else ["--sample", "0.7"]
    run("--engine", engine, "--configuration", configuration, "--action", *ACTIONS, *few)


#: Engines that are servers, and the configurations that differ there.
SERVED = [("redis", "timeout"), ("redis-hash", "plain"), ("redis", "always")]


@pytest.mark.timeout(7200)  # for the long form
@pytest.mark.parametrize(("engine", "configuration"), SERVED)
def test_whatever_comes_at_any_instruction_of_any_operation_on_a_server_leaves_all_as_it_should_be(
    engine: str, configuration: str, run: Callable[..., None], long: bool
) -> None:
    pytest.importorskip("tests.support.servers")  # which skips where there is no redis-server
    actions = [each for each in ACTIONS if each != "snapshot"]  # which a server has not
    few = ["--sample", "9"] if long else ["--sample", "0.15", "--seconds", "9"]
    run("--engine", engine, "--configuration", configuration, "--action", *actions, *few)


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("group", ["one", "many"])
def test_an_exception_at_each_instruction_of_an_operation_on_a_server_leaves_all_as_it_should_be(
    group: str, run: Callable[..., None], long: bool
) -> None:
    if not long:
        pytest.skip("runs with --long")
    pytest.importorskip("tests.support.servers")  # which skips where there is no redis-server
    run("--engine", "redis", "--configuration", "timeout", "--group", group)


@pytest.mark.parametrize("engine", list(ENGINES))
def test_the_recursion_limit_in_any_operation_leaves_all_as_it_should_be(engine: str, run: Callable[..., None]) -> None:
    few = ["--kind", "dict", "--operations", "put", "get", "incr", "transform", "get_many"]
    run("--engine", engine, "--configuration", "timeout", "--action", "depth", *few)
