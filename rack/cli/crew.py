"""Worker processes that ask for tasks and report on them, and that never outlive the command.

They are forked: the command has one thread and no store open at that moment, so nothing is inherited in the middle of
an operation, and workers start in milliseconds, where a new interpreter for each would import everything again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, NoReturn, Self, TypeVar

from rack.cli.failure import Failure, tell
from rack.cli.patience import patience
from rack.cli.signals import ENDING, Stopped, guard
from rack.errors import RackError, told

Task = TypeVar("Task")
Report = TypeVar("Report")

#: What a worker runs: it takes tasks as long as there are some, and calls the function to report.
Job = Callable[[Iterator[Task], Callable[[Report], None]], None]

#: How long workers that were told to stop may take to finish the block they are at, in seconds.
PATIENCE = 10.0


class Crew(Generic[Task, Report]):
    """``count`` processes that run ``job``. Use it with ``with``: at the end of the body no process is left.

    In this process ``receive`` is called with every report, and ``say`` with what a worker has to tell the user. A
    worker's error is raised here and ends all of them.
    """

    def __init__(
        self,
        count: int,
        job: Job[Task, Report],
        receive: Callable[[Report], None],
        say: Callable[[str], object] = tell,
    ) -> None:
        self._count = count
        self._job = job
        self._receive = receive
        self._say = say
        self._workers: dict[Connection, BaseProcess] = {}
        self._ready: list[Connection] = []

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("fork")
        try:
            # A signal between the fork and the worker's first line would meet the parent's handlers there.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
            try:
                for _ in range(self._count):
                    ours, theirs = context.Pipe()
                    process = context.Process(target=self._work, args=(theirs, ours), daemon=True)
                    process.start()
                    theirs.close()
                    self._workers[ours] = process
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        except BaseException:
            self._stop()
            raise
        return self

    def run(self, tasks: Iterable[Task], tick: Callable[[], None]) -> None:
        """Hand out ``tasks``, which may come slowly, and wait until they are done. ``tick`` is called now and then."""
        for task in tasks:
            self.submit(task, tick)
        self.finish(tick)

    def finish(self, tick: Callable[[], None]) -> None:
        """Wait until all tasks are done."""
        while len(self._ready) < len(self._workers):
            self.poll(0.2)
            tick()

    def submit(self, task: Task, tick: Callable[[], None]) -> None:
        """Hand out a task, as soon as there is a worker for it."""
        while not self._ready:
            self.poll(0.2)
            tick()
        self._send(self._ready.pop(), ("task", task))

    def poll(self, seconds: float = 0) -> None:
        """Take in what the workers say; wait for it for at most ``seconds``."""
        for connection in wait(list(self._workers), seconds):
            assert isinstance(connection, Connection)
            with guard.held():  # a message is read as a whole, and counts
                try:
                    kind, content = connection.recv()
                except (EOFError, ConnectionError):
                    self._lost(connection)
                if kind == "report":
                    self._receive(content)
            if kind == "ready":
                self._ready.append(connection)
            elif kind == "said":
                self._say(content)
            elif kind == "stopped":
                raise Stopped(content)
            elif kind == "failed":
                raise Failure(content)

    def _send(self, connection: Connection, message: tuple[str, Task | None]) -> None:
        try:
            connection.send(message)
        except ConnectionError:
            self._lost(connection)

    def _lost(self, connection: Connection) -> NoReturn:
        process = self._workers[connection]
        process.join(1)
        code = process.exitcode
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
        raise Failure(f"a worker process {how}; what it was writing at that moment may be incomplete")

    def __exit__(self, exc_type: type[BaseException] | None, *exc_info: object) -> None:
        try:
            if exc_type is None:
                self._end()
        finally:
            self._stop()

    def _end(self) -> None:
        """Let the workers end, which are all waiting for a task."""
        for connection in self._workers:
            self._send(connection, ("end", None))
        for connection, process in self._workers.items():
            with suppress(EOFError, ConnectionError):
                raise Failure(connection.recv()[1])  # its last word is an error
            process.join()
            if process.exitcode:
                self._lost(connection)

    def _stop(self) -> None:
        """End the workers that are left: after the block that they are at, or at once when a second signal comes."""
        try:
            for process in self._workers.values():
                process.terminate()
            waiting = list(self._workers)
            deadline = time.monotonic() + PATIENCE
            while waiting and time.monotonic() < deadline:
                for connection in wait(waiting, 0.2):
                    assert isinstance(connection, Connection)
                    try:
                        kind, content = connection.recv()  # so that none waits for us to listen
                    except (EOFError, ConnectionError):
                        waiting.remove(connection)
                    else:
                        if kind == "report":
                            self._receive(content)
        finally:
            for process in self._workers.values():
                process.kill()
                process.join()

    # In the worker:

    def _work(self, connection: Connection, inherited: Connection) -> None:
        """Run the job. Whatever happens is told to the parent; if there is no parent any more, end silently."""
        # Only the parent must hold the other ends, or the workers would not notice its death.
        for other in (inherited, *self._workers):
            other.close()
        # Ctrl-C reaches every process of a terminal: it is the parent that decides.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        guard.patient = True
        guard.shown = None
        guard.watch()
        patience.say = lambda message: connection.send(("said", message))
        try:
            try:  # the other signals raise Stopped, by the guard that was inherited
                signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
                self._job(self._tasks(connection), lambda report: connection.send(("report", report)))
            finally:
                for signum in (*ENDING, signal.SIGALRM):
                    signal.signal(signum, signal.SIG_IGN)
        except (EOFError, ConnectionError):
            pass  # the parent is gone
        except BaseException as error:
            self._tell_end(connection, error)

    @staticmethod
    def _tasks(connection: Connection) -> Iterator[Any]:
        while True:
            connection.send(("ready", None))
            kind, task = connection.recv()
            if kind == "end":
                return
            yield task

    @staticmethod
    def _tell_end(connection: Connection, error: BaseException) -> None:
        if isinstance(error, Stopped):
            message: tuple[str, Any] = ("stopped", error.signum)
        elif isinstance(error, Failure):
            message = ("failed", error.message)
        elif isinstance(error, RackError | OSError):
            message = ("failed", told(error))
        else:
            message = ("failed", f"error in a worker process: {''.join(traceback.format_exception(error))}")
        try:
            connection.send(message)
        except ConnectionError:
            os._exit(1)
