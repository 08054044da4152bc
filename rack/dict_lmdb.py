"""PersistentDict on LMDB."""

from __future__ import annotations

from typing import TypeVar

from rack.dict import PersistentDict as _PersistentDict

K = TypeVar("K")
V = TypeVar("V")


class PersistentDict(_PersistentDict[K, V]):
    """As :class:`rack.PersistentDict`, with ``engine="lmdb"``."""

    _default_engine = "lmdb"


__all__ = ["PersistentDict"]
