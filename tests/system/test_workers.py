"""``workers=N``: processes do the parts of an operation; none is left behind, and nothing goes unnoticed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import pytest

from rack import DeserializationError, PersistentDict, RackError, SerializationError
from rack.errors import WorkerError
from rack.system import workers as rack_workers
from rack.system.fanout import fan_out
from tests.support.processes import Crew, assert_sound, run, run_script, tell
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

Report = Callable[[int], object]


@pytest.fixture(params=["fork", "spawn"], autouse=True)
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(rack_workers, "_may_fork", lambda: request.param == "fork")
    yield request.param
    assert not active_children(), "a worker was left behind"


def double(task: int, report: Report) -> tuple[int, int]:
    report(task)
    time.sleep(0.01 * (7 - task))  # the first tasks take longest
    return 2 * task, os.getpid()


def test_results_come_in_the_order_of_the_tasks_from_several_processes() -> None:
    done: list[int] = []
    results = fan_out(double, (), range(7), 3, done.append)
    assert [result for result, _ in results] == [0, 2, 4, 6, 8, 10, 12]
    assert os.getpid() not in {pid for _, pid in results}
    assert len({pid for _, pid in results}) > 1
    assert sum(done) == sum(range(7))


def test_one_worker_is_this_process() -> None:
    done: list[int] = []
    assert fan_out(double, (), [3, 1], 1, done.append) == [(6, os.getpid()), (2, os.getpid())]
    assert done == [3, 1]
    assert fan_out(double, (), [3], 5) == [(6, os.getpid())]
    assert fan_out(double, (), [], 5) == []


@pytest.mark.parametrize(("workers", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)])
def test_a_number_of_workers_that_is_none_is_refused(workers: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="workers="):
        fan_out(double, (), [1, 2], workers)


def write(d: PersistentDict[int, int], shard: int, report: Report) -> int:
    keys = list(d.shards()[shard])
    d.update((key, -key) for key in keys)
    report(len(keys))
    return len(keys)


@pytest.mark.usefixtures("engine")
def test_an_open_container_is_open_in_the_workers(tmp_path: Path) -> None:
    with PersistentDict(tmp_path / "d", shards=4) as d:
        d.update((number, number) for number in range(1, 1000))
        with d.batch():
            d[1000] = 1000  # is committed first: the workers are to see it
            assert sum(fan_out(write, (d,), range(4), 2)) == 1000
        assert dict(d) == {number: -number for number in range(1, 1001)}
    assert_sound(d)


@pytest.mark.usefixtures("engine")
def test_a_check_by_workers_finds_what_one_alone_finds(tmp_path: Path) -> None:
    with PersistentDict(tmp_path / "d", shards=5, key_serdes="str", serdes="json") as d:
        d.update((f"{number}", number) for number in range(1000))
        assert d.check(workers=3) == d.check() == 1000
        d._route(b"bad").put(b"bad", b"no JSON")
        for workers in (1, 3):
            with pytest.raises(DeserializationError, match=r"no JSON|JSONDecodeError"):
                d.check(workers=workers)
        del d["bad"]
    assert_sound(d)


class OddError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")  # which cannot be loaded again


def fail(how: str, task: int, report: Report) -> Any:
    if task == 2:
        if how == "KeyError":
            raise KeyError("missing", 5)
        if how == "unpicklable":
            raise OddError(1, 2)
        if how == "connection":
            raise ConnectionResetError("of something else")
        if how == "exit":
            raise SystemExit(3)
        if how == "result":
            return lambda: None
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(7)
    time.sleep(0.05)
    return task


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("KeyError", KeyError, "missing"),
        ("connection", ConnectionResetError, "of something else"),
        ("unpicklable", WorkerError, "OddError in a worker process: 1 and 2"),
        ("exit", WorkerError, "SystemExit"),
        ("result", Exception, "pickle"),
        ("killed", WorkerError, "killed by signal 9"),
        ("ended", WorkerError, "exit code 7"),
    ],
)
def test_a_workers_end_is_an_error_here_and_ends_the_others(how: str, error: type[Exception], message: str) -> None:
    began = time.monotonic()
    with pytest.raises(error, match=message) as caught:
        fan_out(fail, (how,), [0, 1, 2, *range(3, 500)], 2)
    assert time.monotonic() - began < 10, "the others were not ended"
    if how not in ("killed", "ended"):
        assert ("in dumps" if how == "result" else "in fail") in caught.value.__notes__[0]
    if error is WorkerError:
        assert isinstance(caught.value, RackError)


def sleep(task: int, report: Report) -> None:
    report(1)
    time.sleep(60)


def test_an_interrupt_here_ends_the_workers() -> None:
    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fan_out(sleep, (), range(3), 3, interrupt)
    assert time.monotonic() - began < 10


def stubborn(task: int, report: Report) -> None:
    while True:
        try:
            report(1)
            time.sleep(60)
        except BaseException:
            continue


def test_a_worker_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rack_workers, "_PATIENCE", 0.2)

    def interrupt(done: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fan_out(stubborn, (), range(2), 2, interrupt)


def sleep_and_tell(pids: Any, task: int, report: Report) -> None:
    os.write(pids, b"%d\n" % os.getpid())
    while True:
        time.sleep(0.05)
        report(1)


def lead_workers() -> None:
    there, here = os.pipe()
    rack_workers._may_fork = lambda: True

    def listen(done: int) -> None:
        tell(sorted(map(int, os.read(there, 1000).split())))

    fan_out(sleep_and_tell, (here,), range(2), 2, listen)


@pytest.mark.parametrize("method", ["fork"], indirect=True)
def test_workers_end_when_their_parent_is_killed() -> None:
    with Crew() as crew:
        parent = crew.start(lead_workers)
        pids = parent.hear()
        parent.kill()
    deadline = time.monotonic() + 10
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline, "workers outlive their parent"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_cannot_be_sent_is_named(tmp_path: Path, method: str) -> None:
    with PersistentDict(tmp_path / "d", serdes=(bytes, lambda value: bytes(value)), key_serdes="str") as d:
        d["a"] = b"1"
        if method == "spawn":
            with pytest.raises(SerializationError, match="serdes and hash that are defined in a module"):
                fan_out(write, (d,), range(2), 2)
        else:
            assert sum(fan_out(count, (d,), range(16), 2)) == 1
    assert len(d.open()) == 1
    d.close()


def test_new_interpreters_do_not_run_the_program_again(tmp_path: Path) -> None:
    output = run_script(
        """
        import threading
        from rack import PersistentDict, SerializationError

        print("begun")
        def loads(data): return int(data)
        def dumps(value): return b"%d" % value
        end = threading.Event()
        threading.Thread(target=end.wait).start()
        with PersistentDict(sys.argv[1], shards=3) as d:
            d.update((number, number) for number in range(100))
            with d.copy(workers=2) as copy:
                print(len(copy))
        with PersistentDict(sys.argv[1] + "2", serdes=(loads, dumps)) as d:
            try:
                d.copy(workers=2)
            except SerializationError as error:
                print(error)
        end.set()
        """,
        tmp_path / "d",
    )
    begun, copied, refused = output.splitlines()
    assert (begun, copied) == ("begun", "100")
    assert "other than the program itself" in refused


def count(d: PersistentDict[Any, Any], shard: int, report: Report) -> int:
    return len(d.shards()[shard])


def in_a_pool(task: int) -> list[int]:
    return [pid for _, pid in fan_out(double, (), [5, 6], 2)]


def test_a_process_that_may_have_no_children_does_it_itself() -> None:
    with get_context("fork").Pool(1) as pool:
        pids = pool.map(in_a_pool, [0])[0]
    assert len(set(pids)) == 1


def test_workers_are_forked_only_while_no_other_thread_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(_forks, [(False,), (True,)]) == [True, False]


def _forks(threads: bool) -> bool:
    import importlib
    import sys

    may_fork = importlib.reload(rack_workers)._may_fork
    end = threading.Event()
    others = [threading.Thread(target=end.wait, name=name) for name in ("rack-timed", *["other"] * threads)]
    for other in others:
        other.start()
    try:
        return may_fork() or sys.platform != "linux"
    finally:
        end.set()
