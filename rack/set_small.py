"""A set of short elements: 1 to 511 bytes when serialized. A longer one raises ``lmdb.BadValsizeError``."""

from __future__ import annotations

from typing import TypeVar

from rack.set import PersistentSet as _PersistentSet

T = TypeVar("T")


class PersistentSet(_PersistentSet[T]):
    """As :class:`rack.PersistentSet`, on LMDB, without its table of long elements."""

    _default_engine = "lmdb"
    _default_layout = "small"


__all__ = ["PersistentSet"]
