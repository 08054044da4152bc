"""PersistentDict on LMDB."""

from __future__ import annotations

from typing import TypeVar

from rack.dict import PersistentDict as _PersistentDict

K = TypeVar("K")
V = TypeVar("V")


class PersistentDict(_PersistentDict[K, V]):
    """As :class:`rack.PersistentDict`, with ``engine="lmdb"`` by default.

    >>> from rack.dict_lmdb import PersistentDict
    >>> with PersistentDict(tmp / "ages") as ages:
    ...     ages["ann"] = 31
    ...     ages.get("ann"), ages
    (31, <PersistentDict '...', lmdb, 16 shards, 1 entry>)
    """

    _default_engine = "lmdb"


__all__ = ["PersistentDict"]
