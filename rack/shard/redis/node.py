"""One server, and the connections to it that nobody uses just now."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from os import getpid
from typing import Any

from redis import connection as _untyped
from redis.backoff import NoBackoff
from redis.retry import Retry

from rack.shard.redis.url import Parts

_kinds: Any = _untyped
_FLAGS = {"true": True, "false": False}


class Node:
    """Who uses a connection takes it out, and puts it back once all that it asked was answered; else it is closed."""

    def __init__(self, parts: Parts, host: tuple[str, int] | None, greet: Callable[[Node, Any], None]) -> None:
        self.host = host
        self.name = parts.socket if host is None else f"{host[0]}:{host[1]}"
        self._parts = parts
        self._greet = greet
        self._idle: deque[Any] = deque()

    def take(self, timeout: float) -> Any:
        """Return a connection; ``timeout``: seconds that connecting takes at most, and each answer."""
        pid = getpid()
        try:
            while True:
                idle = self._idle.pop()
                if idle.pid == pid:  # else a signal handler runs in a child that has not let go of the parent's yet
                    return idle
        except IndexError:
            return self.connect(timeout)

    def connect(self, timeout: float, greet: bool = True) -> Any:
        parts = self._parts
        options: dict[str, Any] = {
            "db": parts.db,
            "username": parts.username,
            "password": parts.password,
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": Retry(NoBackoff(), 0),  # it is known here what may be done twice
            "protocol": 2,
            "driver_info": None,
        }
        if self.host is None:
            made = _kinds.UnixDomainSocketConnection(path=parts.socket, **options)
        else:
            options |= {"host": self.host[0], "port": self.host[1]}
            tls = {name: _FLAGS.get(value.lower(), value) for name, value in parts.options}
            made = _kinds.SSLConnection(**options, **tls) if parts.tls else _kinds.Connection(**options)
        try:
            made.connect()
            if greet:
                self._greet(self, made)
        except BaseException:
            made.disconnect()
            raise
        return made

    def put(self, connection: Any) -> None:
        self._idle.append(connection)

    def close(self) -> None:
        """Close the connections that nobody uses: after a failure the others are no good either."""
        while self._idle:
            self._idle.pop().disconnect()

    def forget(self) -> None:
        """In a forked child: the connections are the parent's, who goes on using them."""
        self._idle = deque()
