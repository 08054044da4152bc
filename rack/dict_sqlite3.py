"""PersistentDict on SQLite."""

from __future__ import annotations

from typing import TypeVar

from rack.dict import PersistentDict as _PersistentDict

K = TypeVar("K")
V = TypeVar("V")


class PersistentDict(_PersistentDict[K, V]):
    """As :class:`rack.PersistentDict`, with ``engine="sqlite3"``."""

    _default_engine = "sqlite3"


__all__ = ["PersistentDict"]
