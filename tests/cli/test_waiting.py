"""Commands that a stopped process keeps waiting: they say so, can be ended, and lose nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rack import LockTimeoutError, PersistentDict, PersistentSet
from tests.cli.test_ends import elements, pipe_of, running
from tests.cli.test_messages import VERDICTS
from tests.support.processes import Crew, Worker, default_engine
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

SHARDS = 4
LINES = [b"%d" % number for number in range(1000)]
WORKERS = pytest.mark.parametrize("workers", [1, 3])
ENDING = pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])


# Another process is stopped where it holds a lock


def write_and_stop(path: Path, number: int) -> None:
    with PersistentSet[bytes](path, serdes="bytes") as store:
        assert store._held is not None
        store._held.shards[number].modify(b"zz", lambda value: os.kill(os.getpid(), signal.SIGSTOP))


def open_and_stop(path: Path) -> None:
    """Stop inside the gate that everybody passes who opens the store."""
    from rack.store import opening

    def stopping(*args: Any) -> str:
        os.kill(os.getpid(), signal.SIGSTOP)
        return admit(*args)

    admit, opening.admit = opening.admit, stopping
    with PersistentSet[bytes](path, serdes="bytes"):
        pass


@contextmanager
def stopped(function: Callable[..., None], *args: object) -> Iterator[Worker]:
    """Run a function in a process until it stops; let it go on and end when the block ends."""
    with Crew() as crew:
        worker = crew.start(function, *args)
        os.waitid(os.P_PID, worker.pid, os.WSTOPPED | os.WNOWAIT)
        yield worker
        os.kill(worker.pid, signal.SIGCONT)
        worker.result()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with PersistentSet[bytes](tmp_path / "s", serdes="bytes", shards=SHARDS):
        pass
    (tmp_path / "f").write_bytes(b"\n".join(LINES))
    return tmp_path / "s"


def lines_of(process: subprocess.Popen[bytes], until: str, seconds: float = 20) -> str:
    """Return what the command has written to standard error, up to a line that has ``until`` in it."""
    os.set_blocking(pipe_of(process.stderr).fileno(), False)
    text = ""
    deadline = time.monotonic() + seconds
    while until not in text or not text.endswith("\n"):
        assert time.monotonic() < deadline, f"no {until!r} in {text!r}"
        text += (pipe_of(process.stderr).read() or b"").decode()
        time.sleep(0.01)
    os.set_blocking(pipe_of(process.stderr).fileno(), True)
    return text


def waits_for(worker: Worker, store: Path, number: int) -> str:
    """What a command says that waits for the writer of a shard."""
    file = f"{store.name}-{number:04d}.{default_engine()}"
    what = f"has the writer lock of {file}" if default_engine() == "lmdb" else f"has locked {file}-lock"
    return f"rack dedup: waiting for process {worker.pid} (stopped), which {what}\n"


@pytest.mark.one_in(2)
@WORKERS
@ENDING
def test_a_command_says_once_whom_it_waits_for_and_is_ended_at_once(
    store: Path, workers: int, signum: signal.Signals
) -> None:
    with stopped(write_and_stop, store, 2) as worker, open(store.with_name("out"), "wb") as out:
        args = ("dedup", store.name, "f", "--workers", workers)
        started = time.monotonic()
        with running(*args, stdout=out, cwd=store.parent) as process:
            said = lines_of(process, "waiting")
            assert said == waits_for(worker, store, 2)
            assert time.monotonic() - started > 1
            time.sleep(1.3)  # it does not say it again
            os.kill(process.pid, signum)
            ended = time.monotonic()
            assert process.wait(10) == -signum
            assert time.monotonic() - ended < 2  # on a busy machine; 0.2 s alone
            last = pipe_of(process.stderr).read().decode().splitlines()
            assert all(line.startswith("rack dedup: interrupted: ") for line in last)
            assert len(last) == 1
    # What was stored was written: no line is lost.
    written = store.with_name("out").read_bytes().splitlines()
    assert {*written} == elements(store)
    assert len({*written}) == len(written)


@WORKERS
def test_it_goes_on_when_the_other_does_and_loses_and_doubles_no_line(store: Path, workers: int) -> None:
    args = ("dedup", store.name, "f", "--workers", workers)
    with (
        stopped(write_and_stop, store, 1) as worker,
        open(store.with_name("out"), "wb") as out,
        running(*args, stdout=out, cwd=store.parent) as process,
    ):
        lines_of(process, "waiting")
        os.kill(worker.pid, signal.SIGCONT)
        assert process.wait(30) == 0
    written = store.with_name("out").read_bytes().splitlines()
    assert written == LINES if workers == 1 else sorted(written) == sorted(LINES)
    assert elements(store) == {*LINES}


@WORKERS
def test_with_a_time_limit_it_gives_up_and_says_so(store: Path, workers: int) -> None:
    with stopped(write_and_stop, store, 3) as worker, open(store.with_name("out"), "wb") as out:
        args = ("dedup", store.name, "f", "--workers", workers, "--timeout", "0.6")
        with running(*args, stdout=out, cwd=store.parent) as process:
            assert process.wait(20) == 1
            (error,) = pipe_of(process.stderr).read().decode().splitlines()
    expected = waits_for(worker, store, 3).replace("waiting for", "gave up after 0.6 s of waiting for")
    assert error + "\n" == expected
    assert {*store.with_name("out").read_bytes().splitlines()} == elements(store)


#: Commands that open a store "s", in the places of which another process may be.
OPENERS = [
    ["dedup", "s", "f"],
    ["dedup", "s", "f", "--workers", "2"],
    ["scan", "s"],
    *(["union", "s", "s"], ["diff", "s", "s", "-o", "out"]),
    ["compare", "s", "s"],
    *(["copy", "s", "out"], ["copy", "s", "out", "--workers", "2"]),
    ["backup", "s", "out"],
    *(["keys", "s"], ["has", "s", "1"], ["count", "s"], ["add", "s", "1"], ["del", "s", "1"]),
    *(["dump", "s", "out.jsonl"], ["load", "s", "f", "--format", "tsv", "--no-header"]),
]


@pytest.mark.one_in(3)
@pytest.mark.parametrize("engine", ["lmdb"], indirect=True)  # the gate is before any engine
@pytest.mark.parametrize("command", OPENERS, ids=" ".join)
def test_every_command_that_waits_to_open_a_store_says_so_and_is_ended_at_once(store: Path, command: list[str]) -> None:
    with stopped(open_and_stop, store) as worker:
        with running(*command, cwd=store.parent) as process:
            said = lines_of(process, "waiting")
            who = f"waiting for process {worker.pid} (stopped), which has locked s.rack\n"
            assert said == f"rack {command[0]}: {who}"
            os.kill(process.pid, signal.SIGINT)
            ended = time.monotonic()
            assert process.wait(10) == -signal.SIGINT
            assert time.monotonic() - ended < 2
        with running(*command, "--timeout", "0.4", cwd=store.parent) as process:
            assert process.wait(20) == (2 if command[0] in VERDICTS else 1)
            error = pipe_of(process.stderr).read().decode()
            assert error == f"rack {command[0]}: {who.replace('waiting', 'gave up after 0.4 s of waiting')}"
    assert not [*store.parent.glob("out*"), *store.parent.glob("*anonymous*")]


READERS = [
    ["scan", "s"],
    ["union", "s", "s"],
    ["diff", "s", "s", "-o", "out"],
    ["compare", "s", "s"],
    ["copy", "s", "out"],
    ["verify", "s"],
    ["keys", "s"],
    ["count", "s"],
    ["dump", "s"],
    ["stat", "s"],
]


@pytest.mark.parametrize("command", READERS, ids=" ".join)
def test_readers_do_not_wait_for_a_writer_that_is_stopped(store: Path, command: list[str]) -> None:
    with stopped(write_and_stop, store, 0), running(*command, cwd=store.parent) as process:
        assert process.wait(20) == 0
        assert "waiting" not in pipe_of(process.stderr).read().decode()


def test_a_backup_waits_for_the_writer_and_says_so(store: Path) -> None:
    with stopped(write_and_stop, store, 1) as worker:
        with running("backup", "s", "out", cwd=store.parent) as process:
            assert lines_of(process, "waiting") == waits_for(worker, store, 1).replace("dedup", "backup")
            os.kill(process.pid, signal.SIGTERM)
            ended = time.monotonic()
            assert process.wait(10) == -signal.SIGTERM
            assert time.monotonic() - ended < 2
        assert not [*store.parent.glob("out*")]
        with running("backup", "s", "out", cwd=store.parent) as process:
            lines_of(process, "waiting")
            os.kill(worker.pid, signal.SIGCONT)
            assert process.wait(20) == 0


# In the library, with timeout=, whom one waits for is known as well


def test_a_shard_tells_who_is_in_the_way(store: Path) -> None:
    with stopped(write_and_stop, store, 1) as worker:
        seen = PersistentSet[bytes](store, serdes="bytes", timeout=0.2)
        if default_engine() == "sqlite3":
            with seen:
                with pytest.raises(LockTimeoutError) as caught:
                    seen._store.shards[1].add(b"key", b"")
                expected = f"process {worker.pid} (stopped), which has locked {store}-0001.sqlite3-lock"
                assert caught.value.waited_for == expected
            return
        with seen:
            assert len(seen) == 0  # all shards are open
            held = seen._held
            assert held is not None
            assert [shard.holder() is None for shard in held.shards] == [True, False, True, True]
            expected = f"process {worker.pid} (stopped), which has the writer lock of {store}-0001.lmdb"
            assert held.shards[1].holder() == expected


def test_nobody_is_in_the_way_of_himself(store: Path) -> None:
    with PersistentDict[str, int](store.with_name("d"), shards=1) as counts:
        held = counts._held
        assert held is not None
        found: list[str | None] = []
        held.shards[0].modify(b"key", lambda value: found.append(held.shards[0].holder()))
        assert found == [None]
