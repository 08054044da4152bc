"""The way to the servers: which one has a slot, and what is done when it does not answer, or is another one by now."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from os import getpid, urandom
from threading import RLock
from typing import Any, NamedTuple

from redis.exceptions import RedisError, ResponseError

from rack.errors import RackError
from rack.shard.address import Address
from rack.shard.redis.failure import LOST, code_of, is_passing, is_refusal, late, translated
from rack.shard.redis.node import Node
from rack.shard.redis.protocol import SLOTS, pack
from rack.shard.redis.scripts import KEPT, Script

PATIENCE = 30.0  # seconds that an operation waits for servers if the user does not say: a failover takes half of it
LONGEST_PATIENCE = KEPT / 1000 * 0.8  # as long as a server knows what it has answered
_ATTEMPT = 5.0  # seconds until one is asked again
_MOMENT = 0.5  # seconds
_ATTEMPTS = 3  # that fit into what the user gives
_PAUSE = 0.01, 0.5  # seconds between two attempts: the first, and the longest
_REFRESH = 0.1  # seconds between two looks at who has which slots
_PIPELINE_BYTES = 1 << 20  # that are sent to a server until its answers are read
_ASKING = pack(b"ASKING")

Greet = Callable[["Link", Node, Any], None]


class Session:
    """What a token is made of: one request of a session is under way at a time.

    It is used again only if nothing was sent twice meanwhile: what comes late must find its own number.
    """

    __slots__ = ("count", "failures", "name", "pid")

    def __init__(self) -> None:
        self.pid = getpid()  # a forked child has sessions of its own
        self.name = urandom(8).hex().encode()
        self.count = 0
        self.failures = 0  # of the link, when it was taken


class Wait(NamedTuple):
    """What has a write wait for replicas.

    They are waited for up to what the connection has written last. So where a command is sent again, on another one,
    and finds that it was done, ``touch`` writes something first.
    """

    data: bytes
    touch: bytes


class Request(NamedTuple):
    """A command, packed; the script that it runs; what waits for replicas; the session that it is of."""

    slot: int
    data: bytes
    script: Script | None = None
    wait: Wait | None = None
    session: Session | None = None


class Link:
    """Sends requests. Threads share it; a fork needs another one.

    Every request may be sent twice: whoever makes one sees to it that doing it twice is doing it once.
    """

    def __init__(self, address: Address, timeout: float | None, greet: Greet) -> None:
        self.address = address
        self.patience = PATIENCE if timeout is None else min(timeout, LONGEST_PATIENCE)
        self.attempt = _ATTEMPT if timeout is None else max(0.02, timeout / _ATTEMPTS)
        self._greet = greet
        parts = address.parts
        self._is_cluster: bool = parts.cluster
        self._nodes: dict[object, Node] = {}
        self._slots: list[Node] = []
        self._lock = RLock()
        self._looked = -_REFRESH
        self.failures = 0  # how often something was not answered at once: servers may be others by now
        self.is_open = False  # once it was: a server that refuses connections is waited for from then on
        if not self._is_cluster:
            self._slots = [self._node(parts.hosts[0] if parts.hosts else None)] * SLOTS

    def _node(self, host: tuple[str, int] | None) -> Node:
        if host not in self._nodes:
            self._nodes[host] = Node(self.address.parts, host, lambda node, conn: self._greet(self, node, conn))
        return self._nodes[host]

    # Requests

    def one(self, request: Request) -> Any:
        """Return the answer to a request."""
        try:
            node = self._slots[request.slot]
        except IndexError:
            return self._again(request, None, None)
        try:
            connection = node.take(self.attempt)
        except BaseException as error:
            return self._failed(request, error)
        try:
            connection.send_packed_command((request.data,), False)
            answer = connection.read_response(True)
            if request.wait is not None:
                self._waited(connection, request.wait)
        except ResponseError as error:
            node.put(connection)
            return self._failed(request, error)
        except BaseException as error:
            connection.disconnect()
            return self._failed(request, error)
        node.put(connection)
        return answer

    def once(self, request: Request) -> Any:
        """Return the answer to a request that is asked on a connection of its own, once, and for a moment."""
        node = self.node_of(request.slot) or self._node(self.address.parts.hosts[0])
        try:
            connection = node.connect(_MOMENT)
            try:
                connection.send_packed_command((request.data,), False)
                return connection.read_response(True)
            finally:
                connection.disconnect()
        except (RedisError, OSError) as error:
            raise translated(error, self.address) from error

    def _failed(self, request: Request, error: BaseException) -> Any:
        if not isinstance(error, RedisError | OSError) or isinstance(error, RackError):
            raise error
        return self._again(request, error, time.monotonic() + self.patience)

    def _again(self, request: Request, error: BaseException | None, deadline: float | None) -> Any:
        """Send a request until it is answered, or its time is over."""
        self.failures += 1
        deadline = time.monotonic() + self.patience if deadline is None else deadline
        pause, longest = _PAUSE
        asked: Node | None = None
        full = False
        is_first = error is not None
        while True:
            node: Node | None = None
            if error is not None:
                code = code_of(error)
                if code == "NOSCRIPT" and not full:
                    full = True
                elif code == "ASK":
                    asked = self._node((error.host, error.port))  # type: ignore[attr-defined]
                else:
                    self._check_hopeful(error, is_first)
                    if code == "MOVED":
                        self._moved(error)
                    else:
                        left = deadline - time.monotonic()
                        if left <= 0:
                            raise translated(error, self.address) from error
                        if not is_first or code not in ("", "READONLY"):
                            time.sleep(min(left, pause * random.uniform(0.5, 1)))
                            pause = min(2 * pause, longest)
                        self._refresh(deadline)
            if time.monotonic() >= deadline:
                raise (
                    late(self.address, "they were asked again and again")
                    if error is None
                    else translated(error, self.address)
                ) from error
            is_first = False
            try:
                if asked is None and not self._slots:
                    self._refresh(deadline)
                node = asked or self._slots[request.slot]
                timeout = max(0.01, min(self.attempt, deadline - time.monotonic()))
                connection = node.connect(timeout)
                try:
                    data = request.data
                    if full and request.script is not None:
                        data = data.replace(request.script.call, request.script.load, 1)
                    answer = self._asked(connection, data, bool(asked))
                    if request.wait is not None:
                        self._asked(connection, request.wait.touch, bool(asked))
                        self._waited(connection, request.wait)
                    asked = None
                finally:
                    connection.disconnect()
                return answer
            except (RedisError, OSError) as failure:
                if isinstance(failure, RackError):
                    raise
                asked = None
                error = failure
                if node is not None and isinstance(failure, LOST):
                    node.close()

    def _check_hopeful(self, error: BaseException, is_first: bool) -> None:
        """Raise what waiting does not mend."""
        if is_refusal(error) or not (isinstance(error, LOST) or is_passing(error)):
            raise translated(error, self.address) from error
        if not (self.is_open or is_first or is_passing(error)):
            raise translated(error, self.address) from error

    @staticmethod
    def _asked(connection: Any, data: bytes, is_elsewhere: bool) -> Any:
        """Return the answer to a command; ``is_elsewhere``: of a slot that is just being moved to that server."""
        connection.send_packed_command((_ASKING + data if is_elsewhere else data,), False)
        if is_elsewhere:
            connection.read_response(True)
        return connection.read_response(True)

    def _waited(self, connection: Any, wait: Wait) -> None:
        """Wait until a replica has what this connection wrote."""
        connection.send_packed_command((wait.data,), False)
        if not connection.read_response(True):
            raise late(self.address, "no replica has confirmed the write, which the server itself has done")

    def many(self, requests: Sequence[Request]) -> list[Any]:
        """Return the answers to requests, each of which stands for itself; they are sent by servers, all at once."""
        answers: list[Any] = [_NONE] * len(requests)
        by_node: dict[Node, list[int]] = {}
        if requests and not self._slots:
            self.masters()
        for number, request in enumerate(requests):
            if self._slots:
                by_node.setdefault(self._slots[request.slot], []).append(number)
        waiting = list(by_node.items())
        while waiting:
            under_way, left = [], []
            for node, numbers in waiting:
                size, count = 0, 0
                while count < len(numbers) and size < _PIPELINE_BYTES:
                    size += len(requests[numbers[count]].data)
                    count += 1
                some = numbers[:count]
                connection = None
                try:
                    connection = node.take(self.attempt)
                    data = [r.data if r.wait is None else r.data + r.wait.data for r in map(requests.__getitem__, some)]
                    connection.send_packed_command((b"".join(data),), False)
                    under_way.append((node, connection, some))
                    if numbers[count:]:
                        left.append((node, numbers[count:]))
                except (RedisError, OSError) as error:
                    if isinstance(error, RackError):
                        raise
                    if connection is not None:
                        connection.disconnect()
            for node, connection, some in under_way:
                self._read(node, connection, some, requests, answers)
            waiting = left
        for number, answer in enumerate(answers):
            if answer is _NONE:
                answers[number] = self._again(requests[number], None, None)
            elif isinstance(answer, BaseException):
                answers[number] = self._failed(requests[number], answer)
        return answers

    def _read(
        self, node: Node, connection: Any, numbers: list[int], requests: Sequence[Request], answers: list[Any]
    ) -> None:
        """Read the answers that a connection has; those that do not come are asked for again."""
        try:
            for number in numbers:
                try:
                    answer = connection.read_response(True)
                except ResponseError as error:
                    answer = error
                if requests[number].wait is not None and not connection.read_response(True):
                    answer = _NONE  # asked again, alone, and then told
                answers[number] = answer
        except (RedisError, OSError):
            connection.disconnect()
        except BaseException:
            connection.disconnect()
            raise
        else:
            node.put(connection)

    # Who has which slots

    def node_of(self, slot: int) -> Node | None:
        return self._slots[slot] if self._slots else None

    def masters(self) -> list[Node]:
        """Return the servers that have slots."""
        if not self._slots:
            self._refresh(time.monotonic() + self.patience)
        return list(dict.fromkeys(self._slots))

    def slot_on(self, node: Node) -> int:
        return self._slots.index(node)

    def _moved(self, error: Any) -> None:
        with self._lock:
            slots = list(self._slots)
            if slots:
                slots[error.slot_id] = self._node((error.host, error.port))
                self._slots = slots

    def _refresh(self, deadline: float) -> None:
        """Ask the servers of a cluster who has which slots.

        :raises ServerError: none of them answers, and none has before.
        """
        if not self._is_cluster:
            return
        with self._lock:
            if self._slots and time.monotonic() - self._looked < _REFRESH:
                return
            seeds = [self._node(host) for host in self.address.parts.hosts]
            failure: BaseException | None = None
            for node in dict.fromkeys([*seeds, *self._nodes.values()]):
                left = deadline - time.monotonic()
                if failure is not None and left <= 0:
                    break
                try:
                    slots = self._ask(node, max(0.05, min(self.attempt, 1.0, left)))
                    if slots is not None:
                        self._slots = slots
                        self._looked = time.monotonic()
                        return
                except (RedisError, OSError) as error:
                    if isinstance(error, RackError):
                        raise
                    if is_refusal(error) or code_of(error) == "":
                        failure = error
                    if is_refusal(error):
                        break
                    failure = failure or error
            self._looked = time.monotonic()
            if not self._slots and failure is not None:
                raise translated(failure, self.address) from failure

    def _ask(self, node: Node, timeout: float) -> list[Node] | None:
        """Return who has each slot, as a server has it; None: not all of them have somebody."""
        connection = node.connect(timeout, greet=False)
        try:
            connection.send_packed_command((pack(b"CLUSTER", b"SLOTS"),), False)
            ranges: Any = connection.read_response(True)
        finally:
            connection.disconnect()
        slots: list[Any] = [None] * SLOTS
        for first, last, (host, port, *_), *_ in ranges:
            name = host.decode() if host and host != b"?" else (node.host or ("", 0))[0]
            slots[first : last + 1] = [self._node((name, port))] * (last + 1 - first)
        if None in slots:
            known = self._slots
            if not known:
                return None
            slots = [new or old for new, old in zip(slots, known, strict=True)]
        return slots

    def forget(self) -> None:
        """In a forked child: use none of the parent's connections."""
        self._lock = RLock()
        for node in self._nodes.values():
            node.forget()

    def close(self) -> None:
        for node in list(self._nodes.values()):
            node.close()


_NONE: Any = object()
