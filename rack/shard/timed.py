"""``timeout=``: a shard whose operations give up after some seconds.

Reads, and whatever else waits for nothing but this process's other threads, the calling thread does itself
(``Shard.timed``). So it is with writes, where the engine can wait with a limit, or sees that it need not wait. LMDB's
writer lock is a mutex that cannot be waited for with a limit: then a thread of its own does the write
(:class:`Server`). Whoever asked withdraws the request when the time is up; the thread looks, once it has the writer
lock, whether the request still stands. So an operation that timed out has not happened and will not.
"""

from __future__ import annotations

import os
from _thread import allocate_lock
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any
from weakref import ref

from rack.shard.base import Examined, Shard, Snapshot
from rack.shard.problem import too_late
from rack.shard.proxy import Result, ShardProxy
from rack.system.threads import Running, start


class _Withdrawn(Exception):
    pass


class _Request:
    """An operation to be done. It is either claimed, by the thread that does it, or withdrawn, by who asked for it.

    All that decides is done by functions of C, each at once: an exception leaves nothing half done.
    """

    def __init__(self, method: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._method = method
        self._args = args
        self._owner: dict[None, str] = {}  # has one entry once it is decided
        self._finished = allocate_lock()
        self._finished.acquire()
        self._result: Any = None
        self._error: BaseException | None = None

    def claim(self, claimed: bool) -> None:
        """Have it that the operation is being done; or not, for now."""
        if not claimed:
            if self._owner.get(None) == "server":
                del self._owner[None]
        elif self._owner.setdefault(None, "server") != "server":
            raise _Withdrawn

    def withdraw(self) -> bool:
        return self._owner.setdefault(None, "asker") == "asker"

    def run(self) -> None:
        try:
            if self._owner.get(None) != "asker":
                self._result = self._method(*self._args)
        except BaseException as error:
            self._error = error
        finally:
            self._finished.release()

    def outcome(self, timeout: float) -> Any:
        try:
            while not self._finished.acquire(timeout=timeout):
                if self.withdraw():
                    raise too_late(timeout)
        except BaseException:
            # An interrupt, say: the operation is not done, or it is being done, and then that is waited for.
            if not self.withdraw():
                self._finished.acquire(timeout=timeout)
            raise
        if self._error is not None:
            raise self._error
        return self._result


class Server:
    """A thread that does operations for those who wait for them no longer than some seconds. A fork ends it."""

    _running: Running  # there is one since this process has started one

    def __init__(self) -> None:
        self._requests: SimpleQueue[Any] = SimpleQueue()
        self._process = 0
        self._current: list[_Request] = []

    def run(self, timeout: float, method: Callable[..., Result], *args: Any) -> Result:
        if self._process != os.getpid() or self._running() is None:
            self._requests = SimpleQueue()
            # A finalizer would lose an exception that comes in it; what is called when this one is gone is of C.
            self._running = start(_serve, self._requests, self._current, ref(self, self._requests.put))
            self._process = os.getpid()
        request = _Request(method, args)
        self._requests.put(request)
        result: Result = request.outcome(timeout)
        return result

    def claim(self, claimed: bool) -> None:
        """Called in the write transactions of the thread (``Shard.on_write``)."""
        for request in self._current:
            request.claim(claimed)


def _serve(requests: SimpleQueue[Any], current: list[_Request], server: ref[Server]) -> None:
    while isinstance(request := requests.get(), _Request):
        current[:] = [request]
        request.run()
        current.clear()
        del request


class TimedShard(ShardProxy):
    def __init__(self, inner: Shard, timeout: float) -> None:
        super().__init__(inner)
        self._timeout = timeout
        for name in ("get", "put", "add", "contains", "delete", "modify"):  # the most frequent ones: no call in between
            setattr(self, name, partial(inner.timed, timeout, getattr(inner, name)))

    def _forward(self, method: Callable[..., Result], *args: Any) -> Result:
        result: Result = self._inner.timed(self._timeout, method, *args)
        return result

    def hold(self) -> Snapshot:
        self._inner.timed(self._timeout, self._inner.queue)
        return self._inner.hold()

    def examine(self, timeout: float | None = None) -> Examined:
        return self._inner.examine(timeout or self._timeout)
