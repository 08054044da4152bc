"""PersistentSet: a ``set`` on disk that many processes write at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, MutableSet, Set
from itertools import compress
from typing import Any, Generic, Self, TypeVar

from rack.algebra import joins, sets
from rack.algebra.operand import alike, container_of
from rack.container.base import Container
from rack.container.batch import SetBatch
from rack.container.copying import copied
from rack.container.maker import Name
from rack.container.rows import blame, dumped_blocks, gathered, stored_blocks
from rack.container.same import check_keys
from rack.container.scan import Scannable
from rack.errors import SerializationError
from rack.shard.spans import BACKWARD, Span
from rack.views.shards import SetShard

T = TypeVar("T")


class PersistentSet(Container, Scannable[T], MutableSet[T], Generic[T]):
    """A ``set`` on disk that many processes read and write at once.

    Elements must be hashable, and equal elements are one, as in ``set``. Use it in a ``with`` block, or between
    ``open()`` and ``close()``. The constructor itself opens nothing and makes no file. Threads may share one object. It
    can be pickled, and a forked child may go on using it.

    Differences from ``set``: ``add`` and ``discard`` tell whether they changed the set. Iteration is in order of the
    elements' bytes. Operations that make a set take ``name=``; without it they make an anonymous set, which is deleted
    when it is closed, when it is collected, or at exit.

    *Atomic:* every operation on one element, for all threads and processes. An operation on many elements is not atomic
    as a whole. It writes in blocks, and each block of a shard is atomic. One that reads many elements reads each block
    at a moment of its own. :meth:`snapshot` shows the whole set at one instant.

    *How long it takes:* ``n`` is the number of elements in the set, ``k`` the number of elements that are given, ``m``
    the number of elements in all others together, ``s`` the number of shards. Each shard is a B-tree, so one element
    takes O(log n).

    *Errors:* any operation may raise NotOpenError (the set is not open), CorruptShardError (a file is damaged),
    StoreDeletedError (the files were removed) and, with ``timeout``, LockTimeoutError. A write may also raise
    ReadOnlyError (``flag="r"``), StoreFullError (no space), TooLargeError and ReentrantWriteError. All of these derive
    from :exc:`rack.RackError`.

    :param name: the path prefix of the files, a str or a path: ``"data/seen"``. The directory must exist. Or the URL of
        a store on a server: ``"redis://host:6379/0?name=seen"``.
    :param hash: a function from bytes to bytes, at most 255 of them: the digest of elements of more than 511 bytes on
        LMDB. Default SHA-256. Equal digests are told apart.
    :param serdes: how elements become bytes: a preset ("marshal", "pickle", "json", "str", "bytes", "ordered"), an
        object with ``dumps`` and ``loads``, or a pair ``(loads, dumps)``. Default "marshal", in canonical form.
    :param shards: the number of files that a new store is cut into, 1 to 9999. Default 16. Each shard has one writer at
        a time. An existing store must have as many.
    :param engine: what the shards are. An existing store must have the same.

        - "lmdb" (default): five to ten times as fast for single operations. Files are mapped into memory.
        - "sqlite3": files of about two thirds of the size, which the ``sqlite3`` shell can read. They open after a
          power failure with any durability.
        - "redis": a server, or a cluster of them: what a URL means.
    :param key_serdes: as ``serdes``, and wins over it. "digest": the set has 16 bytes for each element, a digest of it,
        and gives :class:`rack.Digest` objects in place of elements. "digest:sha256", "digest:sha256:20" (bytes, 16 to
        32) and so on are those of cryptographic functions.
    :param durability: what a power failure may cost. The death of a process costs no write that has returned, with any
        of them. None (default): that with which the store was used last; "everysec" for a new one.

        - "process": the disk has a write after :meth:`sync`, and after the last process has closed the store. Before
          that, SQLite loses the last writes. LMDB refuses the store: it has to be repaired.
        - "everysec": about the last second is lost. On LMDB a write takes 1.4 times the time, and the store up to
          three times the disk.
        - "always": nothing is lost. Each write waits for the disk.
    :param flag: "r" reads only, "w" reads and writes, "c" (default) makes the store if there is none, "n" makes a new,
        empty store in place of the old one.
    :param timeout: seconds to wait for a write of another process, until LockTimeoutError. None (default) waits as long
        as it takes. With it each operation is slower, as another thread does the waiting. Without it, LMDB waits in C:
        Ctrl-C and other signals are noticed when the lock is free.
    :param memory: bytes that a bulk write (``update``, ``add_many``, ``copy``, ...) may hold, at least 1 MiB. Default
        96 MiB. What a new set is given beyond that waits on the disk, beside the set, until all has come.
    :raises TypeError: an argument is of a wrong type.
    :raises ValueError: an argument has a value that is not allowed. The message says which ones are.

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
        """Return whether the element is there. O(log n), atomic. What the serdes cannot hold is not there."""
        try:
            key = self._dump_key(element)
        except TypeError as error:
            key = self._key_or_none(element, error)  # type: ignore[assignment]
            if key is None:
                return False
        return self._route(key).get(key) is not None

    def add(self, element: T) -> bool:  # type: ignore[override]
        """Add an element, and tell whether it is new. O(log n).

        Atomic: of all threads and processes that add it at once, exactly one gets True.

        :param element: a hashable object that the serdes can hold.
        :returns: True if this call added it; False if it was there.
        :raises TypeError: it is not hashable.
        :raises SerializationError: the serdes cannot hold it.
        :raises TooLargeError: it is larger than the engine can hold.
        :raises ReadOnlyError: the set was opened with ``flag="r"``.

        >>> with PersistentSet(tmp / "add") as seen:
        ...     seen.add("a"), seen.add("a")
        (True, False)
        """
        key = self._dump_key(element)
        return self._route(key).add(key, b"") is None

    def discard(self, element: object) -> bool:  # type: ignore[override]
        """Remove an element if it is there, and tell whether it was. O(log n).

        Atomic: of all threads and processes that discard it at once, exactly one gets True.

        :param element: any hashable object. One that the serdes cannot hold is not there. A ``set`` stands for the
            frozenset that is equal to it, as in ``set``.
        :returns: True if this call removed it; False if it was not there.
        :raises TypeError: it is not hashable.
        :raises ReadOnlyError: the set was opened with ``flag="r"``.

        >>> with PersistentSet(tmp / "discard") as seen:
        ...     seen.add("a"), seen.discard("a"), seen.discard("a")
        (True, True, False)
        """
        try:
            key = self._dump_key(element)
        except TypeError as error:
            key = self._key_or_none(element, error)  # type: ignore[assignment]
            if key is None:
                return False
        return self._route(key).delete(key)

    def _lookup_memory(self) -> int:
        return self._store.memory

    def _key_or_none(self, key: object, error: TypeError) -> bytes | None:
        if isinstance(key, set | PersistentSet):  # looked up as the frozenset that is equal to it, as in `set`
            try:
                return self._dump_key(frozenset(key))
            except SerializationError:
                return None
        return super()._key_or_none(key, error)

    def remove(self, element: object) -> None:
        """Remove an element that must be there. O(log n).

        Atomic: of all threads and processes that remove it at once, all but one get KeyError.

        :param element: any hashable object, as in :meth:`discard`.
        :raises KeyError: it is not there.
        :raises TypeError: it is not hashable.
        :raises ReadOnlyError: the set was opened with ``flag="r"``.

        >>> with PersistentSet(tmp / "remove") as seen:
        ...     seen.update(["a", "b"])
        ...     seen.remove("a")
        ...     set(seen)
        {'b'}
        """
        if not self.discard(element):
            raise KeyError(element)

    def pop(self) -> T:
        """Remove some element and return it. O(log n), and O(s) to find a shard that is not empty.

        Atomic: each element is popped by one caller only. An element that cannot be loaded is put back.

        :returns: the element. Which one it is depends on the bytes and the shards.
        :raises KeyError: the set is empty: at some moment all shards were empty at once.
        :raises DeserializationError: the element cannot be loaded.
        :raises ReadOnlyError: the set was opened with ``flag="r"``.

        >>> with PersistentSet(tmp / "pop") as jobs:
        ...     jobs.add("a"), jobs.pop(), len(jobs)
        (True, 'a', 0)
        """
        try:
            element: T = self._pop_first()[0]
        except KeyError:
            raise KeyError("pop from an empty set") from None
        return element

    # Many elements

    def __iter__(self) -> Iterator[T]:
        """Iterate in order of the elements' bytes. O(n) for all.

        Not atomic: it reads in blocks, so the loop may change the set. An element that is there throughout is seen
        exactly once. One that comes or goes meanwhile may be seen.
        """
        return self._keys()

    def __reversed__(self) -> Iterator[T]:
        """Iterate in the reverse order of the elements' bytes, in blocks as ``iter`` does. O(n) for all."""
        return self._keys(BACKWARD)

    def shards(self) -> tuple[SetShard[T], ...]:
        """Return a view of each shard, to share work: ``pool.map(work, s.shards())`` covers the set once. O(s).

        It reads nothing. The views are live, and what they read is as atomic as in the set. They can be pickled.

        :returns: a tuple of :class:`rack.views.shards.SetShard`, in the order of their numbers.
        :raises NotOpenError: the set is not open.

        >>> with PersistentSet(tmp / "shards", shards=4) as seen:
        ...     seen.update(range(100))
        ...     len(seen.shards()), sum(len(shard) for shard in seen.shards())
        (4, 100)
        """
        return tuple(SetShard(self, number) for number in range(len(self._store.shards)))

    def _walk(self, span: Span) -> Iterator[T]:
        return self._keys(span)

    def batch(self) -> SetBatch[T]:
        """Return a batch: an object that collects additions and removals, and writes them when its ``with`` block ends.

        It takes ``batch.add(element)`` and ``batch.discard(element)``, which give no answer. O(1) to make; O(k log n)
        to write.

        Atomic for each shard, not as a whole. If the block raises, nothing more is written. What came to about 32 MiB,
        or to 100,000 writes, was written before. No lock is held while the block runs. The set does not show what a
        batch holds.

        :returns: a :class:`rack.container.batch.SetBatch`, to be used once.
        :raises NotOpenError: at the start or at the end of the block: the set is closed. Nothing more is written.

        >>> with PersistentSet(tmp / "batched") as seen:
        ...     with seen.batch() as batch:
        ...         batch.add("a")
        ...         batch.discard("b")
        ...     set(seen)
        {'a'}
        """
        return SetBatch(self)

    def add_many(self, elements: Iterable[T]) -> int:
        """Add the elements, and count the new ones. O(k log n).

        Streams, in at most ``memory`` bytes. Not atomic as a whole; atomic for each block of a shard. Each element is
        counted by exactly one of all calls in all processes.

        :param elements: any iterable of elements.
        :returns: how many elements this call added.
        :raises TypeError: an element is not hashable.
        :raises SerializationError: the serdes cannot hold an element.
        :raises Exception: whatever ``elements`` raises. After this and the errors above, all elements before the bad
            one are there, and a note of the error (``__notes__``) tells which one it was. After an interrupt, or an
            error of the store, only some of them are.

        >>> with PersistentSet(tmp / "add_many") as seen:
        ...     seen.add_many(["a", "b"]), seen.add_many(["b", "c", "c"])
        (2, 1)
        """
        return self._store.add_all(self._key_blocks(elements), values=False)

    def filter_new(self, elements: Iterable[T]) -> Iterator[T]:
        """Add the elements, and yield those that are new, in their order. O(k log n).

        Streams: takes in about a thousand elements at a time, adds them, and then yields the new ones. Of elements that
        are at hand, in a collection (all that has a length) or an open file on a disk, it takes in as many at a time as
        ``memory`` holds, about 200 thousand URLs. Nothing is added before the first one is asked for.

        Not atomic as a whole; atomic for each block of a shard. Each element is yielded by exactly one of all calls in
        all processes. A caller that stops early may have added up to as many elements more as it takes in at a time:
        give it an iterator (``iter(elements)``) if that is to be few.

        :param elements: any iterable of elements.
        :yields: each element that this call added, after it is committed.
        :raises TypeError: an element is not hashable.
        :raises SerializationError: the serdes cannot hold an element.
        :raises Exception: whatever ``elements`` raises. Before this and the errors above, all new elements before the
            bad one are added and yielded. A note of the error tells which one it was.

        >>> with PersistentSet(tmp / "filter_new") as seen:
        ...     seen.update(["a", "b"])
        ...     list(seen.filter_new(["c", "b", "d", "c"]))
        ['c', 'd']
        """
        taken = 0
        for block, keys, failure in gathered(elements, self._dump_key, self._store.memory):
            taken += len(keys)
            if failure is not None and len(keys) < len(block):
                blame(failure, taken + 1, block[len(keys)])
            elif failure is not None:
                blame(failure, taken)
            by_key = dict(zip(keys, block, strict=False))
            if len(by_key) < len(keys):  # of those that are equal, the first one is new
                by_key = {}
                deque(map(by_key.setdefault, keys, block), 0)
            new: set[bytes] = set()
            try:
                for added in self._store.add_new(by_key):
                    new.update(added)
            except Exception as error:
                failure = error  # what was added until then is this call's to yield
            del block, keys
            yield from list(compress(by_key.values(), map(new.__contains__, by_key)))
            if failure is not None:
                raise failure

    def discard_many(self, elements: Iterable[object]) -> int:
        """Remove the elements that are there, and count them. O(k log n).

        Streams, in at most ``memory`` bytes. Not atomic as a whole; atomic for each block of a shard. Each element is
        counted by exactly one of all calls in all processes.

        :param elements: any iterable of hashable objects. Those that the serdes cannot hold are not there.
        :returns: how many elements this call removed.
        :raises TypeError: an element is not hashable. Those before it are removed, as in :meth:`add_many`.
        :raises Exception: whatever ``elements`` raises; as above.

        >>> with PersistentSet(tmp / "discard_many") as seen:
        ...     seen.update(["a", "b", "c"])
        ...     seen.discard_many(["a", "b", "x"]), set(seen)
        (2, {'c'})
        """
        return self._delete_each(elements)

    def update(self, *others: Iterable[T], workers: int = 1) -> None:
        """Add all elements of the others. O(m log n).

        Streams. Stores of the same shape (as many shards, the same serdes) are merge joined shard by shard. Not atomic
        as a whole; atomic for each block of a shard.

        :param others: any iterables of elements.
        :param workers: how many processes share the shards of stores of the same shape, at least 1.
        :raises TypeError: an element is not hashable.
        :raises SerializationError: the serdes cannot hold an element.
        :raises Exception: whatever an iterable raises. After this and the errors above, all elements before the bad one
            are there, as in :meth:`add_many`.
        :raises WorkerError: a worker process was killed. A part of the elements is there.

        >>> with PersistentSet(tmp / "update") as seen:
        ...     seen.update(["a", "b"], {"c"})
        ...     sorted(seen)
        ['a', 'b', 'c']
        """
        sets.update(self, others, workers)

    def _put(self, elements: Iterable[T]) -> None:
        """As ``update``, whatever a subclass makes of that."""
        self._store.put_all(self._key_blocks(elements), values=False)

    def __ior__(self, other: Set[T]) -> Self:  # type: ignore[override,misc]
        """Add the elements of another set: as :meth:`update`. O(m log n)."""
        if not isinstance(other, Set):
            return NotImplemented
        self.update(other)
        return self

    def _key_blocks(self, elements: Iterable[T]) -> Iterator[list[bytes]]:
        container = container_of(elements)
        if container is not None:
            if container._codec is self._codec:
                return stored_blocks(container._store.all_keys())
            check_keys(self, container)
        dump = self._dump_key
        return dumped_blocks(elements, lambda rows: list(map(dump, rows)), lambda row, _: dump(row))

    # New sets

    def _make_set(self, name: Name, fill: Callable[[Any], object], **options: Any) -> PersistentSet[Any]:
        made: PersistentSet[Any] = self._derived(name, fill, **options)
        return made

    def copy(self, name: Name = None, *, workers: int = 1, **options: Any) -> PersistentSet[T]:
        """Return a copy, opened. O(n) if it has the same shape; else O(n log n).

        Atomic to others: a copy with ``name`` appears as a whole or not at all. Not atomic as a view of this set: it is
        read in blocks, each at a moment of its own. ``s.snapshot().copy(name)`` copies one instant.

        :param name: the path prefix of the copy. None: an anonymous set.
        :param workers: how many processes share the shards, at least 1.
        :param options: parameters of the constructor (``shards=``, ``engine=``, ``serdes=``, ...) that make the copy
            differ.
        :returns: the copy, open. It is an object of the same class.
        :raises StoreExistsError: there is a store of that name.
        :raises StoreNotFoundError: its directory does not exist.
        :raises SerializationError: the other ``serdes`` cannot hold an element.
        :raises WorkerError: a worker process was killed.

        >>> with PersistentSet(tmp / "original") as seen:
        ...     seen.update(["a", "b"])
        ...     with seen.copy(tmp / "copied", shards=4) as copied:
        ...         copied == seen, len(copied.shards())
        (True, 4)
        """
        made: PersistentSet[T] = copied(self, name, workers, options)
        return made

    __copy__ = copy

    # Operands are any iterables, as in `set`. Stores of the same shape (as many shards, the same key serdes) are merge
    # joined shard by shard; others are looked up in, or gathered, in an anonymous store if they are large.

    def union(self, *others: Iterable[T], name: Name = None, workers: int = 1) -> PersistentSet[T]:
        """Return a new set with the elements of this set and of all others. O(n + m).

        Stores of the same shape (as many shards, the same serdes) are merge joined shard by shard. All else is sorted
        first, on disk if it is large: O(m log m).

        Atomic to others: a new set with ``name`` appears as a whole or not at all. Not atomic as a view of the
        operands: each block is read at a moment of its own.

        :param others: any iterables of elements.
        :param name: the path prefix of the new set. None: an anonymous set.
        :param workers: how many processes share the shards, at least 1.
        :returns: the new set, open, of the same class and shape.
        :raises TypeError: an element is not hashable.
        :raises SerializationError: the serdes of this set cannot hold an element of the others.
        :raises StoreExistsError: there is a store of that name.
        :raises StoreNotFoundError: the directory of ``name`` does not exist.
        :raises WorkerError: a worker process was killed. Nothing is made.

        >>> with PersistentSet(tmp / "union") as seen:
        ...     seen.update(["a", "b"])
        ...     with seen.union(["b", "c"], {"d"}) as every:
        ...         sorted(every)
        ['a', 'b', 'c', 'd']
        """
        return sets.made(self, joins.union, others, name, workers)  # type: ignore[no-any-return]

    def intersection(self, *others: Iterable[Any], name: Name = None, workers: int = 1) -> PersistentSet[T]:
        """Return a new set with the elements that are also in all others. O(n + m).

        Stores of the same shape are merge joined shard by shard. If one is ten times as large as the smallest, it is
        looked up in: O(log m) for each element of the smallest. So are stores of another shape. All else is sorted
        first, on disk if it is large: O(m log m). Atomic as :meth:`union` is.

        :param others: any iterables of hashable objects. Those that the serdes cannot hold are in no set.
        :param name: the path prefix of the new set. None: an anonymous set.
        :param workers: how many processes share the shards, at least 1.
        :returns: the new set, open, of the same class and shape.
        :raises TypeError: an element is not hashable.
        :raises StoreExistsError: there is a store of that name.
        :raises StoreNotFoundError: the directory of ``name`` does not exist.
        :raises WorkerError: a worker process was killed. Nothing is made.

        >>> with PersistentSet(tmp / "intersection") as seen:
        ...     seen.update(["a", "b"])
        ...     with seen.intersection(["b", "c"]) as common:
        ...         sorted(common)
        ['b']
        """
        return sets.made(self, joins.intersection, others, name, workers)  # type: ignore[no-any-return]

    def difference(self, *others: Iterable[Any], name: Name = None, workers: int = 1) -> PersistentSet[T]:
        """Return a new set with the elements that are in no other. O(n + m).

        Stores of the same shape are merge joined shard by shard. One that is ten times as large as this set is looked
        up in: O(n log m). So are stores of another shape. All else is sorted first, on disk if it is large: O(m log m).
        Atomic as :meth:`union` is.

        :param others: any iterables of hashable objects. Those that the serdes cannot hold are in no set.
        :param name: the path prefix of the new set. None: an anonymous set.
        :param workers: how many processes share the shards, at least 1.
        :returns: the new set, open, of the same class and shape.
        :raises TypeError: an element is not hashable.
        :raises StoreExistsError: there is a store of that name.
        :raises StoreNotFoundError: the directory of ``name`` does not exist.
        :raises WorkerError: a worker process was killed. Nothing is made.

        >>> with PersistentSet(tmp / "difference") as seen:
        ...     seen.update(["a", "b"])
        ...     with seen.difference(["b", "c"]) as rest:
        ...         sorted(rest)
        ['a']
        """
        return sets.made(self, joins.difference, others, name, workers)  # type: ignore[no-any-return]

    def symmetric_difference(self, other: Iterable[T], name: Name = None, workers: int = 1) -> PersistentSet[T]:
        """Return a new set with the elements that are in exactly one of the two. O(n + m).

        A store of the same shape is merge joined shard by shard. All else is sorted first, on disk if it is large:
        O(m log m). Atomic as :meth:`union` is.

        :param other: any iterable of elements.
        :param name: the path prefix of the new set. None: an anonymous set.
        :param workers: how many processes share the shards, at least 1.
        :returns: the new set, open, of the same class and shape.
        :raises TypeError: an element is not hashable.
        :raises SerializationError: the serdes of this set cannot hold an element of the other.
        :raises StoreExistsError: there is a store of that name.
        :raises StoreNotFoundError: the directory of ``name`` does not exist.
        :raises WorkerError: a worker process was killed. Nothing is made.

        >>> with PersistentSet(tmp / "symmetric_difference") as seen:
        ...     seen.update(["a", "b"])
        ...     with seen.symmetric_difference(["b", "c"]) as odd:
        ...         sorted(odd)
        ['a', 'c']
        """
        return sets.made(self, joins.symmetric_difference, [other], name, workers)  # type: ignore[no-any-return]

    # In place

    def intersection_update(self, *others: Iterable[Any], workers: int = 1) -> None:
        """Keep only the elements that are in all others. O(n + m), as :meth:`intersection`.

        Not atomic as a whole; atomic for each block of a shard.

        :param others: any iterables of hashable objects. Those that the serdes cannot hold are in no set.
        :param workers: how many processes share the shards, at least 1.
        :raises TypeError: an element is not hashable. Nothing is removed.
        :raises Exception: whatever an iterable raises. Nothing is removed.
        :raises WorkerError: a worker process was killed. A part is done.

        >>> with PersistentSet(tmp / "intersection_update") as seen:
        ...     seen.update(["a", "b", "c"])
        ...     seen.intersection_update(["b", "c", "d"], {"c"})
        ...     set(seen)
        {'c'}
        """
        sets.intersection_update(self, others, workers)

    def difference_update(self, *others: Iterable[Any], workers: int = 1) -> None:
        """Remove the elements of all others. O(m log n).

        Streams. Stores of the same shape are merge joined shard by shard. Not atomic as a whole; atomic for each block
        of a shard.

        :param others: any iterables of hashable objects. Those that the serdes cannot hold are not there.
        :param workers: how many processes share the shards of stores of the same shape, at least 1.
        :raises TypeError: an element is not hashable. Those before it are removed.
        :raises Exception: whatever an iterable raises. The elements before it are removed.
        :raises WorkerError: a worker process was killed. A part is done.

        >>> with PersistentSet(tmp / "difference_update") as seen:
        ...     seen.update(["a", "b", "c"])
        ...     seen.difference_update(["a"], {"b", "x"})
        ...     set(seen)
        {'c'}
        """
        sets.difference_update(self, others, workers)

    def symmetric_difference_update(self, other: Iterable[T], workers: int = 1) -> None:
        """Remove the elements that are also in the other, and add those that are only there. O(m log n).

        What is no store of the same shape is sorted first, on disk if it is large: O(m log m). Not atomic as a whole;
        atomic for each block of a shard, but its removals and its additions are two transactions.

        :param other: any iterable of elements.
        :param workers: how many processes share the shards, at least 1.
        :raises TypeError: an element is not hashable. Nothing is changed.
        :raises SerializationError: the serdes cannot hold an element of the other. Nothing is changed.
        :raises Exception: whatever the iterable raises. Nothing is changed.
        :raises WorkerError: a worker process was killed. A part is done.

        >>> with PersistentSet(tmp / "symmetric_difference_update") as seen:
        ...     seen.update(["a", "b"])
        ...     seen.symmetric_difference_update(["b", "c"])
        ...     sorted(seen)
        ['a', 'c']
        """
        sets.symmetric_difference_update(self, other, workers)

    def __iand__(self, other: Set[Any]) -> Self:
        """Keep only the elements of another set: as :meth:`intersection_update`. O(n + m)."""
        if not isinstance(other, Set):
            return NotImplemented
        self.intersection_update(other)
        return self

    def __isub__(self, other: Set[Any]) -> Self:
        """Remove the elements of another set: as :meth:`difference_update`. O(m log n)."""
        if not isinstance(other, Set):
            return NotImplemented
        self.difference_update(other)
        return self

    def __ixor__(self, other: Set[T]) -> Self:  # type: ignore[override,misc]
        """Keep what is in one of the two sets only: as :meth:`symmetric_difference_update`. O(m log n)."""
        if not isinstance(other, Set):
            return NotImplemented
        self.symmetric_difference_update(other)
        return self

    # Operators: as the methods, for sets only

    def __or__(self, other: Set[Any]) -> PersistentSet[Any]:
        """Return an anonymous set of what is in any of the two: as :meth:`union`, of sets only. O(n + m)."""
        return self.union(other) if isinstance(other, Set) else NotImplemented

    def __and__(self, other: Set[Any]) -> PersistentSet[T]:
        """Return an anonymous set of what is in both: as :meth:`intersection`, of sets only. O(n + m)."""
        return self.intersection(other) if isinstance(other, Set) else NotImplemented

    def __sub__(self, other: Set[Any]) -> PersistentSet[T]:
        """Return an anonymous set of what is only here: as :meth:`difference`, of sets only. O(n + m)."""
        return self.difference(other) if isinstance(other, Set) else NotImplemented

    def __xor__(self, other: Set[Any]) -> PersistentSet[Any]:
        """Return an anonymous set of what is in one only: as :meth:`symmetric_difference`, of sets only. O(n + m)."""
        return self.symmetric_difference(other) if isinstance(other, Set) else NotImplemented

    __ror__ = __or__
    __rand__ = __and__
    __rxor__ = __xor__

    def __rsub__(self, other: Set[Any]) -> PersistentSet[Any]:
        """Return an anonymous set of what is only in the other, which is a set. O(m log n)."""
        if not isinstance(other, Set):
            return NotImplemented
        missing = (element for element in other if element not in self)
        made: PersistentSet[Any] = self._derived(None, lambda made: made._put(missing))
        return made

    # Comparisons

    def isdisjoint(self, other: Iterable[Any]) -> bool:
        """Return whether the two share no element. O(m log n).

        A store of the same shape is merge joined: O(n + m). Stops at the first element that they share. Not atomic:
        each block is read at a moment of its own.

        :param other: any iterable of hashable objects.
        :returns: True if no element is in both.
        :raises TypeError: an element is not hashable.

        >>> with PersistentSet(tmp / "isdisjoint") as seen:
        ...     seen.update(["a", "b"])
        ...     seen.isdisjoint(["c"]), seen.isdisjoint(["b", "c"])
        (True, False)
        """
        if alike(self, other):
            return sets.is_empty(self, joins.intersection, other)
        return not any(self.contains_many(sets.elements_of(self, other)))

    def issubset(self, other: Iterable[Any]) -> bool:
        """Return whether every element is in the other. O(n + m).

        Stops at the first element that is not. A store of another shape is looked up in: O(n log m). What is no store
        is sorted first: O(m log m). Not atomic: each block is read at a moment of its own.

        :param other: any iterable of hashable objects.
        :returns: True if no element is only here.
        :raises TypeError: an element of the other is not hashable.

        >>> with PersistentSet(tmp / "issubset") as seen:
        ...     seen.update(["a", "b"])
        ...     seen.issubset(["a", "b", "c"]), seen.issubset(["a"])
        (True, False)
        """
        return sets.is_empty(self, joins.difference, other)

    def issuperset(self, other: Iterable[Any]) -> bool:
        """Return whether every element of the other is here. O(m log n).

        A store of the same shape is merge joined: O(n + m). Stops at the first element that is not. Not atomic: each
        block is read at a moment of its own.

        :param other: any iterable of hashable objects. One that the serdes cannot hold is not here.
        :returns: True if no element is only in the other.
        :raises TypeError: an element of the other is not hashable.

        >>> with PersistentSet(tmp / "issuperset") as seen:
        ...     seen.update(["a", "b"])
        ...     seen.issuperset(["a"]), seen.issuperset(["a", "c"])
        (True, False)
        """
        if alike(self, other) or sets.has_digests(other):
            return sets.is_empty(container_of(other), joins.difference, self)
        return all(self.contains_many(other))

    def __le__(self, other: Set[Any]) -> bool:
        """Return whether every element is in another set. O(n + m); not atomic."""
        return len(self) <= len(other) and self.issubset(other) if isinstance(other, Set) else NotImplemented

    def __lt__(self, other: Set[Any]) -> bool:
        """Return whether every element is in another set, which has more. O(n + m); not atomic."""
        return len(self) < len(other) and self.issubset(other) if isinstance(other, Set) else NotImplemented

    def __ge__(self, other: Set[Any]) -> bool:
        """Return whether every element of another set is here. O(n + m), or O(m log n); not atomic."""
        if not isinstance(other, Set):
            return NotImplemented
        return len(self) >= len(other) and self.issuperset(other)

    def __gt__(self, other: Set[Any]) -> bool:
        """Return whether every element of another set is here, and more. O(n + m), or O(m log n); not atomic."""
        if not isinstance(other, Set):
            return NotImplemented
        return len(self) > len(other) and self.issuperset(other)

    def __eq__(self, other: object) -> bool:
        """Return whether another set has the same elements. O(n + m); not atomic."""
        if not isinstance(other, Set):
            return NotImplemented
        return other is self or (len(self) == len(other) and self.issubset(other))
