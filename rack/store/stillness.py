"""When no operation is under way in this process: then it may be stopped, and nobody waits for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

from rack.shard.base import Shard
from rack.store import registry


@contextmanager
def still(patience: float) -> Iterator[Literal["still", "waiting", "busy"]]:
    """Hold off new operations of other threads, and openings, while the block runs; gives what is under way even so.

    "still": nothing; "waiting": operations that wait for other processes; "busy": others. Operations are waited for,
    ``patience`` seconds altogether, but for one in this very thread.
    """
    deadline = time.monotonic() + patience
    under_way: list[Shard] = []
    with ExitStack() as stack:
        lock = registry.guard()
        if lock._is_owned() or not lock.acquire(timeout=patience):
            yield "busy"
            return
        stack.callback(lock.release)
        for shard in registry.open_shards():
            if shard.pause(max(0.0, deadline - time.monotonic())):
                stack.callback(shard.resume)
            else:
                under_way.append(shard)
        if not under_way:
            yield "still"
        else:
            yield "waiting" if all(shard.holder() for shard in under_way) else "busy"
