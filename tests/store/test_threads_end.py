"""The threads of a store end with what they are for, also where an exception has kept that from being noted."""

from __future__ import annotations

import os
import sys
import time

import pytest

from rack.shard.timed import Server
from rack.store.keeper import Keeper

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")


def _count() -> int:
    return len(os.listdir("/proc/self/task"))


def _wait_for(count: int) -> None:
    deadline = time.monotonic() + 5
    while _count() > count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_thread_of_a_keeper_that_is_forgotten_ends() -> None:
    before = _count()
    keeper = Keeper([])
    assert _count() == before + 1
    del keeper
    _wait_for(before)


def test_the_thread_of_a_server_that_is_forgotten_ends() -> None:
    before = _count()
    server = Server()
    assert server.run(5, int, "7") == 7
    assert _count() == before + 1
    del server
    _wait_for(before)
