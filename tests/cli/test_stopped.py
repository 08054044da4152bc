"""Processes that are stopped: commands do not keep others waiting, and can be ended while others keep them waiting."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rack import LockTimeoutError, PersistentDict, PersistentSet
from tests.cli.test_ends import ENVIRONMENT, RACK, elements, pipe_of, running
from tests.support.processes import Crew, Worker, default_engine
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

SHARDS = 4
LINES = [b"%d" % number for number in range(1000)]
WORKERS = pytest.mark.parametrize("workers", [1, 3])
ENDING = pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])


# Another process is stopped where it holds a lock


def _write_and_stop(path: Path, number: int) -> None:
    with PersistentSet[bytes](path, serdes="bytes") as store:
        assert store._held is not None
        store._held.shards[number].modify(b"zz", lambda value: os.kill(os.getpid(), signal.SIGSTOP))


def _open_and_stop(path: Path) -> None:
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


@WORKERS
@ENDING
def test_a_command_says_once_whom_it_waits_for_and_is_ended_at_once(
    store: Path, workers: int, signum: signal.Signals
) -> None:
    with stopped(_write_and_stop, store, 2) as worker, open(store.with_name("out"), "wb") as out:
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
            assert len(last) == (default_engine() == "lmdb")  # where it had come to its input
    # What was stored was written: no line is lost.
    written = store.with_name("out").read_bytes().splitlines()
    assert {*written} == elements(store)
    assert len({*written}) == len(written)


@WORKERS
def test_it_goes_on_when_the_other_does_and_loses_and_doubles_no_line(store: Path, workers: int) -> None:
    args = ("dedup", store.name, "f", "--workers", workers)
    with (
        stopped(_write_and_stop, store, 1) as worker,
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
    with stopped(_write_and_stop, store, 3) as worker, open(store.with_name("out"), "wb") as out:
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
]


@pytest.mark.parametrize("command", OPENERS, ids=" ".join)
def test_every_command_that_waits_to_open_a_store_says_so_and_is_ended_at_once(store: Path, command: list[str]) -> None:
    with stopped(_open_and_stop, store) as worker:
        with running(*command, cwd=store.parent) as process:
            said = lines_of(process, "waiting")
            who = f"waiting for process {worker.pid} (stopped), which has locked s.rack\n"
            assert said == f"rack {command[0]}: {who}"
            os.kill(process.pid, signal.SIGINT)
            ended = time.monotonic()
            assert process.wait(10) == -signal.SIGINT
            assert time.monotonic() - ended < 2
        with running(*command, "--timeout", "0.4", cwd=store.parent) as process:
            assert process.wait(20) == (2 if command[0] == "compare" else 1)
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
]


@pytest.mark.parametrize("command", READERS, ids=" ".join)
def test_readers_do_not_wait_for_a_writer_that_is_stopped(store: Path, command: list[str]) -> None:
    with stopped(_write_and_stop, store, 0), running(*command, cwd=store.parent) as process:
        assert process.wait(20) == 0
        assert "waiting" not in pipe_of(process.stderr).read().decode()


def test_a_backup_waits_for_the_writer_and_says_so(store: Path) -> None:
    with stopped(_write_and_stop, store, 1) as worker:
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


# The command is stopped itself


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
    lines = [b"%d %s" % (number, b"x" * 50) for number in range(250_000)]
    (tmp_path / "big").write_bytes(b"\n".join(lines) + b"\n")
    return lines


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
]


@pytest.mark.parametrize("command", LONG, ids=" ".join)
def test_ctrl_z_of_any_command_stops_it_between_its_transactions(
    command: list[str], tmp_path: Path, seed: int, long: bool
) -> None:
    rng = random.Random(seed)
    for name, numbers in (("big", range(300_000)), ("other", range(100_000, 400_000))):
        with PersistentSet[bytes](tmp_path / name, serdes="bytes", shards=2) as store:
            store.update(b"%d" % number for number in numbers)
    stops = 0
    with running(*command, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and stops < (30 if long else 5):
            time.sleep(rng.uniform(0, 0.15))
            with stopped_command(process) as pids:
                stops += bool(pids)
                # These hold the store while they look at it: others wait to open it, and say so.
                if pids and command[0] not in ("verify", "repair", "backup"):
                    assert_holds_nothing(process.pid, tmp_path / "big")
        assert process.wait(60) in (0, 1)
    assert stops


@WORKERS
def test_it_stops_even_while_it_waits_for_a_process_that_is_stopped(store: Path, workers: int) -> None:
    with (
        stopped(_write_and_stop, store, 2) as worker,
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


def test_a_signal_that_comes_while_it_is_stopped_ends_it_when_it_goes_on(store: Path, big: list[bytes]) -> None:
    with running("dedup", "s", "big", "-q", cwd=store.parent, stdout=subprocess.DEVNULL) as process:
        time.sleep(0.6)
        with stopped_command(process) as pids:
            assert pids
            os.kill(process.pid, signal.SIGTERM)
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


# In the library, with timeout=, whom one waits for is known as well


def test_a_shard_tells_who_is_in_the_way(store: Path) -> None:
    with stopped(_write_and_stop, store, 1) as worker:
        seen = PersistentSet[bytes](store, serdes="bytes", timeout=0.2)
        if default_engine() == "sqlite3":
            with pytest.raises(LockTimeoutError) as caught:
                seen.open()
            expected = f"process {worker.pid} (stopped), which has locked {store}-0001.sqlite3-lock"
            assert caught.value.waited_for == expected
            return
        with seen:
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
