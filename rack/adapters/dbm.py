"""A dbm module on Rack: what takes ``dbm.gnu`` or ``dbm.dumb`` takes this as well, as does ``shelve.Shelf``."""

from __future__ import annotations

import errno
import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from rack.dict import PersistentDict
from rack.errors import NotOpenError, RackError, ReadOnlyError, told

P = ParamSpec("P")
R = TypeVar("R")

#: What can be a key or a value: a str is encoded in UTF-8.
Data = str | bytes | bytearray | memoryview

_MODE = 0o666
_MISSING: Any = object()
_umask = threading.Lock()


class error(RackError, OSError):  # its name in each dbm module
    """What goes wrong with a database, but for keys that are missing and arguments of a wrong type.

    An OSError, so ``except dbm.error`` of the standard library catches it, too. Its ``__cause__`` is Rack's own error.

    >>> from rack.adapters import dbm
    >>> try:
    ...     dbm.open(tmp / "absent")
    ... except dbm.error as problem:
    ...     type(problem.__cause__).__name__
    'StoreNotFoundError'
    """


def _translated(problem: RackError) -> error:
    if isinstance(problem, NotOpenError):
        return error("DBM object has already been closed")
    if isinstance(problem, ReadOnlyError):
        return error(errno.EACCES, "The database is opened for reading only", problem.filename)
    if isinstance(problem, OSError):
        return error(problem.errno, problem.strerror, problem.filename).in_words(told(problem))
    return error(str(problem)).in_words(told(problem))


def _with_errors(
    method: Callable[Concatenate[Database, P], R],
) -> Callable[Concatenate[Database, P], R]:
    """Have a method raise Rack's errors as :class:`error`."""

    @functools.wraps(method)
    def wrapped(self: Database, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except RackError as problem:
            raise _translated(problem) from problem

    return wrapped


def _key(key: Data) -> bytes:
    return _bytes(key, "keys")


def _value(value: Data) -> bytes:
    return _bytes(value, "values")


def _bytes(data: Data, what: str) -> bytes:
    if isinstance(data, str):
        return data.encode()
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"{what} must be bytes or strings, not {type(data).__name__}")
    return bytes(data)


