"""The views of a PersistentDict. They are live, and their set operations make anonymous PersistentSets."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, MappingView, Set, ValuesView
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from rack.algebra import dicts, joins, operand, sets
from rack.codec.keys import KeyCodec
from rack.container.scan import Scannable
from rack.errors import SerializationError
from rack.shard.spans import ALL, BACKWARD, Span

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")
_MISSING: Any = object()


class _View(MappingView, Scannable[T]):
    """What all views share: they are live, and belong to a dict or to one of its shards."""

    _mapping: Any

    @property
    def mapping(self) -> MappingProxyType[Any, Any]:
        """The dict that this is a view of, read only. O(1)."""
        return MappingProxyType(self._mapping)

    @property
    def _key_codec(self) -> KeyCodec:
        return self._mapping._key_codec  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[T]:
        """Iterate in order of the keys' bytes, in blocks: the loop may change the dict. O(n) for all; not atomic."""
        return self._walk(ALL)

    def __reversed__(self) -> Iterator[T]:
        """Iterate in the reverse order of the keys' bytes, in blocks. O(n) for all; not atomic."""
        return self._walk(BACKWARD)


class _SetView(_View[T], Set[T]):
    """What the views of keys and of items share: set operations that hold nothing in memory, and make PersistentSets.

    Beside a store of the same shape they are merge joined. Else elements are looked up, and what is made is a set with
    serdes "pickle", which holds them whatever they are.
    """

    def _is_alike(self, other: object) -> bool:
        raise NotImplementedError

    def _is_empty(self, join: str, other: Any) -> bool:
        """Return whether nothing comes out of a join with what is alike."""
        raise NotImplementedError

    def _joined(self, join: str, other: Any) -> Any:
        """Return a set of what comes out of a join with what is alike."""
        raise NotImplementedError

    def _gather(self, elements: Iterable[Any], change: Callable[[Any], object] | None = None) -> Any:
        return self._mapping._new_set(elements, change, "marshal")

    def __and__(self, other: Iterable[Any]) -> Any:
        """Return an anonymous set of what is in both. O(n + m) beside a store of the same shape; else O(m log n)."""
        if self._is_alike(other):
            return self._joined("intersection", other)
        return self._gather(element for element in other if element in self)

    def __or__(self, other: Iterable[Any]) -> Any:
        """Return an anonymous set of what is in any of the two. O((n + m) log (n + m))."""
        return self._gather(element for side in (self, other) for element in side)

    def __sub__(self, other: Iterable[Any]) -> Any:
        """Return an anonymous set of what is only here. O(n + m) beside a store of the same shape; else
        O((n + m) log n).
        """
        if self._is_alike(other):
            return self._joined("difference", other)
        if isinstance(other, _SetView):
            return self._gather(element for element in self if element not in other)
        return self._gather(self, lambda made: made.difference_update(other))

    def __xor__(self, other: Iterable[Any]) -> Any:
        """Return an anonymous set of what is in one only. O(n + m) beside a store of the same shape; else
        O((n + m) log n).
        """
        if self._is_alike(other):
            return self._joined("symmetric_difference", other)
        if isinstance(other, _SetView):
            pairs = ((self, other), (other, self))
            return self._gather(element for one, two in pairs for element in one if element not in two)
        return self._gather(self, lambda made: made.symmetric_difference_update(other))

    def __rsub__(self, other: Iterable[Any]) -> Any:
        """Return an anonymous set of what is only in the other. O(m log n)."""
        return self._gather(element for element in other if element not in self)

    __rand__ = __and__
    __ror__ = __or__
    __rxor__ = __xor__

    def __le__(self, other: Set[Any]) -> bool:
        """Return whether all is in another set. O(n + m) beside a store of the same shape; else a lookup each. Not
        atomic.
        """
        if self._is_alike(other):
            return self._is_empty("difference", other)
        return super().__le__(other)

    def __ge__(self, other: Set[Any]) -> bool:
        """Return whether all of another set is here. O(n + m) beside a store of the same shape; else O(m log n). Not
        atomic.
        """
        if isinstance(other, _SetView) and self._is_alike(other):
            return other <= self
        return super().__ge__(other)

    def isdisjoint(self, other: Iterable[Any]) -> bool:
        """Return whether the two share nothing. O(n + m) beside a store of the same shape; else O(m log n).

        Stops at the first that they share. Not atomic: it reads in blocks, or looks up one by one, while others may
        write.

        :param other: any iterable: of keys for a view of keys, of pairs for a view of items.
        :returns: True if nothing is in both.
        :raises TypeError: a key in ``other`` is not hashable.

        >>> from rack import PersistentDict
        >>> with PersistentDict(tmp / "isdisjoint") as ages:
        ...     ages["ann"] = 31
        ...     ages.keys().isdisjoint(["bob"]), ages.items().isdisjoint([("ann", 31)])
        (True, False)
        """
        if self._is_alike(other):
            return self._is_empty("intersection", other)
        return not any(element in self for element in other)


