"""A store's servers: its mark, ``NAME.rack``, and its shards, together."""

from __future__ import annotations

import errno
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from redis.exceptions import ResponseError

from rack.errors import CorruptShardError, MismatchError, StoreDeletedError, UnsupportedOperation
from rack.shard.address import Address
from rack.shard.base import Shard, ShardSpec
from rack.shard.redis.buckets import LEAVE, REMOVE, SIZE, SWEEP
from rack.shard.redis.link import Link, Request, Session, Wait
from rack.shard.redis.node import Node
from rack.shard.redis.ordered import OrderedShard
from rack.shard.redis.packed import PackedShard
from rack.shard.redis.protocol import pack, slot_of, strings
from rack.shard.redis.scanned import scanned
from rack.shard.redis.scripts import MARK, Script
from rack.shard.redis.shard import Plan, RedisShard
from rack.shard.redis.url import renamed
from rack.shard.server import Call, Server

_SHARDS, _SHARDS_OF_CLUSTER = 16, 256  # the second: up to a dozen nodes have about as many each
_ENDING = b".rack"
_LAYOUTS: dict[str, type[RedisShard]] = {"direct": RedisShard, "ordered": OrderedShard, "packed": PackedShard}
_SPECIAL = re.compile(rb"[*?\[\]^\\]")  # in a pattern
_BRACES = set(b"{}")  # which no name of a store has
_PATIENCE = 2000  # milliseconds for replicas


