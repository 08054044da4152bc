"""A shard that fails after a number of operations, and its use in all containers of a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rack.shard.proxy import Result, ShardProxy
from rack.store.openstore import OpenStore
from rack.store.sharded import Store


class Fault:
    """Says when the shards fail: never, until it is armed."""

    def __init__(self) -> None:
        self._left: int | None = None
        self._error: Callable[[], BaseException] = OSError
        self.raised = 0
        self.count = 0  # operations since it was armed

    @contextmanager
    def after(self, operations: int | None, error: Callable[[], BaseException]) -> Iterator[None]:
        """In this block, have the shards do so many operations (None: all) and fail at every one behind them."""
        self._left, self._error, self.raised, self.count = operations, error, 0, 0
        try:
            yield
        finally:
            self._left = None

    def step(self) -> None:
        self.count += 1
        if self._left is None:
            return
        if not self._left:
            self.raised += 1
            raise self._error()
        self._left -= 1


class FaultyShard(ShardProxy):
    """Forwards to another shard until ``fault`` says no. An operation that fails has not happened."""

    def __init__(self, inner: Any, fault: Fault) -> None:
        super().__init__(inner)
        self._fault = fault

    def _forward(self, method: Callable[..., Result], *args: Any) -> Result:
        self._fault.step()
        return method(*args)


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Fault:
    """What makes the shards of every container fail that is opened in this test, also of those made by operations."""
    chosen = Fault()
    plain = OpenStore.store

    def faulty(held: OpenStore, mode: Any) -> Store:
        return Store([FaultyShard(shard, chosen) for shard in plain(held, mode).shards])

    monkeypatch.setattr(OpenStore, "store", faulty)
    return chosen
