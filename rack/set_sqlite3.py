"""PersistentSet on SQLite."""

from __future__ import annotations

from typing import TypeVar

from rack.set import PersistentSet as _PersistentSet

T = TypeVar("T")


class PersistentSet(_PersistentSet[T]):
    """As :class:`rack.PersistentSet`, with ``engine="sqlite3"``."""

    _default_engine = "sqlite3"


__all__ = ["PersistentSet"]
