"""What all tests share: options, and less work. For processes: :mod:`tests.support.processes`."""

from __future__ import annotations

import gc
import math
import os
import random
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from rack.care import guess


def pytest_configure(config: pytest.Config) -> None:
    _let_signals_end()
    guess.MAX_SHARDS = 300  # where a manifest is lost, files of so many are looked for: for 10,000 it takes 70 ms
    if sys.dont_write_bytecode:
        _keep_bytecode_aside(config)


@pytest.hookimpl(trylast=True)  # when -k and the like have taken out theirs
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of tests that are ``one_in(n)`` leave out most cases, except in the long form: others in each run."""
    if config.getoption("--long"):
        return
    # The processes of pytest-xdist have to choose the same ones.
    chance = config.getoption("--seed") or os.environ.get("PYTEST_XDIST_TESTRUNUID") or random.random()
    of_test: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("one_in") is not None:
            of_test[item.nodeid.partition("[")[0]].append(item)
    left_out: set[pytest.Item] = set()
    for name, cases in of_test.items():
        mark = cases[0].get_closest_marker("one_in")
        assert mark is not None
        kept = math.ceil(len(cases) / mark.args[0])
        left_out.update(random.Random(f"{chance} {name}").sample(cases, len(cases) - kept))
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


def _keep_bytecode_aside(config: pytest.Config) -> None:
    """Where PYTHONDONTWRITEBYTECODE is set: have bytecode in a directory of its own, for the time of the tests.

    Else each of the thousands of processes that they start would compile Rack again, which takes as long as the rest.
    """
    directory = tempfile.TemporaryDirectory(prefix="rack-bytecode-")
    config.add_cleanup(directory.cleanup)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = directory.name
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # it may be the option -B
    sys.dont_write_bytecode = False


def pytest_collection_finish() -> None:
    """Leave the tests themselves, 200,000 objects, out of garbage collection.

    Else each collection takes a tenth of a second; and one in a forked process copies all of their memory.
    """
    gc.collect()
    gc.freeze()


def _let_signals_end() -> None:
    """Have the signals that end a process end the tests, and what they start: it inherits what is ignored or blocked.

    A shell's ``&`` and some CI systems start programs with SIGINT ignored, and ``nohup`` with SIGHUP ignored: that
    does not end the tests, but what they start does not inherit it.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGTERM) == signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda signum, frame: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long form of the stress tests")
    parser.addoption("--seed", type=int, default=None, help="seed of the random choices of stress tests")


#: Beginnings of reasons to skip a test that root on Linux, with a C compiler, does not have. See RACK_NO_SKIPS.
NEEDLESS_SKIPS = (
    "there is no mount command",
    "mounting a small file system is not permitted",
    "mounting a file system is not permitted",
    "needs root",
    "only root can",
    "power failures are simulated",
    "this system has no flock command",
    "needs /dev/full",
    "there is no redis-server here",
    "there is no ip or unshare command",
)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """With RACK_NO_SKIPS in the environment: fail a test that is skipped for a reason that must not be here."""
    outcome: Any = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("RACK_NO_SKIPS") and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if reason.startswith(NEEDLESS_SKIPS):
            report.outcome = "failed"
            report.longrepr = f"skipped, and must not be here (RACK_NO_SKIPS): {reason}"


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether to run the long form."""
    return bool(request.config.getoption("--long"))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of this run; printed, so that a failure can be repeated with --seed."""
    given = request.config.getoption("--seed")
    chosen: int = random.randrange(2**32) if given is None else given
    print(f"--seed={chosen}")
    return chosen


@pytest.fixture(autouse=True)
def _no_leaked_descriptors() -> Any:
    """Fail a test that leaves descriptors of a store's files open."""
    yield
    leaked = []
    for fd in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []:
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if ".lmdb" in target or ".rack" in target or ".sqlite3" in target:
            leaked.append(target)
    assert not leaked, f"left open: {leaked[:5]}"
