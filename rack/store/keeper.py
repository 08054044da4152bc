"""The thread that has every second's writes on the disk (durability "everysec")."""

from __future__ import annotations

import contextlib
from _thread import start_new_thread
from collections.abc import Sequence
from queue import Empty, SimpleQueue

from rack.errors import RackError
from rack.shard.base import Shard

_INTERVAL = 1.0  # seconds


class Keeper:
    """Calls ``keep`` of each shard every second. It does not survive a fork.

    Its thread is started and told to stop by C functions: an exception that comes meanwhile leaves no lock taken.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._stop: SimpleQueue[None] = SimpleQueue()
        self._ended: SimpleQueue[None] = SimpleQueue()
        start_new_thread(_keep, (shards, self._stop, self._ended))

    def stop(self) -> None:
        """Return when the thread has ended. May be done again."""
        self._stop.put(None)
        self._ended.get()
        self._ended.put(None)

    def __del__(self) -> None:
        self._stop.put(None)


def _keep(shards: Sequence[Shard], stop: SimpleQueue[None], ended: SimpleQueue[None]) -> None:
    try:
        while True:
            try:
                stop.get(timeout=_INTERVAL)
                return
            except Empty:
                pass
            for shard in shards:
                with contextlib.suppress(OSError, RackError):  # a full disk: again in a second. Whoever writes is told
                    shard.keep()
    finally:
        ended.put(None)
