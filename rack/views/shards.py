"""``d.shards()``: what one shard of an open container holds, read on its own, here or in another process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, Self, TypeVar

from rack.codec.keys import KeyCodec
from rack.container.scan import Scannable
from rack.shard.spans import ALL, BACKWARD, Span
from rack.store.sharded import Store
from rack.views.dicts import PersistentItems, PersistentKeys, PersistentValues

K = TypeVar("K")
V = TypeVar("V")
E = TypeVar("E")
_MISSING: Any = object()


class ShardView(Generic[K, E], Scannable[E]):
    """What one shard holds: read only and live.

    The views of all shards together have every entry exactly once. ``store`` is the container, to which a worker may
    write. ``number`` is that of the shard, from 0. A view can be pickled, as its container can: it opens the store
    where it is loaded. ``with`` opens and closes the container.

    What is read of one entry is atomic. Iteration is not: it reads in blocks. ``n`` is the number of entries in the
    shard.

    >>> from multiprocessing import get_context
    >>> from rack import PersistentDict
    >>> with PersistentDict(tmp / "d", shards=4) as d, get_context("fork").Pool(2) as pool:
    ...     d.update((number, number * number) for number in range(100))
    ...     sum(pool.map(len, d.shards()))
    100
    """

    store: Any

    def __init__(self, store: Any, number: int) -> None:
        self.store = store
        #: The number of the shard, from 0.
        self.number = number

    @property
    def _store(self) -> Store:
        return Store((self.store._store.shards[self.number],))

    @property
    def _key_codec(self) -> KeyCodec:
        return self.store._key_codec  # type: ignore[no-any-return]

    def __len__(self) -> int:
        """Return the number of entries in the shard. O(1), atomic."""
        return self._store.count()

    def __iter__(self) -> Iterator[K]:
        """Iterate over the keys in order of their bytes, in blocks: the loop may change the store. O(n) for all; not
        atomic.
        """
        return self._keys()

    def __reversed__(self) -> Iterator[K]:
        """Iterate over the keys in the reverse order of their bytes, in blocks. O(n) for all; not atomic."""
        return self._keys(BACKWARD)

    def __contains__(self, key: object) -> bool:
        """Return whether the key is in the store, and in this shard. O(log n), atomic."""
        return key in self.store and self._has(key)

    def __enter__(self) -> Self:
        """Open the container, which the end of the ``with`` block closes. O(s); O(1) if it is open."""
        self.store.open()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.store.__exit__(*exc_info)

    def __repr__(self) -> str:
        return f"<shard {self.number} of {self.store!r}>"

    def _has(self, key: Any) -> bool:
        """Return whether a key that the store can hold belongs to this shard."""
        store = self.store
        return store._route(store._dump_key(key)) is store._store.shards[self.number]

    def _keys(self, span: Span = ALL) -> Iterator[Any]:
        return self.store._keys(span, self._store)  # type: ignore[no-any-return]


class SetShard(ShardView[E, E]):
    """One shard of a PersistentSet: what each of ``s.shards()`` is. See :class:`ShardView`.

    >>> from rack import PersistentSet
    >>> with PersistentSet(tmp / "of_a_set", shards=2) as seen:
    ...     seen.update(["a", "b", "c"])
    ...     sorted(element for shard in seen.shards() for element in shard)
    ['a', 'b', 'c']
    """

    def _walk(self, span: Span) -> Iterator[E]:
        return self._keys(span)


class DictShard(ShardView[K, tuple[K, V]], Generic[K, V]):
    """One shard of a PersistentDict: what each of ``d.shards()`` is. See :class:`ShardView`.

    It is a read-only mapping of the keys that belong to the shard.

    >>> from rack import PersistentDict
    >>> with PersistentDict(tmp / "of_a_dict", shards=2) as ages:
    ...     ages.update({"ann": 31, "bob": 7})
    ...     [shard["ann"] for shard in ages.shards() if "ann" in shard]
    [31]
    """

    def __getitem__(self, key: K) -> V:
        """Return the value of a key of this shard, or raise KeyError. O(log n), atomic."""
        value: V = self.store.get(key, _MISSING)
        if value is _MISSING or not self._has(key):
            raise KeyError(key)
        return value

    def get(self, key: K, default: Any = None) -> Any:
        """Return the value of a key of this shard. O(log n). Atomic.

        :param key: any hashable object.
        :param default: what to return if the key is not in the store, or not in this shard.
        :returns: the value, or ``default``.
        :raises TypeError: the key is not hashable.
        :raises DeserializationError: the value cannot be loaded.

        >>> from rack import PersistentDict
        >>> with PersistentDict(tmp / "get", shards=2) as ages:
        ...     ages["ann"] = 31
        ...     sorted(shard.get("ann", 0) for shard in ages.shards())
        [0, 31]
        """
        try:
            return self[key]
        except KeyError:
            return default

    def keys(self) -> PersistentKeys[K]:
        """Return a live view of the keys of this shard. O(1); it reads nothing, so there is nothing to be atomic.

        :returns: a :class:`rack.views.dicts.PersistentKeys`.
        :raises NotOpenError: when the view is used: the dict is not open.

        >>> from rack import PersistentDict
        >>> with PersistentDict(tmp / "keys", shards=1) as ages:
        ...     ages.update({"ann": 31, "bob": 7})
        ...     list(ages.shards()[0].keys())
        ['ann', 'bob']
        """
        return PersistentKeys(self)

    def values(self) -> PersistentValues[V]:
        """Return a live view of the values of this shard. O(1); it reads nothing, so there is nothing to be atomic.

        :returns: a :class:`rack.views.dicts.PersistentValues`.
        :raises NotOpenError: when the view is used: the dict is not open.

        >>> from rack import PersistentDict
        >>> with PersistentDict(tmp / "values", shards=1) as ages:
        ...     ages.update({"ann": 31, "bob": 7})
        ...     list(ages.shards()[0].values())
        [31, 7]
        """
        return PersistentValues(self)

    def items(self) -> PersistentItems[K, V]:
        """Return a live view of the pairs of this shard. O(1); it reads nothing, so there is nothing to be atomic.

        :returns: a :class:`rack.views.dicts.PersistentItems`.
        :raises NotOpenError: when the view is used: the dict is not open.

        >>> from rack import PersistentDict
        >>> with PersistentDict(tmp / "items", shards=1) as ages:
        ...     ages.update({"ann": 31, "bob": 7})
        ...     list(ages.shards()[0].items())
        [('ann', 31), ('bob', 7)]
        """
        return PersistentItems(self)

    def _walk(self, span: Span) -> Iterator[tuple[K, V]]:
        return self._items(span)

    def _items(self, span: Span = ALL) -> Iterator[tuple[K, V]]:
        return self.store._items(span, self._store)  # type: ignore[no-any-return]

    def _new_set(self, elements: Iterable[Any], change: Callable[[Any], object] | None, key_serdes: str) -> Any:
        return self.store._new_set(elements, change, key_serdes)


Mapping.register(DictShard)
