"""Room for an operation on a disk that is full, or nearly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rack.errors import StoreFullError
from rack.shard.base import Shard


def bytes_in(args: tuple[Any, ...]) -> int:
    """Return how many bytes the keys and values among the arguments of an operation take."""
    size = 0
    for arg in args:
        if isinstance(arg, bytes):
            size += len(arg)
        elif isinstance(arg, list):
            for item in arg:
                size += len(item[0]) + len(item[1]) + 16 if isinstance(item, tuple) else len(item)
    return size


def delete_in_halves(delete_many: Callable[[list[bytes]], int], keys: list[bytes], error: StoreFullError) -> int:
    """Delete keys for which there was no room at once; return how many were there.

    :raises StoreFullError: there is no room to delete a single one.
    """
    if len(keys) < 2:
        raise error
    middle = len(keys) // 2
    return delete_many(keys[:middle]) + delete_many(keys[middle:])


def clear_in_blocks(shard: Shard) -> None:
    """Delete everything, a block at a time."""
    while keys := shard.scan(b"", None, reverse=False, values=False):
        shard.delete_many(keys)
