"""PersistentSet on Redis, and on whatever speaks its protocol."""

from __future__ import annotations

from typing import TypeVar

from rack.set import PersistentSet as _PersistentSet

T = TypeVar("T")


class PersistentSet(_PersistentSet[T]):
    """As :class:`rack.PersistentSet`, with ``engine="redis"``: the name is a URL.

    >>> from rack.set_redis import PersistentSet
    >>> PersistentSet("redis://:secret@localhost:6379/0?name=seen")
    <PersistentSet 'redis://localhost:6379/0?name=seen', closed>
    """

    _default_engine = "redis"


__all__ = ["PersistentSet"]
