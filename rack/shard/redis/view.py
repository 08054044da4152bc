"""What a function sees that runs in a transaction: it reads here, and what it writes is kept until all is written.

Redis cannot run it inside. So what it has read is noted, and the script that writes looks first whether all of that is
the same still; if it is not, the function is called again.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from operator import itemgetter

from rack.shard.base import Pair
from rack.shard.redis.scripts import told

Scan = Callable[[bytes, bytes | None, int], list[Pair]]


class Reading:
    """``get`` and ``scan`` ask the shard; what was written here goes before what is there."""

    def __init__(self, get: Callable[[bytes], bytes | None], scan: Scan) -> None:
        self._get = get
        self._scan = scan
        self._values: dict[bytes, bytes | None] = {}  # that were read
        self._ranges: list[tuple[bytes, bytes | None, int, list[Pair]]] = []
        self._writes: dict[bytes, bytes | None] = {}
        self._keys: list[bytes] = []  # that were written, in order

    def get(self, key: bytes) -> bytes | None:
        if key in self._writes:
            return self._writes[key]
        if key not in self._values:
            self._values[key] = self._get(key)
        return self._values[key]

    def put(self, key: bytes, value: bytes) -> None:
        self._write(key, value)

    def delete(self, key: bytes) -> bool:
        there = self.get(key) is not None
        if there:
            self._write(key, None)
        return there

    def _write(self, key: bytes, value: bytes | None) -> None:
        if key not in self._writes:
            insort(self._keys, key)
        self._writes[key] = value

    def first(self, start: bytes, stop: bytes | None, limit: int) -> list[Pair]:
        low = bisect_left(self._keys, start)
        own = self._keys[low : len(self._keys) if stop is None else bisect_left(self._keys, stop)]
        most = limit + len(own)
        found = self._scan(start, stop, most)
        self._ranges.append((start, stop, most, found))
        if not own:
            return found
        pairs = [pair for pair in found if pair[0] not in self._writes]
        pairs += [(key, value) for key in own if (value := self._writes[key]) is not None]
        pairs.sort(key=itemgetter(0))
        return pairs[:limit]

    @property
    def is_to_be_checked(self) -> bool:
        """Whether anything is written, or what was read may be of different moments."""
        return bool(self._writes) or len(self._values) + len(self._ranges) > 1

    def words(self) -> list[bytes]:
        """Return what the script needs to know."""
        words = [b"%d" % len(self._values)]
        for key, value in self._values.items():
            words += (key, told(value))
        words.append(b"%d" % len(self._ranges))
        for start, stop, limit, pairs in self._ranges:
            words += (low(start), high(stop), b"%d" % limit, b"%d" % len(pairs))
            for key, value in pairs:
                words += (key, told(value))
        puts = [(key, value) for key, value in self._writes.items() if value is not None]
        words.append(b"%d" % len(puts))
        for pair in puts:
            words += pair
        return words + [key for key, value in self._writes.items() if value is None]


def low(start: bytes) -> bytes:
    """Return the beginning of a range of keys, as ZRANGEBYLEX takes it."""
    return b"[" + start if start else b"-"


def high(stop: bytes | None) -> bytes:
    return b"+" if stop is None else b"(" + stop
