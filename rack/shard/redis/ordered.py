"""The layout of stores whose keys have an order: a sorted set beside each hash."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from rack.shard.base import BLOCK_BYTES, BLOCK_ITEMS, Examined, Pair, ShardSpec
from rack.shard.problem import Problem
from rack.shard.redis import scripts
from rack.shard.redis.link import Link, Request, Session
from rack.shard.redis.parts import flat, nothing, parts
from rack.shard.redis.protocol import pack, strings
from rack.shard.redis.shard import Plan, RedisShard, check_size
from rack.shard.redis.view import high, low

_FLAG = (b"0", b"1")


class OrderedShard(RedisShard):
    """A shard whose keys are in a sorted set beside the hash, too (``:o``). Each change is counted (``:v``)."""

    ordered = True

    def __init__(self, spec: ShardSpec, place: str, link: Link, sessions: deque[Session]) -> None:
        super().__init__(spec, place, link, sessions)
        self._order = self.hash + b":o"
        self._version = self.hash + b":v"
        self._beside = self._order, self._version

    def keys(self) -> list[bytes]:
        return [self.hash, self._order]

    def put(self, key: bytes, value: bytes) -> None:
        check_size(key, value)
        self._run(self.scripts.change, b"0", b"0", b"1", key, value)

    def _plan_put_many(self, pairs: list[Pair]) -> Plan:
        self._check_writable()
        requests = [
            self._changing(self.scripts.change, [b"0", b"0", b"%d" % len(part), *flat(part)])
            for part in parts(pairs, self.items)
        ]
        return Plan(requests, nothing)

    def scan(
        self, start: bytes, stop: bytes | None, reverse: bool, values: bool, limit: int = BLOCK_ITEMS
    ) -> list[Any]:
        words = (low(start), high(stop), b"%d" % limit, _FLAG[reverse], _FLAG[values])
        rest = strings((b"2", self.hash, self._order, *words, b"%d" % BLOCK_BYTES))
        data = b"*11\r\n%b%b" % (scripts.SCAN.call, rest)
        found: list[Any] = self._link.one(Request(self.slot, data, scripts.SCAN))
        return list(zip(found[::2], found[1::2], strict=True)) if values else found

    def scanning(self) -> Callable[..., list[Any]]:
        return self.scan

    def examine(self, timeout: float | None = None) -> Examined:
        data = b"*5\r\n%b%b" % (scripts.COUNTS.call, strings((b"2", self.hash, self._order)))
        count, keys = self._link.one(Request(self.slot, data, scripts.COUNTS))
        yield count
        if count != keys:
            yield Problem("count", f"counts {count} entries and has {keys} keys in order")
        start = b""
        while block := self.scan(start, None, False, True):
            start = block[-1][0] + b"\0"
            yield [pair for pair in block if pair[1] is not None]

    def _plan_clear(self) -> Plan:
        self._check_writable()
        data = pack(b"UNLINK", *self.keys())
        count = pack(b"INCR", self._version)
        return Plan([Request(self.slot, each, None, self._wait) for each in (data, count)], nothing)

    def version(self) -> object:
        return self._send(pack(b"GET", self._version))
