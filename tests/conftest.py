"""What all tests share: options, and a doctest namespace. For processes: :mod:`tests.support.processes`."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest


def pytest_configure() -> None:
    """Have the signals that end a process end the tests, and what they start: it inherits what is ignored or blocked.

    A shell's ``&`` and some CI systems start programs with SIGINT ignored. SIGHUP stays as it is, for ``nohup``.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGTERM) == signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long form of the stress tests")
    parser.addoption("--seed", type=int, default=None, help="seed of the random choices of stress tests")


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
def _doctest_tmp(doctest_namespace: dict[str, Any], tmp_path: Path) -> None:
    doctest_namespace["tmp"] = tmp_path


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
