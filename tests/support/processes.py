"""Processes for tests: started together, spoken with over a pipe, always with a time limit, and none left behind.

A process that does not answer in time is a hang: the test fails with the stacks of that process's threads.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import lmdb.verify
import pytest

from rack import PersistentDict, PersistentSet
from rack.care.verify import verify
from rack.shard import ENGINES
from rack.store.manifest import Manifest, Request

LIMIT = 60.0  # seconds that a process may take to answer

_to_test: Connection  # in a process of a crew


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with each engine: it is the one of new stores, here and in processes that are forked."""
    monkeypatch.setattr("rack.store.manifest.DEFAULT_ENGINE", request.param)
    return str(request.param)


@pytest.fixture(autouse=True)
def end_sound(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    """In modules that import it, every test ends with this: the stores that it leaves are sound.

    But for tests marked ``damages``, which damage a store.
    """
    yield
    if request.node.get_closest_marker("damages"):
        return
    for manifest in tmp_path.rglob("*.rack"):
        report = verify(manifest.with_suffix(""))
        assert not report.found, report.as_dict()


def default_engine() -> str:
    """Return the engine of new stores: the one that the test is for, where it uses the fixture ``engine``."""
    return Manifest.new(Request("set")).engine


class HangError(AssertionError):
    """A process did not answer in time."""


class FailedError(AssertionError):
    """A process raised, or died. The message is its traceback."""


def tell(message: object = None) -> None:
    """In a process of a crew: say something to the test, which listens with :meth:`Worker.hear`."""
    _to_test.send(("said", message))


def hear() -> Any:
    """In a process of a crew: wait for what the test says with :meth:`Worker.tell`."""
    return _to_test.recv()


def told() -> bool:
    """In a process of a crew: return whether the test has said something that was not heard yet."""
    return _to_test.poll()


def _work(channel: Connection, stacks: str, function: Callable[..., object], args: tuple[Any, ...]) -> None:
    global _to_test
    _to_test = channel
    with open(stacks, "w") as file:
        faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)
        channel.send(("ready", None))
        channel.recv()
        try:
            answer = ("done", function(*args))
        except BaseException:
            answer = ("failed", traceback.format_exc())
        channel.send(answer)
        faulthandler.unregister(signal.SIGUSR1)


class Worker:
    """A process that runs one function."""

    def __init__(self, context: Any, stacks: Path, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._stacks = stacks
        self._channel, there = context.Pipe()
        self._process = context.Process(target=_work, args=(there, str(stacks), function, args))
        self._process.start()
        there.close()  # so that the death of the process, its only holder, is noticed
        self.pid: int = self._process.pid

    def ready(self, limit: float = LIMIT) -> None:
        self._receive("ready", limit)

    def go(self) -> None:
        self._channel.send("go")

    def tell(self, message: object = None) -> None:
        self._channel.send(message)

    def hear(self, limit: float = LIMIT) -> Any:
        return self._receive("said", limit)

    def result(self, limit: float = LIMIT) -> Any:
        return self._receive("done", limit)

    def is_silent(self, seconds: float) -> bool:
        """Return whether the process says nothing for so long."""
        return not self._channel.poll(seconds)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal; return once a process killed or stopped is."""
        os.kill(self.pid, number)
        if number == signal.SIGKILL:
            self._process.join(LIMIT)
        elif number == signal.SIGSTOP:
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def end(self) -> None:
        """Kill the process unless it has ended."""
        with contextlib.suppress(BrokenPipeError, ConnectionError):
            if self._process.is_alive():
                self._process.join(0.2)  # it may have answered just now
            self._process.kill()
        self._process.join(LIMIT)
        self._process.close()
        self._channel.close()

    def _receive(self, kind: str, limit: float) -> Any:
        if not self._channel.poll(limit):
            raise HangError(f"process {self.pid} gave no answer in {limit:.0f} s:\n{self._dump()}")
        try:
            found, content = self._channel.recv()
        except (EOFError, ConnectionError):
            self._process.join(LIMIT)
            raise FailedError(f"process {self.pid} ended with {self._process.exitcode}, without answer") from None
        if found == "failed":
            raise FailedError(f"in process {self.pid}: {content}")
        assert found == kind, f"process {self.pid}: expected {kind!r}, and it sent {found, content!r}"
        return content

    def _dump(self) -> str:
        os.kill(self.pid, signal.SIGCONT)
        os.kill(self.pid, signal.SIGUSR1)
        time.sleep(0.5)
        return self._stacks.read_text() or "(no stacks: it is not even in Python)"


class Crew:
    """Processes by "fork" or "spawn"; when its ``with`` block ends, those that still run are killed."""

    def __init__(self, method: str = "fork") -> None:
        self._context: Any = multiprocessing.get_context(method)
        self._workers: list[Worker] = []
        self._directory = tempfile.TemporaryDirectory(prefix="rack-stacks-")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        for worker in self._workers:
            worker.end()
        self._directory.cleanup()

    def prepare(self, function: Callable[..., object], *args: object) -> Worker:
        """Start a process that runs ``function(*args)`` when it is told to :meth:`Worker.go`."""
        stacks = Path(self._directory.name, str(len(self._workers)))
        worker = Worker(self._context, stacks, function, args)
        self._workers.append(worker)
        return worker

    def start(self, function: Callable[..., object], *args: object) -> Worker:
        worker = self.prepare(function, *args)
        worker.ready()
        worker.go()
        return worker


def run(
    function: Callable[..., object], arguments: Iterable[tuple[Any, ...]], method: str = "fork", limit: float = LIMIT
) -> list[Any]:
    """Run ``function(*args)`` in a process for each ``args``, all at the same moment; return the results in order."""
    deadline = time.monotonic() + limit
    with Crew(method) as crew:
        workers = [crew.prepare(function, *args) for args in arguments]
        for worker in workers:
            worker.ready(max(0, deadline - time.monotonic()))
        for worker in workers:
            worker.go()
        return [worker.result(max(0, deadline - time.monotonic())) for worker in workers]


def run_script(source: str, *args: object, limit: float = LIMIT) -> str:
    """Run a program of its own, which must end well and write nothing to stderr; return what it writes to stdout."""
    source = "import faulthandler, sys\nfaulthandler.register(10, all_threads=True)\n" + textwrap.dedent(source)
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", "-c", source, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    try:
        output, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.send_signal(10)  # SIGUSR1, on Linux
        time.sleep(0.5)
        process.kill()
        raise HangError(f"the program did not end in {limit} s:\n{process.communicate()[1]}") from None
    assert (process.returncode, errors) == (0, ""), f"exit code {process.returncode}: {errors}"
    return output


def private_memory() -> int:
    """Return how many bytes of memory this process has for itself: not its maps of files."""
    with open("/proc/self/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["RssAnon"].split()[0]) * 1024


def assert_sound(store: PersistentDict[Any, Any] | PersistentSet[Any]) -> None:
    """Check a store from the inside and, for nobody may write to it meanwhile, from the outside.

    The outside is what ``rack verify`` does, and lmdb.verify, which walks the pages of a file without LMDB.
    """
    with store:
        count = len(store)
        assert store.check() == count
    report = verify(store.name, **{name: store._arguments[name] for name in ("hash", "serdes", "key_serdes")})
    assert (report.sound, report.entries) == (True, count), report.as_dict()
    path = Path(store.name)
    for file in path.parent.iterdir():
        if re.fullmatch(re.escape(path.name) + r"-\d{4}\.lmdb", file.name):
            findings = lmdb.verify.verify(str(file), subdir=False)  # type: ignore[no-untyped-call]
            assert not findings, f"{file}: {findings[:5]}"