class PersistentKeys(_SetView[K]):
    """The keys of a dict, or of one of its shards: what ``d.keys()`` returns.

    It is live, and behaves as a set. ``|``, ``&``, ``-`` and ``^`` make anonymous PersistentSets. A view takes no
    memory and can be used as long as the dict is open. ``key in view`` is atomic. Operations on many keys are not
    atomic: they read in blocks.

    >>> from rack import PersistentDict
    >>> with PersistentDict(tmp / "keys") as ages:
    ...     ages.update({"ann": 31, "bob": 7})
    ...     keys = ages.keys()
    ...     del ages["bob"]
    ...     list(keys), "ann" in keys, sorted(keys | {"eve"})
    (['ann'], True, ['ann', 'eve'])
    """

    def _walk(self, span: Span) -> Iterator[K]:
        return self._mapping._keys(span)  # type: ignore[no-any-return]

    def __contains__(self, key: object) -> bool:
        """Return whether the key is there. O(log n), atomic."""
        return key in self._mapping

    def _is_alike(self, other: object) -> bool:
        """Whether the two can be joined. With digests, of which all else must be made first, whatever ``other`` is."""
        mine = operand.container_of(self)
        return mine is not None and (mine._codec.digest is not None or operand.alike(mine, other))

    def _gather(self, elements: Iterable[Any], change: Callable[[Any], object] | None = None) -> Any:
        codec = self._key_codec
        return self._mapping._new_set(elements, change, "marshal" if codec.digest is None else codec.name)

    def _is_empty(self, join: str, other: Any) -> bool:
        return sets.is_empty(operand.container_of(self), getattr(joins, join), other)

    def _joined(self, join: str, other: Any) -> Any:
        return sets.made(operand.container_of(self), getattr(joins, join), [other])

    def __or__(self, other: Iterable[Any]) -> Any:
        """Return an anonymous set of what is in any of the two. O(n + m) beside a store of the same shape; else it is
        sorted.
        """
        return self._joined("union", other) if self._is_alike(other) else super().__or__(other)

    __ror__ = __or__


class PersistentItems(_SetView[tuple[K, V]], Generic[K, V]):
    """The pairs of a dict, or of one of its shards: what ``d.items()`` returns.

    It is live, and behaves as a set of pairs. ``|``, ``&``, ``-`` and ``^`` make anonymous PersistentSets. They need
    values that can be elements: hashable, and of a type that keys may have. ``pair in view`` is atomic. Operations on
    many pairs are not atomic: they read in blocks.

    >>> from rack import PersistentDict
    >>> with PersistentDict(tmp / "items") as ages:
    ...     ages.update({"ann": 31, "bob": 7})
    ...     list(ages.items()), ("bob", 7) in ages.items(), list(ages.items() - {("bob", 7)})
    ([('ann', 31), ('bob', 7)], True, [('ann', 31)])
    """

    def _walk(self, span: Span) -> Iterator[tuple[K, V]]:
        return self._mapping._items(span)  # type: ignore[no-any-return]

    def __contains__(self, item: object) -> bool:
        """Return whether the key is there with an equal value. O(log n), atomic."""
        if not (isinstance(item, tuple) and len(item) == 2):
            return False
        key, value = item
        there = self._mapping.get(key, _MISSING)
        return there is not _MISSING and dicts.same_value(_dict_of(self._mapping), there, value)

    def _is_alike(self, other: object) -> bool:
        return isinstance(other, PersistentItems) and dicts.alike(self._mapping, other._mapping)

    def _is_empty(self, join: str, other: Any) -> bool:
        return not any(True for _ in self._pairs_of(join, other))

    def _joined(self, join: str, other: Any) -> Any:
        return self._gather(self._pairs_of(join, other))

    def _pairs_of(self, join: str, other: PersistentItems[Any, Any]) -> Iterator[tuple[Any, Any]]:
        mine: Any = self._mapping
        for stretch in dicts.stretches(mine, other._mapping):
            for key, value in getattr(dicts, join)(stretch):
                yield mine._load_key(key), mine._load_value(value)


class PersistentValues(_View[V], ValuesView[V]):
    """The values of a dict, or of one of its shards: what ``d.values()`` returns.

    It is live. Values come in order of their keys' bytes. Nothing about it is atomic: it reads in blocks.

    >>> from rack import PersistentDict
    >>> with PersistentDict(tmp / "values") as ages:
    ...     ages.update({"ann": 31, "bob": 7})
    ...     list(ages.values()), list(reversed(ages.values())), 7 in ages.values()
    ([31, 7], [7, 31], True)
    """

    def _walk(self, span: Span) -> Iterator[V]:
        return (value for _, value in self._mapping._items(span))

    def __contains__(self, value: object) -> bool:
        """Return whether a key has an equal value. O(n), as all values are read; not atomic."""
        mapping = _dict_of(self._mapping)
        try:
            copy = mapping._load_value(mapping._dump_value(value))
        except SerializationError:  # nothing that is stored is stored alike
            copy = value
        if copy == value:
            return any(value is each or value == each for each in self)
        return any(dicts.same_value(mapping, value, each) for each in self)  # there is a NaN in it, say


def _dict_of(mapping: Any) -> Any:
    """Return the dict that a mapping is, or is a shard of."""
    return getattr(mapping, "store", mapping)


KeysView.register(PersistentKeys)
ItemsView.register(PersistentItems)