class RedisServer(Server):
    """One server, or a cluster."""

    def __init__(self, address: Address, timeout: float | None) -> None:
        super().__init__(address, timeout)
        self.default_shards = _SHARDS_OF_CLUSTER if address.parts.cluster else _SHARDS
        self._link = Link(address, timeout, self._greet)
        self._sessions: deque[Session] = deque()
        self._identities: list[tuple[int, bytes, bytes]] = []  # slot, key, and what is there
        self._shards: list[RedisShard] = []
        self.name = address.parts.store
        self._mark = _bytes(self.name) + _ENDING
        self._mark_slot = slot_of(self._mark)

    def _ask(self, slot: int, *words: bytes) -> Any:
        return self._link.one(Request(slot, pack(*words)))

    def _ask_each(self, place: str, shards: int, *words: bytes) -> list[Any]:
        """Send a command for each shard; a word ``*`` begins with its hash."""
        requests = []
        for number in range(shards):
            hash = _hash(place, number)
            command = [hash + word[1:] if word[:1] == b"*" else word for word in words]
            requests.append(Request(slot_of(hash[1:-1]), pack(*command)))
        return self._link.many(requests)

    def _run_each(self, place: str, shards: int, script: Script, *endings: bytes) -> list[Any]:
        """Run a script for each shard, with the keys that its hash has with these endings."""
        requests = []
        for number in range(shards):
            hash = _hash(place, number)
            words = strings((b"%d" % len(endings), *[hash + ending for ending in endings]))
            data = b"*%d\r\n%b%b" % (len(endings) + 3, script.call, words)
            requests.append(Request(slot_of(hash[1:-1]), data, script))
        return self._link.many(requests)

    # The mark

    def read(self, hasty: bool = False) -> bytes | None:
        try:
            mark = self._value(self._mark, self._mark_slot, hasty)
        except CorruptShardError:
            raise MismatchError(
                f"{self.address}: the key {_ENDING.decode()} of this name is there, and is none of Rack's: it is not a"
                " string. Choose another name"
            ) from None
        self._link.is_open = True
        return mark

    def _value(self, key: bytes, slot: int, hasty: bool) -> bytes | None:
        request = Request(slot, pack(b"GET", key))
        value: bytes | None = self._link.once(request) if hasty else self._link.one(request)
        return value

    def change(self, before: bytes | None, after: bytes | None) -> bool:
        return self._change(self._mark, self._mark_slot, before, after)

    def _change(self, key: bytes, slot: int, before: bytes | None, after: bytes | None) -> bool:
        words = [b"-" if each is None else b"+" + each for each in (before, after)]
        data = b"*6\r\n%b%b" % (MARK.call, strings((b"1", key, *words)))
        changed: bytes = self._link.one(Request(slot, data, MARK))
        return changed == b"1"

    def marks(self, beginning: str) -> Iterator[tuple[str, bytes]]:
        pattern = _SPECIAL.sub(rb"\\\g<0>", _bytes(beginning))
        for name in sorted(key.removesuffix(_ENDING) for key in scanned(self._link, pattern + b"*" + _ENDING)):
            key = name + _ENDING
            slot = slot_of(key)
            if name and not _BRACES & set(name) and self._ask(slot, b"TYPE", key) == b"string":
                mark = self._value(key, slot, False)
                if mark is not None:
                    yield name.decode("utf-8", "surrogateescape"), mark

    def identity(self, place: str, hasty: bool = False) -> bytes | None:
        hash = _hash(place, 0)
        return self._value(hash + b":id", slot_of(hash[1:-1]), hasty)

    def own(self, place: str, before: bytes | None, after: bytes | None) -> bool:
        hash = _hash(place, 0)
        return self._change(hash + b":id", slot_of(hash[1:-1]), before, after)

    # The shards

    def layout(self, asked: str | None, digests: bool) -> str:
        if asked == "packed" and not digests:
            raise UnsupportedOperation(
                f'{self.address}: layout=packed is for keys that are digests (key_serdes="digest"); others go by their'
                " first bytes there, and those are often the same"
            )
        return asked or ("packed" if digests else "direct")

    def is_free(self, place: str, shards: int) -> bool:
        return not any(self._ask_each(place, shards, b"EXISTS", b"*:id", b"*", b"*:o", b"*:b", b"*:a"))

    def prepare(self, place: str, store_id: str, shards: int) -> None:
        requests = []
        for number in range(shards):
            hash = _hash(place, number)
            data = pack(b"SETNX", hash + b":id", _identity(store_id, number))
            requests.append(Request(slot_of(hash[1:-1]), data))
        self._link.many(requests)

    def shards(self, place: str, specs: Sequence[ShardSpec]) -> list[Shard]:
        identities = self._ask_each(place, len(specs), b"GET", b"*:id")
        types = self._ask_each(place, len(specs), b"TYPE", b"*")
        for spec, found, kind in zip(specs, identities, types, strict=True):
            expected = _identity(spec.store_id, spec.number)
            if not _is(found, expected):
                raise _problem(spec, found, expected)
            if kind not in (b"hash", b"none"):
                raise CorruptShardError(
                    errno.EEXIST, f"is a {kind.decode()} on the server, and no shard of Rack's", spec.path
                )
        made = [_LAYOUTS[spec.layout] for spec in specs]
        self._shards = [cls(spec, place, self._link, self._sessions) for cls, spec in zip(made, specs, strict=True)]
        self._identities = [
            (shard.slot, shard.hash + b":id", _identity(spec.store_id, spec.number))
            for shard, spec in zip(self._shards, specs, strict=True)
        ]
        return list(self._shards)

    def _greet(self, link: Link, node: Node, connection: Any) -> None:
        """Look, on each new connection, whether the store still is there: the server may have been started anew."""
        for slot, key, identity in self._identities:
            if link.node_of(slot) is node:
                connection.send_packed_command((pack(b"GET", key),), False)
                try:
                    found = connection.read_response(True)
                except ResponseError:  # another node has it by now, or this user may not read: what follows tells
                    return
                if not _is(found, identity):
                    raise StoreDeletedError(
                        f"{self.address}: the server {node.name} does not have the store any more: it was removed, or"
                        " the server was started again without its data"
                    )
                return

    def together(self, calls: Sequence[Call]) -> list[object]:
        plans: list[tuple[RedisShard, Plan]] = []
        for shard, name, args in calls:
            assert isinstance(shard, RedisShard)
            plans.append((shard, shard.plan(name, args)))
        answers = self._link.many([request for _, plan in plans for request in plan.requests])
        results, at = [], 0
        for shard, plan in plans:
            results.append(shard.finished(plan, answers[at : at + len(plan.requests)]))
            at += len(plan.requests)
        return results

    # What it can do

    def _masters(self) -> list[tuple[int, int]]:
        """Return, for each server that has slots, one of them, and how many replicas it has."""
        slots = list(map(self._link.slot_on, self._link.masters()))
        roles = [self._ask(slot, b"ROLE") for slot in slots]
        return [(slot, len(role[2]) if role[0] == b"master" else 0) for slot, role in zip(slots, roles, strict=True)]

    def sync(self) -> None:
        own = {self._link.node_of(shard.slot): shard for shard in self._shards}
        for slot, replicas in self._masters():
            shard = own.get(self._link.node_of(slot))
            if shard is None:
                continue
            # What a connection has written last is waited for, and with it all that came before, by whomever.
            wait = Wait(pack(b"WAIT", b"1", b"%d" % _PATIENCE), shard.touch) if replicas else None
            if not shard.is_readonly:
                self._link.one(Request(shard.slot, shard.touch, None, wait))

    def check_durable(self) -> None:
        if lacking := [slot for slot, replicas in self._masters() if not replicas]:
            raise UnsupportedOperation(
                f"{self.address}: durability 'always' means that a replica has each write, and"
                f" {self._link.node_of(lacking[0]).name} has none: give it one, or choose 'everysec'"  # type: ignore[union-attr]
            )

    def clock(self) -> Callable[[], int]:
        seconds, micros = map(int, self._ask(self._mark_slot, b"TIME"))
        ahead = (seconds * 1_000_000 + micros) * 1000 - time.monotonic_ns()
        return lambda: time.monotonic_ns() + ahead

    def sizes(self, place: str, shards: int) -> list[int]:
        return self._run_each(place, shards, SIZE, b"", b":b", b":o")

    def remove(self, place: str, store_id: str, shards: int) -> None:
        self._remove(place, store_id, shards, LEAVE)
        while any(self._run_each(place, shards, SWEEP, b"", b":b", b":x")):
            pass
        self._remove(place, store_id, shards, REMOVE)

    def _remove(self, place: str, store_id: str, shards: int, script: Script) -> None:
        requests = []
        for number in range(shards):
            hash = _hash(place, number)
            keys = [hash + ending for ending in (b"", b":b", b":a", b":r", b":x", b":id", b":o", b":v")]
            words = strings((b"%d" % len(keys), *keys, _identity(store_id, number), b"%d" % number))
            data = b"*%d\r\n%b%b" % (len(keys) + 5, script.call, words)
            requests.append(Request(slot_of(hash[1:-1]), data, script))
        self._link.many(requests)

    def named(self, name: str) -> Address:
        return renamed(self.address, name)

    def forget(self) -> None:
        self._link.forget()
        self._sessions.clear()

    def close(self) -> None:
        self._link.close()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _hash(place: str, number: int) -> bytes:
    return b"{%b:%d}" % (_bytes(place), number)


def _identity(store_id: str, number: int) -> bytes:
    return b"rack %b %d" % (store_id.encode(), number)


def _is(found: bytes | None, identity: bytes) -> bool:
    """Return whether a shard is the one that it is to be; the name that it has now may follow."""
    return found == identity or (found is not None and found.startswith(identity + b" ") and not found.endswith(b" "))


def _problem(spec: ShardSpec, found: bytes | None, expected: bytes) -> CorruptShardError:
    if found is None:
        return CorruptShardError(
            errno.ENOENT,
            "a shard of the store is missing: its server was emptied, or started again without its data. What the other"
            " servers have is still there; restore the server's own backup",
            spec.path,
        )
    if found.split()[1:2] != expected.split()[1:2]:
        return CorruptShardError(errno.EEXIST, "belongs to another store", spec.path)
    return CorruptShardError(errno.EEXIST, f"has the identity {found!r}, and not {expected!r}", spec.path)


SERVER = RedisServer
