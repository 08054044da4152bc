"""The threads that look after the shards every second (durability "everysec")."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any
from weakref import ref

from rack.errors import LockTimeoutError, RackError
from rack.system.imports import importing
from rack.system.threads import start

_INTERVAL = 1.0  # seconds
_LOOK = 1.0  # ... between two looks whether a thread has ended, if nothing tells so

Work = Callable[[], None]


class Keeper:
    """Has a thread do some work, for each shard, every second. It does not survive a fork.

    The thread is started and told to stop by C functions: an exception that comes meanwhile leaves no lock taken.
    """

    def __init__(self, work: Sequence[Work]) -> None:
        self._stop: SimpleQueue[Any] = SimpleQueue()
        self._ended: SimpleQueue[Any] = SimpleQueue()
        # A finalizer would lose an exception that comes in it; what is called when this one is gone is of C.
        self._running = start(_keep, work, self._stop, ref(self, self._stop.put), ended=self._ended.put)

    def stop(self, timeout: float | None = None) -> None:
        """Return when the thread has ended. May be done again.

        :raises LockTimeoutError: that took longer: it waits for an operation that waits for another process.
        """
        self._stop.put(None)
        deadline = inf if timeout is None else monotonic() + timeout
        while self._running() is not None:
            if (left := deadline - monotonic()) <= 0:
                raise LockTimeoutError("another thread's write is still waiting; not closed")
            with suppress(Empty):
                self._ended.get(timeout=min(left, _LOOK))


def _log() -> None:
    with importing():
        import logging

    logging.getLogger("rack").exception("looking after a shard failed; it is tried again every second")


def _keep(work: Sequence[Work], stop: SimpleQueue[Any], keeper: ref[Keeper]) -> None:
    while True:
        try:
            stop.get(timeout=_INTERVAL)
            return
        except (Empty, MemoryError):
            pass
        try:
            for do in work:
                _try(do)
        except MemoryError:
            pass


def _try(do: Work) -> None:
    try:
        do()
    except (OSError, RackError, MemoryError):  # a full disk: again in a second. Whoever writes is told
        pass
    except Exception:  # a fault of Rack's own must not end what keeps its promise
        _log()
