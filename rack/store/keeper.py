"""The threads that look after the shards every second (durability "everysec")."""

from __future__ import annotations

from _thread import start_new_thread
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any
from weakref import ref

from rack.errors import LockTimeoutError, RackError
from rack.system.imports import importing

_INTERVAL = 1.0  # seconds

Work = Callable[[], None]


class Keeper:
    """Has a thread do some work, for each shard, every second. It does not survive a fork.

    The thread is started and told to stop by C functions: an exception that comes meanwhile leaves no lock taken.
    """

    def __init__(self, work: Sequence[Work]) -> None:
        self._stop: SimpleQueue[Any] = SimpleQueue()
        self._ended: SimpleQueue[None] = SimpleQueue()
        # A finalizer would lose an exception that comes in it; what is called when this one is gone is of C.
        start_new_thread(_keep, (work, self._stop, self._ended, ref(self, self._stop.put)))

    def stop(self, timeout: float | None = None) -> None:
        """Return when the thread has ended. May be done again.

        :raises LockTimeoutError: that took longer: it waits for an operation that waits for another process.
        """
        self._stop.put(None)
        try:
            self._ended.get(timeout=timeout)
        except Empty:
            raise LockTimeoutError("another thread's write is still waiting; not closed") from None
        self._ended.put(None)


def _log() -> None:
    with importing():
        import logging

    logging.getLogger("rack").exception("looking after a shard failed; it is tried again every second")


def _keep(work: Sequence[Work], stop: SimpleQueue[Any], ended: SimpleQueue[None], keeper: ref[Keeper]) -> None:
    try:
        while True:
            try:
                stop.get(timeout=_INTERVAL)
                return
            except Empty:
                pass
            for do in work:
                try:
                    do()
                except (OSError, RackError):  # a full disk: again in a second. Whoever writes is told
                    pass
                except Exception:  # a fault of Rack's own must not end what keeps its promise
                    _log()
    finally:
        ended.put(None)
