"""The views of a PersistentDict. They are live, and their set operations make anonymous PersistentSets."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Set, ValuesView
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rack.dict import PersistentDict
    from rack.set import PersistentSet

K = TypeVar("K")
V = TypeVar("V")


class _SetView(Set[Any]):
    """What the views of keys and of items share: set operations that hold nothing in memory, as methods of `set` do."""

    _mapping: PersistentDict[Any, Any]

    def _gather(self, elements: Iterable[Any]) -> PersistentSet[Any]:
        raise NotImplementedError

    def __and__(self, other: Iterable[Any]) -> PersistentSet[Any]:  # type: ignore[override]
        return self._gather(element for element in other if element in self)

    def __or__(self, other: Iterable[Any]) -> PersistentSet[Any]:  # type: ignore[override]
        return self._gather(element for side in (self, other) for element in side)

    def __sub__(self, other: Iterable[Any]) -> PersistentSet[Any]:  # type: ignore[override]
        made = self._gather(self)
        made.difference_update(other)
        return made

    def __xor__(self, other: Iterable[Any]) -> PersistentSet[Any]:  # type: ignore[override]
        made = self._gather(self)
        made.symmetric_difference_update(other)
        return made

    def __rsub__(self, other: Iterable[Any]) -> PersistentSet[Any]:  # type: ignore[override]
        return self._gather(element for element in other if element not in self)

    __rand__ = __and__
    __ror__ = __or__
    __rxor__ = __xor__

    def isdisjoint(self, other: Iterable[Any]) -> bool:
        return not any(element in self for element in other)


class PersistentKeys(_SetView, KeysView[K]):
    """``d.keys()``."""

    def __iter__(self) -> Iterator[K]:
        return iter(self._mapping)

    def __reversed__(self) -> Iterator[K]:
        return reversed(self._mapping)

    def __contains__(self, key: object) -> bool:
        return key in self._mapping

    def _gather(self, elements: Iterable[Any]) -> PersistentSet[Any]:
        return self._mapping._new_set(elements, items=False)


class PersistentItems(_SetView, ItemsView[K, V]):
    """``d.items()``. Its set operations need values that can be keys: hashable, and held by the key codec."""

    def __iter__(self) -> Iterator[tuple[K, V]]:
        return self._mapping._items()

    def __reversed__(self) -> Iterator[tuple[K, V]]:
        return self._mapping._items(reverse=True)

    def _gather(self, elements: Iterable[Any]) -> PersistentSet[Any]:
        return self._mapping._new_set(elements, items=True)


class PersistentValues(ValuesView[V]):
    """``d.values()``."""

    _mapping: PersistentDict[Any, V]

    def __iter__(self) -> Iterator[V]:
        return (value for _, value in self._mapping._items())

    def __reversed__(self) -> Iterator[V]:
        return (value for _, value in self._mapping._items(reverse=True))

    def __contains__(self, value: object) -> bool:
        return any(value is each or value == each for each in self)
