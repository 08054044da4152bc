"""Ctrl-Z: a command is stopped where no other process has to wait for it."""

from __future__ import annotations

import functools
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rack import PersistentSet
from tests.cli.test_ends import ENVIRONMENT, elements, pipe_of, running
from tests.cli.test_waiting import LINES, WORKERS, lines_of, stopped, write_and_stop
from tests.cli.test_waiting import store as store
from tests.support.commands import RACK
from tests.support.processes import default_engine
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")


@contextmanager
def stopped_command(process: subprocess.Popen[bytes], with_workers: bool = False) -> Iterator[list[int]]:
    """Press Ctrl-Z; the block runs while the processes are stopped. Gives them, or none if it had ended before."""
    os.killpg(process.pid, signal.SIGTSTP) if with_workers else os.kill(process.pid, signal.SIGTSTP)
    pids = [process.pid]
    deadline = time.monotonic() + 10
    while (found := os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT)) is None:
        assert time.monotonic() < deadline, "it does not stop"
        time.sleep(0.001)
    if found.si_code != os.CLD_STOPPED:
        yield []
        return
    assert found.si_status == signal.SIGTSTP  # as the shell expects it of Ctrl-Z, and not SIGSTOP
    try:
        if with_workers:
            pids += children(process.pid)
            while not all(is_stopped(pid) for pid in pids):
                assert time.monotonic() < deadline, "a worker does not stop"
                time.sleep(0.001)
        yield pids
    finally:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def assert_holds_nothing(pid: int, store: Path) -> None:
    """A stopped process is in no transaction, neither of writing nor of reading, and keeps nobody from opening."""
    with PersistentSet[bytes](store, serdes="bytes", timeout=3) as seen:
        assert seen._held is not None
        for shard in seen._held.shards:
            shard.add(b"zz", b"")
            shard.delete(b"zz")
            if default_engine() == "lmdb":
                readers = shard._env.readers()  # type: ignore[attr-defined]
                mine = [line.split() for line in readers.splitlines() if line.split()[:1] == [str(pid)]]
                assert all(fields[-1] == "-" for fields in mine), readers
            else:  # a reader would keep the log from being moved into the database as a whole
                connection = shard._connection  # type: ignore[attr-defined]
                busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                assert not busy


@pytest.fixture
def big(tmp_path: Path) -> list[bytes]:
    """The lines of the file "big": a second or two of work."""
    lines = [b"%d %s" % (number, b"x" * 20) for number in range(600_000)]
    (tmp_path / "big").write_bytes(b"\n".join(lines) + b"\n")
    return lines


@pytest.mark.one_in(2)
@WORKERS
def test_ctrl_z_of_one_dedup_keeps_no_other_waiting(
    store: Path, big: list[bytes], workers: int, seed: int, long: bool
) -> None:
    rng = random.Random(seed)
    outputs = [store.with_name(f"out{number}") for number in range(2)]
    args = ("dedup", "s", "big", "--quiet", "--workers", workers)
    with open(outputs[0], "wb") as out, running(*args, stdout=out, cwd=store.parent) as process:
        while not os.path.getsize(outputs[0]):
            time.sleep(0.001)
        stops = 0
        for _ in range(30 if long else 4):
            time.sleep(rng.uniform(0, 0.1))
            with stopped_command(process, workers > 1) as pids:
                stops += bool(pids)
                for pid in pids:
                    assert_holds_nothing(pid, store)
        assert stops
        with stopped_command(process, workers > 1), open(outputs[1], "wb") as out_of_other:
            other = subprocess.run(
                [*RACK, *map(str, args)],
                stdout=out_of_other,
                stderr=subprocess.PIPE,
                cwd=store.parent,
                env=ENVIRONMENT,
                timeout=60,
                check=True,
            )
            assert other.stderr == b""  # "waiting ..."
        assert process.wait(60) == 0
    written = [line for output in outputs for line in output.read_bytes().splitlines()]
    assert sorted(written) == sorted(big)


