"""Which shard a key belongs to. This is the one place that decides it; stores on disk depend on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from operator import mul, rshift
from typing import TypeVar

from xxhash import xxh3_64_intdigest

Target = TypeVar("Target")


#: What hashes keys, to 64 bits.
Digest = Callable[[bytes], int]
KEY_DIGEST: Digest = xxh3_64_intdigest


def digest_of_kind(kind: str) -> Digest:
    """Return what hashes the keys of a store of that kind."""
    return _tail if kind == "queue" else KEY_DIGEST


def _tail(key: bytes) -> int:
    """Return the end of the key of a record of a queue: it is the hash of its job's key."""
    return int.from_bytes(key[-8:], "big")


def router(targets: Sequence[Target], digest: Digest = KEY_DIGEST) -> Callable[[bytes], Target]:
    """Return the function that maps a key's bytes to its target, one of ``n``.

    The key's hash (64 bits; xxh3 if no other one is given), seen as a fraction of 2**64, is cut into ``n`` equal
    ranges: no modulo bias, and doubling ``n`` splits every shard in two.
    """
    targets = tuple(targets)
    n = len(targets)

    if n & (n - 1):

        def route(key: bytes) -> Target:
            return targets[digest(key) * n >> 64]
    else:  # the same for a power of two, without the multiplication
        shift = 64 - (n.bit_length() - 1)

        def route(key: bytes) -> Target:
            return targets[digest(key) >> shift]

    return route


def numbers_of(keys: Iterable[bytes], n: int, digest: Digest = KEY_DIGEST) -> Iterator[int]:
    """Return the numbers, from 0, of the targets of keys: as :func:`router` does, with less work for each."""
    digests: Iterable[int] = map(digest, keys)
    if n & (n - 1):
        return map(rshift, map(mul, digests, repeat(n)), repeat(64))
    return map(rshift, digests, repeat(64 - (n.bit_length() - 1)))
