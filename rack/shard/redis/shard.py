"""A shard as a hash ``{NAME:NUMBER}``: the layout of stores whose keys need no order.

Beside it are its identity (``:id``), and for some minutes what the last scripts have answered (``:t:SESSION``).
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from os import getpid
from threading import RLock
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, NoReturn

from rack.errors import LockTimeoutError, TooLargeError, UnsupportedOperation
from rack.shard.base import BLOCK_ITEMS, Examined, Pair, Salvaged, Shard, ShardSpec, Snapshot, View
from rack.shard.problem import closed, read_only
from rack.shard.redis import scripts
from rack.shard.redis.gathered import Gathered
from rack.shard.redis.link import Link, Request, Session, Wait
from rack.shard.redis.parts import ITEMS, flags, flat, joined, nothing, only, parts
from rack.shard.redis.protocol import LONGEST, head, pack, slot_of, strings
from rack.shard.redis.scripts import Script, told
from rack.shard.redis.view import Reading

if TYPE_CHECKING:
    from rack.shard.figures import Access, Figures

_SCANNED = b"1000"  # entries that HSCAN looks at, about
_EXACT = 1 << 51  # numbers of Lua are floats: sums of two that are smaller are exact
_PAUSE = 0.0002, 0.02  # seconds between two attempts of a transaction: the first, and the longest


class Plan(NamedTuple):
    """What is to be sent, and what makes the answers to those the result."""

    requests: list[Request]
    finish: Callable[[list[Any]], Any]


class RedisShard(Shard):
    suffix = ""
    companions = ()
    layouts = ("direct", "ordered", "packed")
    ordered = False
    scripts: ClassVar[scripts.Scripts] = scripts.HASHES
    items: ClassVar[int] = ITEMS  # of one command

    def __init__(self, spec: ShardSpec, place: str, link: Link, sessions: deque[Session]) -> None:
        self._spec = spec
        self._link: Any = link
        self._sessions = sessions
        self.hash = b"{%b:%d}" % (place.encode("utf-8", "surrogateescape"), spec.number)
        self.slot = slot_of(self.hash[1:-1])
        self._token = self.hash + b":t:"
        #: Writes something that means nothing.
        self.touch = pack(b"SET", self._token + b"sync", b"", b"PX", b"1000")
        self._beside: tuple[bytes, ...] = ()  # further keys that scripts use
        self._lock = RLock()
        self._wait = None
        if spec.durability == "always":
            self._wait = Wait(pack(b"WAIT", b"1", b"%d" % max(1, int(link.attempt * 800))), self.touch)
        # What single commands begin with.
        self._get = head(3, b"HGET", self.hash)
        self._exists = head(3, b"HEXISTS", self.hash)
        self._put = head(4, b"HSET", self.hash)

    @property
    def path(self) -> str:
        return self._spec.path

    @property
    def is_readonly(self) -> bool:
        return self._spec.readonly

    def keys(self) -> list[bytes]:
        """Return the keys on the server that have the shard's entries."""
        return [self.hash]

    # Commands

    def _send(self, data: bytes) -> Any:
        return self._link.one(Request(self.slot, data))

    def _check_writable(self) -> None:
        if self._spec.readonly:
            raise read_only(self.path)

    def _changing(self, script: Script, words: Sequence[bytes]) -> Request:
        """Return a request for a script that changes something, with a token."""
        self._check_writable()
        try:
            session = self._sessions.pop()
            if session.pid != getpid():
                session = Session()
        except IndexError:
            session = Session()
        session.count += 1
        session.failures = self._link.failures
        rest = (self.hash, self._token + session.name, *self._beside, b"%d" % session.count, *words)
        count = len(self._beside) + 2
        data = b"*%d\r\n%b%b" % (len(rest) + 3, script.call, strings((b"%d" % count, *rest)))
        return Request(self.slot, data, script, self._wait, session)

    def _run(self, script: Script, *words: bytes) -> bytes:
        request = self._changing(script, words)
        answer: bytes = self._link.one(request)
        self._give_back(request)  # not if it failed: it may still be done
        return answer

    def _give_back(self, request: Request) -> None:
        session = request.session
        if session is not None and session.failures == self._link.failures:
            self._sessions.append(session)

    def _do(self, plan: Plan) -> Any:
        link, requests = self._link, plan.requests
        answers = [link.one(requests[0])] if len(requests) == 1 else link.many(requests)
        return self.finished(plan, answers)

    def finished(self, plan: Plan, answers: list[Any]) -> Any:
        """Return the result of a plan of which all has been answered."""
        for request in plan.requests:
            self._give_back(request)
        return plan.finish(answers)

    def plan(self, name: str, args: tuple[Any, ...]) -> Plan:
        """Return how an operation on many keys is done."""
        plan: Plan = getattr(self, "_plan_" + name)(*args)
        return plan

    # One key

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._link.one(Request(self.slot, b"%b$%d\r\n%b\r\n" % (self._get, len(key), key)))
        return value

    def contains(self, key: bytes) -> bool:
        return bool(self._link.one(Request(self.slot, b"%b$%d\r\n%b\r\n" % (self._exists, len(key), key))))

    def put(self, key: bytes, value: bytes) -> None:
        self._check_writable()
        check_size(key, value)
        data = b"%b$%d\r\n%b\r\n$%d\r\n%b\r\n" % (self._put, len(key), key, len(value), value)
        self._link.one(Request(self.slot, data, None, self._wait))

    def add(self, key: bytes, value: bytes) -> bytes | None:
        check_size(key, value)
        answer = self._run(self.scripts.add, key, value)
        return None if answer == b"0" else answer[1:]

    def delete(self, key: bytes) -> bool:
        return self._run(self.scripts.delete, key) == b"1"

    def pop(self, key: bytes) -> bytes | None:
        answer = self._run(self.scripts.pop, key)
        return None if answer == b"0" else answer[1:]

    def pop_first(self) -> Pair | None:
        answer = self._run(self.scripts.pop_first, b"%d" % random.getrandbits(32))
        if not answer:
            return None
        size, _, rest = answer.partition(b":")
        return rest[: int(size)], rest[int(size) :]

    def modify(self, key: bytes, change: Callable[[bytes | None], bytes | None]) -> None:
        self._check_writable()

        def attempt() -> bool:
            before = self.get(key)
            after = change(before)
            if after is None:
                return True
            check_size(key, after)
            return self._run(self.scripts.change, b"1", key, told(before), b"0", b"1", key, after) == b"1"

        self._until(attempt)

    def increase(
        self, key: bytes, change: Callable[[bytes | None], bytes], delta: Any, first: Any, form: bytes | None
    ) -> int | None:
        if form is not None and type(delta) is int and abs(delta) < _EXACT:
            begin = b"%d" % first if type(first) is int and abs(first) < _EXACT else b""
            if answer := self._run(self.scripts.increase, key, b"%d" % delta, begin, form):
                return int(answer)
        self.modify(key, change)
        return None

    def transact(self, body: Callable[..., Any], *args: Any) -> Any:
        self._check_writable()
        result: list[Any] = []

        def attempt() -> bool:
            reading = Reading(self.get, self._first)
            result[:] = [body(View(reading.get, reading.put, reading.delete, reading.first), *args)]
            return not reading.is_to_be_checked or self._run(self.scripts.change, *reading.words()) == b"1"

        self._until(attempt)
        return result[0]

    def _first(self, start: bytes, stop: bytes | None, limit: int) -> list[Pair]:
        return self.scan(start, stop, False, True, limit)

    def _until(self, attempt: Callable[[], bool]) -> None:
        """Try until nobody else has changed what was read."""
        pause, longest = _PAUSE
        deadline = time.monotonic() + self._link.patience
        while not attempt():
            if self._spec.timeout is not None and time.monotonic() > deadline:
                raise LockTimeoutError(
                    f"{self.path}: others changed the same for {self._spec.timeout} s; nothing was changed"
                )
            time.sleep(random.uniform(0, pause))
            pause = min(2 * pause, longest)

    # Many keys

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = self._do(self._plan_get_many(keys))
        return found

    def _plan_get_many(self, keys: Sequence[bytes]) -> Plan:
        requests = [Request(self.slot, pack(b"HMGET", self.hash, *part)) for part in parts(keys, self.items)]
        return Plan(requests, joined)

    def put_many(self, pairs: list[Pair]) -> None:
        self._do(self._plan_put_many(pairs))

    def _plan_put_many(self, pairs: list[Pair]) -> Plan:
        self._check_writable()
        requests = [
            Request(self.slot, pack(b"HSET", self.hash, *flat(part)), None, self._wait)
            for part in parts(pairs, self.items)
        ]
        return Plan(requests, nothing)

    def add_many(self, pairs: list[Pair]) -> list[bool]:
        added: list[bool] = self._do(self._plan_add_many(pairs))
        return added

    def _plan_add_many(self, pairs: list[Pair]) -> Plan:
        self._check_writable()
        return Plan([self._changing(self.scripts.add_many, flat(part)) for part in parts(pairs, self.items)], flags)

    def delete_many(self, keys: list[bytes]) -> int:
        count: int = self._do(self._plan_delete_many(keys))
        return count

    def _plan_delete_many(self, keys: list[bytes]) -> Plan:
        self._check_writable()
        return Plan(
            [self._changing(self.scripts.delete, part) for part in parts(keys, self.items)],
            lambda found: sum(map(int, found)),
        )

    def change_many(self, pairs: list[Pair], keys: list[bytes]) -> None:
        self._do(self._plan_change_many(pairs, keys))

    def _plan_change_many(self, pairs: list[Pair], keys: list[bytes]) -> Plan:
        for pair in pairs:
            check_size(*pair)
        words = [b"0", b"0", b"%d" % len(pairs), *flat(pairs), *keys]
        return Plan([self._changing(self.scripts.change, words)], nothing)

    # The whole shard

    def scan(
        self, start: bytes, stop: bytes | None, reverse: bool, values: bool, limit: int = BLOCK_ITEMS
    ) -> list[Any]:
        self._refuse(
            "has no order of keys",
            "make the store with the layout that has: `&layout=ordered` at the end of its URL; `copy()` makes one",
        )

    def scanning(self) -> Callable[..., list[Any]]:
        return Gathered(self.gathered, self.get_many).scan

    def gathered(self) -> list[bytes]:
        """Return all keys, in order. One that is there throughout is among them, and none is there twice."""
        link = self._link
        keys: set[bytes] = set()
        cursor, failures = b"0", link.failures
        while True:
            cursor, items = self._send(pack(b"HSCAN", self.hash, cursor, b"COUNT", _SCANNED))
            keys.update(items[::2])
            if failures != link.failures:  # it may be another server by now, for which the cursor means something else
                cursor, failures = b"0", link.failures
            elif cursor == b"0":
                return sorted(keys)

    def count(self) -> int:
        count: int = self._do(self._plan_count())
        return count

    def _plan_count(self) -> Plan:
        return Plan([Request(self.slot, pack(b"HLEN", self.hash))], only)

    def count_at_once(self) -> int | None:
        return None  # a server is asked

    def clear(self) -> None:
        self._do(self._plan_clear())

    def _plan_clear(self) -> Plan:
        self._check_writable()
        return Plan([Request(self.slot, pack(b"UNLINK", *self.keys()), None, self._wait)], nothing)

    def version(self) -> object:
        return self.count()  # that a store was empty at one moment, it tells with near certainty

    def examine(self, timeout: float | None = None) -> Examined:
        yield self.count()
        scan, start = self.scanning(), b""
        while block := scan(start, None, False, True):
            start = block[-1][0] + b"\0"
            yield block

    @classmethod
    def examine_file(cls, spec: ShardSpec, alone: bool) -> Examined:
        raise _no_files()

    @classmethod
    def salvage(cls, spec: ShardSpec) -> Salvaged:
        raise _no_files()

    @classmethod
    def figures(cls, spec: ShardSpec, access: Access) -> Figures:
        raise _no_files()

    @classmethod
    def create(cls, spec: ShardSpec) -> None:
        raise _no_files()

    def sync(self) -> None:
        """Nothing: the store's servers are asked."""
        if self._link is _CLOSED:
            raise closed()

    def keep(self, has_company: bool) -> None:
        """Nothing: the servers look after their files."""

    # What a server cannot do

    def _refuse(self, what: str, advice: str) -> NoReturn:
        raise UnsupportedOperation(f"{self.path} {what}: {advice}")

    def snapshot(self) -> Snapshot:
        self._refuse(
            "is on a server, which keeps no earlier states",
            "copy() makes a store of it, which others do not change; each entry is then of a moment of its own",
        )

    def hold(self) -> Snapshot:
        self.snapshot()
        raise AssertionError

    def let_go(self) -> None:
        """Nothing is held."""

    # Life

    def pause(self, timeout: float) -> bool:
        return True

    def resume(self) -> None:
        """Nothing is held off."""

    def timed(self, timeout: float, method: Callable[..., Any], *args: Any) -> Any:
        return method(*args)  # the link gives up

    def queue(self) -> None:
        """Writers do not queue here."""

    def on_write(self, check: Callable[[bool], None] | None) -> None:
        """Nobody asks to be told."""

    def close(self, timeout: float | None = None) -> None:
        self._link = _CLOSED

    def before_fork(self) -> None:
        """Nothing is held."""

    def after_fork_in_parent(self) -> None:
        """Nothing was held."""

    def after_fork_in_child(self) -> None:
        """The store lets go of the connections."""


class _Closed:
    """Stands for the link of a shard that is closed."""

    def __getattr__(self, name: str) -> NoReturn:
        raise closed()


_CLOSED = _Closed()


def check_size(key: bytes, value: bytes) -> None:
    if len(value) > LONGEST or len(key) > LONGEST:
        raise TooLargeError(f"a key or value is larger than Redis holds ({LONGEST} bytes)")


def _no_files() -> UnsupportedOperation:
    return UnsupportedOperation(
        "the store is on a server, and has no files here: look after it with the server's tools"
    )


SHARD = RedisShard
