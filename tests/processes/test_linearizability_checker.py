"""The checker of :mod:`tests.support.linearizability` accepts what is linearizable, rejects what is not, is fast."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from tests.support.linearizability import STEPS, NotLinearizableError, Operation, check


def history(*rows: tuple[Any, ...]) -> list[Operation]:
    """Make a history on one key of rows (start, end, name, arguments, answer), each of a process of its own."""
    return [
        Operation(at, "k", name, args, start, end, answer) for at, (start, end, name, args, answer) in enumerate(rows)
    ]


RIGHT = {
    "nothing": (),
    "one after the other": (
        (0, 1, "put", (1,), None),
        (2, 3, "get", (), 1),
        (4, 5, "pop", (), 1),
        (6, 7, "get", (), None),
    ),
    "a read beside a write sees the old": ((0, 9, "put", (1,), None), (1, 2, "get", (), None)),
    "a read beside a write sees the new": ((0, 9, "put", (1,), None), (1, 2, "get", (), 1)),
    "the second of two overlapping calls was first": ((0, 9, "add", (1,), False), (1, 8, "add", (2,), True)),
    "overlapping increments": ((0, 9, "incr", (1,), 2), (1, 8, "incr", (1,), 1)),
    "who died may have written": ((0, None, "put", (1,), None), (5, 6, "get", (), 1)),
    "who died may not have written": ((0, None, "put", (1,), None), (5, 6, "get", (), None)),
    "who died may write late": ((0, None, "put", (1,), None), (5, 6, "get", (), None), (7, 8, "get", (), 1)),
}
WRONG = {
    "stale read": ((0, 1, "put", (1,), None), (2, 3, "get", (), None)),
    "read from the future": ((0, 1, "get", (), 1), (2, 3, "put", (1,), None)),
    "read of what nobody wrote": ((0, 9, "put", (1,), None), (1, 8, "get", (), 2)),
    "read goes back": ((0, 9, "put", (1,), None), (1, 2, "get", (), 1), (3, 4, "get", (), None)),
    "lost update": ((0, 5, "incr", (1,), 1), (1, 6, "incr", (1,), 1)),
    "lost write": ((0, 1, "put", (1,), None), (2, 3, "put", (2,), None), (4, 5, "get", (), 1)),
    "double winner": ((0, 5, "add", (1,), True), (1, 6, "add", (2,), True)),
    "no winner": ((0, 5, "add", (1,), False), (1, 6, "add", (2,), False)),
    "popped twice": ((0, 1, "put", (1,), None), (2, 5, "pop", (), 1), (3, 6, "pop", (), 1)),
    "deleted twice": ((0, 1, "put", (1,), None), (2, 5, "delete", (), True), (3, 6, "delete", (), True)),
    "swapped twice": (
        (0, 1, "put", (1,), None),
        (2, 5, "compare_and_set", (1, 2), True),
        (3, 6, "compare_and_set", (1, 3), True),
    ),
    "two defaults": ((0, 5, "setdefault", (1,), 1), (1, 6, "setdefault", (2,), 2)),
    "who died wrote twice": (
        (0, None, "put", (1,), None),
        (5, 6, "get", (), 1),
        (7, 8, "pop", (), 1),
        (9, 10, "get", (), 1),
    ),
    "what timed out happened": ((0, 1, "put", (1,), None), (5, 6, "get", (), 2)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_history_that_some_order_explains_is_accepted(name: str) -> None:
    check(history(*RIGHT[name]))


@pytest.mark.parametrize("name", WRONG)
def test_a_history_that_no_order_explains_is_rejected(name: str) -> None:
    with pytest.raises(NotLinearizableError, match="no order explains"):
        check(history(*WRONG[name]))


def test_keys_are_objects_of_their_own() -> None:
    one, two = history((0, 1, "put", (1,), None), (2, 3, "get", (), None))
    assert check([one, two._replace(key="other")]) == 2


def simulated(seed: int, length: int, processes: int) -> list[Operation]:
    """Make a linearizable history: each operation has its instant at random within its time."""
    rng = random.Random(seed)
    free_at = [0] * processes
    operations = []
    for _ in range(length):
        process = rng.randrange(processes)
        name = rng.choice(sorted(STEPS))
        count = {"compare_and_set": 2}.get(name, 0 if name in ("get", "in", "delete", "pop") else 1)
        start = free_at[process] + rng.randrange(1, 20)
        free_at[process] = end = start + rng.randrange(2, 60)
        instant = rng.uniform(start, end)
        operations.append((instant, process, name, tuple(rng.randrange(3) for _ in range(count)), start, end))
    value, history = None, []
    for _, process, name, arguments, start, end in sorted(operations):
        answer, value = STEPS[name](value, *arguments)
        history.append(Operation(process, "k", name, arguments, start, end, answer))
    rng.shuffle(history)
    return history


def test_simulated_histories_are_accepted_and_with_one_wrong_answer_rejected(seed: int) -> None:
    for turn in range(20):
        right = simulated(seed + turn, 200, 6)
        check(right)
        wrong = list(right)
        at = random.Random(seed + turn).randrange(len(wrong))
        wrong[at] = wrong[at]._replace(answer="nobody wrote this")
        with pytest.raises(NotLinearizableError):
            check(wrong)


def test_thousands_of_operations_on_one_key_take_seconds(seed: int, long: bool) -> None:
    count = 20_000 if long else 4_000
    operations = simulated(seed, count, 8)
    started = time.process_time()
    assert check(operations) == count
    assert time.process_time() - started < count / 400
