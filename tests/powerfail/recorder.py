"""Runs writers under the shim, stops them at moments, and keeps what is in their files, and on their disk, then."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

PAGE = 4096
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Content:
    """Of a file: all pages are full, and padded with zeros behind the length."""

    pages: tuple[bytes, ...]
    length: int


@dataclass(frozen=True, slots=True)
class Kept:
    """What is surely on the disk of a file, and for each page when it was put there (see shim.c)."""

    content: Content
    when: array[int]


@dataclass(frozen=True, slots=True)
class Moment:
    """All writers stand still."""

    time: float  # CLOCK_MONOTONIC, seconds
    waited: float  # seconds that the writers have been stopped by then
    position: int  # in the events
    present: dict[int, Content]  # by inode
    durable: dict[int, Kept]
    logs: dict[str, int]  # how long each writer's log is


def build_shim(directory: Path) -> Path:
    """Compile the shim, or skip the test where that cannot be."""
    if sys.platform != "linux":
        pytest.skip("power failures are simulated with LD_PRELOAD, on Linux")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("power failures are simulated with a small C library, and there is no compiler (cc)")
    shim = directory / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run([compiler, "-O2", "-Wall", "-shared", "-fPIC", "-o", shim, source], check=True, timeout=60)
    return shim


class Recorder:
    """Runs one program, and what it forks, on the files of ``place``, which are taken to be on the disk at first."""

    def __init__(self, shim: Path, directory: Path, slowness: float = 0.002) -> None:
        self.place = directory / "place"
        self.logs = directory / "logs"
        self._shadow = directory / "shadow"
        for path in (self.place, self.logs, self._shadow):
            path.mkdir(parents=True, exist_ok=True)
        (self._shadow / "lock").touch()
        (self._shadow / "events").touch()
        self._environment = {
            **os.environ,
            "LD_PRELOAD": str(shim),
            "PYTHONPATH": str(ROOT),
            "RACK_POWER_PLACE": str(self.place.resolve()),
            "RACK_POWER_SHADOW": str(self._shadow.resolve()),
            "RACK_POWER_SLOWNESS": str(int(slowness * 1e6)),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._pages: dict[bytes, bytes] = {}  # equal ones are held once
        self._waited = 0.0
        self.moments: list[Moment] = []
        self._take_over()

    def _take_over(self) -> None:
        with open(self._shadow / "events", "w") as events:
            for file in self.place.iterdir():
                inode = file.stat().st_ino
                events.write(f"create {inode} {file.name}\nsync {inode}\n")
                os.link(file, self._shadow / f"{inode}.live")
                shutil.copyfile(file, self._shadow / f"{inode}.pages")
                when = array("Q", [1] * -(-file.stat().st_size // PAGE))
                (self._shadow / f"{inode}.when").write_bytes(when.tobytes())
            events.write("names\n")

    def start(self, *arguments: object) -> None:
        """Run ``python ARGUMENTS...``."""
        self._process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env=self._environment,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()

    def wait(self, limit: float) -> None:
        """Wait until the program ends; it must end well."""
        assert self._process is not None
        _, errors = self._process.communicate(timeout=limit)
        assert (self._process.returncode, errors) == (0, b""), errors.decode()

    def is_running(self) -> bool:
        assert self._process is not None
        return self._process.poll() is None

    def wait_until_something_happens(self, limit: float = 30) -> None:
        """Wait until the program has done something to the files, or has ended."""
        before = (self._shadow / "events").stat().st_size
        deadline = time.monotonic() + limit
        while self.is_running() and (self._shadow / "events").stat().st_size == before:
            assert time.monotonic() < deadline, "the program does nothing"
            time.sleep(0.0005)

    @contextlib.contextmanager
    def nobody_in_the_shim(self) -> Iterator[None]:
        with open(self._shadow / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def is_ours(self, pid: int) -> bool:
        assert self._process is not None
        try:
            return os.getpgid(pid) == self._process.pid
        except ProcessLookupError:
            return False

    def kill(self, pid: int) -> None:
        """Kill a process, but not in the middle of the shim's work, which stands for the kernel's."""
        with self.nobody_in_the_shim(), contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """Stop everything for as long as it takes to read the files, and keep them as a moment."""
        assert self._process is not None
        with self.nobody_in_the_shim():
            started = time.monotonic()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGSTOP)
            _wait_until_stopped(self._process.pid)
            now = time.monotonic()
            try:
                position = (self._shadow / "events").stat().st_size
                raw = {int(file.stem): file.read_bytes() for file in self._shadow.glob("*.live")}
                kept = {int(file.stem): file.read_bytes() for file in self._shadow.glob("*.pages")}
                when = {inode: array("Q", (self._shadow / f"{inode}.when").read_bytes()) for inode in kept}
                logs = {file.name: file.stat().st_size for file in self.logs.iterdir()}
                listing = {file.name: file.stat().st_ino for file in self.place.iterdir()}
            finally:
                self._waited += time.monotonic() - started
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGCONT)
        assert set(listing.values()) <= raw.keys(), "the shim does not know all files"
        present = {inode: self._content(data) for inode, data in raw.items()}
        durable = {inode: Kept(self._content(data), when[inode]) for inode, data in kept.items()}
        self.moments.append(Moment(now, self._waited, position, present, durable, logs))

    def events(self) -> bytes:
        return (self._shadow / "events").read_bytes()

    def _content(self, data: bytes) -> Content:
        pages = []
        for at in range(0, len(data), PAGE):
            page = data[at : at + PAGE]
            if len(page) < PAGE:
                page += bytes(PAGE - len(page))
            pages.append(self._pages.setdefault(page, page))
        return Content(tuple(pages), len(data))


def record(recorder: Recorder, rng: random.Random, seconds: float, pause: float = 0.03) -> None:
    """Stop at moments for so long, about ``pause`` seconds apart, but some in quick succession."""
    if not recorder.moments:  # later, waiting for a sync would have all moments come right after one
        recorder.wait_until_something_happens()
    end = time.monotonic() + seconds
    while time.monotonic() < end and recorder.is_running():
        time.sleep(rng.expovariate(1 / pause))
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            recorder.stop()
            time.sleep(0.001 * rng.random())


def _wait_until_stopped(group: int) -> None:
    deadline = time.monotonic() + 20
    while any(state not in "TtZX" for state in _states(group)):
        assert time.monotonic() < deadline, "a process does not stop"
        time.sleep(0.0002)


def _states(group: int) -> Iterator[str]:
    """Yield the state of each thread of each process of a group."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if os.getpgid(int(name)) != group:
                continue
            for thread in os.listdir(f"/proc/{name}/task"):
                with open(f"/proc/{name}/task/{thread}/stat") as stat:
                    yield stat.read().rpartition(")")[2].split()[0]
