"""PersistentSet on LMDB."""

from __future__ import annotations

from typing import TypeVar

from rack.set import PersistentSet as _PersistentSet

T = TypeVar("T")


class PersistentSet(_PersistentSet[T]):
    """As :class:`rack.PersistentSet`, with ``engine="lmdb"`` by default.

    >>> from rack.set_lmdb import PersistentSet
    >>> with PersistentSet(tmp / "seen") as seen:
    ...     seen.add("a"), seen
    (True, <PersistentSet '...', lmdb, 16 shards, 1 entry>)
    """

    _default_engine = "lmdb"


__all__ = ["PersistentSet"]
