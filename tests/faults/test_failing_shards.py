"""Whichever operation of whichever shard fails: the caller is told, nothing else is lost, nothing is left behind.

Every public operation of both containers is done again and again, each time with another number of operations of the
shards before they begin to fail (:mod:`tests.support.faulty`): in the long form every number, in the short one some,
which the seed chooses.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
from collections.abc import Callable, Iterator, MappingView
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict, PersistentSet, StoreFullError
from rack.container.base import Container
from rack.store import registry
from tests.conformance.life_suite import ARGUMENTS, public_operations
from tests.support.faulty import Fault
from tests.support.faulty import fault as fault
from tests.support.processes import assert_sound, default_engine
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

Function = Callable[[Any, Any], Any]  # of a container and another store of its kind

KEYS = [*"abcdefgh", "long" * 200, "long" * 201]
OTHERS = [*"efghijkl", "long" * 201, "long" * 202]
CONTENT: dict[type, Any] = {PersistentDict: dict.fromkeys(KEYS, 1), PersistentSet: set(KEYS)}
OTHER: dict[type, Any] = {PersistentDict: dict.fromkeys(OTHERS, 2), PersistentSet: set(OTHERS)}


def _in_a_batch(d: Any, other: Any) -> None:
    with d.batch() as batch:
        for key in OTHERS:
            batch[key] = 3
        del batch["a"]
        del batch["k"]
        del batch["absent"]


def _in_a_batch_of_a_set(s: Any, other: Any) -> None:
    with s.batch() as batch:
        for key in OTHERS:
            batch.add(key)
        batch.discard("a")
        batch.discard("k")


def _change_while_iterating(d: Any, other: Any) -> None:
    for key in d:
        d[key] = 9
        d.pop(key + "x", None)


def _look_at_a_snapshot(container: Any, other: Any) -> Any:
    with container.snapshot() as then:
        return _content(then)


_OF_SNAPSHOTS: dict[str, Function] = {
    "snapshot": _look_at_a_snapshot,
    "backup": lambda container, other: container.backup(container.name + "-made"),
}
#: Operations with arguments that make them do more than those of ARGUMENTS, and combinations.
MORE: dict[type, dict[str, Function]] = {
    PersistentDict: {
        "batch with writes": _in_a_batch,
        "change while iterating": _change_while_iterating,
        "update with many": lambda d, other: d.update(dict.fromkeys(OTHERS, 5)),
        "update with a store": lambda d, other: d.update(other),
        "update with pairs and keywords": lambda d, other: d.update(((key, 4) for key in OTHERS), more=1),
        "get_many of many": lambda d, other: d.get_many(OTHERS),
        "contains_many of many": lambda d, other: list(d.contains_many(OTHERS)),
        "delete_many of many": lambda d, other: d.delete_many(OTHERS),
        "equal to a store": lambda d, other: d == other,
        "equal to its copy": lambda d, other: d == dict.fromkeys(KEYS, 1),
        "transform what is not there": lambda d, other: d.transform("z", lambda value: 7),
        "setdefault of what is not there": lambda d, other: d.setdefault("z", 7),
        "add what is not there": lambda d, other: d.add("z", 7),
        "compare and set what is there": lambda d, other: d.compare_and_set("long" * 200, 1, 2),
        "popitem": lambda d, other: len(d.popitem()),
        "copy with a name": lambda d, other: d.copy(name=d.name + "-made"),
        "copy to another shape": lambda d, other: d.copy(name=d.name + "-made", shards=3, serdes="pickle"),
        "fromkeys with a name": lambda d, other: type(d).fromkeys(KEYS, 1, name=d.name + "-made", shards=2),
        "merge with a store": lambda d, other: d | other,
        "scan": lambda d, other: list(d.scan("b", prefix="long", reverse=True)),
        "shards": lambda d, other: len(d.shards()),
        "backup": lambda d, other: d.backup(d.name + "-made"),
        "all values": lambda d, other: list(d.values()),
        "all items": lambda d, other: list(reversed(d.items())),
        "a value in values": lambda d, other: 2 in d.values(),
        "an item in items": lambda d, other: ("a", 1) in d.items(),
        "keys & keys": lambda d, other: d.keys() & other.keys(),
        "keys | keys": lambda d, other: d.keys() | other.keys(),
        "items - items": lambda d, other: d.items() - other.items(),
        "keys ^ keys": lambda d, other: d.keys() ^ other.keys(),
        **_OF_SNAPSHOTS,
        "disjoint keys": lambda d, other: d.keys().isdisjoint(other.keys()),
    },
    PersistentSet: {
        "batch with writes": _in_a_batch_of_a_set,
        "update with many": lambda s, other: s.update(OTHERS, other),
        "add_many of many": lambda s, other: s.add_many(OTHERS),
        "discard_many of many": lambda s, other: s.discard_many(OTHERS),
        "contains_many of many": lambda s, other: list(s.contains_many(OTHERS)),
        "add what is not there": lambda s, other: s.add("z"),
        "remove what is not there": lambda s, other: s.discard("z"),
        "pop": lambda s, other: s.pop() in KEYS,
        "scan": lambda s, other: list(s.scan("b", "long", limit=5)),
        "shards": lambda s, other: len(s.shards()),
        "backup": lambda s, other: s.backup(s.name + "-made"),
        "copy with a name": lambda s, other: s.copy(name=s.name + "-made"),
        "union with a name": lambda s, other: s.union(other, OTHERS, name=s.name + "-made"),
        "intersection with a name": lambda s, other: s.intersection(other, OTHERS, name=s.name + "-made"),
        "difference with a name": lambda s, other: s.difference(other, OTHERS, name=s.name + "-made"),
        "symmetric difference with a name": lambda s, other: s.symmetric_difference(OTHERS, name=s.name + "-made"),
        **{
            f"{name} with {what}": lambda s, other, name=name, pick=pick: getattr(s, name)(pick(other))
            for name in ("union", "intersection", "difference", "symmetric_difference", "isdisjoint")
            for what, pick in {"a store": lambda other: other, "a stream": lambda other: iter(OTHERS)}.items()
        },
        **{
            f"{name} with {what}": lambda s, other, name=name, pick=pick: getattr(s, name)(pick(other))
            for name in ("intersection_update", "difference_update", "symmetric_difference_update", "issubset")
            for what, pick in {"a store": lambda other: other, "a stream": lambda other: iter(OTHERS)}.items()
        },
        **_OF_SNAPSHOTS,
        "equal to a store": lambda s, other: s == other,
        "less than a set": lambda s, other: s < {*KEYS, "more"},
        "symmetric difference with itself": lambda s, other: s.symmetric_difference_update(s),
    },
}


def operations(cls: type) -> dict[str, Function]:
    """Return every public operation of a container, by name, and those of MORE."""
    kind = cls._kind  # type: ignore[attr-defined]
    plain = {}
    for name in public_operations(cls):
        if name == "stat":  # which looks at the files, and asks no shard
            continue
        arguments = ARGUMENTS.get((kind, name), ARGUMENTS.get(("both", name)))
        assert arguments is not None, f"{name} is new: say in life_suite.ARGUMENTS how to call it"
        plain[name] = lambda container, other, name=name, arguments=arguments: getattr(container, name)(*arguments)
    return plain | MORE[cls]


#: Of one key: when they fail nothing has changed.
ATOMIC = {
    "add",
    "compare_and_set",
    "discard",
    "incr",
    "remove",
    "setdefault",
    "transform",
    "__setitem__",
    "__delitem__",
}
ATOMIC |= {"add what is not there", "compare and set what is there", "transform what is not there"}
ATOMIC |= {"pop", "popitem", "setdefault of what is not there"}
#: Do nothing at all to the shards of an empty or a closed container, by intention.
LAZY = {"items", "keys", "values", "shards", "batch"}
LAZY |= {"snapshot", "backup"}  # of the engines' shards themselves
#: Done again on what is there after half of it, they come to something else.
NOT_AGAIN = {"__ixor__", "symmetric_difference_update with a store", "symmetric_difference_update with a stream"}
NOT_AGAIN |= {"symmetric_difference_update"}


def outcome(function: Function, container: Any, other: Any) -> Any:
    """Do an operation, to the end if it streams; return what it gives, or the built-in exception it raises."""
    try:
        found = function(container, other)
        if hasattr(found, "__enter__") and not isinstance(found, Container):
            with found:
                return None
        return list(found) if isinstance(found, Iterator) else found
    except (KeyError, TypeError) as error:
        return type(error)


def settled(found: Any, container: Any) -> Any:
    """Return the content of a store that an operation has made, which is closed; else what it gave."""
    if not isinstance(found, Container):
        return found if not isinstance(found, MappingView) else None
    if found is container:
        return None
    with found:
        return _content(found)


def _content(container: Any) -> Any:
    return dict(container.items()) if isinstance(container, PersistentDict) else set(container)


def _files(directory: Path) -> set[str]:
    return {file.name for file in directory.iterdir() if not file.name.endswith(("-wal", "-shm"))}


def _full() -> BaseException:
    return StoreFullError(errno.ENOSPC, "injected")


class Bench:
    """A container, another store, and what one operation does with them when nothing fails."""

    def __init__(self, cls: Any, directory: Path, fault: Fault, function: Function) -> None:
        self.directory, self.fault, self.function, self.cls = directory, fault, function, cls
        self.container = cls(directory / "store", shards=2, key_serdes="str").open()
        self.other = cls(directory / "other", shards=2, key_serdes="str").open()
        self.other.update(OTHER[cls])

    def learn(self) -> None:
        """Do the operation without faults."""
        self.reset()
        self.fault.count = 0
        self.answer = self.do()
        self.steps = self.fault.count
        self.after = _content(self.container)
        self.reset()
        self.files = _files(self.directory)
        self.descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0

    def do(self) -> Any:
        return settled(outcome(self.function, self.container, self.other), self.container)

    def reset(self) -> None:
        self.container.clear()
        self.container.update(CONTENT[self.cls])
        for file in self.directory.glob("store-made*"):
            file.unlink()

    def assert_each_key_is_as_before_or_as_after(self) -> None:
        found, before = _content(self.container), CONTENT[self.cls]
        assert len(self.container) == len(found)
        for key in {*found, *before, *self.after}:
            if isinstance(found, set):
                assert (key in found) in (key in before, key in self.after), key
            else:
                assert found.get(key) in (before.get(key), self.after.get(key)), key

    def assert_nothing_is_left(self) -> None:
        assert _files(self.directory) == self.files
        assert len(registry._all) == 2
        if self.descriptors:
            assert len(os.listdir("/proc/self/fd")) == self.descriptors
        assert _content(self.other) == OTHER[self.cls]

    def close(self) -> None:
        self.container.close()
        self.other.close()


CASES = [(cls, name) for cls in (PersistentDict, PersistentSet) for name in operations(cls)]


@pytest.mark.parametrize(("cls", "name"), CASES, ids=[f"{cls._kind}-{name}" for cls, name in CASES])
def test_an_operation_whose_shards_fail_at_any_point_says_so_and_loses_nothing(
    cls: type, name: str, tmp_path: Path, fault: Fault, seed: int, long: bool
) -> None:
    rng = random.Random(seed)
    if default_engine() != "lmdb" and not long and rng.random() < 0.7:
        pytest.skip("some in the short form")
    bench = Bench(cls, tmp_path, fault, operations(cls)[name])
    try:
        bench.learn()
        assert bench.steps or name in LAZY, "it does not use the shards"
        steps = list(range(bench.steps + 5))  # which shard pop() finds something in is a matter of luck
        for done in steps if long else sorted(rng.sample(steps, min(3, len(steps)))):
            failure = None
            with fault.after(done, _full):
                try:
                    answer = outcome(bench.function, bench.container, bench.other)
                except StoreFullError as error:
                    failure = str(error)
            assert bool(failure) == bool(fault.raised), "the failure was not told"
            if not failure:
                assert settled(answer, bench.container) == bench.answer
                assert len(bench.container) == len(bench.after)
                bench.reset()
                continue
            assert "injected" in failure
            if name in ATOMIC:
                assert _content(bench.container) == CONTENT[cls]
            else:
                bench.assert_each_key_is_as_before_or_as_after()
            bench.assert_nothing_is_left()
            bench.do()
            assert name in NOT_AGAIN or len(bench.container) == len(bench.after)
            if name not in NOT_AGAIN | ATOMIC:
                assert _content(bench.container) == bench.after
            bench.reset()
    finally:
        bench.close()
    assert_sound(bench.container)
    assert_sound(bench.other)


def test_filter_new_yields_what_it_added_before_a_shard_failed(tmp_path: Path, fault: Fault) -> None:
    with PersistentSet[str](tmp_path / "store", shards=5) as store:
        for done in range(5):
            store.clear()
            store.update(KEYS)
            yielded = []
            with fault.after(done, _full), contextlib.suppress(StoreFullError):
                for element in store.filter_new(KEYS + OTHERS):
                    yielded.append(element)  # noqa: PERF402 - extend() would lose them
            assert sorted(yielded) == sorted(set(store) - set(KEYS))
            assert set(store.filter_new(OTHERS)) == {*OTHERS} - {*KEYS, *yielded}
    assert_sound(store)


def test_keys_popped_and_elements_added_around_failures_are_each_given_to_one(
    tmp_path: Path, fault: Fault, seed: int
) -> None:
    rng = random.Random(seed)
    with PersistentSet[int](tmp_path / "store", shards=4) as store:
        store.update(range(100))
        popped, added = [], []
        while store:
            with fault.after(rng.randrange(20), _full):
                try:
                    while True:
                        popped.append(store.pop())
                except (StoreFullError, KeyError):
                    pass
        for number in range(100):
            with fault.after(rng.randrange(2), _full):
                try:
                    if store.add(number % 60):
                        added.append(number % 60)
                except StoreFullError:
                    pass
        assert sorted(popped) == list(range(100))
        assert sorted(added) == sorted(store)
    assert_sound(store)
