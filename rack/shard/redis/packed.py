"""The layout of stores whose keys are digests: many small hashes, which a server keeps as lists.

A list has no table, so a digest takes about what its bytes are. And as digests are spread evenly, its leading bits tell
in which bucket one is. See :mod:`rack.shard.redis.buckets`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any

from rack.shard.base import BLOCK_BYTES, BLOCK_ITEMS, Examined, Pair, ShardSpec
from rack.shard.problem import Problem
from rack.shard.redis import buckets
from rack.shard.redis.link import Link, Request, Session
from rack.shard.redis.parts import flat, joined, nothing, parts
from rack.shard.redis.protocol import pack, strings
from rack.shard.redis.scripts import Script
from rack.shard.redis.shard import Plan, RedisShard, check_size

_FLAG = (b"0", b"1")
_first: Callable[[Any], Any] = itemgetter(0)


class PackedShard(RedisShard):
    """A shard of buckets (``:b:BYTES``). ``:b`` says how many there are, ``:a`` and ``:r`` what came and went.

    Buckets that nobody has any more are in ``:x``, until they are removed.
    """

    ordered = True
    scripts = buckets.CHANGES
    items = 1000  # a server does nothing else meanwhile: some milliseconds

    def __init__(self, spec: ShardSpec, place: str, link: Link, sessions: deque[Session]) -> None:
        super().__init__(spec, place, link, sessions)
        self._width = self.hash + b":b"
        self._counts = self.hash + b":a", self.hash + b":r"
        self._beside = self._width, *self._counts
        keys = strings((b"2", self.hash, self._width))
        self._get = b"*6\r\n%b%b" % (buckets.GET.call, keys)
        self._exists = b"*6\r\n%b%b" % (buckets.CONTAINS.call, keys)

    def _reading(self, script: Script, words: Sequence[bytes]) -> Request:
        rest = strings((b"2", self.hash, self._width, *words))
        return Request(self.slot, b"*%d\r\n%b%b" % (len(words) + 5, script.call, rest), script)

    def get(self, key: bytes) -> bytes | None:
        data = b"%b$%d\r\n%b\r\n" % (self._get, len(key), key)
        value: bytes | None = self._link.one(Request(self.slot, data, buckets.GET))
        return value

    def contains(self, key: bytes) -> bool:
        data = b"%b$%d\r\n%b\r\n" % (self._exists, len(key), key)
        return bool(self._link.one(Request(self.slot, data, buckets.CONTAINS)))

    def put(self, key: bytes, value: bytes) -> None:
        check_size(key, value)
        self._run(self.scripts.change, b"0", b"0", b"1", key, value)

    def _plan_put_many(self, pairs: list[Pair]) -> Plan:
        self._check_writable()
        some = [
            self._changing(self.scripts.change, [b"0", b"0", b"%d" % len(p), *flat(p)])
            for p in parts(pairs, self.items)
        ]
        return Plan(some, nothing)

    def _plan_get_many(self, keys: Sequence[bytes]) -> Plan:
        return Plan([self._reading(buckets.GET_MANY, part) for part in parts(keys, self.items)], joined)

    # In order

    def _scanned(
        self, start: bytes, stop: bytes | None, reverse: bool, values: bool, limit: int
    ) -> Iterator[tuple[bytes, list[Any]]]:
        """Yield the first and the last bytes of buckets, four each, and what these have, in order."""
        end = (stop or b"", _FLAG[stop is not None])
        words = (start, *end, b"%d" % limit, _FLAG[reverse], _FLAG[values], b"%d" % BLOCK_BYTES)
        found: list[Any] = self._link.one(self._reading(buckets.SCAN, words))
        for area, items in zip(found[::2], found[1::2], strict=True):
            if values:
                items = list(zip(items[::2], items[1::2], strict=True))
                items.sort(key=_first)
            else:
                items.sort()
            yield area, items

    def scan(
        self, start: bytes, stop: bytes | None, reverse: bool, values: bool, limit: int = BLOCK_ITEMS
    ) -> list[Any]:
        if limit <= 0 or (stop is not None and stop <= start):
            return []
        key = _first if values else None
        block: list[Any] = []
        size = 0
        for _, items in self._scanned(start, stop, reverse, values, limit):
            end = len(items) if stop is None else bisect_left(items, stop, key=key)
            items = items[bisect_left(items, start, key=key) : end]
            block += reversed(items) if reverse else items
        del block[limit:]
        for number, item in enumerate(block, 1):
            size += len(item[0]) + len(item[1]) if values else len(item)
            if size >= BLOCK_BYTES:
                del block[number:]
                break
        return block

    def scanning(self) -> Callable[..., list[Any]]:
        return self.scan

    def examine(self, timeout: float | None = None) -> Examined:
        before, seen = self.version(), 0
        counted = self.count()
        yield counted
        start: bytes | None = b""
        while start is not None:
            found = list(self._scanned(start, None, False, True, BLOCK_ITEMS))
            start = found[-1][0][:4] if len(found) > 1 else None  # the last bucket is the next block's first one
            for area, pairs in found[:-1] or found:
                if pairs and not area[:4] <= _begin(pairs[0]) <= _begin(pairs[-1]) <= area[4:]:
                    yield Problem("order", f"has keys in the wrong bucket: in that of {area[:4].hex()}")
                seen += len(pairs)
                yield pairs
        if seen != counted and self.version() == before:
            yield Problem("count", f"counts {counted} entries and has {seen}")

    # The whole shard

    def _plan_count(self) -> Plan:
        return Plan([Request(self.slot, pack(b"MGET", *self._counts))], _difference)

    def _plan_clear(self) -> Plan:
        self._check_writable()
        keys = strings((b"5", self.hash, self._width, *self._counts, self.hash + b":x"))
        data = b"*8\r\n%b%b" % (buckets.CLEAR.call, keys)
        return Plan([Request(self.slot, data, buckets.CLEAR, self._wait)], lambda _: self._sweep())

    def _sweep(self) -> None:
        """Remove the buckets that nobody has any more, some at a time: the server does other things in between."""
        data = b"*6\r\n%b%b" % (buckets.SWEEP.call, strings((b"3", self.hash, self._width, self.hash + b":x")))
        while self._link.one(Request(self.slot, data, buckets.SWEEP, self._wait)):
            pass

    def version(self) -> object:
        return self._send(pack(b"MGET", *self._counts))


def _begin(pair: Pair) -> bytes:
    return pair[0][:4].ljust(4, b"\0")


def _difference(answers: list[list[bytes | None]]) -> int:
    added, removed = (int(each or 0) for each in answers[0])
    return added - removed
