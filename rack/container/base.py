"""What PersistentDict and PersistentSet share: bulk reads, deletions, verification."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from rack.codec.failure import is_failure, unserializable
from rack.container.described import Described
from rack.container.maker import Name
from rack.container.rows import dumped, gathered, parts
from rack.errors import DeserializationError, SerializationError, told
from rack.shard.spans import ALL, Span
from rack.store.sharded import Store
from rack.system.fanout import fan_out
from rack.system.imports import importing

T = TypeVar("T")


class Container(Described):
    """Base of both containers: what is done to keys and values of either."""

    # Serialization

    def _dump_value(self, value: object) -> bytes:
        try:
            return self._dump(value)
        except Exception as error:
            raise self._unserializable(value, error) from error

    def _load_value(self, data: bytes) -> Any:
        try:
            return self._load(data)
        except Exception as error:
            raise self._unreadable(data, error) from error

    def _unserializable(self, value: object, error: Exception) -> SerializationError:
        """Return the error for a value that the serdes refused; raise ``error`` itself if it came from elsewhere."""
        return unserializable(value, "value", self._serdes.name, error, self._serdes.dumps)

    def _load_stored_key(self, data: bytes) -> Any:
        try:
            return self._load_key(data)
        except Exception as error:
            raise self._unreadable(data, error) from error

    def _unreadable(self, data: bytes, error: Exception) -> DeserializationError:
        """Return the error for stored bytes that cannot be loaded; raise ``error`` itself if it came from elsewhere."""
        if not is_failure(error):
            raise error
        return DeserializationError(
            f"{self.name}: serdes {self._serdes.name!r} cannot load stored bytes ({told(error)}): {data[:60]!r}"
        )

    # Many keys

    def contains_many(self, keys: Iterable[object]) -> Iterator[bool]:
        """Yield, for each key in order, whether it is there.

        Streams; O(log n) a key. Not atomic as a whole: keys are looked up 1024 at a time, those of a shard in one
        transaction. (A set takes as many of a collection, or of an open file, as ``memory`` holds.) Each answer is of a
        moment during the loop.

        :param keys: hashable ones; any iterable. Those that the store could not hold are not there.
        :yields: whether the key is there.
        :raises TypeError: a key is unhashable. Its block has no answers.
        :raises Exception: what the iterable raises.

        >>> from rack import PersistentDict
        >>> with PersistentDict(tmp / "several") as ages:
        ...     ages.update({"ann": 31, "bob": 7})
        ...     list(ages.contains_many(["bob", "eve", "ann"]))
        [True, False, True]
        """
        for _, value in self._lookup(keys, self._lookup_memory()):
            yield value is not None

    def _lookup_memory(self) -> int:
        """Return how many bytes the keys may take that are looked up at a time."""
        return 0  # of keys that have values, as few as there may be

    def _lookup(self, keys: Iterable[T], memory: int = 0) -> Iterator[tuple[T, bytes | None]]:
        """Yield each key with its stored value, or None; a transaction a shard for each block of keys."""
        for block, known, failure in gathered(keys, self._dump_known, memory):
            if failure is not None:
                raise failure
            found = self._store.get_many(key for key in known if key is not None)
            yield from zip(block, map(found.get, known), strict=True)  # type: ignore[arg-type]

    def _delete_each(self, keys: Iterable[object]) -> int:
        dump: Callable[[object], bytes | None] = self._dump_key
        return self._store.delete_all(key for key in dumped(keys, dump, self._key_or_none) if key is not None)

    def _dump_known(self, key: object) -> bytes | None:
        """Return a key's bytes; None for one that the store cannot hold, and so does not."""
        try:
            return self._dump_key(key)
        except TypeError as error:
            return self._key_or_none(key, error)

    def _key_or_none(self, key: object, error: TypeError) -> bytes | None:
        """Return None for a key that the store cannot hold, and so does not hold; raise ``error`` for an unhashable."""
        if isinstance(error, SerializationError):
            return None
        raise error

    def _keys(self, span: Span = ALL, store: Store | None = None) -> Iterator[Any]:
        load = self._codec.load_plain
        for block in (store or self._store).all_keys(span):
            for part in parts(block):
                keys: Iterable[Any]
                try:
                    keys = list(map(load, part))
                except Exception as error:
                    if not is_failure(error):
                        raise
                    keys = map(self._load_stored_key, part)
                # Not in the try: what an exception meets there when this is closed nobody would be told.
                yield from keys

    def _pop_first(self) -> tuple[Any, bytes]:
        """Remove some entry and return its key and the bytes of its value; KeyError without one if there is none."""
        pair = self._store.pop_first()
        if pair is None:
            raise KeyError
        try:
            return self._load_key(pair[0]), pair[1]
        except BaseException as error:
            self._route(pair[0]).add(*pair)  # nobody has got it
            if isinstance(error, Exception):
                raise self._unreadable(pair[0], error) from error
            raise

    def clear(self) -> None:
        """Remove everything.

        O(n), but far quicker than to delete each entry. Atomic for each shard, not as a whole: others may see some
        shards empty before others. What is added meanwhile to a shard that is already cleared stays.

        :raises ReadOnlyError: flag "r", or a snapshot.
        :raises LockTimeoutError: with ``timeout=``. Some shards may be cleared.

        >>> from rack import PersistentDict
        >>> with PersistentDict(tmp / "cleared") as ages:
        ...     ages["ann"] = 31
        ...     ages.clear()
        ...     len(ages)
        0
        """
        self._store.clear()

    def __len__(self) -> int:
        """Return the number of entries. O(shards). Atomic for each shard; the shards are counted one after another."""
        return self._store.count()

    def __bool__(self) -> bool:
        """Return whether there is any entry. O(shards). Not atomic: the shards are looked at one after another."""
        return any(shard.count() for shard in self._store.shards)

    def _is_shareable(self) -> bool:
        """Return whether worker processes can use the container."""
        return not self._is_snapshot

    def _make_set(self, name: Name, fill: Callable[[Any], object], **options: Any) -> Any:
        """Return a new, open set that holds keys as this container does, filled by ``fill``."""
        raise NotImplementedError

    def check(self, *, workers: int = 1) -> int:
        """Verify the store: shards, identities, counts, order, that each key is in its shard and can be read.

        O(n). Atomic for each shard, which is read in one state; other processes go on writing. Other threads of this
        process wait for a shard while it is read. For a store that does not open there is :func:`rack.verify`.

        :param workers: number of processes that share the work, a shard at a time. 1: this one does it.
        :returns: the number of entries.
        :raises CorruptShardError: a shard is damaged, or has an entry that does not belong there. The message says
            what.
        :raises DeserializationError: a key or value cannot be read. The message says which.
        :raises WorkerError: a worker was killed.
        :raises TypeError: ``workers`` is no whole number.
        :raises ValueError: ``workers`` is less than 1.

        >>> from rack import PersistentDict
        >>> with PersistentDict(tmp / "checked") as ages:
        ...     ages.update({"ann": 31, "bob": 7})
        ...     ages.check()
        2
        """
        with importing():
            from rack.care.entries import check_shard

        return sum(fan_out(check_shard, (self,), range(len(self._store.shards)), workers))
