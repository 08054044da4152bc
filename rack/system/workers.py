"""The processes that share the parts of one operation (``workers=N``).

They are forked where that is safe: on Linux, and while no thread but this one, and Rack's own, may hold a lock that
the child would wait for. They start in milliseconds then, and inherit everything. Else they are new interpreters, to
which everything is pickled; they know nothing of the main module.

A worker that is to end gets SIGTERM, and ends between two instructions of Python: not inside of a commit.
"""

from __future__ import annotations

import json
import multiprocessing
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.spawn import get_executable
from typing import Any, NoReturn

from rack.errors import SerializationError, WorkerError

_PATIENCE = 10.0  # seconds that a worker which is told to end may take
_REPORT_EVERY = 0.1  # seconds
_LOOK_EVERY = 1.0  # seconds between looks whether the workers are alive
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def may_have_children() -> bool:
    """Return whether this process may start others: a worker of ``multiprocessing.Pool`` may not."""
    return not multiprocessing.current_process().daemon


class _Interpreter:
    """A worker that is a new interpreter, with what is used here of ``multiprocessing.Process``.

    Unlike a process that ``multiprocessing`` spawns it does not import the main module: a program that has no
    ``if __name__ == "__main__":`` would begin again in each worker.
    """

    def __init__(self, connection: Connection) -> None:
        channel = connection.fileno()
        path = json.dumps([str(entry) for entry in sys.path])
        command = [get_executable(), "-P", "-c", _START, str(channel), path]
        self._process = subprocess.Popen(command, pass_fds=[channel], stdin=subprocess.DEVNULL)
        self.terminate = self._process.terminate
        self.kill = self._process.kill

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def join(self, timeout: float | None = None) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)

    @property
    def exitcode(self) -> int | None:
        return self._process.poll()

    def close(self) -> None: ...


_START = "import json, sys; sys.path[:] = json.loads(sys.argv[2]); from rack.system.workers import _serve; _serve()"


class Crew:
    """Worker processes that wait for tasks; at the end of the ``with`` block none is left."""

    def __init__(self, count: int, function: Callable[..., Any], shared: tuple[Any, ...]) -> None:
        self._workers: dict[Connection, BaseProcess | _Interpreter] = {}
        job = function, shared
        pickled = None if _may_fork() else _pickled(job)
        # A signal that comes before a worker's first line would meet this process's handlers there, or none.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            for _ in range(count):
                ours, theirs = multiprocessing.Pipe()
                with theirs:
                    if pickled is None:
                        self._workers[ours] = self._forked(ours, theirs, job)
                    else:
                        self._workers[ours] = _Interpreter(theirs)
            if pickled is not None:
                for connection in self._workers:
                    with suppress(ConnectionError):  # whoever is gone is missed when its answer is
                        connection.send_bytes(pickled)
        except BaseException:
            self._end()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _forked(self, ours: Connection, theirs: Connection, job: Any) -> BaseProcess:
        args = (theirs, [ours, *self._workers], job)
        process = multiprocessing.get_context("fork").Process(target=_work, args=args, name="rack-worker", daemon=True)
        process.start()
        return process

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end()

    def run(self, tasks: list[Any], progress: Callable[[Any], object] | None) -> list[Any]:
        results: list[Any] = [None] * len(tasks)
        waiting = list(enumerate(tasks))[::-1]
        busy: dict[Connection, int] = {}
        for connection in self._workers:
            self._hand_out(connection, waiting, busy)
        while busy:
            for connection in self._readable(busy):
                kind, content = self._receive(connection)
                if kind == "report":
                    if progress is not None:
                        progress(content)
                elif kind == "done":
                    results[busy.pop(connection)] = content
                    self._hand_out(connection, waiting, busy)
                else:
                    raise content
        return results

    def _hand_out(self, connection: Connection, waiting: list[tuple[int, Any]], busy: dict[Connection, int]) -> None:
        if waiting:
            number, task = waiting.pop()
            with suppress(ConnectionError):  # as above
                connection.send(task)
            busy[connection] = number

    def _readable(self, busy: Iterable[Connection]) -> list[Connection]:
        """Return those that have something to say, or have died, which is no end of file if another process forked."""
        ready = wait(list(busy), _LOOK_EVERY)
        return [c for c in busy if c in ready or not self._workers[c].is_alive()]

    def _receive(self, connection: Connection) -> tuple[str, Any]:
        try:
            if not self._workers[connection].is_alive() and not connection.poll():
                raise EOFError
            message: tuple[str, Any] = connection.recv()
        except (EOFError, ConnectionError):
            self._lost(connection)
        return message

    def _lost(self, connection: Connection) -> NoReturn:
        process = self._workers[connection]
        process.join(_PATIENCE)
        code = process.exitcode
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
        raise WorkerError(f"a worker process {how}; the operation was not finished")

    def _end(self) -> None:
        """Have the workers end; by force, those that do not within some seconds."""
        try:
            for process in self._workers.values():
                process.terminate()
            deadline = time.monotonic() + _PATIENCE
            for process in self._workers.values():
                process.join(max(0.0, deadline - time.monotonic()))
        finally:
            for connection, process in self._workers.items():
                process.kill()
                process.join()
                process.close()
                connection.close()
            self._workers.clear()


