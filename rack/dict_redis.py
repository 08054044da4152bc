"""PersistentDict on Redis, and on whatever speaks its protocol."""

from __future__ import annotations

from typing import TypeVar

from rack.dict import PersistentDict as _PersistentDict

K = TypeVar("K")
V = TypeVar("V")


class PersistentDict(_PersistentDict[K, V]):
    """As :class:`rack.PersistentDict`, with ``engine="redis"``: the name is a URL.

    >>> from rack.dict_redis import PersistentDict
    >>> PersistentDict("redis://:secret@localhost:6379/0?name=ages")
    <PersistentDict 'redis://localhost:6379/0?name=ages', closed>
    """

    _default_engine = "redis"


__all__ = ["PersistentDict"]