class Database(MutableMapping[Data, bytes]):
    """An open database: what :func:`open` returns. Keys and values may be str or bytes; bytes come out.

    Any number of processes and threads may use one database at once. Each operation on one key is atomic.

    >>> from rack.adapters import dbm
    >>> with dbm.open(tmp / "ages", "c") as ages:
    ...     ages["ann"] = "31"
    ...     ages["ann"], b"ann" in ages, ages.keys()
    (b'31', True, [b'ann'])
    """

    def __init__(self, opened: PersistentDict[bytes, bytes]) -> None:
        self._dict = opened

    @_with_errors
    def __getitem__(self, key: Data) -> bytes:
        """Return the value of a key. O(log n)."""
        return self._dict[_key(key)]

    @_with_errors
    def __setitem__(self, key: Data, value: Data) -> None:
        """Set the value of a key. O(log n)."""
        self._dict[_key(key)] = _value(value)

    @_with_errors
    def __delitem__(self, key: Data) -> None:
        """Remove a key. O(log n)."""
        del self._dict[_key(key)]

    @_with_errors
    def __contains__(self, key: object) -> bool:
        """Return whether a key is there. O(log n)."""
        return _key(key) in self._dict  # type: ignore[arg-type]  # which raises TypeError

    @_with_errors
    def __len__(self) -> int:
        """Return the number of keys. O(1)."""
        return len(self._dict)

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the keys. The loop may change the database. O(n)."""
        try:
            yield from self._dict
        except RackError as problem:
            raise _translated(problem) from problem

    @_with_errors
    def keys(self) -> list[bytes]:  # type: ignore[override]
        """Return a list of all keys. O(n). Not atomic.

        It holds all of them in memory: ``for key in database`` does not.

        :returns: a list of bytes.
        :raises error: the database is closed.

        >>> from rack.adapters import dbm
        >>> with dbm.open(tmp / "keys", "c") as ages:
        ...     ages["ann"] = "31"
        ...     ages.keys()
        [b'ann']
        """
        return list(self._dict)

    @_with_errors
    def values(self) -> list[bytes]:  # type: ignore[override]
        """Return a list of all values, in the order of their keys in :meth:`keys`. O(n). Not atomic.

        :returns: a list of bytes.
        :raises error: the database is closed.

        >>> from rack.adapters import dbm
        >>> with dbm.open(tmp / "values", "c") as ages:
        ...     ages["ann"] = "31"
        ...     ages.values()
        [b'31']
        """
        return list(self._dict.values())

    @_with_errors
    def items(self) -> list[tuple[bytes, bytes]]:  # type: ignore[override]
        """Return a list of all keys with their values. O(n). Not atomic.

        :returns: a list of pairs of bytes.
        :raises error: the database is closed.

        >>> from rack.adapters import dbm
        >>> with dbm.open(tmp / "items", "c") as ages:
        ...     ages["ann"] = "31"
        ...     ages.items()
        [(b'ann', b'31')]
        """
        return list(self._dict.items())

    @_with_errors
    def get(self, key: Data, default: Any = None) -> Any:
        """Return the value of a key, or a default. O(log n), atomic.

        :param key: a str or bytes.
        :param default: what to return if the key is not there.
        :returns: bytes, or ``default`` itself.
        :raises error: the database is closed.
        :raises TypeError: the key is neither.

        >>> from rack.adapters import dbm
        >>> with dbm.open(tmp / "got", "c") as ages:
        ...     ages.get("ann"), ages.get("ann", b"?")
        (None, b'?')
        """
        return self._dict.get(_key(key), default)

    @_with_errors
    def setdefault(self, key: Data, default: Data = b"") -> bytes:
        """Return the value of a key; set it to a default first if the key is not there. O(log n), atomic.

        :param key: a str or bytes.
        :param default: a str or bytes.
        :returns: bytes.
        :raises error: the database is closed, or read only.
        :raises TypeError: the key or the default is neither.

        >>> from rack.adapters import dbm
        >>> with dbm.open(tmp / "defaults", "c") as ages:
        ...     ages.setdefault("ann", "31"), ages.setdefault("ann", "7")
        (b'31', b'31')
        """
        return self._dict.setdefault(_key(key), _value(default))

    @_with_errors
    def pop(self, key: Data, default: Any = _MISSING) -> Any:
        """Remove a key and return its value. O(log n), atomic.

        :param key: a str or bytes.
        :param default: what to return if the key is not there. Without it that is KeyError.
        :returns: bytes, or ``default`` itself.
        :raises KeyError: the key is not there, and no default was given.
        :raises error: the database is closed, or read only.
        :raises TypeError: the key is neither.

        >>> from rack.adapters import dbm
        >>> with dbm.open(tmp / "popped", "c") as ages:
        ...     ages["ann"] = "31"
        ...     ages.pop("ann"), ages.pop("ann", None)
        (b'31', None)
        """
        return self._dict.pop(_key(key)) if default is _MISSING else self._dict.pop(_key(key), default)

    @_with_errors
    def popitem(self) -> tuple[bytes, bytes]:
        """Remove and return some key and its value. O(log n), and O(shards); atomic.

        :returns: the key and the value, bytes.
        :raises KeyError: the database is empty.
        :raises error: it is closed, or read only.

        >>> from rack.adapters import dbm
        >>> with dbm.open(tmp / "item", "c") as ages:
        ...     ages["ann"] = "31"
        ...     ages.popitem()
        (b'ann', b'31')
        """
        return self._dict.popitem()

    @_with_errors
    def update(self, other: Any = (), /, **items: Data) -> None:
        """Set many values. O(k log n); not atomic as a whole.

        :param other: a mapping, what has ``keys()``, or an iterable of pairs.
        :param items: keys and values, by name.
        :raises error: the database is closed, or read only.
        :raises TypeError: a key or value is neither a str nor bytes. Those before it are set.

        >>> from rack.adapters import dbm
        >>> with dbm.open(tmp / "updated", "c") as ages:
        ...     ages.update({"ann": "31"}, bob="7")
        ...     sorted(ages.items())
        [(b'ann', b'31'), (b'bob', b'7')]
        """
        for pairs in (_pairs(other), items.items()):
            self._dict.update((_key(key), _value(value)) for key, value in pairs)

    @_with_errors
    def clear(self) -> None:
        """Remove all keys. O(n); atomic for each shard.

        :raises error: the database is closed, or read only.

        >>> from rack.adapters import dbm
        >>> with dbm.open(tmp / "cleared", "c") as ages:
        ...     ages["ann"] = "31"
        ...     ages.clear()
        ...     len(ages)
        0
        """
        self._dict.clear()

    @_with_errors
    def sync(self) -> None:
        """Return when all that was written is on the disk. O(shards); not atomic.

        :raises error: the database is closed.

        >>> from rack.adapters import dbm
        >>> with dbm.open(tmp / "synced", "c") as ages:
        ...     ages["ann"] = "31"
        ...     ages.sync()
        """
        self._dict.sync()

    @_with_errors
    def close(self) -> None:
        """Close the database. Closing it again does nothing. O(shards), atomic.

        :raises error: its files were removed meanwhile.

        >>> from rack.adapters import dbm
        >>> ages = dbm.open(tmp / "closed", "c")
        >>> ages.close()
        >>> ages.close()
        """
        self._dict.close()

    def __enter__(self) -> Self:
        """Return the database itself, which is closed at the end of the block. O(1)."""
        return self

    @_with_errors
    def __exit__(self, exc_type: Any, exc: BaseException | None, traceback: Any) -> None:
        self._dict.__exit__(exc_type, exc, traceback)

    def __repr__(self) -> str:
        return f"<Database {self._dict.name!r}>"


def _pairs(other: Any) -> Iterable[tuple[Data, Data]]:
    return ((key, other[key]) for key in other.keys()) if hasattr(other, "keys") else other  # noqa: SIM118


def open(file: str | bytes | os.PathLike[str] | os.PathLike[bytes], flag: str = "r", mode: int = _MODE) -> Database:
    """Open a database, which is a :class:`rack.PersistentDict` with ``serdes="bytes"`` and ``key_serdes="bytes"``.

    One that was made with these, on any engine and with any number of shards, can be opened as well.

    O(shards). Atomic: of all processes that make a database at once, one does.

    :param file: where it is, a path prefix: the files are ``FILE.rack``, ``FILE-0000.lmdb`` and so on.
    :param flag: "r" reads only, "w" reads and writes, "c" makes it if there is none, "n" makes a new, empty one.
    :param mode: the Unix mode of files that are made, less the umask. Nobody may execute them, and the owner may always
        read and write them.
    :returns: the database, opened.
    :raises error: there is none, or it cannot be opened.
    :raises ValueError: there is no such flag.

    >>> import shelve
    >>> from rack.adapters import dbm
    >>> with shelve.Shelf(dbm.open(tmp / "shelf", "c"), writeback=True) as shelf:
    ...     shelf["ann"] = [31]
    ...     shelf["ann"].append(7)
    >>> with shelve.Shelf(dbm.open(tmp / "shelf")) as shelf:
    ...     shelf["ann"]
    [31, 7]
    """
    if flag not in ("r", "w", "c", "n"):
        raise ValueError(f"Flag must be one of 'r', 'w', 'c', or 'n', not {flag!r}")
    try:
        with _masked(mode):
            return Database(
                PersistentDict[bytes, bytes](os.fsdecode(file), serdes="bytes", key_serdes="bytes", flag=flag).open()
            )
    except RackError as problem:
        raise _translated(problem) from problem
    except ValueError as problem:  # no store can have that name
        raise error(str(problem)) from problem


@contextmanager
def _masked(mode: int) -> Iterator[None]:
    """Have files that are made get no more than ``mode``. What is made beside them later gets what they have."""
    if mode & _MODE == _MODE:
        yield
        return
    with _umask:
        before = os.umask(0o777)
        os.umask(before | _MODE & ~(mode | 0o600))
        try:
            yield
        finally:
            os.umask(before)
