"""The threads that look after the shards every second (durability "everysec")."""

from __future__ import annotations

import contextlib
from _thread import start_new_thread
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

from rack.errors import RackError

_INTERVAL = 1.0  # seconds

Work = Callable[[], None]


class Keeper:
    """Has a thread do some work, for each shard, every second. It does not survive a fork.

    The thread is started and told to stop by C functions: an exception that comes meanwhile leaves no lock taken.
    """

    def __init__(self, work: Sequence[Work]) -> None:
        self._stop: SimpleQueue[None] = SimpleQueue()
        self._ended: SimpleQueue[None] = SimpleQueue()
        start_new_thread(_keep, (work, self._stop, self._ended))

    def stop(self) -> None:
        """Return when the thread has ended. May be done again."""
        self._stop.put(None)
        self._ended.get()
        self._ended.put(None)

    def __del__(self) -> None:
        self._stop.put(None)


def _keep(work: Sequence[Work], stop: SimpleQueue[None], ended: SimpleQueue[None]) -> None:
    try:
        while True:
            try:
                stop.get(timeout=_INTERVAL)
                return
            except Empty:
                pass
            for do in work:
                with contextlib.suppress(OSError, RackError):  # a full disk: again in a second. Whoever writes is told
                    do()
    finally:
        ended.put(None)
