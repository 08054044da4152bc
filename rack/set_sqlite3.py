"""PersistentSet on SQLite."""

from __future__ import annotations

from typing import TypeVar

from rack.set import PersistentSet as _PersistentSet

T = TypeVar("T")


class PersistentSet(_PersistentSet[T]):
    """As :class:`rack.PersistentSet`, with ``engine="sqlite3"`` by default.

    >>> from rack.set_sqlite3 import PersistentSet
    >>> with PersistentSet(tmp / "seen") as seen:
    ...     seen.add("a"), seen
    (True, <PersistentSet '...', sqlite3, 16 shards, 1 entry>)
    """

    _default_engine = "sqlite3"


__all__ = ["PersistentSet"]
