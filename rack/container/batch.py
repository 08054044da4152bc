"""``with d.batch() as batch:`` collects writes in an object of their own, and writes them together.

The container itself is never in a mode: what is written to it inside the block is written at once, by whomever. So
it does not matter which thread or task enters the block, and which leaves it.
"""

from __future__ import annotations

import os
from threading import RLock
from typing import Any, Generic, NoReturn, Self, TypeVar

from rack.container.base import Container
from rack.errors import NotOpenError

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")

# What a batch holds at most. As it is written a transaction a shard, and all of it may be for one, their number is
# bounded too: each may change a page of its own, and a transaction of LMDB has 131,071.
_BYTES = 32 << 20
_WRITES = 100_000
_WRITE_OVERHEAD = 170  # bytes that a write takes beside its own
_ABSENT: Any = object()

_forks = 0  # that this process comes from; quicker to ask than its number


def _after_fork_in_child() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_after_fork_in_child)


class Batch:
    """Writes that are held in memory, and written together when the ``with`` block ends: what ``batch()`` gives.

    Threads may share one: each write is in it, or has been written, as a whole.
    """

    def __init__(self, container: Container) -> None:
        self._container = container
        self._held: dict[bytes, bytes | None] = {}  # None: to be deleted
        self._size = 0
        self._entered_by: int | None = None  # process, as _forks
        self._is_over = False
        self._lock = RLock()  # a signal handler may write to it while it is flushed

    def __enter__(self) -> Self:
        """Begin. O(1).

        :returns: the batch itself.
        :raises NotOpenError: the container is closed, or the batch was used before.
        """
        if self._entered_by is not None:
            raise NotOpenError("a batch can be used once: make another one with batch()")
        self._container._open_store()
        self._entered_by = _forks
        return self

    def __exit__(self, exc_type: object, exc: object, traceback: object) -> None:
        """Write what is held, unless the block raised.

        O(s + k log(k + n)), for k writes to s shards of n entries. Atomic for each shard, not all together. In a forked
        child it does nothing: the parent writes what is held.
        """
        if self._entered_by != _forks:  # nor may its lock be waited for, which some thread had at the fork
            return
        with self._lock:
            self._is_over = True
            try:
                if exc_type is None:
                    self._flush()
            finally:
                self._held = {}

    def __repr__(self) -> str:
        return f"<batch of {len(self._held):,} writes to {self._container!r}>"

    def _hold(self, key: bytes, value: bytes | None) -> None:
        if self._entered_by != _forks:
            self._refuse()
        with self._lock:
            if self._is_over:
                self._refuse()
            self._held[key] = value
            self._size += _WRITE_OVERHEAD + len(key) + (0 if value is None else len(value))
            if self._size >= _BYTES or len(self._held) >= _WRITES:
                self._flush()

    def _hold_deletion(self, key: object) -> None:
        key_bytes = self._container._dump_known(key)
        if key_bytes is not None:
            self._hold(key_bytes, None)

    def _flush(self) -> None:
        """Write what is held. What could not be written stays; what an interrupt comes behind is written again."""
        held = self._held
        if held:
            for written in self._container._store.change_each(held.items()):
                for key, value in written:
                    if held.get(key, _ABSENT) is value:  # and not another one that came meanwhile
                        del held[key]
        self._size = 0

    def _refuse(self) -> NoReturn:
        if self._entered_by is None:
            raise NotOpenError("the batch has not begun: write to it inside of `with d.batch() as batch:`")
        if self._entered_by == _forks:
            raise NotOpenError("the batch is over: its `with` block was left")
        raise NotOpenError("the batch is of the process that this one was forked from, which writes it")


class DictBatch(Batch, Generic[K, V]):
    """Writes to a dict, written together: what :meth:`rack.PersistentDict.batch` gives.

    >>> from rack import PersistentDict
    >>> with PersistentDict(tmp / "ages") as ages:
    ...     with ages.batch() as batch:
    ...         batch["ann"] = 31
    ...         del batch["bob"]
    ...     dict(ages)
    {'ann': 31}
    """

    def __setitem__(self, key: K, value: V) -> None:
        """Set ``d[key] = value`` when the batch is written. O(1); atomic for the threads that share the batch.

        :param key: hashable.
        :param value: what the serdes can hold.
        :raises TypeError: at once: the key is unhashable.
        :raises SerializationError: at once: the store cannot hold the key, or the serdes the value.
        :raises NotOpenError: not inside of its block.
        """
        self._hold(self._container._dump_key(key), self._container._dump_value(value))

    def __delitem__(self, key: K) -> None:
        """Delete the key, if it is there when the batch is written. O(1); atomic for the threads that share the batch.

        :param key: hashable. One that is not there is no error.
        :raises TypeError: at once: the key is unhashable.
        :raises NotOpenError: not inside of its block.
        """
        self._hold_deletion(key)


class SetBatch(Batch, Generic[T]):
    """Writes to a set, written together: what :meth:`rack.PersistentSet.batch` gives.

    >>> from rack import PersistentSet
    >>> with PersistentSet(tmp / "seen") as seen:
    ...     with seen.batch() as batch:
    ...         batch.add("a")
    ...         batch.discard("b")
    ...     set(seen)
    {'a'}
    """

    def add(self, element: T) -> None:
        """Add an element when the batch is written.

        O(1), and O(log n) when it is written. Atomic for the threads that share the batch.

        :param element: hashable.
        :raises TypeError: at once: the element is unhashable.
        :raises SerializationError: at once: the store cannot hold the element.
        :raises NotOpenError: not inside of its block.

        >>> from rack import PersistentSet
        >>> with PersistentSet(tmp / "added") as seen:
        ...     with seen.batch() as batch:
        ...         batch.add("a")
        ...     "a" in seen
        True
        """
        self._hold(self._container._dump_key(element), b"")

    def discard(self, element: object) -> None:
        """Remove an element when the batch is written, if it is there then.

        O(1), and O(log n) when it is written. Atomic for the threads that share the batch.

        :param element: hashable. One that is not there is no error.
        :raises TypeError: at once: the element is unhashable.
        :raises NotOpenError: not inside of its block.

        >>> from rack import PersistentSet
        >>> with PersistentSet(tmp / "discarded") as seen:
        ...     seen.add_many("ab")
        ...     with seen.batch() as batch:
        ...         batch.discard("a")
        ...     set(seen)
        2
        {'b'}
        """
        self._hold_deletion(element)
