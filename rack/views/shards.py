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


class ShardView(Generic[K, E], Scannable[E]):
    """The entries of one shard: read only and live. ``store`` is the container, to which a worker may write.

    The views of all shards together have every entry exactly once. A view can be pickled, as its container can: it
    opens the store where it is loaded. ``with`` opens and closes the container.

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
        """Return the number of entries. O(1)."""
        return self._store.count()

    def __iter__(self) -> Iterator[K]:
        """Iterate over the keys in order of their bytes, in blocks: the loop may change the store."""
        return self._keys()

    def __reversed__(self) -> Iterator[K]:
        return self._keys(BACKWARD)

    def __contains__(self, key: object) -> bool:
        """Return whether the key is in the store, and in this shard."""
        return key in self.store and self._has(key)

    def __enter__(self) -> Self:
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
    """A shard of a PersistentSet."""

    def _walk(self, span: Span) -> Iterator[E]:
        return self._keys(span)


class DictShard(ShardView[K, tuple[K, V]], Generic[K, V]):
    """A shard of a PersistentDict."""

    def __getitem__(self, key: K) -> V:
        value: V = self.store[key]
        if not self._has(key):
            raise KeyError(key)
        return value

    def get(self, key: K, default: Any = None) -> Any:
        """Return the value, or ``default`` if the key is not in this shard."""
        try:
            return self[key]
        except KeyError:
            return default

    def keys(self) -> PersistentKeys[K]:
        return PersistentKeys(self)

    def values(self) -> PersistentValues[V]:
        return PersistentValues(self)

    def items(self) -> PersistentItems[K, V]:
        return PersistentItems(self)

    def _walk(self, span: Span) -> Iterator[tuple[K, V]]:
        return self._items(span)

    def _items(self, span: Span = ALL) -> Iterator[tuple[K, V]]:
        return self.store._items(span, self._store)  # type: ignore[no-any-return]

    def _new_set(self, elements: Iterable[Any], change: Callable[[Any], object] | None) -> Any:
        return self.store._new_set(elements, change)


Mapping.register(DictShard)
