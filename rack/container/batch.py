"""``with d.batch():`` collects a thread's plain writes and commits them together, a transaction a shard.

Only ``put`` is held back: it has no answer. An operation whose answer must be exact (add, delete, pop, modify) is
done at once, after what the batch holds for its shard when that touches the key; operations on the whole shard come
after what it holds. No transaction and no lock is held while the ``with`` block runs.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from threading import get_ident
from typing import Any

from rack.shard.base import Shard
from rack.shard.proxy import Result, ShardProxy
from rack.store.sharded import Store

_BUFFER_BYTES = 32 << 20
_PAIR_OVERHEAD = 170


class Batches:
    """The batches under way on one container, at most one a thread; ``store`` is what the container uses meanwhile."""

    def __init__(self, store: Store) -> None:
        self.plain = store
        self._shards = [_BatchShard(shard, self) for shard in store.shards]
        self.store = Store(self._shards, store.memory)
        self._depth: dict[int, int] = {}
        self._size: dict[int, int] = {}
        _alive.add(self)

    def begin(self) -> None:
        thread = get_ident()
        self._depth[thread] = self._depth.get(thread, 0) + 1
        self._size.setdefault(thread, 0)

    def end(self) -> bool:
        """Leave a batch that has been flushed; return whether any batch is left."""
        thread = get_ident()
        self._depth[thread] -= 1
        if not self._depth[thread]:
            del self._depth[thread], self._size[thread]
            for shard in self._shards:
                shard.held.pop(thread, None)
        return bool(self._depth)

    def held(self, shard: _BatchShard) -> dict[bytes, bytes] | None:
        """Return what this thread's batch holds for the shard, or None if the thread has no batch."""
        thread = get_ident()
        if thread not in self._depth:
            return None
        return shard.held.setdefault(thread, {})

    def note(self, size: int) -> None:
        thread = get_ident()
        self._size[thread] += size
        if self._size[thread] >= _BUFFER_BYTES:
            self.flush()

    def flush_outermost(self) -> None:
        """Commit what this thread's batch holds, unless it is inside another one."""
        if self._depth[get_ident()] == 1:
            self.flush()

    def settle(self) -> None:
        """Commit what this thread's batch holds, if it has one."""
        if get_ident() in self._depth:
            self.flush()

    def flush(self) -> None:
        """Commit what this thread's batch holds."""
        thread = get_ident()
        held = [shard.held[thread] for shard in self._shards if thread in shard.held]
        self.plain.put_all(pair for pairs in held for pair in pairs.items())
        for pairs in held:
            pairs.clear()
        self._size[thread] = 0

    def after_fork_in_child(self) -> None:
        """What was held at the fork is for the parent to write, and the batches of other threads are theirs.

        At once, not at the next use: a new thread may have the identity of one that is not here.
        """
        thread = get_ident()
        self._depth = {thread: self._depth[thread]} if thread in self._depth else {}
        self._size = dict.fromkeys(self._depth, 0)
        for shard in self._shards:
            shard.held.clear()


_alive: weakref.WeakSet[Batches] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for batches in list(_alive):
        batches.after_fork_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)


class _BatchShard(ShardProxy):
    def __init__(self, inner: Shard, batches: Batches) -> None:
        super().__init__(inner)
        self._batches = batches
        self.held: dict[int, dict[bytes, bytes]] = {}

    def put(self, key: bytes, value: bytes) -> None:
        held = self._batches.held(self)
        if held is None:
            self._inner.put(key, value)
        else:
            held[key] = value
            self._batches.note(len(key) + len(value) + _PAIR_OVERHEAD)

    def get(self, key: bytes) -> bytes | None:
        held = self._batches.held(self)
        return held[key] if held and key in held else self._inner.get(key)

    def contains(self, key: bytes) -> bool:
        held = self._batches.held(self)
        return (held is not None and key in held) or self._inner.contains(key)

    def add(self, key: bytes, value: bytes) -> bytes | None:
        self._settle(key)
        return self._inner.add(key, value)

    def delete(self, key: bytes) -> bool:
        self._settle(key)
        return self._inner.delete(key)

    def pop(self, key: bytes) -> bytes | None:
        self._settle(key)
        return self._inner.pop(key)

    def modify(self, key: bytes, change: Callable[[bytes | None], bytes | None]) -> None:
        self._settle(key)
        self._inner.modify(key, change)

    def _settle(self, key: bytes) -> None:
        """Commit what is held for the shard if the key is in it."""
        held = self._batches.held(self)
        if held and key in held:
            self._commit(held)

    def _commit(self, held: dict[bytes, bytes]) -> None:
        if held:
            Store([self._inner]).put_all(held.items())
            held.clear()

    def _forward(self, method: Callable[..., Result], *args: Any) -> Result:
        held = self._batches.held(self)
        if held:
            self._commit(held)
        return method(*args)
