"""Which shard a key belongs to. This is the one place that decides it; stores on disk depend on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from xxhash import xxh3_64_intdigest

Target = TypeVar("Target")


def router(targets: Sequence[Target]) -> Callable[[bytes], Target]:
    """Return the function that maps a key's bytes to its target, one of ``n``.

    The key's xxh3 hash (64 bits), seen as a fraction of 2**64, is cut into ``n`` equal ranges: no modulo bias, and
    doubling ``n`` splits every shard in two.
    """
    targets = tuple(targets)
    n = len(targets)
    digest = xxh3_64_intdigest

    if n & (n - 1):

        def route(key: bytes) -> Target:
            return targets[digest(key) * n >> 64]
    else:  # the same for a power of two, without the multiplication
        shift = 64 - (n.bit_length() - 1)

        def route(key: bytes) -> Target:
            return targets[digest(key) >> shift]

    return route
