"""The thread that has every second's writes on the disk (durability "everysec")."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from threading import Event, Thread

from rack.errors import RackError
from rack.shard.base import Shard

_INTERVAL = 1.0  # seconds


class Keeper:
    """Calls ``keep`` of each shard every second. It does not survive a fork."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._stop = Event()
        self._thread = Thread(target=_keep, args=(shards, self._stop), name="rack-keeper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def _keep(shards: Sequence[Shard], stop: Event) -> None:
    while not stop.wait(_INTERVAL):
        for shard in shards:
            with contextlib.suppress(OSError, RackError):  # a full disk: again in a second. Whoever writes is told
                shard.keep()
