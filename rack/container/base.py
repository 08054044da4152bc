"""What PersistentDict and PersistentSet share: bulk reads, deletions, batches, verification."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Self, TypeVar

from rack.codec.serdes import unserializable
from rack.container.batch import Batches
from rack.container.handle import Handle, Name
from rack.errors import DeserializationError, NotOpenError, SerializationError, told
from rack.shard.spans import ALL, Span
from rack.store import registry
from rack.store.sharded import Store
from rack.system.fanout import fan_out
from rack.system.imports import importing

T = TypeVar("T")

CHUNK = 1024  # how many elements a streaming operation takes in at a time


class Container(Handle):
    """Base of both containers: what is done to keys and values of either."""

    # Serialization

    def _dump_value(self, value: object) -> bytes:
        try:
            return self._dump(value)
        except NotOpenError:
            raise
        except Exception as error:
            raise unserializable(value, "value", self._serdes.name, error) from error

    def _load_value(self, data: bytes) -> Any:
        try:
            return self._load(data)
        except NotOpenError:
            raise
        except Exception as error:
            raise self._unreadable(data, error) from error

    def _find_unreadable(self, load: Callable[[bytes], Any], block: Iterable[bytes]) -> None:
        """Raise the error for the first of some stored bytes that cannot be loaded."""
        for data in block:
            try:
                load(data)
            except Exception as error:
                raise self._unreadable(data, error) from error

    def _unreadable(self, data: bytes, error: Exception) -> DeserializationError:
        return DeserializationError(
            f"{self.name}: serdes {self._serdes.name!r} cannot load stored bytes ({told(error)}): {data[:60]!r}"
        )

    # Many keys

    def contains_many(self, keys: Iterable[object]) -> Iterator[bool]:
        """For each key, in order, whether it is there. Streams: reads in blocks, a transaction a shard and block."""
        for _, value in self._lookup(keys):
            yield value is not None

    def _lookup(self, keys: Iterable[T]) -> Iterator[tuple[T, bytes | None]]:
        """Yield each key with its stored value, or None; a transaction a shard for each chunk of keys."""
        for chunk in chunks(keys, CHUNK):
            dumped = list(self._dump_keys(chunk))
            values: Iterable[bytes | None]
            if None in dumped:
                found = iter(self._store.get_many([key for key in dumped if key is not None]))
                values = [None if key is None else next(found) for key in dumped]
            else:
                values = self._store.get_many(dumped)  # type: ignore[arg-type]
            yield from zip(chunk, values, strict=True)

    def _delete_each(self, keys: Iterable[object]) -> int:
        return self._store.delete_all(key for key in self._dump_keys(keys) if key is not None)

    def _dump_keys(self, keys: Iterable[object]) -> Iterator[bytes | None]:
        dump = self._dump_key
        for key in keys:
            try:
                yield dump(key)
            except TypeError as error:
                yield self._key_or_none(key, error)

    def _key_or_none(self, key: object, error: TypeError) -> bytes | None:
        """Return None for a key that the store cannot hold, and so does not hold; raise ``error`` for an unhashable."""
        if isinstance(error, SerializationError):
            return None
        raise error

    def _keys(self, span: Span = ALL, store: Store | None = None) -> Iterator[Any]:
        load = self._load_key
        for block in (store or self._store).all_keys(span):
            try:
                keys = list(map(load, block))
            except Exception:
                self._find_unreadable(load, block)
                raise
            yield from keys

    def _pop_first(self) -> tuple[Any, bytes]:
        """Remove some entry and return its key and the bytes of its value; KeyError without one if there is none."""
        pair = self._store.pop_first()
        if pair is None:
            raise KeyError
        try:
            return self._load_key(pair[0]), pair[1]
        except Exception as error:
            self._route(pair[0]).add(*pair)  # nobody has got it
            raise self._unreadable(pair[0], error) from error

    def clear(self) -> None:
        """Remove everything: atomic for each shard."""
        self._store.clear()

    def __len__(self) -> int:
        return self._store.count()

    def __bool__(self) -> bool:
        return any(shard.count() for shard in self._store.shards)

    @contextmanager
    def batch(self) -> Iterator[Self]:
        """Collect this thread's plain writes (``d[key] = value``) and commit them together, a transaction a shard.

        This thread reads what it wrote; others see it when the block ends, also by an exception, or when about 32 MiB
        have been collected. Operations with an answer (add, discard, pop, incr, ...) are done at once. The writes of
        one batch are atomic for each shard, not all together. No lock is held while the block runs.
        """
        with registry.guard():
            if self._batches is None:
                self._batches = Batches(self._store)
                self._use(self._batches.store)
            batches = self._batches
            batches.begin()
        try:
            yield self
        finally:
            try:
                batches.flush_outermost()
            finally:
                with registry.guard():
                    if not batches.end() and self._batches is batches:
                        self._batches = None
                        if not self.closed:
                            self._use(batches.plain)

    def _is_shareable(self) -> bool:
        """Return whether worker processes can use the container; what this thread's batch holds is committed first."""
        self._settle()
        return not self._is_snapshot

    def _make_set(self, name: Name, fill: Callable[[Any], object], **options: Any) -> Any:
        """Return a new, open set that holds keys as this container does, filled by ``fill``."""
        raise NotImplementedError

    def _settle(self) -> None:
        """Commit what this thread's batch holds, so that other processes see it."""
        if self._batches is not None:
            self._batches.settle()

    def check(self, *, workers: int = 1) -> int:
        """Verify the store: shards, identities, counts, order, that each key is in its shard and can be read.

        ``workers`` processes share the shards.

        :returns: the number of entries.
        :raises CorruptShardError, DeserializationError: with what is wrong. :raises WorkerError: a worker was killed.
        """
        with importing:
            from rack.care.entries import check_shard

        return sum(fan_out(check_shard, (self,), range(len(self._store.shards)), workers))


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