def _may_fork() -> bool:
    own = threading.current_thread()
    others = [thread for thread in threading.enumerate() if thread is not own and not thread.name.startswith("rack-")]
    return sys.platform == "linux" and not others


def _pickled(job: tuple[Callable[..., Any], tuple[Any, ...]]) -> bytes:
    try:
        return pickle.dumps(job)
    except Exception as error:
        raise _not_sent(error) from error


def _not_sent(error: Exception) -> SerializationError:
    problem = f"this cannot be sent to worker processes ({error})"
    return SerializationError(
        f"{problem}: give serdes and hash that are defined in a module, other than the program itself, or use workers=1"
    ).in_words(f"{problem}: use one")


# In the worker:


class _Ended(BaseException):
    """The parent has told this process to end."""


def _serve() -> None:
    """Run in an interpreter that was started as a worker."""
    connection = Connection(int(sys.argv[1]))
    with suppress(EOFError, ConnectionError):
        _work(connection, [], connection.recv_bytes())


def _work(connection: Connection, inherited: list[Connection], job: Any) -> None:
    # Only the parent is to hold the other ends, or the workers would not notice its death.
    for other in inherited:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal: the parent decides
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _raise_ended)
    with suppress(_Ended, EOFError, ConnectionError):  # told to end, or the parent is gone
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            function, shared = _unpickled(job) if isinstance(job, bytes) else job
            report = _Report(connection)
            while True:
                result = function(*shared, connection.recv(), report)
                report.flush()
                connection.send(("done", result))
        except _Ended:
            raise
        except BaseException as error:
            connection.send(("failed", _portable(error)))
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _unpickled(job: bytes) -> Any:
    try:
        return pickle.loads(job)
    except (AttributeError, ImportError) as error:
        raise _not_sent(error) from error


def _raise_ended(signum: int, frame: object) -> NoReturn:
    raise _Ended


class _Report:
    """Tells the parent how much is done, but not too often."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._done = 0.0
        self._next = 0.0

    def __call__(self, done: float) -> None:
        self._done += done
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _REPORT_EVERY
            self.flush()

    def flush(self) -> None:
        if self._done:
            self._connection.send(("report", self._done))
            self._done = 0


def _portable(error: BaseException) -> BaseException:
    """Return an error that can be pickled, with the traceback of this one in a note."""
    note = "In a worker process:\n" + "".join(traceback.format_exception(error)).rstrip()
    try:
        found: BaseException = pickle.loads(pickle.dumps(error))
        if type(found) is not type(error) or str(found) != str(error):
            raise TypeError("it does not come back as it was")
    except Exception:
        found = WorkerError(f"{type(error).__name__} in a worker process: {error}")
    if not isinstance(found, Exception):
        found = WorkerError(f"a worker process was ended by {error!r}")
    found.add_note(note)
    return found
