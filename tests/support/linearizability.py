"""A checker of timed histories: is there an order of the operations on one key that explains every answer?

A history is linearizable if each operation can be given one instant between its call and its return, so that all of
them, done one after the other at these instants, give the answers that were given (Herlihy and Wing, 1990). The keys
of a store are objects of their own, so each is checked for itself.

The search is Wing and Gong's (1993) with the two ideas of Gavin Lowe, "Testing for linearizability" (2017): an
operation is given its instant just in time, at the latest when it returns; and what is remembered is only the set of
configurations that are possible now: the key's value, and which of the operations under way have had their instant.
Two ways to the same configuration are one. With a few processes there are few of them, so that the time is about
linear in the length of the history.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple


class Operation(NamedTuple):
    """One operation on one key. ``end`` is None if its process died in it: it may have happened, and still may."""

    process: int
    key: Any
    name: str
    arguments: tuple[Any, ...]
    start: int  # nanoseconds of a clock that all processes share
    end: int | None
    answer: Any


class NotLinearizableError(AssertionError):
    """No order of the operations explains the answers. The message has those around the first contradiction."""


def _add(value: Any, new: Any) -> tuple[Any, Any]:
    return (True, new) if value is None else (False, value)


def _setdefault(value: Any, default: Any) -> tuple[Any, Any]:
    return (default, default) if value is None else (value, value)


def _compare_and_set(value: Any, old: Any, new: Any) -> tuple[Any, Any]:
    return (True, new) if value is not None and value == old else (False, value)


def mixed(value: int | None, number: int) -> int:
    """What ``transform`` makes of a value in a test: another order of calls gives another result."""
    return ((value or 0) * 31 + number) % (1 << 40)


#: What each operation does: value before (None: absent) and arguments -> answer, value after.
STEPS: dict[str, Callable[..., tuple[Any, Any]]] = {
    "get": lambda value: (value, value),
    "in": lambda value: (value is not None, value),
    "put": lambda value, new: (None, new),
    "add": _add,
    "delete": lambda value: (value is not None, None),
    "pop": lambda value: (value, None),
    "setdefault": _setdefault,
    "incr": lambda value, delta: ((value or 0) + delta,) * 2,
    "compare_and_set": _compare_and_set,
    "transform": lambda value, number: (mixed(value, number),) * 2,
}
_READS = ("get", "in")


def check(history: Iterable[Operation]) -> int:
    """Prove each key's history linearizable; every key is absent at first. Return the number of operations.

    :raises NotLinearizableError: some key's history is not.
    """
    by_key: defaultdict[Any, list[Operation]] = defaultdict(list)
    for operation in history:
        if operation.end is not None or operation.name not in _READS:  # a read that nobody has seen says nothing
            by_key[operation.key].append(operation)
    for operations in by_key.values():
        _check_key(operations)
    return sum(map(len, by_key.values()))


def _check_key(operations: list[Operation]) -> None:
    calls = [(operation.start, 0, number) for number, operation in enumerate(operations)]
    returns = [(operation.end, 1, number) for number, operation in enumerate(operations) if operation.end is not None]
    under_way: set[int] = set()
    possible: set[tuple[Any, frozenset[int]]] = {(None, frozenset())}
    for _, is_return, number in sorted(calls + returns):
        if not is_return:
            under_way.add(number)
            continue
        possible = _when_returned(number, possible, under_way, operations)
        under_way.remove(number)
        if not possible:
            raise NotLinearizableError(_contradiction(number, operations))


def _when_returned(
    number: int, possible: set[tuple[Any, frozenset[int]]], under_way: set[int], operations: list[Operation]
) -> set[tuple[Any, frozenset[int]]]:
    """Return the configurations in which operation ``number`` has had its instant, reached from the possible ones."""
    reached = set()
    seen = set(possible)
    stack = list(possible)
    while stack:
        value, done = stack.pop()
        if number in done:
            reached.add((value, done - {number}))
            continue
        for each in under_way - done:
            operation = operations[each]
            answer, after = STEPS[operation.name](value, *operation.arguments)
            if operation.end is None or answer == operation.answer:
                configuration = (after, done | {each})
                if configuration not in seen:
                    seen.add(configuration)
                    stack.append(configuration)
    return reached


def _contradiction(number: int, operations: list[Operation]) -> str:
    failed = operations[number]
    assert failed.end is not None
    lines = [f"no order explains this answer: {failed}", "the operations around it, by start:"]
    around = sorted((each for each in operations if each.start <= failed.end), key=lambda each: each.start)
    lines += [f"  {each}" for each in around[-40:]]
    return "\n".join(lines)
