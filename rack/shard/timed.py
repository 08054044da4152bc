"""``timeout=``: a shard whose operations give up after some seconds.

The engines' writer locks cannot all be waited for with a limit (LMDB's is a mutex), so a thread of its own waits for
them. Whoever asked withdraws the request when the time is up; the thread looks, once it has the writer lock, whether
the request still stands. So an operation that timed out has not happened and will not.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rack.errors import LockTimeoutError
from rack.shard.base import Examined, Shard, Snapshot
from rack.shard.proxy import Result, ShardProxy

_current = threading.local()


class _Withdrawn(Exception):
    pass


class _Request:
    """An operation to be done. It is either claimed, by the thread that does it, or withdrawn, by who asked for it."""

    def __init__(self, method: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._method = method
        self._args = args
        self._decision = threading.Lock()
        self._finished = threading.Event()
        self.withdrawn = False
        self._claimed = False
        self._result: Any = None
        self._error: BaseException | None = None

    def claim(self, claimed: bool) -> None:
        """Have it that the operation is being done; or not, for now."""
        with self._decision:
            if claimed and self.withdrawn:
                raise _Withdrawn
            self._claimed = claimed

    def withdraw(self) -> bool:
        with self._decision:
            if not self._claimed:
                self.withdrawn = True
        return self.withdrawn

    def run(self) -> None:
        _current.request = self
        try:
            self._result = self._method(*self._args)
        except BaseException as error:
            self._error = error
        finally:
            _current.request = None
            self._finished.set()

    def outcome(self, timeout: float) -> Any:
        while not self._finished.wait(timeout):
            if self.withdraw():
                raise LockTimeoutError(_too_late(timeout))
        if self._error is not None:
            raise self._error
        return self._result


def _claim_current(claimed: bool) -> None:
    request = getattr(_current, "request", None)
    if request is not None:
        request.claim(claimed)


class TimedShard(ShardProxy):
    def __init__(self, inner: Shard, timeout: float) -> None:
        super().__init__(inner)
        self._timeout = timeout
        self._server: tuple[int, queue.SimpleQueue[_Request | None]] | None = None
        inner.on_write(_claim_current)

    def _forward(self, method: Callable[..., Result], *args: Any) -> Result:
        request = _Request(method, args)
        server = self._server
        if server is None or server[0] != os.getpid():  # a forked child has none
            server = os.getpid(), queue.SimpleQueue()
            threading.Thread(target=_serve, args=(server[1],), name="rack-timed", daemon=True).start()
            self._server, other = server, self._server
            if other is not None and other[0] == server[0]:
                other[1].put(None)  # another thread has just done the same; this ends the server it made
        server[1].put(request)
        return request.outcome(self._timeout)  # type: ignore[no-any-return]

    @contextmanager
    def hold(self) -> Iterator[Snapshot]:
        """In a thread of its own, as a writer lock is let go of by the thread that took it."""
        answers: queue.SimpleQueue[Snapshot | BaseException] = queue.SimpleQueue()
        over = threading.Event()

        def hold() -> None:
            try:
                with self._inner.hold() as snapshot:
                    answers.put(snapshot)
                    over.wait()
                    if request.withdrawn:
                        snapshot.close()
            except BaseException as error:
                answers.put(error)

        request = _Request(hold, ())
        threading.Thread(target=request.run, name="rack-hold", daemon=True).start()
        try:
            answer = None
            while answer is None:
                with contextlib.suppress(queue.Empty):
                    answer = answers.get(timeout=self._timeout)
                if answer is None and request.withdraw():
                    raise LockTimeoutError(_too_late(self._timeout))
            if isinstance(answer, BaseException):
                raise answer
            yield answer
        finally:
            over.set()
            if not request.withdraw():
                request.outcome(self._timeout)

    def examine(self, timeout: float | None = None) -> Examined:
        return self._inner.examine(timeout or self._timeout)

    def __del__(self) -> None:
        server = getattr(self, "_server", None)
        if server is not None and server[0] == os.getpid():
            server[1].put(None)


def _too_late(timeout: float) -> str:
    return f"the shard's writer lock was not free for {timeout} s; nothing was changed"


def _serve(requests: queue.SimpleQueue[_Request | None]) -> None:
    while (request := requests.get()) is not None:
        if not request.withdrawn:
            request.run()
        del request
