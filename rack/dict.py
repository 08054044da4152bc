"""PersistentDict: a ``dict`` on disk that many processes write at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from itertools import chain, islice
from operator import itemgetter
from typing import Any, Generic, Self, TypeVar, overload

from rack.algebra import dicts
from rack.algebra.sets import each_shard
from rack.codec.failure import is_failure
from rack.codec.plain import SCALARS, python_number
from rack.container.base import Container
from rack.container.batch import DictBatch
from rack.container.copying import copied
from rack.container.maker import Name
from rack.container.rows import dumped_blocks, parts, stored_blocks
from rack.container.same import check_keys, same_codec, same_serdes
from rack.container.scan import Scannable
from rack.errors import RackError, SerializationError
from rack.set import PersistentSet
from rack.shard.base import Pair
from rack.shard.spans import ALL, BACKWARD, Span
from rack.store.sharded import Store
from rack.system.imports import importing
from rack.views.dicts import PersistentItems, PersistentKeys, PersistentValues
from rack.views.shards import DictShard

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")
_MISSING: Any = object()
_ROWS = frozenset((tuple, list))
_TWO = frozenset((2,))
_KEY, _VALUE = itemgetter(0), itemgetter(1)


class PersistentDict(Container, Scannable[tuple[K, V]], MutableMapping[K, V], Generic[K, V]):
    """A persistent mapping: a ``dict`` on disk that any number of processes read and write at once.

    Keys must be hashable, as in ``dict``. Keys that compare equal are one key. Use the dict in a ``with`` block, or
    between ``open()`` and ``close()``. The constructor touches no file. Threads may share one object.

    Differences from ``dict``: the order is that of the keys' bytes, not of insertion. A value read is a copy, so
    ``d[k].append(x)`` changes nothing (see :meth:`transform`). Operations that make a dict take ``name=``; without it
    they make an anonymous one, which is deleted when it is closed, collected or at exit.

    *Atomic:* every operation on one key, for all threads and processes (they are linearizable). Operations on many keys
    are not atomic as a whole; each says what is. :meth:`snapshot` shows the whole dict at one instant.

    *How long it takes:* ``n`` is the number of entries, ``k`` that of the rows that are given, ``s`` that of shards.
    Each shard is a B-tree, so one key takes O(log n).

    *Errors:* besides those that are named, any operation may raise NotOpenError (the dict is not open),
    CorruptShardError (a shard is damaged), StoreDeletedError (in a forked child: the files were removed since the
    fork), SnapshotLostError (of a snapshot that could not be kept) and, with ``timeout``, LockTimeoutError (what was to
    be done to one key has not happened, and will not). A write may raise ReadOnlyError (flag "r", or a snapshot),
    StoreFullError (no space) and TooLargeError (more than the engine can hold). All of these derive from
    :exc:`rack.RackError`.

    :param name: where the files are: a path prefix, like ``"data/ages"``. The directory must exist. Or the URL of a
        store on a server: ``"redis://host:6379/0?name=ages"``.
    :param hash: digest for keys of over 511 bytes when serialized, on LMDB: a function from bytes to bytes, always as
        many and at most 255. Default SHA-256.
    :param serdes: how values become bytes: a preset ("marshal", "pickle", "json", "str", "bytes", "ordered"), an object
        with ``dumps`` and ``loads``, or a pair ``(loads, dumps)``. Default "marshal": numbers, strings, bytes, None,
        and tuples, lists, sets and dicts of them. Loading a pickle can run any code. "str", "bytes" and "ordered" are
        for the keys, too. With all others the keys are marshalled in a canonical form: those of a class whose ``==`` is
        its own need ``rack.register_key``.
    :param shards: number of files that a new store is cut into, 1 to 9999; default 16. Each shard has one writer at a
        time. An existing store must have as many.
    :param engine: "lmdb" (default): the faster one, by a factor of five to ten for single operations. Files are memory
        mapped. "sqlite3": about two thirds of the space. The ``sqlite3`` shell can read the files, and no power failure
        damages them, whatever the durability. An existing store must have the same. "redis": what a URL means.
    :param key_serdes: as ``serdes``, for keys alone. With "str", "bytes" or "ordered" :meth:`scan` works. "digest": the
        dict has 16 bytes for each key, a digest of it, and gives :class:`rack.Digest` objects in place of keys.
        "digest:sha256", "digest:sha256:20" (bytes, 16 to 32) and so on are those of cryptographic functions.
    :param durability: what a power failure may cost. The death of a process costs nothing that was written, with any
        of them. Default: that with which the store was used last; "everysec" for a new one.

        - "process": a write is there for all processes when it returns. It reaches the disk at :meth:`sync`, and when
          the last process closes the store. A power failure before that costs the last writes on SQLite. On LMDB the
          store is refused then, with CorruptShardError, and has to be repaired.
        - "everysec": the same, and a thread has all writes on the disk about once a second. A power failure costs about
          the last second. On LMDB setting a key takes 1.5 times the time, and the store up to three times the disk.
        - "always": each write is on the disk when it returns. It waits for one fsync. A power failure costs nothing.
    :param flag: "r": read only. "w": read and write. "c" (default): make the store if there is none. "n": always make a
        new, empty one; it replaces an existing one that nobody has open.
    :param timeout: seconds to wait for another process's write before LockTimeoutError. None (default): wait as long as
        it takes. It makes each operation slower, as another thread does the waiting. Without it, a thread that waits
        for a writer on LMDB notices no signal, such as Ctrl-C, until the writer has let go.
    :param memory: bytes that a bulk write (``update``, ``delete_many``, ...) may hold, to write many rows at a
        time. At least 1 MiB; default 96 MiB. What a new store is given beyond that waits on the disk, beside the store.
    :raises TypeError: an argument is of a wrong type.
    :raises ValueError: an argument has a value that does not exist, or is out of range.

    >>> with PersistentDict(tmp / "ages", shards=4) as ages:
    ...     ages["ann"] = 31
    ...     ages.incr("ann"), ages.setdefault("bob", 7), ages.get("eve", 0), dict(ages)
    (32, 7, 0, {'ann': 32, 'bob': 7})
    """

    _kind = "dict"
    __hash__ = None  # type: ignore[assignment]

    # One key

    def __getitem__(self, key: K) -> V:
        """Return the value of the key. Atomic; O(log n).

        A subclass with ``__missing__`` says what comes of a key that is not there, as with ``dict``.

        :param key: hashable.
        :returns: a copy of the value.
        :raises KeyError: the key is not there.
        :raises TypeError: the key is unhashable.
        :raises DeserializationError: the serdes cannot read the stored value.
        """
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
        """Set the value of the key. Atomic; O(log n).

        :param key: hashable.
        :param value: what the serdes can hold.
        :raises TypeError: the key is unhashable.
        :raises SerializationError: the store cannot hold the key, or the serdes the value.
        """
        key_bytes = self._dump_key(key)
        try:
            data = (self._dump_scalar if value.__class__ in SCALARS else self._dump)(value)
        except Exception as error:
            raise self._unserializable(value, error) from error
        self._route(key_bytes).put(key_bytes, data)

    def __delitem__(self, key: K) -> None:
        """Remove the key. Atomic: of all that remove it at once, one succeeds. O(log n).

        :param key: hashable.
        :raises KeyError: the key is not there.
        :raises TypeError: the key is unhashable.
        """
        try:
            key_bytes = self._dump_key(key)
        except SerializationError:
            raise KeyError(key) from None
        if not self._route(key_bytes).delete(key_bytes):
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        """Return whether the key is there. Atomic; O(log n).

        :param key: hashable.
        :returns: also False for a key that the store could not hold.
        :raises TypeError: the key is unhashable.
        """
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
        """Return the value of a key, or a default.

        Atomic; O(log n). It does not wait for the writer lock.

        :param key: hashable.
        :param default: what to return if the key is not there, or could not be.
        :returns: a copy of the value, or ``default`` itself.
        :raises TypeError: the key is unhashable.
        :raises DeserializationError: the serdes cannot read the stored value.

        >>> with PersistentDict(tmp / "got") as ages:
        ...     ages["ann"] = 31
        ...     ages.get("ann"), ages.get("bob"), ages.get("bob", 0)
        (31, None, 0)
        """
        try:
            key_bytes = self._dump_key(key)
        except SerializationError:
            return default
        data = self._route(key_bytes).get(key_bytes)
        return default if data is None else self._load_value(data)

    def add(self, key: K, value: V) -> bool:
        """Set the value of a key if the key is not there.

        Atomic: of all threads and processes that add a key at once, exactly one gets True. O(log n).

        :param key: hashable.
        :param value: what the serdes can hold.
        :returns: whether this call set it.
        :raises TypeError: the key is unhashable.
        :raises SerializationError: the store cannot hold the key, or the serdes the value.

        >>> with PersistentDict(tmp / "owners") as owners:
        ...     owners.add("job 1", "ann"), owners.add("job 1", "bob"), owners["job 1"]
        (True, False, 'ann')
        """
        key_bytes = self._dump_key(key)
        return self._route(key_bytes).add(key_bytes, self._dump_value(value)) is None

    @overload
    def setdefault(self, key: K, default: None = None) -> V | None: ...
    @overload
    def setdefault(self, key: K, default: V) -> V: ...
    def setdefault(self, key: Any, default: Any = None) -> Any:
        """Return the value of a key; set it to a default first if the key is not there.

        Atomic: all threads and processes that do so at once get the same value. O(log n).

        :param key: hashable.
        :param default: the value to set; only then does the serdes have to hold it.
        :returns: a copy of the value, or ``default`` itself if this call set it.
        :raises TypeError: the key is unhashable.
        :raises SerializationError: the store cannot hold the key, or the serdes the default.
        :raises DeserializationError: the serdes cannot read the stored value.

        >>> with PersistentDict(tmp / "defaults") as ages:
        ...     ages.setdefault("ann", 31), ages.setdefault("ann", 7), ages["ann"]
        (31, 31, 31)
        """
        key_bytes = self._dump_key(key)
        shard = self._route(key_bytes)
        data = shard.get(key_bytes)  # most often it is there, and a read waits for nobody
        if data is None:
            data = shard.add(key_bytes, self._dump_value(default))
        return default if data is None else self._load_value(data)

    def pop(self, key: K, default: Any = _MISSING) -> Any:
        """Remove a key and return its value.

        Atomic: of all threads and processes that pop a key at once, one gets the value. O(log n).

        :param key: hashable.
        :param default: what to return if the key is not there. Without it that is KeyError.
        :returns: the value, or ``default``.
        :raises KeyError: the key is not there, and no default was given.
        :raises TypeError: the key is unhashable.
        :raises DeserializationError: the serdes cannot read the stored value. It is put back, which is not atomic.

        >>> with PersistentDict(tmp / "popped") as ages:
        ...     ages["ann"] = 31
        ...     ages.pop("ann"), ages.pop("ann", None)
        (31, None)
        """
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
        """Remove and return some pair (of a ``dict``: the last one set).

        Atomic: each pair goes to one caller, in all threads and processes. O(s + log n). Processes begin at different
        shards, so that they seldom wait for each other.

        :returns: the key and the value.
        :raises KeyError: the dict is empty: at some moment during the call all its shards were.
        :raises DeserializationError: the serdes cannot read the pair. It is put back, which is not atomic.

        >>> with PersistentDict(tmp / "jobs") as jobs:
        ...     jobs["job 1"] = "ann"
        ...     jobs.popitem(), len(jobs)
        (('job 1', 'ann'), 0)
        """
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
        """Add to the value of a key, and return the new value.

        Atomic: no increment by any thread or process is lost. O(log n). The serdes runs inside the write, so it must
        not use the store.

        :param key: hashable.
        :param delta: what to add with ``+``. A number of NumPy's counts as the number of Python's that it is.
        :param default: the value to begin with if the key is not there.
        :returns: the new value.
        :raises TypeError: the value and ``delta`` cannot be added, or the key is unhashable. Nothing is changed.
        :raises SerializationError: the store cannot hold the key, or the serdes the new value. Nothing is changed.
        :raises DeserializationError: the serdes cannot read the stored value.
        :raises ReentrantWriteError: the serdes used the store.

        >>> with PersistentDict(tmp / "hits") as hits:
        ...     hits.incr("/"), hits.incr("/", 5), hits.incr("/about", default=100)
        (1, 6, 101)
        """
        result: Any = None
        delta, default = python_number(delta), python_number(default)
        load, dump = self._load_value, self._dump_value

        def change(data: bytes | None) -> bytes:
            nonlocal result
            result = (default if data is None else load(data)) + delta
            return dump(result)

        key_bytes = self._dump_key(key)
        added = self._route(key_bytes).increase(key_bytes, change, delta, default, self._serdes.integers)
        return result if added is None else added

    def compare_and_set(self, key: K, old: V, new: V) -> bool:
        """Set the value of a key if it equals another one.

        Atomic: no other write comes between comparing and setting. O(log n) for each try; it tries again when another
        write came between. Values are compared with ``==``, outside of any lock.

        :param key: hashable.
        :param old: what the value has to equal.
        :param new: what the serdes can hold.
        :returns: whether it was set; False if the key is not there.
        :raises TypeError: the key is unhashable.
        :raises SerializationError: the store cannot hold the key, or the serdes ``new``.
        :raises DeserializationError: the serdes cannot read the stored value.

        >>> with PersistentDict(tmp / "states") as states:
        ...     states["job 1"] = "new"
        ...     states.compare_and_set("job 1", "new", "taken"), states.compare_and_set("job 1", "new", "taken")
        (True, False)
        """
        key_bytes = self._dump_key(key)
        shard = self._route(key_bytes)
        new_data = self._dump_value(new)
        while True:
            data = shard.get(key_bytes)
            if data is None or not dicts.same_value(self, self._load_value(data), old):
                return False
            if dicts.swap(shard, key_bytes, data, new_data):
                return True

    def transform(self, key: K, function: Callable[[Any], V], default: Any = None) -> V:
        """Set the value of a key to what a function makes of it, and return the new value.

        Atomic: no other write comes between reading and setting. O(log n) for each try, and the function.

        :param key: hashable.
        :param function: takes the value and returns the new one. It runs outside of any lock or transaction, and again
            when another write came between: so it should do nothing but compute. It may change the value that it is
            given.
        :param default: what the function is given if the key is not there.
        :returns: the new value.
        :raises Exception: what the function raises. Nothing is changed.
        :raises TypeError: the key is unhashable.
        :raises SerializationError: the store cannot hold the key, or the serdes the new value. Nothing is changed.
        :raises DeserializationError: the serdes cannot read the stored value.

        >>> with PersistentDict(tmp / "lists") as lists:
        ...     lists.transform("ann", lambda found: found + ["pear"], default=[])
        ...     lists.transform("ann", lambda found: found + ["plum"], default=[])
        ['pear']
        ['pear', 'plum']
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
        """Iterate over the keys, in order of their bytes, in blocks: the loop may change the dict.

        O(s log n) to begin, and O(log s) a key. Not atomic: each block of each shard is read at a moment of its own. A
        key that is there throughout is seen exactly once.
        """
        return self._keys()

    def __reversed__(self) -> Iterator[K]:
        """Iterate over the keys from the last to the first.

        O(s log n) to begin, and O(log s) a key. Not atomic, like a loop forward.
        """
        return self._keys(BACKWARD)

    def keys(self) -> PersistentKeys[K]:  # type: ignore[override]
        """Return a live view of the keys.

        O(1). Not atomic: the view reads block by block when it is used.

        :returns: a view that also has :meth:`scan`, ``reversed`` and the set operations, which make PersistentSets.
        :raises NotOpenError: not here; when the view is used while the dict is not open.

        >>> with PersistentDict(tmp / "keys") as ages:
        ...     ages.update({"ann": 31, "bob": 7})
        ...     list(ages.keys()), set(ages.keys() & ["bob", "eve"])
        (['ann', 'bob'], {'bob'})
        """
        return PersistentKeys(self)

    def values(self) -> PersistentValues[V]:
        """Return a live view of the values.

        O(1). Not atomic: the view reads block by block when it is used. ``in`` compares with all values: O(n).

        :returns: a view that also has :meth:`scan` and ``reversed``; in order of the keys' bytes.
        :raises NotOpenError: not here; when the view is used while the dict is not open.

        >>> with PersistentDict(tmp / "values") as ages:
        ...     ages.update({"ann": 31, "bob": 7})
        ...     list(ages.values()), sum(ages.values())
        ([31, 7], 38)
        """
        return PersistentValues(self)

    def items(self) -> PersistentItems[K, V]:  # type: ignore[override]
        """Return a live view of the pairs.

        O(1). Not atomic: the view reads block by block when it is used. Each pair is of one moment.

        :returns: a view that also has :meth:`scan` and ``reversed``, and the set operations if the values are hashable.
        :raises NotOpenError: not here; when the view is used while the dict is not open.

        >>> with PersistentDict(tmp / "items") as ages:
        ...     ages.update({"ann": 31, "bob": 7})
        ...     list(ages.items()), ("bob", 7) in ages.items()
        ([('ann', 31), ('bob', 7)], True)
        """
        return PersistentItems(self)

    def _ipython_key_completions_(self) -> list[K]:
        """Return the first keys, which IPython offers behind ``d[``: at most 100, and none where it had to wait, or
        there are only digests of them.
        """
        if self._count_at_once() is None or self._codec.digest is not None:
            return []
        try:
            return list(islice(self._keys(), 100))
        except (RackError, OSError):
            return []

    def shards(self) -> tuple[DictShard[K, V], ...]:
        """Return a view of each shard, to share work: all of them together have every entry exactly once.

        O(s). Not atomic: a view is live. It can be pickled, so ``pool.map(work, d.shards())`` covers the dict once.

        :returns: a view for each shard, in the order of their numbers.
        :raises NotOpenError: the dict is not open.

        >>> with PersistentDict(tmp / "parts", shards=4) as d:
        ...     d.update(zip(range(100), range(100)))
        ...     len(d.shards()), sum(map(len, d.shards()))
        (4, 100)
        """
        return tuple(DictShard(self, number) for number in range(len(self._store.shards)))

    def _walk(self, span: Span) -> Iterator[tuple[K, V]]:
        return self._items(span)

    def _items(self, span: Span = ALL, store: Store | None = None) -> Iterator[tuple[K, V]]:
        load_key, load = self._codec.load_plain, self._load
        for block in (store or self._store).all_pairs(span):
            for part in parts(block):
                keys, values = zip(*part, strict=True)
                items: Iterable[Any]
                try:
                    items = list(zip(map(load_key, keys), map(load, values), strict=True))
                except Exception as error:
                    if not is_failure(error):
                        raise
                    items = map(self._load_item, part)
                yield from items  # not in the try, as in _keys

    def _load_item(self, pair: Pair) -> tuple[K, V]:
        return self._load_stored_key(pair[0]), self._load_value(pair[1])

    def batch(self) -> DictBatch[K, V]:
        """Return what collects writes, to be written together when its ``with`` block ends.

        ``batch[key] = value`` and ``del batch[key]`` (of a key that may be there or not) are held in memory. O(1) to
        make, and O(s + k log(k + n)) to write. Leaving the block by an exception writes nothing more. The dict itself
        is used as ever: it does not show what the batch holds, and what is set in it inside the block is set at once.

        Atomic for each shard, not all together. When about 32 MiB, or 100,000 writes, have come, these are written
        before the block ends. No lock is held while the block runs.

        A batch is used once. Any thread or task may write to it and leave its block.

        :returns: the batch, for ``with``.
        :raises NotOpenError: when the block begins or ends: the dict is not open; what the batch held is not written.
            When it is written to: outside of its block, or in a forked child.

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
        """Return a dict of those keys that are there.

        O(k log n), and as much memory as the result. Not atomic as a whole: keys are looked up 1024 at a time, those of
        a shard in one transaction. Each value is of a moment during the call.

        :param keys: hashable ones; any iterable.
        :returns: the keys that were given and are there, with their values.
        :raises TypeError: a key is unhashable.
        :raises DeserializationError: the serdes cannot read a stored value.

        >>> with PersistentDict(tmp / "several") as ages:
        ...     ages.update({"ann": 31, "bob": 7})
        ...     ages.get_many(["bob", "eve"])
        {'bob': 7}
        """
        return {key: self._load_value(data) for key, data in self._lookup(keys) if data is not None}

    def delete_many(self, keys: Iterable[object]) -> int:
        """Delete the keys that are there, and return how many this call deleted.

        Streams; O(s + k log(k + n)). Atomic for each block: at most 20,000 keys of one shard, a transaction. Not atomic
        as a whole. Each deletion is counted by one of all calls, in all threads and processes.

        :param keys: hashable ones; any iterable. Those that the store could not hold are not there.
        :returns: how many keys this call deleted.
        :raises TypeError: a key is unhashable. All keys before it are deleted; a note tells how many they are.
        :raises Exception: what the iterable raises. The same holds.

        >>> with PersistentDict(tmp / "deleted") as ages:
        ...     ages.update({"ann": 31, "bob": 7})
        ...     ages.delete_many(["bob", "eve"]), dict(ages)
        (1, {'ann': 31})
        """
        return self._delete_each(keys)

    def update(self, other: Any = (), /, **more: Any) -> None:
        """Set all pairs of a mapping, or of an iterable of pairs, and then the keywords.

        Streams; O(s + k log(k + n)). Atomic for each block: at most 20,000 pairs of one shard, a transaction. Not
        atomic as a whole: others see some blocks before others. A later pair wins over an earlier one with the same
        key. What an empty shard is given beyond ``memory=`` waits on the disk until all rows have come.

        :param other: a mapping, what has ``keys()``, or an iterable of pairs. It may be larger than memory.
        :param more: keys that are identifiers, with their values.
        :raises SerializationError: the store cannot hold a key, or the serdes a value.
        :raises TypeError: a key is unhashable, or a row is no pair.
        :raises ValueError: a row is a sequence, but not of two.
        :raises Exception: what the iterable raises.

        With each of these errors all rows before it are set, as in ``dict``; a note of the error (``__notes__``) tells
        how many they are, and which row was bad. Behind an interrupt (Ctrl-C), or an error of the store, only some of
        them are.

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
        """Set the pairs of a mapping or an iterable; for a key that is there, a function makes the new value.

        Streams; O(k log n), and the calls of ``resolve``. Atomic for each key: no other write between reading and
        setting it is lost. Not atomic as a whole. Of a key that comes twice, the second pair meets what the first one
        made.

        :param other: as in :meth:`update`.
        :param resolve: ``resolve(key, mine, theirs)`` returns the value for a key that is there. It runs outside of any
            lock or transaction, and again when another write came between: so it should do nothing but compute.
        :raises SerializationError: the store cannot hold a key, or the serdes a value.
        :raises TypeError: a key is unhashable, or a row is no pair.
        :raises DeserializationError: the serdes cannot read a stored value.
        :raises Exception: what ``resolve`` or the iterable raises.

        With these errors all rows before the bad one are merged, and a note tells which one it was, as in
        :meth:`update`.

        >>> with PersistentDict(tmp / "counts") as counts:
        ...     counts.update({"a": 1, "b": 2})
        ...     counts.merge({"b": 3, "c": 4}, lambda key, mine, theirs: mine + theirs)
        ...     dict(counts)
        {'a': 1, 'b': 5, 'c': 4}
        """
        dicts.merge(self, chain.from_iterable(self._pairs(other)), resolve)

    def _pairs(self, other: Any) -> Iterator[list[Pair]]:
        """Return what a mapping or an iterable of pairs holds, as bytes, in blocks."""
        if isinstance(other, PersistentDict):
            if same_codec(self, other) and same_serdes(self, other):
                return stored_blocks(other._store.all_pairs())
            check_keys(self, other)
        return dumped_blocks(_pairs_of(other), self._dump_rows, self._dump_row)

    def _dump_rows(self, rows: list[Any]) -> list[Pair] | None:
        """Dump many rows; None if they are not all pairs of the usual types."""
        if not (_ROWS.issuperset(map(type, rows)) and _TWO.issuperset(map(len, rows))):
            return None
        values = list(map(_VALUE, rows))
        dump = self._dump_scalar if SCALARS.issuperset(map(type, values)) else self._dump
        return list(zip(map(self._dump_key, map(_KEY, rows)), map(dump, values), strict=True))

    def _dump_row(self, row: Any, number: int) -> Pair:
        try:
            key, value = row
        except (TypeError, ValueError):
            _bad_pair(row, number)
        data = self._dump_value(value)
        return self._dump_key(key), data

    # New dicts

    def copy(self, name: Name = None, *, workers: int = 1, **options: Any) -> PersistentDict[K, V]:
        """Return a copy, opened.

        O(n) if it has the same shards and serdes, else O(n log n). The copy is not atomic: each block is read at a
        moment of its own. Copy a :meth:`snapshot` for one instant. With a name it is made atomically: it is there as a
        whole or not at all, whatever happens.

        :param name: of the copy; None: an anonymous one, which is deleted when it is closed.
        :param workers: number of processes that share the work, a shard at a time. 1: this one does it.
        :param options: arguments of the constructor (``shards=``, ``engine=``, ...), which make the copy differ.
        :returns: the copy, to be closed.
        :raises StoreExistsError: there is a store of that name.
        :raises StoreNotFoundError: there is no directory for it.
        :raises SerializationError: another serdes was given, and it cannot hold something.
        :raises DeserializationError: another serdes was given, and the own one cannot read something.
        :raises WorkerError: a worker was killed.
        :raises TypeError: as of the constructor, or ``workers`` is no whole number.
        :raises ValueError: as of the constructor, or ``workers`` is less than 1.

        >>> with PersistentDict(tmp / "original") as ages:
        ...     ages["ann"] = 31
        ...     with ages.copy(tmp / "copied", shards=4, engine="sqlite3") as copy:
        ...         copy["ann"] = 32
        ...         ages["ann"], copy["ann"]
        (31, 32)
        """
        made: PersistentDict[K, V] = copied(self, name, workers, options)
        return made

    __copy__ = copy

    @classmethod
    def fromkeys(cls, keys: Iterable[Any], value: Any = None, name: Name = None, **options: Any) -> Self:
        """Return a new dict, opened, with the keys and one value for all.

        O(s + k log k). Atomic: with a name it is there as a whole or not at all.

        :param keys: hashable ones; any iterable.
        :param value: what the serdes can hold.
        :param name: of the new store; None: an anonymous one, in the directory for temporary files.
        :param options: arguments of the constructor (``shards=``, ``engine=``, ...).
        :returns: the dict, to be closed.
        :raises StoreExistsError: there is a store of that name.
        :raises StoreNotFoundError: there is no directory for it.
        :raises SerializationError: the store cannot hold a key, or the serdes the value. Nothing is made.
        :raises TypeError: a key is unhashable, or as of the constructor. Nothing is made.
        :raises ValueError: as of the constructor.

        >>> with PersistentDict.fromkeys(["ann", "bob"], 0, shards=1) as points:
        ...     dict(points)
        {'ann': 0, 'bob': 0}
        """
        with importing():
            from tempfile import gettempdir

            beside = os.path.join(gettempdir(), "rack")  # which has a lock of its own, the first time
        return cls._produce(name, beside, options, lambda made: made._put((key, value) for key in keys))

    def _make_set(self, name: Name, fill: Callable[[Any], object], **options: Any) -> PersistentSet[Any]:
        made: PersistentSet[Any] = self._derived(name, fill, PersistentSet, **options)
        return made

    def _new_set(
        self, elements: Iterable[Any], change: Callable[[PersistentSet[Any]], object] | None, key_serdes: str
    ) -> PersistentSet[Any]:
        """Return an anonymous set of what a view yields, then changed."""

        def fill(made: PersistentSet[Any]) -> None:
            made.update(elements)
            if change is not None:
                change(made)

        made: PersistentSet[Any] = self._derived(None, fill, PersistentSet, serdes="marshal", key_serdes=key_serdes)
        return made

    def __or__(self, other: Any) -> PersistentDict[Any, Any]:
        """Return an anonymous dict with the pairs of both; the other's values win.

        O(n) of both if they have the same shards and serdes, else O(n log n). Not atomic.

        :param other: a mapping.
        :returns: the dict, opened, to be closed.
        :raises TypeError: the other is no mapping.
        """
        if not isinstance(other, Mapping):
            return NotImplemented
        return self._merged(self, other)

    def __ror__(self, other: Any) -> PersistentDict[Any, Any]:
        """Return an anonymous dict with the pairs of both; this dict's values win.

        O(n) of both if they have the same shards and serdes, else O(n log n). Not atomic.
        """
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
        """Set all pairs of a mapping or of an iterable of pairs, as :meth:`update` does.

        O(s + k log(k + n)). Atomic for each block, not as a whole.
        """
        self.update(other)
        return self

    def __eq__(self, other: object) -> bool:
        """Return whether the other is a mapping with equal keys and values. What is stored alike is equal, NaN too.

        O(s) if their lengths differ; O(n) beside a dict with the same shards and serdes, else O(n log n). Streams. Not
        atomic: each block is read at a moment of its own.
        """
        if not isinstance(other, Mapping):
            return NotImplemented
        if other is self:
            return True
        if len(self) != len(other):
            return False
        if dicts.alike(self, other):
            return all(stretch.is_equal for stretch in dicts.stretches(self, other))
        missing: Any = object()
        rows: Iterable[Any] = self._items()
        looked_up: Any = other
        if self._codec.digest is not None:
            if isinstance(other, PersistentDict):
                check_keys(self, other)
            rows, looked_up = other.items(), self
        for key, value in rows:
            there = looked_up.get(key, missing)
            if there is missing or not dicts.same_value(self, value, there):
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
