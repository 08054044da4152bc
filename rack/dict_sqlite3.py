"""PersistentDict on SQLite."""

from __future__ import annotations

from typing import TypeVar

from rack.dict import PersistentDict as _PersistentDict

K = TypeVar("K")
V = TypeVar("V")


class PersistentDict(_PersistentDict[K, V]):
    """As :class:`rack.PersistentDict`, with ``engine="sqlite3"`` by default.

    >>> from rack.dict_sqlite3 import PersistentDict
    >>> with PersistentDict(tmp / "ages") as ages:
    ...     ages["ann"] = 31
    ...     ages.get("ann"), ages
    (31, <PersistentDict '...', sqlite3, 16 shards, 1 entry>)
    """

    _default_engine = "sqlite3"


__all__ = ["PersistentDict"]
