"""A store at one instant: a snapshot of every shard, such that at some moment all were the current state at once.

A snapshot of a shard costs its writers nothing, so that is tried first: each shard's version is taken, then its
snapshot, and when all are taken the versions are looked at again. If none has changed, all held together at the moment
between. Shards that did change are taken again, their writers held off until the others are taken too. So at most as
many rounds are needed as there are shards (two in practice), only shards that are being written to are held, and a
process that was stopped in the middle of a write to some shard is in nobody's way: that shard does not change.

Several writer locks are taken in the order of the shards, and while one is held no shard with a lower number is used:
so two who take a snapshot, a fork, and writers never wait for each other in a circle.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from weakref import WeakSet

from rack.errors import LockTimeoutError, ReadOnlyError, ReentrantWriteError
from rack.shard.base import Shard, Snapshot
from rack.store import registry
from rack.store.opening import Mode
from rack.store.openstore import Hold, OpenStore
from rack.store.sharded import Store

_PATIENCE = 60.0  # seconds, for who may only read, and so cannot hold off writers


def take(shards: Sequence[Shard], timeout: float | None) -> list[Snapshot]:
    """Return a snapshot of each shard, all of one instant.

    :raises LockTimeoutError: ``timeout`` seconds went by; or a minute, in which writers left no moment of quiet to who
        may only read. Nothing is held any more, nor will be.
    """
    deadline = time.monotonic() + (_PATIENCE if timeout is None else timeout)
    taken: dict[int, Snapshot] = {}
    versions: dict[int, object] = {}
    busy: set[int] = set()
    held: set[int] = set()  # by this call: a signal handler may take a snapshot in the middle of another one
    may_hold = True
    try:
        while True:
            for number, shard in enumerate(shards):
                if number in busy and may_hold:
                    try:
                        held.add(number)
                        taken[number] = shard.hold()
                        continue
                    except ReadOnlyError:
                        may_hold = False
                    except ReentrantWriteError:
                        held.discard(number)
                        raise
                if number not in taken:
                    versions[number] = shard.version()
                    taken[number] = shard.snapshot()
            for number in held:
                shards[number].let_go()
            held.clear()
            held_off = busy if may_hold else set()
            changed = {n for n, shard in enumerate(shards) if n not in held_off and shard.version() != versions[n]}
            if not changed:
                return [taken[number] for number in range(len(shards))]
            busy |= changed
            for number in busy:
                taken.pop(number).close()
            if time.monotonic() > deadline and (timeout is not None or not may_hold):
                raise LockTimeoutError(_too_busy(timeout))
            if not may_hold:
                time.sleep(random.uniform(0, 0.001))
    except BaseException:
        for number in held:
            shards[number].let_go()
        for snapshot in taken.values():
            snapshot.close()
        raise


def _too_busy(timeout: float | None) -> str:
    if timeout is not None:
        return f"the store could not be seen at one instant within {timeout} s"
    return (
        f"the store has been written to without a pause for {_PATIENCE:.0f} s, and who may only read cannot hold off"
        " writers"
    )


class OpenSnapshot(OpenStore):
    """A snapshot as what a container holds; it holds the store in its turn, which stays open until it is closed."""

    shards: list[Snapshot]  # type: ignore[assignment]
    is_open = True

    def __init__(self, source: OpenStore, store: Store, timeout: float | None) -> None:
        """Take a snapshot of ``store``, which is ``source`` as a container uses it."""
        self.path = source.path
        self.manifest = source.manifest
        self.durability = source.durability
        self.mode = Mode("r", None, None, None)
        self.users = WeakSet()
        self.shards = []
        self._source: Hold | None = None
        try:
            self._source = Hold(source)
            self.shards += take(store.shards, timeout)
            self._store = Store(self.shards, None, self.manifest.digest)
        except BaseException:
            self.shut()
            raise

    def is_current(self) -> bool:
        assert self._source is not None
        source = self._source.opened
        is_current = source.is_current()
        self.path = source.path
        return is_current

    def can_rest(self) -> bool:
        return False

    def sync(self, store: Store) -> None:
        """Nothing: a snapshot has no writes of its own."""

    def shut(self, keep: bool = True) -> None:
        for shard in self.shards:
            shard.close()
        if self._source is not None:
            registry.release(self._source)
