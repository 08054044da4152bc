"""A set of short elements: 1 to 511 bytes when serialized. A longer one raises ``lmdb.BadValsizeError``."""

from __future__ import annotations

from typing import TypeVar

from rack.set import PersistentSet as _PersistentSet

T = TypeVar("T")


class PersistentSet(_PersistentSet[T]):
    """As :class:`rack.PersistentSet`, on LMDB, for elements of 1 to 511 bytes when serialized.

    It has no table of long elements. To add one raises an error that is a :exc:`rack.TooLargeError` and an
    ``lmdb.BadValsizeError``. The engine cannot be another one.

    >>> from rack.set_small import PersistentSet
    >>> with PersistentSet(tmp / "seen", serdes="str") as seen:
    ...     try:
    ...         seen.add("a"), seen.add("b" * 512)
    ...     except OverflowError:
    ...         list(seen)
    ['a']
    """

    _default_engine = "lmdb"
    _default_layout = "small"


__all__ = ["PersistentSet"]
