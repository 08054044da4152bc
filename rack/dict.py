"""PersistentDict: a ``dict`` on disk that many processes write at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, Generic, Self, TypeVar, overload

from rack.algebra import dicts
from rack.algebra.sets import each_shard
from rack.codec.failure import is_failure
from rack.codec.plain import SCALARS, python_number
from rack.container.base import Container
from rack.container.batch import DictBatch
from rack.container.copying import copied
from rack.container.handle import Name
from rack.container.rows import NO_ROW, blame, flattened
from rack.container.scan import Scannable
from rack.errors import SerializationError
from rack.set import PersistentSet
from rack.shard.spans import ALL, BACKWARD, Span
from rack.store.sharded import Store
from rack.system.imports import importing
from rack.views.dicts import PersistentItems, PersistentKeys, PersistentValues
from rack.views.shards import DictShard

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")
_MISSING: Any = object()


class PersistentDict(Container, Scannable[tuple[K, V]], MutableMapping[K, V], Generic[K, V]):
    """A persistent mapping. Keys must be hashable, as in ``dict``; keys that compare equal are one key.

    The parameters are those of :class:`rack.PersistentSet`; ``serdes`` turns values into bytes, and keys too where it
    is "str", "bytes" or "ordered". Other keys are marshalled in canonical form; those that marshal cannot hold are
    dumped by ``serdes``. ``key_serdes`` overrides that.

    Use it in a ``with`` block, or between ``open()`` and ``close()``. Differences from ``dict``: iteration is in
    order of the keys' bytes, not of insertion; a value read is a copy, so ``d[k].append(x)`` changes nothing (see
    :meth:`transform`); operations that make a dict take ``name=``, and without it make an anonymous one, deleted when
    closed, collected or at exit.

    Every operation on one key is atomic across processes. Operations on many are not, as a whole.

    >>> with PersistentDict(tmp / "ages", shards=4) as ages:
    ...     ages["ann"] = 31
    ...     ages.incr("ann"), ages.setdefault("bob", 7), ages.get("eve", 0), dict(ages)
    (32, 7, 0, {'ann': 32, 'bob': 7})
    """

    _kind = "dict"
    __hash__ = None  # type: ignore[assignment]

    # One key

    def __getitem__(self, key: K) -> V:
        try:
            key_bytes = self._dump_key(key)
        except SerializationError:
            return self._missing(key)
        data = self._route(key_bytes).get(key_bytes)
        if data is None:
            return self._missing(key)
        try:
            return self._load(data)  # type: ignore[no-any-return]
        except Exception as error:
            raise self._unreadable(data, error) from error

    def _missing(self, key: K) -> V:
        """What ``d[key]`` gives of a key that is not there: KeyError, or what a subclass says, as with ``dict``."""
        missing = getattr(type(self), "__missing__", None)
        if missing is None:
            raise KeyError(key) from None
        return missing(self, key)  # type: ignore[no-any-return]

    def __setitem__(self, key: K, value: V) -> None:
        key_bytes = self._dump_key(key)
        try:
            data = (self._dump_scalar if value.__class__ in SCALARS else self._dump)(value)
        except Exception as error:
            raise self._unserializable(value, error) from error
        self._route(key_bytes).put(key_bytes, data)

    def __delitem__(self, key: K) -> None:
        try:
            key_bytes = self._dump_key(key)
        except SerializationError:
            raise KeyError(key) from None
        if not self._route(key_bytes).delete(key_bytes):
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        try:
            key_bytes = self._dump_key(key)
        except SerializationError:
            return False
        return self._route(key_bytes).contains(key_bytes)

    @overload
    def get(self, key: K, default: None = None) -> V | None: ...
    @overload
    def get(self, key: K, default: D) -> V | D: ...
    def get(self, key: Any, default: Any = None) -> Any:
        """Return the value, or ``default``. O(log n)."""
        try:
            key_bytes = self._dump_key(key)
        except SerializationError:
            return default
        data = self._route(key_bytes).get(key_bytes)
        return default if data is None else self._load_value(data)

    def add(self, key: K, value: V) -> bool:
        """Set ``d[key]`` if the key is not there. Of all processes that do so at once, exactly one gets True."""
        key_bytes = self._dump_key(key)
        return self._route(key_bytes).add(key_bytes, self._dump_value(value)) is None

    @overload
    def setdefault(self, key: K, default: None = None) -> V | None: ...
    @overload
    def setdefault(self, key: K, default: V) -> V: ...
    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Return the value; set it to ``default`` first if the key is not there. Atomic."""
        key_bytes = self._dump_key(key)
        shard = self._route(key_bytes)
        data = shard.get(key_bytes)  # most often it is there, and a read waits for nobody
        if data is None:
            data = shard.add(key_bytes, self._dump_value(default))
        return default if data is None else self._load_value(data)

    def pop(self, key: K, default: Any = _MISSING) -> Any:
        """Remove the key and return its value; without it ``default``, or KeyError. Atomic: one caller gets it."""
        try:
            key_bytes = self._dump_key(key)
            data = self._route(key_bytes).pop(key_bytes)
        except SerializationError:
            data = None
        if data is not None:
            try:
                return self._load_value(data)
            except BaseException:
                self._put_back(key, data)
                raise
        if default is _MISSING:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[K, V]:
        """Remove and return some pair (``dict``: the last one set); KeyError if empty. Atomic: one caller gets it."""
        try:
            key, data = self._pop_first()
        except KeyError:
            raise KeyError("popitem(): dictionary is empty") from None
        try:
            return key, self._load_value(data)
        except BaseException:
            self._put_back(key, data)
            raise

    def _put_back(self, key: K, data: bytes) -> None:
        """Undo the removal of a value that cannot be read: nobody has got it."""
        key_bytes = self._dump_key(key)
        self._route(key_bytes).add(key_bytes, data)

    def incr(self, key: K, delta: Any = 1, default: Any = 0) -> Any:
        """Add ``delta`` to the value, which is ``default`` if the key is not there; return the new value.

        A number of NumPy's counts as the number of Python's that it is. Atomic: no increment by any process is lost.
        :raises TypeError: the value and ``delta`` cannot be added.
        """
        result: Any = None
        delta, default = python_number(delta), python_number(default)
        load, dump = self._load_value, self._dump_value

        def change(data: bytes | None) -> bytes:
            nonlocal result
            result = (default if data is None else load(data)) + delta
            return dump(result)

        key_bytes = self._dump_key(key)
        self._route(key_bytes).modify(key_bytes, change)
        return result

    def compare_and_set(self, key: K, old: V, new: V) -> bool:
        """Set ``d[key] = new`` if the key is there and its value equals ``old``; return whether it did. Atomic."""
        key_bytes = self._dump_key(key)
        shard = self._route(key_bytes)
        new_data = self._dump_value(new)
        while True:
            data = shard.get(key_bytes)
            if data is None or self._load_value(data) != old:
                return False
            if dicts.swap(shard, key_bytes, data, new_data):
                return True

    def transform(self, key: K, function: Callable[[Any], V], default: Any = None) -> V:
        """Set ``d[key] = function(d[key])``, or ``function(default)`` if the key is not there; return the new value.

        Atomic. ``function`` runs outside of any lock or transaction, and again when another write came between, so
        it should do nothing but compute.
        """
        key_bytes = self._dump_key(key)
        shard = self._route(key_bytes)
        while True:
            data = shard.get(key_bytes)
            value = function(default if data is None else self._load_value(data))
            new_data = self._dump_value(value)
            if data is None:
                if shard.add(key_bytes, new_data) is None:
                    return value
            elif dicts.swap(shard, key_bytes, data, new_data):
                return value

    # Many keys

    def __iter__(self) -> Iterator[K]:
        """Iterate over the keys in order of their bytes, in blocks: the loop may change the dict."""
        return self._keys()

    def __reversed__(self) -> Iterator[K]:
        return self._keys(BACKWARD)

    def keys(self) -> PersistentKeys[K]:  # type: ignore[override]
        return PersistentKeys(self)

    def values(self) -> PersistentValues[V]:
        return PersistentValues(self)

    def items(self) -> PersistentItems[K, V]:  # type: ignore[override]
        return PersistentItems(self)

    def shards(self) -> tuple[DictShard[K, V], ...]:
        """Return a view of each shard, that can be pickled: ``pool.map(work, d.shards())`` covers the dict once."""
        return tuple(DictShard(self, number) for number in range(len(self._store.shards)))

    def _walk(self, span: Span) -> Iterator[tuple[K, V]]:
        return self._items(span)

    def _items(self, span: Span = ALL, store: Store | None = None) -> Iterator[tuple[K, V]]:
        load_key, load = self._codec.load_plain, self._load
        for block in (store or self._store).all_pairs(span):
            try:
                pairs = [(load_key(key), load(data)) for key, data in block]
            except Exception as error:
                if not is_failure(error):
                    raise
                pairs = [(self._load_stored_key(key), self._load_value(data)) for key, data in block]
            yield from pairs

    def batch(self) -> DictBatch[K, V]:
        """Return what collects writes, to be written together when its ``with`` block ends.

        ``batch[key] = value`` and ``del batch[key]`` (of a key that may be there or not) are held in memory, and are
        errors at once where a value cannot be stored. Leaving the block writes them: atomic for each shard, not all
        together. Leaving it by an exception writes nothing more; what had come to about 32 MiB, or 100,000 writes,
        has been written before. No lock is held while the block runs. The dict itself is used as ever, does not show
        what the batch holds, and what is set in it inside the block is set at once.

        A batch is used once. Any thread or task may write to it and leave its block; in a forked child it is
        NotOpenError.

        :raises NotOpenError: when the block ends: the dict was closed meanwhile. What the batch held is not written.

        >>> with PersistentDict(tmp / "batched") as ages:
        ...     with ages.batch() as batch:
        ...         batch["ann"] = 31
        ...         del batch["bob"]
        ...         before = len(ages)
        ...     before, dict(ages)
        (0, {'ann': 31})
        """
        return DictBatch(self)

    def get_many(self, keys: Iterable[K]) -> dict[K, V]:
        """Return a dict of those keys that are there; reads a transaction a shard for each chunk of keys."""
        return {key: self._load_value(data) for key, data in self._lookup(keys) if data is not None}

    def delete_many(self, keys: Iterable[object]) -> int:
        """Delete the keys that are there, streaming; return how many this call deleted. Errors as in update."""
        return self._delete_each(keys)

    def update(self, other: Any = (), /, **more: Any) -> None:
        """Set all pairs of a mapping or of an iterable of pairs, streaming, then the keywords.

        Where a row cannot be stored, or the iterable raises, all rows before it are set, as in ``dict``; a note of the
        error (``__notes__``) tells how many they are, and which row was bad. Behind an interrupt (Ctrl-C), or an error
        of the store, only some of them are.

        >>> with PersistentDict(tmp / "imported") as ages:
        ...     try:
        ...         ages.update([("ann", 31), ("bob", object()), ("eve", 7)])
        ...     except TypeError as error:
        ...         dict(ages), error.__notes__[0].partition(":")[0]
        ({'ann': 31}, 'row 2 was bad')
        """
        self._put(other)
        if more:
            self._put(more)

    def _put(self, other: Any) -> None:
        """As ``update``, whatever a subclass makes of that."""
        self._store.put_all(self._pairs(other))

    def merge(self, other: Any, resolve: Callable[[K, V, V], V]) -> None:
        """Set the pairs of a mapping or of an iterable of pairs, streaming. For a key that is there already the value
        becomes ``resolve(key, mine, theirs)``. Errors as in :meth:`update`; also those of ``resolve``.

        Atomic for each key: no other write between reading and setting it is lost. ``resolve`` runs outside of any lock
        or transaction, and again when another write came between, so it should do nothing but compute.

        >>> with PersistentDict(tmp / "counts") as counts:
        ...     counts.update({"a": 1, "b": 2})
        ...     counts.merge({"b": 3, "c": 4}, lambda key, mine, theirs: mine + theirs)
        ...     dict(counts)
        {'a': 1, 'b': 5, 'c': 4}
        """
        dicts.merge(self, self._pairs(other), resolve)

    def _pairs(self, other: Any) -> Iterator[tuple[bytes, bytes]]:
        """Return what a mapping or an iterable of pairs holds, as bytes."""
        if isinstance(other, PersistentDict) and (other._codec, other._serdes) == (self._codec, self._serdes):
            return flattened(other._store.all_pairs())
        return self._dump_pairs(_pairs_of(other))

    def _dump_pairs(self, rows: Iterable[Any]) -> Iterator[tuple[bytes, bytes]]:
        dump_key, dump, dump_scalar, scalars = self._dump_key, self._dump, self._dump_scalar, SCALARS
        number, row, no_row = 0, NO_ROW, NO_ROW  # as in rack.container.rows.dumped
        try:
            for number, row in enumerate(rows, 1):
                try:
                    key, value = row
                except (TypeError, ValueError):
                    _bad_pair(row, number - 1)
                try:
                    data = (dump_scalar if value.__class__ in scalars else dump)(value)
                except Exception as error:
                    raise self._unserializable(value, error) from error
                yield dump_key(key), data
                row = no_row
        except Exception as error:
            blame(error, number, row)
            raise

    # New dicts

    def copy(self, name: Name = None, *, workers: int = 1, **options: Any) -> PersistentDict[K, V]:
        """Return a copy, opened; ``options`` of the constructor (``shards=``, ``engine=``, ...) make it differ.

        With ``name`` it is there as a whole or not at all. ``workers`` processes share the work, a shard at a time.

        :raises StoreExistsError: there is a store of that name. :raises WorkerError: a worker was killed.
        """
        made: PersistentDict[K, V] = copied(self, name, workers, options)
        return made

    __copy__ = copy

    @classmethod
    def fromkeys(cls, keys: Iterable[Any], value: Any = None, name: Name = None, **options: Any) -> Self:
        """Return a new dict, opened, with the keys and one value for all; ``options`` are the constructor's.

        Without a name it is anonymous, in the directory for temporary files.
        """
        with importing:
            from tempfile import gettempdir

            beside = os.path.join(gettempdir(), "rack")  # which has a lock of its own, the first time
        return cls._produce(name, beside, options, lambda made: made._put((key, value) for key in keys))

    def _make_set(self, name: Name, fill: Callable[[Any], object], **options: Any) -> PersistentSet[Any]:
        made: PersistentSet[Any] = self._derived(name, fill, PersistentSet, **options)
        return made

    def _new_set(
        self, elements: Iterable[Any], change: Callable[[PersistentSet[Any]], object] | None
    ) -> PersistentSet[Any]:
        """Return an anonymous set of what a view yields, then changed; "pickle" holds it, whatever it is."""

        def fill(made: PersistentSet[Any]) -> None:
            made.update(elements)
            if change is not None:
                change(made)

        made: PersistentSet[Any] = self._derived(None, fill, PersistentSet, serdes="pickle", key_serdes="pickle")
        return made

    def __or__(self, other: Any) -> PersistentDict[Any, Any]:
        if not isinstance(other, Mapping):
            return NotImplemented
        return self._merged(self, other)

    def __ror__(self, other: Any) -> PersistentDict[Any, Any]:
        if not isinstance(other, Mapping):
            return NotImplemented
        return self._merged(other, self)

    def _merged(self, first: Any, second: Any) -> PersistentDict[Any, Any]:
        def fill(made: PersistentDict[Any, Any]) -> None:
            if dicts.alike(self, first) and dicts.alike(self, second):
                each_shard(dicts.update_shard, (made, [first, second]), self)
            else:
                made._put(first)
                made._put(second)

        made: PersistentDict[Any, Any] = self._derived(None, fill)
        return made

    def __ior__(self, other: Any) -> Self:
        self.update(other)
        return self

    def __eq__(self, other: object) -> bool:
        """Whether the other is a mapping with equal keys and values. O(n), streaming."""
        if not isinstance(other, Mapping):
            return NotImplemented
        if other is self:
            return True
        if len(self) != len(other):
            return False
        if dicts.alike(self, other):
            return all(stretch.is_equal for stretch in dicts.stretches(self, other))
        missing: Any = object()
        for key, value in self._items():
            there = other.get(key, missing)
            if there is missing or (there is not value and there != value):
                return False
        return True


def _pairs_of(other: Any) -> Iterable[Any]:
    if isinstance(other, Mapping):
        return other.items()
    if hasattr(other, "keys"):
        return ((key, other[key]) for key in other.keys())  # noqa: SIM118 - keys() is all it has
    return other  # type: ignore[no-any-return]


def _bad_pair(pair: object, number: int) -> None:
    try:
        length = len(pair)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"cannot convert dictionary update sequence element #{number} to a sequence") from None
    raise ValueError(f"dictionary update sequence element #{number} has length {length}; 2 is required")
