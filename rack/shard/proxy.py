"""Shards that stand before another shard and change what some of its operations do."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

from rack.errors import ReadOnlyError
from rack.shard.base import BLOCK_ITEMS, Examined, Pair, Salvaged, Shard, ShardSpec, Snapshot

Result = TypeVar("Result")


class ShardProxy(Shard):
    """Forwards every operation through :meth:`_forward`; a subclass overrides that, or single operations."""

    suffix = ""
    companions = ()

    @classmethod
    def create(cls, spec: ShardSpec) -> None:
        raise TypeError("a proxy has no files of its own")

    def __init__(self, inner: Shard) -> None:
        self._inner = inner
        self.ordered = inner.ordered

    def _forward(self, method: Callable[..., Result], *args: Any) -> Result:
        return method(*args)

    def get(self, key: bytes) -> bytes | None:
        return self._forward(self._inner.get, key)

    def contains(self, key: bytes) -> bool:
        return self._forward(self._inner.contains, key)

    def put(self, key: bytes, value: bytes) -> None:
        self._forward(self._inner.put, key, value)

    def add(self, key: bytes, value: bytes) -> bytes | None:
        return self._forward(self._inner.add, key, value)

    def delete(self, key: bytes) -> bool:
        return self._forward(self._inner.delete, key)

    def pop(self, key: bytes) -> bytes | None:
        return self._forward(self._inner.pop, key)

    def pop_first(self) -> Pair | None:
        return self._forward(self._inner.pop_first)

    def modify(self, key: bytes, change: Callable[[bytes | None], bytes | None]) -> None:
        self._forward(self._inner.modify, key, change)

    def increase(
        self, key: bytes, change: Callable[[bytes | None], bytes], delta: Any, first: Any, form: bytes | None
    ) -> int | None:
        return self._forward(self._inner.increase, key, change, delta, first, form)

    def transact(self, body: Callable[..., Result], *args: Any) -> Result:
        result: Result = self._forward(self._inner.transact, body, *args)
        return result

    @property
    def transaction(self) -> int:
        return self._inner.transaction

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return self._forward(self._inner.get_many, keys)

    def put_many(self, pairs: list[Pair]) -> None:
        self._forward(self._inner.put_many, pairs)

    def add_many(self, pairs: list[Pair]) -> list[bool]:
        return self._forward(self._inner.add_many, pairs)

    def delete_many(self, keys: list[bytes]) -> int:
        return self._forward(self._inner.delete_many, keys)

    def change_many(self, pairs: list[Pair], keys: list[bytes]) -> None:
        self._forward(self._inner.change_many, pairs, keys)

    def scan(
        self, start: bytes, stop: bytes | None, reverse: bool, values: bool, limit: int = BLOCK_ITEMS
    ) -> list[Any]:
        return self._forward(self._inner.scan, start, stop, reverse, values, limit)

    def scanning(self) -> Callable[..., list[Any]]:
        return self.scan if self.ordered else self._inner.scanning()

    def count(self) -> int:
        return self._forward(self._inner.count)

    def count_at_once(self) -> int | None:
        return self._inner.count_at_once()

    def clear(self) -> None:
        self._forward(self._inner.clear)

    def version(self) -> object:
        return self._forward(self._inner.version)

    def examine(self, timeout: float | None = None) -> Examined:
        return self._forward(self._inner.examine, timeout)

    @classmethod
    def examine_file(cls, spec: ShardSpec, alone: bool) -> Examined:
        raise TypeError("a proxy has no files of its own")

    @classmethod
    def salvage(cls, spec: ShardSpec) -> Salvaged:
        raise TypeError("a proxy has no files of its own")

    @property
    def path(self) -> str:
        return self._inner.path

    def sync(self) -> None:
        self._forward(self._inner.sync)

    def snapshot(self) -> Snapshot:
        return self._forward(self._inner.snapshot)

    def hold(self) -> Snapshot:
        return self._forward(self._inner.hold)

    def let_go(self) -> None:
        self._inner.let_go()

    def timed(self, timeout: float, method: Callable[..., Any], *args: Any) -> Any:
        return self._inner.timed(timeout, method, *args)

    def queue(self) -> None:
        self._forward(self._inner.queue)

    # Life is the inner shard's own.

    def holder(self) -> str | None:
        return self._inner.holder()

    def pause(self, timeout: float) -> bool:
        return self._inner.pause(timeout)

    def resume(self) -> None:
        self._inner.resume()

    def keep(self, has_company: bool) -> None:
        self._inner.keep(has_company)

    def shorten(self) -> None:
        self._inner.shorten()

    def rest(self) -> None:
        self._inner.rest()

    def on_write(self, check: Callable[[bool], None] | None) -> None:
        self._inner.on_write(check)

    def close(self, timeout: float | None = None) -> None:
        self._inner.close(timeout)

    def before_fork(self) -> None:
        self._inner.before_fork()

    def after_fork_in_parent(self) -> None:
        self._inner.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        self._inner.after_fork_in_child()


class ReadOnlyShard(Shard):
    """Refuses writes."""

    _refusal: ClassVar[str]

    def _refuse(self, *args: Any) -> Any:
        raise ReadOnlyError(errno.EACCES, self._refusal)

    put = add = delete = pop = pop_first = modify = increase = transact = _refuse  # type: ignore[assignment]
    put_many = add_many = delete_many = change_many = clear = _refuse  # type: ignore[assignment]


class FrozenShard(ReadOnlyShard, ShardProxy):
    """For a container with ``flag="r"`` on a store that this process has also open for writing."""

    _refusal = "the container was opened for reading alone"


class GuardedShard(ShardProxy):
    """Makes a check before each operation: for a shard that is read without protection from writers."""

    def __init__(self, inner: Shard, check: Callable[[], None]) -> None:
        super().__init__(inner)
        self._check = check

    def count_at_once(self) -> int | None:
        return None if self._inner.unprotected else self._inner.count_at_once()

    def _forward(self, method: Callable[..., Result], *args: Any) -> Result:
        self._inner.refresh()
        if self._inner.unprotected:
            self._check()
        return method(*args)