#: Commands that take a while on the stores "big" and "other".
LONG = [
    ["scan", "big"],
    ["union", "big", "other"],
    ["union", "big", "other", "-o", "out"],
    ["compare", "big", "other"],
    ["copy", "big", "out"],
    ["copy", "big", "out", "--shards", "3"],
    ["verify", "big"],
    ["repair", "big"],
    ["backup", "big", "out"],
    ["compact", "big"],
    ["reshard", "big", "5"],
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A directory with the stores "big" and "other" of an engine, to be copied: it takes a second to make them."""

    @functools.cache
    def make(engine: str) -> Path:
        directory = tmp_path_factory.mktemp(engine)
        for name, numbers in (("big", range(300_000)), ("other", range(100_000, 400_000))):
            with PersistentSet[bytes](directory / name, serdes="bytes", shards=2, engine=engine) as store:
                store.update(b"%d" % number for number in numbers)
        return directory

    return make


@pytest.mark.one_in(3)
@pytest.mark.parametrize("command", LONG, ids=" ".join)
def test_ctrl_z_of_any_command_stops_it_between_its_transactions(
    command: list[str], made: Callable[[str], Path], tmp_path: Path, seed: int, long: bool
) -> None:
    rng = random.Random(seed)
    stops = 0
    for attempt in range(10):  # it may end before it is stopped
        directory = tmp_path / str(attempt)
        shutil.copytree(made(default_engine()), directory)
        with running(*command, cwd=directory, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None and stops < (30 if long else 3):
                time.sleep(rng.uniform(0, 0.15))
                with stopped_command(process) as pids:
                    stops += bool(pids)
                    # These hold the store while they look at it: others wait to open it, and say so.
                    if pids and command[0] not in ("verify", "repair", "backup", "compact", "reshard"):
                        assert_holds_nothing(process.pid, directory / "big")
            assert process.wait(60) in (0, 1)
        if stops:
            break
    assert stops


@pytest.mark.one_in(2)
@WORKERS
def test_it_stops_even_while_it_waits_for_a_process_that_is_stopped(store: Path, workers: int) -> None:
    with (
        stopped(write_and_stop, store, 2) as worker,
        open(store.with_name("out"), "wb") as out,
        running("dedup", "s", "f", "--workers", workers, stdout=out, cwd=store.parent) as process,
    ):
        lines_of(process, "waiting")
        with stopped_command(process, workers > 1) as pids:
            assert pids
            # The one that it waited for goes on, and so do others: who is stopped in the queue is not in the way.
            os.kill(worker.pid, signal.SIGCONT)
            with PersistentSet[bytes](store, serdes="bytes", timeout=10) as seen:
                seen.update(LINES[:500])
        assert process.wait(30) == 0
    assert {*store.with_name("out").read_bytes().splitlines()} <= {*LINES}
    assert elements(store) == {*LINES}


def test_it_stops_while_nobody_reads_its_output(store: Path, big: list[bytes]) -> None:
    with running("dedup", "s", "big", cwd=store.parent) as process:
        assert pipe_of(process.stdout).read(1)
        time.sleep(0.5)  # now it waits in a write
        with stopped_command(process) as pids:
            assert pids
            assert_holds_nothing(process.pid, store)
        process.kill()


def test_a_signal_that_comes_while_it_is_stopped_ends_it_when_it_goes_on(store: Path) -> None:
    with running("dedup", "s", "-q", cwd=store.parent, stdin=subprocess.PIPE) as process:
        pipe_of(process.stdin).write(b"a\n")
        assert pipe_of(process.stdout).read(2) == b"a\n"
        with stopped_command(process) as pids:
            assert pids
            os.kill(process.pid, signal.SIGTERM)
            time.sleep(0.1)
            assert process.poll() is None
        assert process.wait(10) == -signal.SIGTERM
        assert pipe_of(process.stderr).read() == b""


def test_ctrl_z_that_was_ignored_stays_ignored(store: Path) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGTSTP, signal.SIG_IGN)

    with running("dedup", "s", cwd=store.parent, stdin=subprocess.PIPE, preexec_fn=ignore) as process:
        pipe_of(process.stdin).write(b"a\n")
        assert pipe_of(process.stdout).read(2) == b"a\n"
        os.kill(process.pid, signal.SIGTSTP)
        pipe_of(process.stdin).write(b"b\n")
        assert pipe_of(process.stdout).read(2) == b"b\n"
        pipe_of(process.stdin).close()
        assert process.wait(10) == 0
