"""PersistentSet: a ``set`` on disk that many processes write at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableSet, Set
from itertools import compress, repeat
from typing import Any, Generic, Self, TypeVar

from rack.algebra import joins, sets
from rack.algebra.operand import alike, container_of
from rack.container.base import CHUNK, Container
from rack.container.batch import SetBatch
from rack.container.copying import copied
from rack.container.handle import Name
from rack.container.rows import blame, dumped, flattened, pieces
from rack.container.scan import Scannable
from rack.errors import SerializationError
from rack.shard.spans import BACKWARD, Span
from rack.views.shards import SetShard

T = TypeVar("T")

_LIST_CHUNK = 16 * CHUNK  # what is there already is taken in more at a time: fewer transactions


class PersistentSet(Container, Scannable[T], MutableSet[T], Generic[T]):
    """A persistent set. Elements must be hashable, as in ``set``; equal elements are one, as in ``set``.

    :param name: where the files are: a path prefix, like ``"data/seen"``.
    :param hash: digest for elements that do not fit an LMDB key (bytes -> bytes; default SHA-256).
    :param serdes: how elements become bytes: a preset ("marshal", "pickle", "json", "str", "bytes", "ordered"), an
        object with ``dumps`` and ``loads``, or a pair ``(loads, dumps)``. Default marshal, in canonical form.
    :param shards: number of shards of a new store (default 16); an existing store must have as many.
    :param engine: "lmdb" (default).
    :param key_serdes: as ``serdes``, and wins over it.
    :param durability: "process" (default): a commit survives the death of any process. "always": every commit is on
        the disk before the call returns.
    :param flag: "r" read only, "w" read and write, "c" make it if needed (default), "n" always a new, empty one.
    :param timeout: seconds to wait for another process's write before LockTimeoutError; None waits. It makes each
        operation slower, as another thread does the waiting. Without it, who waits for a writer on LMDB waits in C,
        where no signal is noticed: Ctrl-C and a time limit of a signal's come when the writer has let go.
    :param memory: bytes that a bulk write (``update``, ``add_many``, ``copy``, ...) may hold, to write many at a time;
        default 96 MiB. What is ingested beyond the machine's memory is ingested faster with more.

    Use it in a ``with`` block, or between ``open()`` and ``close()``. Differences from ``set``: ``add`` and
    ``discard`` tell whether they changed the set; iteration is in order of the elements' bytes; operations that make
    a set take ``name=``, and without it make an anonymous one, deleted when closed, collected or at exit.

    Every operation on one element is atomic across processes. Operations on many are not, as a whole.

    >>> with PersistentSet(tmp / "seen", shards=4) as seen:
    ...     seen.add("a"), seen.add("b"), seen.add("a")
    ...     sorted(seen.filter_new(["b", "c", "d"]))
    (True, True, False)
    ['c', 'd']
    """

    _kind = "set"
    __hash__ = None  # type: ignore[assignment]

    # One element

    def __contains__(self, element: object) -> bool:
        try:
            key = self._dump_key(element)
        except TypeError as error:
            key = self._key_or_none(element, error)  # type: ignore[assignment]
            if key is None:
                return False
        return self._route(key).get(key) is not None

    def add(self, element: T) -> bool:  # type: ignore[override]
        """Add an element. Of all processes that add it at once, exactly one gets True.

        Atomic; O(log n). :raises TypeError: unhashable. :raises SerializationError: the serdes cannot hold it.
        """
        key = self._dump_key(element)
        return self._route(key).add(key, b"") is None

    def discard(self, element: object) -> bool:  # type: ignore[override]
        """Remove an element if it is there; return whether this call removed it. Atomic; O(log n)."""
        try:
            key = self._dump_key(element)
        except TypeError as error:
            key = self._key_or_none(element, error)  # type: ignore[assignment]
            if key is None:
                return False
        return self._route(key).delete(key)

    def _key_or_none(self, key: object, error: TypeError) -> bytes | None:
        if isinstance(key, set | PersistentSet):  # looked up as the frozenset that is equal to it, as in `set`
            try:
                return self._dump_key(frozenset(key))
            except SerializationError:
                return None
        return super()._key_or_none(key, error)

    def remove(self, element: object) -> None:
        """Remove an element; KeyError if it is not there. Atomic; O(log n)."""
        if not self.discard(element):
            raise KeyError(element)

    def pop(self) -> T:
        """Remove and return some element; KeyError if the set is empty. Atomic: each element is popped once."""
        try:
            element: T = self._pop_first()[0]
        except KeyError:
            raise KeyError("pop from an empty set") from None
        return element

    # Many elements

    def __iter__(self) -> Iterator[T]:
        """Iterate in order of the elements' bytes, in blocks: the loop may change the set."""
        return self._keys()

    def __reversed__(self) -> Iterator[T]:
        return self._keys(BACKWARD)

    def shards(self) -> tuple[SetShard[T], ...]:
        """Return a view of each shard, that can be pickled: ``pool.map(work, s.shards())`` covers the set once."""
        return tuple(SetShard(self, number) for number in range(len(self._store.shards)))

    def _walk(self, span: Span) -> Iterator[T]:
        return self._keys(span)

    def batch(self) -> SetBatch[T]:
        """Return what collects ``batch.add(element)`` and ``batch.discard(element)``, without an answer, to be written
        together when its ``with`` block ends: see :meth:`rack.PersistentDict.batch`.

        >>> with PersistentSet(tmp / "batched") as seen:
        ...     with seen.batch() as batch:
        ...         batch.add("a")
        ...         batch.discard("b")
        ...     set(seen)
        {'a'}
        """
        return SetBatch(self)

    def add_many(self, elements: Iterable[T]) -> int:
        """Add the elements, which are streamed; return how many this call added. A transaction a shard and block.

        Where one cannot be stored, or the iterable raises: see :meth:`rack.PersistentDict.update`.
        """
        return self._store.add_all(self._pairs(elements))

    def filter_new(self, elements: Iterable[T]) -> Iterator[T]:
        """Add the elements and yield, in their order, those that this call added.

        Streams: about a thousand (of a list or tuple, 16 thousand) are added at a time, a transaction a shard, and
        yielded once they are committed. Every element is yielded by exactly one of all calls in all processes; one
        that stops early may have added up to as many more.
        """
        taken = 0
        for chunk, failure in pieces(elements, _LIST_CHUNK if isinstance(elements, list | tuple) else CHUNK):
            if failure is not None:
                blame(failure, taken + len(chunk))
            add_each, dump = self._store.add_each, self._dump_key
            pairs: list[tuple[bytes, bytes]] = []
            try:
                pairs.extend((dump(element), b"") for element in chunk)
            except Exception as error:
                blame(error, taken + len(pairs) + 1, chunk[len(pairs)])
                failure = error
            added = [False] * len(pairs)
            try:
                add_each(pairs, added)
            except Exception as error:
                failure = error  # what was added until then is this call's to yield
            yield from compress(chunk, added)
            if failure is not None:
                raise failure
            taken += len(chunk)

    def discard_many(self, elements: Iterable[object]) -> int:
        """Remove the elements that are there, streaming; return how many this call removed. Errors as in add_many."""
        return self._delete_each(elements)

    def update(self, *others: Iterable[T], workers: int = 1) -> None:
        """Add all elements of the others, streaming. ``workers`` processes share the shards of stores of one shape.

        Errors as in :meth:`add_many`.
        """
        sets.update(self, others, workers)

    def _put(self, elements: Iterable[T]) -> None:
        """As ``update``, whatever a subclass makes of that."""
        self._store.put_all(self._pairs(elements))

    def __ior__(self, other: Set[T]) -> Self:  # type: ignore[override,misc]
        if not isinstance(other, Set):
            return NotImplemented
        self.update(other)
        return self

    def _pairs(self, elements: Iterable[T]) -> Iterator[tuple[bytes, bytes]]:
        if isinstance(elements, PersistentSet) and elements._codec is self._codec:
            return zip(flattened(elements._store.all_keys()), repeat(b""))
        return zip(dumped(elements, self._dump_key), repeat(b""))

    # New sets

    def _make_set(self, name: Name, fill: Callable[[Any], object], **options: Any) -> PersistentSet[Any]:
        made: PersistentSet[Any] = self._derived(name, fill, **options)
        return made

    def copy(self, name: Name = None, *, workers: int = 1, **options: Any) -> PersistentSet[T]:
        """Return a copy, opened; ``options`` of the constructor (``shards=``, ``engine=``, ...) make it differ.

        With ``name`` it is there as a whole or not at all. ``workers`` processes share the work, a shard at a time.

        :raises StoreExistsError: there is a store of that name. :raises WorkerError: a worker was killed.
        """
        made: PersistentSet[T] = copied(self, name, workers, options)
        return made

    __copy__ = copy

    # Operands are any iterables, as in `set`. Stores of the same shape (as many shards, the same key serdes) are merge
    # joined shard by shard; others are looked up in, or gathered, in an anonymous store if they are large.

    def union(self, *others: Iterable[T], name: Name = None, workers: int = 1) -> PersistentSet[T]:
        """Return a new set with the elements of this and all others. ``workers`` processes share the shards."""
        return sets.made(self, joins.union, others, name, workers)  # type: ignore[no-any-return]

    def intersection(self, *others: Iterable[Any], name: Name = None, workers: int = 1) -> PersistentSet[T]:
        """Return a new set with the elements that are also in all others."""
        return sets.made(self, joins.intersection, others, name, workers)  # type: ignore[no-any-return]

    def difference(self, *others: Iterable[Any], name: Name = None, workers: int = 1) -> PersistentSet[T]:
        """Return a new set with the elements that are in no other."""
        return sets.made(self, joins.difference, others, name, workers)  # type: ignore[no-any-return]

    def symmetric_difference(self, other: Iterable[T], name: Name = None, workers: int = 1) -> PersistentSet[T]:
        """Return a new set with the elements that are in exactly one of the two."""
        return sets.made(self, joins.symmetric_difference, [other], name, workers)  # type: ignore[no-any-return]

    # In place

    def intersection_update(self, *others: Iterable[Any], workers: int = 1) -> None:
        """Keep only the elements that are in all others. ``workers`` processes share the shards."""
        sets.intersection_update(self, others, workers)

    def difference_update(self, *others: Iterable[Any], workers: int = 1) -> None:
        """Remove the elements of all others. ``workers`` processes share the shards of stores of one shape."""
        sets.difference_update(self, others, workers)

    def symmetric_difference_update(self, other: Iterable[T], workers: int = 1) -> None:
        """Remove the elements that are also in the other, add those that were only there. ``workers`` as in update."""
        sets.symmetric_difference_update(self, other, workers)

    def __iand__(self, other: Set[Any]) -> Self:
        if not isinstance(other, Set):
            return NotImplemented
        self.intersection_update(other)
        return self

    def __isub__(self, other: Set[Any]) -> Self:
        if not isinstance(other, Set):
            return NotImplemented
        self.difference_update(other)
        return self

    def __ixor__(self, other: Set[T]) -> Self:  # type: ignore[override,misc]
        if not isinstance(other, Set):
            return NotImplemented
        self.symmetric_difference_update(other)
        return self

    # Operators: as the methods, for sets only

    def __or__(self, other: Set[Any]) -> PersistentSet[Any]:
        return self.union(other) if isinstance(other, Set) else NotImplemented

    def __and__(self, other: Set[Any]) -> PersistentSet[T]:
        return self.intersection(other) if isinstance(other, Set) else NotImplemented

    def __sub__(self, other: Set[Any]) -> PersistentSet[T]:
        return self.difference(other) if isinstance(other, Set) else NotImplemented

    def __xor__(self, other: Set[Any]) -> PersistentSet[Any]:
        return self.symmetric_difference(other) if isinstance(other, Set) else NotImplemented

    __ror__ = __or__
    __rand__ = __and__
    __rxor__ = __xor__

    def __rsub__(self, other: Set[Any]) -> PersistentSet[Any]:
        if not isinstance(other, Set):
            return NotImplemented
        missing = (element for element in other if element not in self)
        made: PersistentSet[Any] = self._derived(None, lambda made: made._put(missing))
        return made

    # Comparisons

    def isdisjoint(self, other: Iterable[Any]) -> bool:
        """Return whether the two share no element."""
        if alike(self, other):
            return sets.is_empty(self, joins.intersection, other)
        return not any(self.contains_many(other))

    def issubset(self, other: Iterable[Any]) -> bool:
        """Return whether every element is in the other."""
        return sets.is_empty(self, joins.difference, other)

    def issuperset(self, other: Iterable[Any]) -> bool:
        """Return whether every element of the other is in this set."""
        if alike(self, other):
            return sets.is_empty(container_of(other), joins.difference, self)
        return all(self.contains_many(other))

    def __le__(self, other: Set[Any]) -> bool:
        return len(self) <= len(other) and self.issubset(other) if isinstance(other, Set) else NotImplemented

    def __lt__(self, other: Set[Any]) -> bool:
        return len(self) < len(other) and self.issubset(other) if isinstance(other, Set) else NotImplemented

    def __ge__(self, other: Set[Any]) -> bool:
        if not isinstance(other, Set):
            return NotImplemented
        return len(self) >= len(other) and self.issuperset(other)

    def __gt__(self, other: Set[Any]) -> bool:
        if not isinstance(other, Set):
            return NotImplemented
        return len(self) > len(other) and self.issuperset(other)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Set):
            return NotImplemented
        return other is self or (len(self) == len(other) and self.issubset(other))
