"""The views of a PersistentDict. They are live, and their set operations make anonymous PersistentSets."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, MappingView, Set, ValuesView
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from rack.dict import PersistentDict
    from rack.set import PersistentSet

K = TypeVar("K")
V = TypeVar("V")
_MISSING: Any = object()


class _SetView(MappingView, Set[Any]):
    """What the views of keys and of items share: set operations that hold nothing in memory."""

    _mapping: PersistentDict[Any, Any]

    def _gather(
        self, elements: Iterable[Any], change: Callable[[PersistentSet[Any]], object] | None = None
    ) -> PersistentSet[Any]:
        return self._mapping._new_set(elements, change)

    def __and__(self, other: Iterable[Any]) -> PersistentSet[Any]:
        return self._gather(element for element in other if element in self)

    def __or__(self, other: Iterable[Any]) -> PersistentSet[Any]:
        return self._gather(element for side in (self, other) for element in side)

    def __sub__(self, other: Iterable[Any]) -> PersistentSet[Any]:
        return self._gather(self, lambda made: made.difference_update(other))

    def __xor__(self, other: Iterable[Any]) -> PersistentSet[Any]:
        return self._gather(self, lambda made: made.symmetric_difference_update(other))

    def __rsub__(self, other: Iterable[Any]) -> PersistentSet[Any]:
        return self._gather(element for element in other if element not in self)

    __rand__ = __and__
    __ror__ = __or__
    __rxor__ = __xor__

    def isdisjoint(self, other: Iterable[Any]) -> bool:
        return not any(element in self for element in other)


class PersistentKeys(_SetView, Generic[K]):
    """``d.keys()``."""

    _mapping: PersistentDict[K, Any]

    def __iter__(self) -> Iterator[K]:
        return iter(self._mapping)

    def __reversed__(self) -> Iterator[K]:
        return reversed(self._mapping)

    def __contains__(self, key: object) -> bool:
        return key in self._mapping


class PersistentItems(_SetView, Generic[K, V]):
    """``d.items()``. Its set operations need values that can be keys: hashable, and held by the key codec."""

    def __iter__(self) -> Iterator[tuple[K, V]]:
        return self._mapping._items()

    def __contains__(self, item: object) -> bool:
        if not (isinstance(item, tuple) and len(item) == 2):
            return False
        key, value = item
        there = self._mapping.get(key, _MISSING)
        return there is not _MISSING and (there is value or there == value)

    def __reversed__(self) -> Iterator[tuple[K, V]]:
        return self._mapping._items(reverse=True)


class PersistentValues(ValuesView[V]):
    """``d.values()``."""

    _mapping: PersistentDict[Any, V]

    def __iter__(self) -> Iterator[V]:
        return (value for _, value in self._mapping._items())

    def __reversed__(self) -> Iterator[V]:
        return (value for _, value in self._mapping._items(reverse=True))

    def __contains__(self, value: object) -> bool:
        return any(value is each or value == each for each in self)


KeysView.register(PersistentKeys)
ItemsView.register(PersistentItems)
