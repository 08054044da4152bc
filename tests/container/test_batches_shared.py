"""Batches of threads, of tasks of an event loop, over forks, and interrupted: none disturbs another one."""

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

from rack import NotOpenError
from rack.container import batch as batch_module
from tests.container.test_batches import Dict, Set, elsewhere
from tests.container.test_batches import d as d
from tests.container.test_batches import s as s
from tests.processes.test_threads import run_threads
from tests.support.faulty import fault as fault
from tests.support.processes import Crew, hear, tell
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")


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
