"""When no operation is under way in this process: then it may be stopped, and nobody waits for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum, auto

from rack.store import registry


class Stillness(Enum):
    """What this process is in the middle of."""

    STILL = auto()  # nothing
    WAITING = auto()  # operations that wait for other processes
    BUSY = auto()


@contextmanager
def still(patience: float) -> Iterator[Stillness]:
    """Hold off new operations of other threads, and openings, while the block runs; gives what is under way even so.

    Operations that are under way are waited for, ``patience`` seconds altogether. One in this very thread is not.
    """
    deadline = time.monotonic() + patience
    under_way = []
    with ExitStack() as stack:
        lock = registry.guard()
        busy = lock._is_owned() or not lock.acquire(timeout=patience)
        if not busy:
            stack.callback(lock.release)
            for shard in registry.open_shards():
                if shard.pause(max(0.0, deadline - time.monotonic())):
                    stack.callback(shard.resume)
                else:
                    under_way.append(shard)
        if busy or not all(shard.holder() for shard in under_way):
            yield Stillness.BUSY
        else:
            yield Stillness.WAITING if under_way else Stillness.STILL
