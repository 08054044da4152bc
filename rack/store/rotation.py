"""Where to begin: processes that go over all shards begin at different ones, so that they do not queue at the same."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter_ns
from typing import TypeVar

Item = TypeVar("Item")


def rotated(items: Sequence[Item]) -> list[Item]:
    """Return the items in their order, but beginning with some other one at each call, in each process.

    The clock's nanoseconds choose it: unlike the state of a generator of random numbers, a fork does not copy them.
    """
    start = perf_counter_ns() % len(items) if items else 0
    return [*items[start:], *items[:start]]
