"""A batch collects writes in an object: its container is never in a mode, whoever enters and leaves the block."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rack import LockTimeoutError, NotOpenError, PersistentDict, PersistentSet, RackError, ReadOnlyError, StoreFullError
from rack.container import batch as batch_module
from rack.shard.base import Pair
from rack.shard.proxy import ShardProxy
from rack.store.registry import OpenStore
from rack.store.sharded import Store
from tests.support.faulty import Fault
from tests.support.faulty import fault as fault
from tests.support.processes import Crew, hear, run, tell
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine
from tests.test_threads import run_threads

pytestmark = pytest.mark.usefixtures("engine")

Dict = PersistentDict[Any, Any]
Set = PersistentSet[Any]


@pytest.fixture(params=[1, 5])
def d(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    with Dict(tmp_path / "d", shards=request.param) as d:
        yield d


@pytest.fixture
def s(tmp_path: Path) -> Any:
    with Set(tmp_path / "s", shards=3) as s:
        yield s


def elsewhere(container: Any) -> Any:
    """Return what another process sees."""
    return run(_content, [(type(container), container.name)])[0]


def _content(cls: Any, name: str) -> Any:
    with cls(name, flag="r") as container:
        return dict(container) if isinstance(container, PersistentDict) else set(container)


# What it is for


def test_a_batch_is_written_when_its_block_ends_and_changes_nothing_until_then(d: Dict) -> None:
    d.update({"a": 1, "b": 2, "long" * 200: 3})
    before = dict(d)
    with d.batch() as batch:
        batch["a"] = 10
        batch["new"] = [1, 2]
        batch["long" * 300] = "value"
        del batch["b"]
        del batch["long" * 200]
        del batch["absent"]
        assert dict(d) == before
        assert "new" not in d
    assert dict(d) == elsewhere(d) == {"a": 10, "new": [1, 2], "long" * 300: "value"}


def test_a_batch_of_a_set_adds_and_discards(s: Set) -> None:
    s.update(["a", "b", frozenset({1})])
    with s.batch() as batch:
        batch.add("a")
        batch.add("c")
        batch.discard("b")
        batch.discard("absent")
        batch.discard({1})  # found as the frozenset that is equal to it, as in `set`
        batch.discard(object())
        assert len(s) == 3
    assert s == elsewhere(s) == {"a", "c"}


def test_of_writes_to_one_key_the_last_one_counts(d: Dict, s: Set) -> None:
    d["gone"] = 0
    with d.batch() as batch, s.batch() as other:
        batch[1] = "first"
        batch[1.0] = "second"
        batch["twice"] = 1
        del batch["twice"]
        del batch["gone"]
        batch["gone"] = "back"
        other.add("x")
        other.discard("x")
        other.discard("y")
        other.add("y")
    assert dict(d) == {1: "second", "gone": "back"}
    assert s == {"y"}


def test_any_batch_does_to_a_store_what_it_does_to_a_dict(d: Dict, seed: int) -> None:
    rng = random.Random(seed)
    model: dict[Any, Any] = {}
    for _ in range(30):
        with d.batch() as batch:
            for _ in range(rng.randrange(40)):
                key = rng.choice([rng.randrange(20), "long" * 200 + str(rng.randrange(5))])
                if rng.random() < 0.4:
                    del batch[key]
                    model.pop(key, None)
                else:
                    batch[key] = model[key] = rng.random()
        assert dict(d) == model


class _Journal(ShardProxy):
    """Notes which bulk writes reach a shard."""

    writes: list[tuple[int, int, int]] = []  # noqa: RUF012 - one for all

    def change_many(self, pairs: list[Pair], keys: list[bytes]) -> None:
        self.writes.append((id(self), len(pairs), len(keys)))
        super().change_many(pairs, keys)


def test_what_a_batch_does_to_a_shard_is_one_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Journal, "writes", [])
    plain = OpenStore.store
    monkeypatch.setattr(OpenStore, "store", lambda held, mode: Store([_Journal(s) for s in plain(held, mode).shards]))
    with Dict(tmp_path / "d", shards=4) as d:
        d.update((number, 0) for number in range(30_000))
        with d.batch() as batch:
            for number in range(30_000, 90_000):
                batch[number] = 1
            for number in range(30_000):
                del batch[number]
        assert len(_Journal.writes) == len({shard for shard, _, _ in _Journal.writes}) == 4
        assert [sum(column) for column in zip(*_Journal.writes, strict=True)][1:] == [60_000, 30_000]
        assert len(d) == 60_000
        with d.batch():
            pass
        assert len(_Journal.writes) == 4, "a batch of nothing is a transaction"


def test_a_batch_of_as_many_writes_as_it_holds_is_one_transaction_of_one_shard(tmp_path: Path) -> None:
    with Dict(tmp_path / "d", shards=1) as d:
        rng = random.Random(1)
        d.update((rng.randbytes(16), bytes(400)) for _ in range(60_000))
        with d.batch() as batch:
            for number in range(99_999):
                batch[rng.randbytes(16)] = number
        assert len(d) == 159_999


# Leaving it


def test_an_exception_in_the_block_writes_nothing(d: Dict, s: Set) -> None:
    d["a"] = 1
    for error in (ZeroDivisionError, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit, SystemExit):
        with pytest.raises(error), d.batch() as batch, s.batch() as other:  # noqa: PT012 - the end of the block raises
            batch["b"] = 2
            del batch["a"]
            other.add("x")
            raise error
    assert dict(d) == {"a": 1}
    assert not s
    with d.batch() as batch:
        batch["c"] = 3
    assert dict(d) == {"a": 1, "c": 3}


def test_what_cannot_be_stored_is_an_error_at_once_and_the_rest_is_written(d: Dict, s: Set) -> None:
    with d.batch() as batch, s.batch() as other:
        batch["a"] = 1
        for call in (
            lambda: batch.__setitem__("bad", object()),
            lambda: batch.__setitem__(object(), 1),
            lambda: batch.__setitem__([], 1),
            lambda: batch.__delitem__([]),
            lambda: other.add(object()),
            lambda: other.add([]),
            lambda: other.discard([]),
        ):
            with pytest.raises(TypeError):
                call()
        del batch[object()]  # cannot be there, and is not
        batch["b"] = 2
        other.add("x")
    assert dict(d) == {"a": 1, "b": 2}
    assert s == {"x"}


def test_a_batch_is_used_once_and_only_inside_of_its_block(d: Dict, s: Set) -> None:
    for container, use in (
        (d, lambda batch: batch.__setitem__("k", 1)),
        (d, lambda batch: batch.__delitem__("k")),
        (s, lambda batch: batch.add("k")),
        (s, lambda batch: batch.discard("k")),
    ):
        batch = container.batch()
        with pytest.raises(NotOpenError, match="has not begun"):
            use(batch)
        with batch:
            with pytest.raises(NotOpenError, match="once"):
                batch.__enter__()
            use(batch)
        with pytest.raises(NotOpenError, match="over"):
            use(batch)
        with pytest.raises(NotOpenError, match="once"), batch:
            raise AssertionError("the block runs")
        assert issubclass(NotOpenError, RackError)
        assert not hasattr(batch, "__getitem__")


def test_a_store_closed_inside_of_the_block_is_an_error_at_its_end(d: Dict, s: Set) -> None:
    with pytest.raises(NotOpenError), d.batch() as batch:  # noqa: PT012 - the end of the block raises
        batch["a"] = 1
        d.close()
        with pytest.raises(NotOpenError):
            batch["b"] = 2
    d.open()
    with d.batch() as batch:
        batch["c"] = 3
        d.close()
        d.open()
        batch["d"] = 4
    assert dict(d) == {"c": 3, "d": 4}
    s.close()
    with pytest.raises(NotOpenError), s.batch():
        raise AssertionError("the block runs")
    s.open()


def test_a_read_only_store_refuses_what_a_batch_writes(d: Dict) -> None:
    d["a"] = 1
    with d.snapshot() as then, pytest.raises(ReadOnlyError), then.batch() as batch:
        batch["a"] = 2
    assert d["a"] == 1


# Its budget


def test_more_than_the_budget_is_written_before_the_block_ends(
    d: Dict, s: Set, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ZeroDivisionError), d.batch() as batch:  # noqa: PT012 - the end of the block raises
        for number in range(40):
            batch[number] = bytes(1 << 20)
        assert 25 < len(d) < 40
        written = len(d)
        raise ZeroDivisionError
    assert len(d) == written
    monkeypatch.setattr(batch_module, "_WRITES", 100)
    with pytest.raises(ZeroDivisionError), s.batch() as other:  # noqa: PT012 - the end of the block raises
        for number in range(250):
            other.add(number)
        raise ZeroDivisionError
    assert s == set(range(200))


def test_what_could_not_be_written_is_held_on_and_written_later(
    tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "_WRITES", 50)
    with Dict(tmp_path / "d", shards=4) as d:
        for done in range(4):
            d.clear()
            with d.batch() as batch:
                for number in range(49):
                    batch[number] = 1
                with fault.after(done, lambda: LockTimeoutError("injected")), pytest.raises(LockTimeoutError):
                    batch[49] = 1
                assert 0 < len(batch._held) <= 50
                del batch[0]
                batch[1] = 2
            assert dict(d) == {1: 2, **dict.fromkeys(range(2, 50), 1)}


def test_an_end_that_fails_says_so_and_the_batch_is_over(tmp_path: Path, fault: Fault) -> None:
    with Dict(tmp_path / "d", shards=4) as d:
        for done in range(4):
            d.clear()
            batch = d.batch().__enter__()
            for number in range(100):
                batch[number] = 1
            with fault.after(done, lambda: StoreFullError(28, "injected")), pytest.raises(StoreFullError):
                batch.__exit__(None, None, None)
            assert len({d._store.shards.index(d._route(d._dump_key(key))) for key in d}) == done
            with pytest.raises(NotOpenError):
                batch["later"] = 1


# Threads, tasks, processes


def test_a_batch_may_be_entered_in_one_thread_and_left_in_another(d: Dict) -> None:
    batch = d.batch()
    run_threads(batch.__enter__)
    run_threads(lambda: batch.__setitem__("a", 1))
    batch["b"] = 2
    run_threads(lambda: d.__setitem__("plain", 3))
    assert elsewhere(d) == {"plain": 3}
    run_threads(lambda: batch.__exit__(None, None, None))
    assert elsewhere(d) == {"a": 1, "b": 2, "plain": 3}


def test_threads_may_share_a_batch(d: Dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_module, "_WRITES", 100)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with d.batch() as batch:

            def work(me: int) -> None:
                for number in range(1000):
                    batch[me, number] = number
                    if number % 2:
                        del batch[me, number - 1]

            run_threads(*[lambda me=me: work(me) for me in range(4)])  # type: ignore[misc]
    finally:
        sys.setswitchinterval(interval)
    assert dict(d) == {(me, number): number for me in range(4) for number in range(1, 1000, 2)}


def test_a_write_that_races_with_the_end_of_the_block_is_written_or_refused(d: Dict) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for turn in range(50):
            batch = d.batch().__enter__()
            taken = []

            def work(turn: int = turn, batch: Any = batch, taken: list[Any] = taken) -> None:
                for number in range(1000):
                    try:
                        batch[turn, number] = 1
                    except NotOpenError:
                        return
                    taken.append((turn, number))

            run_threads(work, lambda batch=batch: batch.__exit__(None, None, None))  # type: ignore[misc]
            assert [key for key in taken if key not in d] == []
    finally:
        sys.setswitchinterval(interval)


def test_each_job_of_a_pool_has_a_batch_of_its_own(d: Dict) -> None:
    def work(number: int) -> None:
        with d.batch() as batch:
            for item in range(100):
                batch[number, item] = item
            d[number] = "at once"
            assert d[number] == "at once"
            if number % 5 == 0:
                raise ZeroDivisionError

    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(work, number) for number in range(40)]
        failed = [number for number, future in enumerate(done) if future.exception(60)]
    assert failed == list(range(0, 40, 5))
    assert len(d) == 40 + 32 * 100


def test_tasks_of_an_event_loop_have_batches_of_their_own(d: Dict, seed: int) -> None:
    rng = random.Random(seed)
    model: dict[Any, Any] = {}

    async def task(number: int) -> None:
        async def pause() -> None:
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)

        await pause()
        with d.batch() as batch:
            for item in range(20):
                batch[number, item] = 1
                await pause()
                assert (number, item) not in d
            d[number] = "plain"
            model[number] = "plain"
            assert d[number] == "plain"
            if number % 3 == 0:
                await asyncio.sleep(30)  # until it is cancelled
        model.update({(number, item): 1 for item in range(20)})
        assert (number, 0) in d

    async def main() -> None:
        tasks = [asyncio.create_task(task(number)) for number in range(12)]
        _, pending = await asyncio.wait(tasks, timeout=3)
        assert len(pending) == 4
        for each in pending:
            each.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results if result] == [asyncio.CancelledError] * 4

    asyncio.run(main())
    assert dict(d) == model == elsewhere(d)


def test_two_tasks_with_batches_and_a_third_without_do_not_meet(d: Dict) -> None:
    async def main() -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def first() -> None:
            with d.batch() as batch:
                batch["a"] = 1
                await begun.wait()
            assert elsewhere(d) == {"a": 1, "c": 1}
            ended.set()

        async def second() -> None:
            with d.batch() as batch:
                batch["b"] = 1
                d["c"] = 1
                assert elsewhere(d) == {"c": 1}
                begun.set()
                await ended.wait()

        await asyncio.gather(first(), second())

    asyncio.run(main())
    assert dict(d) == {"a": 1, "b": 1, "c": 1}


def test_a_batch_under_way_at_a_fork_is_the_parents(d: Dict) -> None:
    def work() -> None:
        with pytest.raises(NotOpenError, match="forked"):
            batch["child"] = 1
        with pytest.raises(NotOpenError, match="forked"):
            del batch["a"]
        batch.__exit__(None, None, None)
        d["plain"] = 1
        with d.batch() as own:
            own["own"] = 1
        tell()
        hear()

    with d.batch() as batch:
        batch["held"] = 1
        with Crew() as crew:
            child = crew.start(work)
            child.hear()
            assert dict(d) == {"plain": 1, "own": 1}
            batch["more"] = 1
            child.tell()
            child.result()
    assert dict(d) == {"plain": 1, "own": 1, "held": 1, "more": 1}


def test_a_fork_while_another_thread_writes_its_batch_leaves_a_child_that_can_leave_it(d: Dict) -> None:
    batch = d.batch().__enter__()
    with batch._lock:  # as while it is flushed
        statuses = []

        def fork() -> None:
            child = os.fork()
            if not child:
                signal.alarm(20)
                batch.__exit__(None, None, None)
                os._exit(0)
            statuses.append(os.waitpid(child, 0)[1])

        run_threads(fork)
        assert statuses == [0]
    batch.__exit__(None, None, None)


def test_a_child_that_leaves_the_block_of_its_parent_writes_nothing(d: Dict) -> None:
    def block() -> int:
        with d.batch() as batch:
            batch["held"] = "parent's"
            child = os.fork()
            if not child:
                d["own"] = "child's"
                return 0
            assert os.waitpid(child, 0)[1] == 0
            assert dict(d) == {"own": "child's"}
            return child

    parent = os.getpid()
    try:
        block()
    finally:
        if os.getpid() != parent:
            os._exit(bool(sys.exc_info()[0]))
    assert dict(d) == {"own": "child's", "held": "parent's"}


# Interrupts


class _Interrupt(BaseException):
    pass


@pytest.mark.parametrize("kind", ["dict", "set"])
def test_an_interrupt_at_any_instruction_leaves_all_writes_or_none_of_a_shard_and_no_mode(
    kind: str, tmp_path: Path, long: bool, seed: int
) -> None:
    """Raises at the k-th instruction of batch.py, for every k: the store goes on, and plain writes are written."""
    cls: Any = Dict if kind == "dict" else Set

    def use(container: Any) -> None:
        with container.batch() as batch:
            for number in range(3):
                batch.__setitem__(number, 1) if kind == "dict" else batch.add(number)
            batch.__delitem__("gone") if kind == "dict" else batch.discard("gone")

    with cls(tmp_path / "store", shards=1) as container:
        steps = _steps_of(lambda: use(container))
        assert steps > 100
        every = range(steps)
        for step in every if long else sorted(random.Random(seed).sample(every, 40)):
            container.clear()
            container.update({"gone": 1})
            _interrupted_at(step, lambda: use(container))
            assert set(container) in ({"gone"}, {0, 1, 2})
            container.update({"plain": 1})
            with container.batch() as batch:
                batch.__setitem__("later", 1) if kind == "dict" else batch.add("later")
            assert {"plain", "later"} <= set(container)
        assert {"plain", "later"} <= set(elsewhere(container))


def _steps_of(function: Callable[[], object]) -> int:
    """Return how many instructions of batch.py a function takes."""
    most = 1 << 30
    return most - _interrupted_at(most, function)


def _interrupted_at(step: int, function: Callable[[], object]) -> int:
    """Raise at the instruction ``step`` of batch.py, from 0; return how many were left to it in the end."""
    left = step

    def trace(frame: Any, event: str, arg: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename != batch_module.__file__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            if not left:
                sys.settrace(None)
                raise _Interrupt
            left -= 1
        return trace

    before = sys.gettrace()
    try:
        sys.settrace(trace)
        function()
    except _Interrupt:
        pass
    finally:
        sys.settrace(before)
    return left
