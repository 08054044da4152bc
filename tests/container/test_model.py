"""Random sequences of operations, by several handles and processes, answer as a built-in dict and set would."""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from rack import MismatchError, PersistentDict, PersistentSet
from rack.shard import ENGINES
from tests.conformance.model import dumped
from tests.support.model_operations import OPERATIONS, outcome, serve
from tests.support.processes import end_sound as end_sound

KEYS: list[Any] = [
    *("a", "b", "c", "", "é", b"a", 0, 1, 1.0, True, -1, 2.5, None, (), (1, "a"), (1.0, "a"), frozenset({1})),
    *("long" * 300, "long" * 301, b"\xff" * 511, b"\xff" * 600, ("t" * 600,)),
]
VALUES: list[Any] = [0, 1, 2.5, "text", [1, 2], "w" * 5_000, None]
keys = st.sampled_from(KEYS)
arguments = st.tuples(keys, st.sampled_from(VALUES), st.lists(keys, max_size=8))
calls = {kind: st.tuples(st.sampled_from(sorted(operations)), arguments) for kind, operations in OPERATIONS.items()}
any_call = st.one_of(*(st.tuples(st.just(kind), call) for kind, call in calls.items()))
handle_number = st.integers(0, 1)


class Model(RuleBasedStateMachine):
    """A dict and a set, each with two handles; ``models`` are the built-in ones beside them."""

    #: Whether keys are in order over all shards.
    is_ordered = True

    def __init__(self, engine: str, spawned: Any) -> None:
        super().__init__()
        self.engine = engine
        self.spawned = spawned
        self.directory = self.new_place()
        self.handles: dict[str, list[Any]] = {}
        self.models: dict[str, Any] = {"dict": {}, "set": set()}

    def new_place(self) -> Any:
        return Path(tempfile.mkdtemp(prefix="rack-model-"))

    def remove_place(self) -> None:
        shutil.rmtree(self.directory)

    @initialize(shards=st.sampled_from([1, 2, 7]))
    def make(self, shards: int) -> None:
        self.shards = shards
        options: dict[str, Any] = {"shards": shards, "engine": self.engine}
        self.handles["dict"] = [PersistentDict(self.directory / "dict", **options).open() for _ in range(2)]
        self.handles["set"] = [PersistentSet(self.directory / "set", **options).open() for _ in range(2)]

    def expect(self, kind: str, name: str, args: Any) -> Any:
        return outcome(OPERATIONS[kind][name].expected, self.models[kind], args)

    # Operations, here and elsewhere

    @rule(which=handle_number, called=any_call)
    def operate(self, which: int, called: Any) -> None:
        kind, (name, args) = called
        actual = outcome(OPERATIONS[kind][name].actual, self.handles[kind][which], args)
        assert actual == self.expect(kind, name, args), name

    @rule(which=handle_number, called=any_call)
    def operate_in_a_forked_child(self, which: int, called: Any) -> None:
        kind, (name, args) = called
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            status = 1
            try:
                actual = outcome(OPERATIONS[kind][name].actual, self.handles[kind][which], args)
                with os.fdopen(writer, "wb") as stream:
                    pickle.dump(actual, stream)
                status = 0
            finally:
                os._exit(status)
        os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            data = stream.read()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert pickle.loads(data) == self.expect(kind, name, args), name

    @rule(called=any_call)
    def operate_in_a_spawned_process(self, called: Any) -> None:
        kind, (name, args) = called
        self.spawned.send((kind, str(self.directory / kind), name, args))
        assert self.spawned.poll(30), "the spawned process does not answer"
        assert self.spawned.recv() == self.expect(kind, name, args), name

    @rule(which=handle_number, changes=st.lists(st.tuples(keys, st.none() | st.sampled_from(VALUES)), max_size=8))
    def write_a_batch(self, which: int, changes: list[tuple[Any, Any]]) -> None:
        with self.handles["dict"][which].batch() as d, self.handles["set"][which].batch() as s:
            for key, value in changes:
                if value is None:
                    del d[key]
                    s.discard(key)
                    self.models["dict"].pop(key, None)
                    self.models["set"].discard(key)
                else:
                    d[key] = self.models["dict"][key] = value
                    s.add(key)
                    self.models["set"].add(key)

    @rule(which=handle_number)
    def pop_anything(self, which: int) -> None:
        if self.models["dict"]:
            key, value = self.handles["dict"][which].popitem()
            assert self.models["dict"].pop(key) == value
        if self.models["set"]:
            self.models["set"].remove(self.handles["set"][which].pop())

    @rule(which=handle_number, kind=st.sampled_from(["dict", "set"]))
    def clear(self, which: int, kind: str) -> None:
        self.handles[kind][which].clear()
        self.models[kind].clear()

    @rule(which=handle_number, gone=st.lists(keys, max_size=4), new=st.lists(keys, max_size=4), at=st.integers(0, 8))
    def change_during_an_iteration(self, which: int, gone: list[Any], new: list[Any], at: int) -> None:
        d, model = self.handles["dict"][which], self.models["dict"]
        stays = set(model) - set(gone)
        seen = []
        for number, key in enumerate(d):
            seen.append(key)
            if number == at:
                for each in new:
                    d[each] = model[each] = 0
                for each in gone:
                    assert d.pop(each, None) == model.pop(each, None)
        assert {key for key in seen if key in stays} == stays
        assert len(seen) == len(set(seen))
        if self.is_ordered:
            assert seen == sorted(seen, key=canonical_bytes)

    # Whole containers

    @rule(which=handle_number)
    def look_at_everything(self, which: int) -> None:
        d, s = self.handles["dict"][which], self.handles["set"][which]
        if self.is_ordered:
            assert list(d.items()) == sorted(self.models["dict"].items(), key=lambda item: canonical_bytes(item[0]))
            assert list(reversed(s)) == sorted(self.models["set"], key=canonical_bytes, reverse=True)
        assert sorted(map(canonical_bytes, s)) == sorted(map(canonical_bytes, self.models["set"]))
        assert d == self.models["dict"]
        assert s == self.models["set"]

    @rule(which=handle_number, shards=st.sampled_from([None, 1, 3]))
    def copy(self, which: int, shards: int | None) -> None:
        options = {} if shards is None else {"shards": shards}
        for kind, handles in self.handles.items():
            with handles[which].copy(**options) as copy:
                assert copy == self.models[kind]
                copy.clear()

    @rule(which=handle_number, elements=st.lists(keys, max_size=6))
    def combine(self, which: int, elements: list[Any]) -> None:
        s, model, other = self.handles["set"][which], self.models["set"], set(elements)
        for made, expected in ((s & other, model & other), (other - s, other - model), (s ^ other, model ^ other)):
            with made:
                assert made == expected

    # Handles

    @rule(which=handle_number, kind=st.sampled_from(["dict", "set"]))
    def close_and_reopen_one(self, which: int, kind: str) -> None:
        self.handles[kind][which].close()
        self.handles[kind][which].open()

    @rule(others=st.integers(1, 9))
    def close_and_reopen_all_after_a_try_with_another_shard_count(self, others: int) -> None:
        for kind, handles in self.handles.items():
            for handle in handles:
                handle.close()
            if others != self.shards:
                with pytest.raises(MismatchError, match=f"shards={others}"):
                    type(handles[0])(self.directory / kind, shards=others).open()
            for handle in handles:
                handle.open()

    @rule(which=handle_number, kind=st.sampled_from(["dict", "set"]))
    def pickle_one(self, which: int, kind: str) -> None:
        copy = pickle.loads(pickle.dumps(self.handles[kind][which]))
        self.handles[kind][which].close()
        self.handles[kind][which] = copy

    @invariant()
    def counts_are_right(self) -> None:
        for kind, handles in self.handles.items():
            assert len(handles[0]) == len(handles[1]) == len(self.models[kind])

    def teardown(self) -> None:
        try:
            for kind, handles in self.handles.items():
                assert handles[0].check() == len(self.models[kind])
                assert handles[1] == self.models[kind]
        finally:
            for handles in self.handles.values():
                for handle in handles:
                    handle.close()
            self.remove_place()


def canonical_bytes(key: Any) -> bytes:
    """Return the bytes of a key once each number in it has its one form."""
    if isinstance(key, tuple):
        key = tuple(int(each) if isinstance(each, float) and each.is_integer() else each for each in key)
    return dumped(int(key) if isinstance(key, float | bool) and float(key).is_integer() else key)


@pytest.fixture(scope="module")
def spawned() -> Iterator[Any]:
    """A process that was not forked, at the other end of a pipe."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there,), daemon=True)
    process.start()
    there.close()
    yield here
    here.send(None)
    process.join(10)
    assert process.exitcode == 0


@pytest.mark.timeout(1500)  # for the long form
@pytest.mark.parametrize("engine", ENGINES)
def test_any_sequence_of_operations_answers_as_built_in_containers_do(engine: str, long: bool, spawned: Any) -> None:
    run(lambda: Model(engine, spawned), long)


def run(model: Callable[[], Model], long: bool) -> None:
    run_state_machine_as_test(
        model,
        settings=settings(
            max_examples=400 if long else 15,
            stateful_step_count=80 if long else 25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
