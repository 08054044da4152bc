"""A store on servers that is open in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress, repeat
from operator import itemgetter
from typing import Any

from rack.errors import LockTimeoutError, ServerError, ServerTimeoutError, StoreDeletedError
from rack.shard.base import Pair, Shard
from rack.shard.server import Server
from rack.shard.spans import ALL, blocks
from rack.store.marks import Mark
from rack.store.opening import Mode
from rack.store.openstore import OpenStore
from rack.store.router import Digest
from rack.store.sharded import Change, Store

_ATTEMPTS, _PAUSE = 50, 0.01
_KEYS = 8192  # in a round of add_new: what a stopped caller has added at most, and was not told


def steady(shards: Sequence[Shard]) -> Iterator[list[Pair]]:
    """Yield the pairs of each shard as they all are at one moment. It holds a shard's in memory.

    :raises LockTimeoutError: others leave a shard no moment of quiet that is long enough to read it.
    """
    for shard in shards:
        for attempt in range(_ATTEMPTS):
            time.sleep(attempt * _PAUSE)
            before = shard.version()
            found = list(blocks(shard, ALL, values=True))
            if shard.version() == before:
                break
        else:
            raise LockTimeoutError(f"{shard.path} was changed again and again while it was read; nothing was made")
        yield from found


class ServedStore(Store):
    """Sends what concerns several shards to their servers at once."""

    def __init__(self, shards: Sequence[Shard], server: Server, memory: int | None, digest: Digest) -> None:
        super().__init__(shards, memory, digest)
        self._server = server
        self.clock = server.clock

    def _each(self, name: str, *args: Any) -> list[Any]:
        return self._server.together([(shard, name, args) for shard in self.shards])

    def count(self) -> int:
        return sum(self._each("count"))

    def clear(self) -> None:
        self._each("clear")

    def sync(self) -> None:
        self._server.sync()

    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, bytes | None]:
        found: dict[bytes, bytes | None] = dict.fromkeys(keys)
        parts = list(self._parts(found))
        answers: list[Any] = self._server.together([(shard, "get_many", (part,)) for shard, part in parts])
        for (_, part), values in zip(parts, answers, strict=True):
            found.update(zip(part, values, strict=True))
        return found

    def add_new(self, keys: Iterable[bytes], value_of: Callable[[bytes], bytes] | None = None) -> Iterator[list[bytes]]:
        parts, size = [], 0
        for shard, part in self._parts(keys):
            parts.append((shard, part))
            size += len(part)
            if size >= _KEYS:
                yield from self._added(parts, value_of)
                parts, size = [], 0
        yield from self._added(parts, value_of)

    def _added(
        self, parts: Sequence[tuple[Shard, list[bytes]]], value_of: Callable[[bytes], bytes] | None
    ) -> Iterator[list[bytes]]:
        calls: list[Any] = []
        for shard, part in parts:
            pairs = list(zip(part, repeat(b"") if value_of is None else map(value_of, part)))  # noqa: B905
            calls.append((shard, "add_many", (pairs,)))
        answers: list[Any] = self._server.together(calls)
        for (_, part), added in zip(parts, answers, strict=True):
            yield list(compress(part, added))

    def change_each(self, changes: Iterable[Change]) -> Iterator[list[Change]]:
        by_shard: dict[Shard, list[Change]] = {}
        for change in sorted(changes, key=itemgetter(0)):
            by_shard.setdefault(self.route(change[0]), []).append(change)
        calls: list[Any] = []
        for shard, changed in by_shard.items():
            pairs = [(key, value) for key, value in changed if value is not None]
            calls.append((shard, "change_many", (pairs, [key for key, value in changed if value is None])))
        self._server.together(calls)
        yield from by_shard.values()

    def _is_empty(self, number: int) -> bool:
        return False  # nothing is appended there: what comes is sent, and does not wait on this machine's disk


class OpenServed(OpenStore):
    """What :class:`OpenStore` is for files: the store in this process. It holds connections, and no lock."""

    _store: ServedStore
    _server: Server | None = None
    _mark: Mark

    def open(self, enter: Callable[[], Any]) -> None:
        """Come into the store and open it."""
        self._server, self._mark = enter()
        self.manifest = self._mark.manifest
        self.durability = self.mode.durability or "everysec"
        if self.durability == "always" and self.mode.flag != "r":
            self._server.check_durable()
        readonly, timeout = self.mode.flag == "r", self.mode.timeout
        specs = [
            self.manifest.spec(self.path, number, self._request, self.durability, readonly, timeout)
            for number in range(self.manifest.shards)
        ]
        self.shards += self._server.shards(self._mark.place, specs)
        self._store = ServedStore(self.shards, self._server, None, self.manifest.digest)
        self.is_open = True

    def abandon(self) -> None:
        self.shut()

    def store(self, mode: Mode) -> Store:
        if mode.memory is None:
            return self._store
        assert self._server is not None
        return ServedStore(self.shards, self._server, mode.memory, self.manifest.digest)

    def sync(self, store: Store) -> None:
        store.sync()

    @property
    def is_ready(self) -> bool:
        return self.is_open

    def is_current(self) -> bool:
        """Return whether the store still is on its servers, under its name."""
        return self._is_owned(self._mark.is_of)

    def is_gone(self) -> bool:
        """Return whether the store was removed, or replaced. One that has another name by now is the same store."""
        return not self._is_owned(lambda name, identity: self._mark.owner(identity) != "")

    def _is_owned(self, counts: Callable[[str, bytes | None], bool]) -> bool:
        assert self._server is not None
        try:
            identity = self._server.identity(self._mark.place, hasty=True)
        except StoreDeletedError:
            return False
        except (ServerError, ServerTimeoutError):
            return True  # as far as anybody knows: who closes a store must not wait for a server that is gone
        is_there = identity is not None and self.manifest.id.encode() in identity
        return is_there and counts(self._server.name, identity)

    def rejoin(self) -> None:
        """Nothing: the first request of a forked child connects."""

    def after_fork_in_child(self) -> None:
        if self._server is not None:
            self._server.forget()

    def can_rest(self) -> bool:
        return self.is_open

    def rest(self) -> None:
        """Nothing: nobody is kept from anything."""

    def wake(self) -> bool:
        return self.is_current()

    def shut(self, keep: bool = True) -> None:
        for shard in self.shards:
            shard.close()
        if self._server is not None:
            self._server.close()
