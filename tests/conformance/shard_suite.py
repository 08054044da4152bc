"""What every engine's shard promises: a persistent map from bytes to bytes. A user's engine can subclass this.

The order of keys and scans are in :mod:`tests.conformance.scan_suite`, opening, closing and damage in
:mod:`tests.conformance.shard_life_suite`; this includes both.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from operator import itemgetter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rack import ReentrantWriteError
from rack.shard.base import View
from tests.conformance.bench import Bench
from tests.conformance.scan_suite import EDGE_KEYS, ScanSuite
from tests.conformance.shard_life_suite import ShardLifeSuite

VALUES = [b"", b"v", b"\0" * 3, b"m" * 1900, b"n" * 2100, b"o" * 5000, b"p" * 70_000]
Plan = list[tuple[Any, ...]]
steps = st.lists(
    st.one_of(
        st.tuples(st.just("get"), st.sampled_from(EDGE_KEYS)),
        st.tuples(st.just("put"), st.sampled_from(EDGE_KEYS), st.sampled_from(VALUES[:4])),
        st.tuples(st.just("delete"), st.sampled_from(EDGE_KEYS)),
        st.tuples(st.just("first"), st.sampled_from(EDGE_KEYS), st.sampled_from([0, 1, 3, 20])),
    ),
    max_size=6,
)
pairs_of_keys = st.lists(st.sampled_from(EDGE_KEYS), max_size=12)
operations = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["put", "add", "modify"]), st.sampled_from(EDGE_KEYS), st.sampled_from(VALUES)),
        st.tuples(st.sampled_from(["get", "contains", "delete", "pop"]), st.sampled_from(EDGE_KEYS)),
        st.tuples(st.sampled_from(["get_many", "delete_many", "add_many", "put_many", "change_many"]), pairs_of_keys),
        st.tuples(st.sampled_from(["pop_first", "count", "clear"])),
        st.tuples(st.sampled_from(["transact", "transact and raise"]), steps),
    ),
    max_size=40,
)


class ShardSuite(ScanSuite, ShardLifeSuite):
    """One key, many keys, the whole. Subclasses supply ``engine`` and ``raw``."""

    # One key

    @pytest.mark.parametrize("value", VALUES, ids=len)
    def test_a_value_of_any_size_comes_back_and_is_on_disk(self, bench: Bench, value: bytes) -> None:
        bench.shard.put(b"k", value)
        assert bench.shard.get(b"k") == value
        assert bench.stored() == {b"k": value}
        assert bench.shard.get(b"k") == value

    def test_a_value_far_larger_than_the_file_comes_back(self, bench: Bench) -> None:
        value = os.urandom(1 << 20) * 24
        bench.shard.put(b"large", value)
        bench.shard.modify(b"modified", lambda _: value[::-1])
        assert bench.shard.add(b"added", value[1:]) is None
        assert bench.stored() == {b"large": value, b"modified": value[::-1], b"added": value[1:]}

    @pytest.mark.parametrize("key", EDGE_KEYS, ids=repr)
    def test_every_key_goes_through_every_operation(self, bench: Bench, key: bytes) -> None:
        shard = bench.shard
        assert shard.get(key) is None
        assert not shard.contains(key)
        assert shard.pop(key) is None
        assert not shard.delete(key)
        assert shard.get_many([key]) == [None]
        assert shard.delete_many([key]) == 0
        assert shard.count() == 0
        assert shard.add(key, b"1") is None
        assert shard.count() == 1
        assert shard.add(key, b"2") == b"1"
        shard.put(key, b"3")
        assert shard.count() == 1
        assert shard.contains(key)
        shard.modify(key, lambda old: (old or b"") + b"4")
        assert shard.get(key) == b"34"
        assert bench.stored() == {key: b"34"}
        shard = bench.shard
        assert shard.pop(key) == b"34"
        assert shard.add_many([(key, b"5"), (key, b"6")]) == [True, False]
        assert shard.get_many([key, key]) == [b"5", b"5"]
        assert shard.pop_first() == (key, b"5")
        assert shard.pop_first() is None
        shard.put_many([(key, b"7")])
        assert shard.delete(key)
        shard.put(key, b"8")
        assert shard.delete_many([key, key]) == 1
        shard.change_many([(key, b"9")], [])
        assert bench.stored() == {key: b"9"}
        bench.shard.change_many([], [key])
        assert bench.stored() == {}

    def test_all_keys_live_side_by_side(self, bench: Bench) -> None:
        expected = {key: str(number).encode() for number, key in enumerate(EDGE_KEYS)}
        for key, value in expected.items():
            assert bench.shard.add(key, value) is None
        assert [bench.shard.get(key) for key in EDGE_KEYS] == list(expected.values())
        assert bench.shard.get_many(EDGE_KEYS) == list(expected.values())
        assert bench.shard.count() == len(EDGE_KEYS)
        bench.shard.check()
        assert bench.stored() == expected

    def test_what_another_program_put_into_the_file_is_found(self, bench: Bench) -> None:
        expected = {key: b"raw" + key[:5] for key in EDGE_KEYS}
        bench.seed(expected.items())
        assert {key: bench.shard.get(key) for key in EDGE_KEYS} == expected
        assert all(map(bench.shard.contains, EDGE_KEYS))
        assert bench.shard.count() == len(EDGE_KEYS)
        assert bench.shard.add_many([(key, b"x") for key in EDGE_KEYS]) == [False] * len(EDGE_KEYS)

    def test_a_modification_that_raises_changes_nothing(self, bench: Bench) -> None:
        bench.shard.put(b"k", b"v")
        for key in (b"k", b"other", b"long" * 200):
            with pytest.raises(ZeroDivisionError):
                bench.shard.modify(key, lambda _: bytes(1 // 0))
        assert bench.stored() == {b"k": b"v"}

    def test_a_modification_that_gives_none_changes_nothing(self, bench: Bench) -> None:
        bench.shard.put(b"k", b"v")
        seen: list[bytes | None] = []
        for key in (b"k", b"absent", b"long" * 200):
            bench.shard.modify(key, seen.append)
        assert seen == [b"v", None, None]
        assert bench.stored() == {b"k": b"v"}

    def test_pop_first_takes_the_least_key_of_all(self, bench: Bench) -> None:
        bench.shard.put_many([(key, b"v") for key in sorted(EDGE_KEYS)])
        popped = []
        while pair := bench.shard.pop_first():
            popped.append(pair[0])
        assert popped == sorted(EDGE_KEYS)
        assert bench.shard.count() == 0

    # Several steps in one transaction

    def test_the_steps_of_a_transaction_see_each_other_and_happen_together(self, bench: Bench) -> None:
        long = b"long" * 200
        bench.shard.put_many([(b"a", b"1"), (b"b", b"2"), (long, b"3")])

        def move(view: View, new: bytes) -> list[Any]:
            (key, value), *_ = view.first(b"b", None, 1)
            view.put(new, value)
            return [key, view.delete(key), view.delete(key), view.get(new), view.first(b"a", b"d", 9)]

        assert bench.shard.transact(move, b"c") == [b"b", True, False, b"2", [(b"a", b"1"), (b"c", b"2")]]
        assert bench.shard.transact(lambda view: view.first(b"d", None, 2)) == [(long, b"3")]
        assert bench.stored() == {b"a": b"1", b"c": b"2", long: b"3"}

    def test_a_transaction_that_raises_has_not_happened(self, bench: Bench) -> None:
        before = {b"a": b"1", b"long" * 200: b"2"}
        bench.shard.put_many(sorted(before.items()))

        def change(view: View) -> None:
            view.delete(b"a")
            view.put(b"long" * 200, b"x")
            view.put(b"b", b"x" * 5000)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            bench.shard.transact(change)
        assert bench.stored() == before

    def test_a_transaction_larger_than_the_file_is_done_again_and_happens_once(self, bench: Bench) -> None:
        def append(view: View) -> int:
            for number in range(3000):
                key = b"%04d" % number
                view.put(key, (view.get(key) or b"") + b"v" * 1000)
            return len(view.first(b"", None, 5))

        assert bench.shard.transact(append) == 5
        assert bench.stored() == {b"%04d" % number: b"v" * 1000 for number in range(3000)}

    def test_a_transaction_may_not_use_the_shard_itself_to_write(self, bench: Bench) -> None:
        with pytest.raises(ReentrantWriteError):
            bench.shard.transact(lambda view: bench.shard.put(b"k", b"v"))
        assert bench.stored() == {}

    # Many keys

    def test_add_many_tells_new_keys_from_old_ones_and_from_repeated_ones(self, bench: Bench) -> None:
        long = b"long" * 200
        bench.shard.put_many([(b"old", b"1"), (long, b"1")])
        pairs = [(b"new", b"2"), (b"old", b"2"), (long, b"2"), (b"new", b"3"), (long + b"!", b"2"), (long + b"!", b"3")]
        assert bench.shard.add_many(pairs) == [True, False, False, False, True, False]
        assert bench.stored() == {b"old": b"1", long: b"1", b"new": b"2", long + b"!": b"2"}

    def test_bulk_operations_on_nothing_do_nothing(self, bench: Bench) -> None:
        assert bench.shard.get_many([]) == []
        assert bench.shard.add_many([]) == []
        assert bench.shard.delete_many([]) == 0
        bench.shard.put_many([])
        bench.shard.change_many([], [])
        assert bench.stored() == {}

    def test_bulk_operations_larger_than_the_file_grow_it(self, bench: Bench) -> None:
        expected = {b"%06d" % number: bytes([number % 256]) * 200 for number in range(20_000)}
        bench.shard.put_many(sorted(expected.items()))
        more = {b"+%06d" % number: b"w" * 3000 for number in range(2_000)}
        assert all(bench.shard.add_many(sorted(more.items())))
        assert bench.shard.count() == 22_000
        assert bench.stored() == expected | more
        assert bench.shard.delete_many(sorted(expected)) == 20_000
        assert bench.stored() == more
        bench.shard.change_many(sorted(expected.items()), sorted(more))
        assert bench.stored() == expected

    def test_changes_that_cannot_all_be_made_are_not_made_at_all(self, bench: Bench) -> None:
        before = {b"a": b"1", b"b": b"2", b"long" * 200: b"3"}
        bench.shard.put_many(sorted(before.items()))
        no_bytes: Any = [1, 2]
        with pytest.raises(Exception, match="list"):
            bench.shard.change_many([(b"b", b"x"), (b"c", b"y"), (b"d", no_bytes)], [b"a", b"long" * 200])
        assert bench.stored() == before
        bench.shard.change_many([(b"b", b"x"), (b"c", b"y")], [b"a", b"long" * 200])
        assert bench.stored() == {b"b": b"x", b"c": b"y"}

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(plan=operations)
    def test_any_sequence_of_operations_answers_as_a_dict_would(
        self, bench: Bench, plan: list[tuple[Any, ...]]
    ) -> None:
        shard, model = bench.shard, dict[bytes, bytes]()
        shard.clear()
        for operation, *args in plan:
            assert run_on_shard(shard, operation, args) == run_on_dict(model, operation, args), operation
            assert shard.count() == len(model)
        shard.check()
        assert bench.stored() == model

    # The whole

    @pytest.mark.parametrize("bench", ["sha256", "constant"], indirect=True)
    def test_a_cleared_shard_is_empty_and_can_be_used_again(self, bench: Bench) -> None:
        for round_number in range(3):
            value = b"%d" % round_number
            bench.shard.put_many([(key, value) for key in sorted(EDGE_KEYS)])
            bench.shard.clear()
            assert bench.shard.count() == 0
            assert bench.shard.scan(b"", None, False, False) == []
            assert bench.shard.get_many(EDGE_KEYS) == [None] * len(EDGE_KEYS)
            bench.shard.check()
            assert bench.stored() == {}
            bench.shard.put_many([(b"k", value), (b"long" * 200, value)])
            bench.shard.check()
            assert bench.stored() == {b"k": value, b"long" * 200: value}
            bench.shard.clear()

    def test_the_version_differs_after_every_change_and_only_then(self, bench: Bench) -> None:
        shard = bench.shard
        changes: list[Callable[[], object]] = [
            lambda: shard.put(b"a", b"1"),
            lambda: shard.put(b"a", b"1"),
            lambda: shard.add(b"b", b"1"),
            lambda: shard.put_many([(b"c", b"1"), (b"l" * 600, b"1")]),
            lambda: shard.add_many([(b"d", b"1")]),
            lambda: shard.modify(b"a", lambda _: b"2"),
            lambda: shard.transact(lambda view: view.put(b"a", b"3")),
            lambda: shard.pop(b"a"),
            lambda: shard.delete(b"b"),
            lambda: shard.pop_first(),
            lambda: shard.delete_many([b"d"]),
            lambda: shard.delete(b"l" * 600),
            lambda: shard.put(b"e", b"1"),
            lambda: shard.change_many([(b"f", b"1")], [b"e"]),
            lambda: shard.clear(),
        ]
        seen = [shard.version()]
        for change in changes:
            change()
            seen.append(shard.version())
            shard.get(b"a"), shard.count(), shard.scan(b"", None, False, True), shard.contains(b"b")
            assert shard.version() == seen[-1]
        assert all(version not in seen[:at] for at, version in enumerate(seen))


def run_on_shard(shard: Any, operation: str, args: list[Any]) -> Any:
    if operation == "modify":
        return shard.modify(args[0], lambda old: (old or b"-")[:4] + args[1])
    if operation == "transact":
        return shard.transact(run_steps, args[0])
    if operation == "transact and raise":
        with pytest.raises(ZeroDivisionError):
            shard.transact(lambda view: (run_steps(view, args[0]), 1 // 0))
        return None
    if operation == "change_many":
        return shard.change_many(*halves(args[0]))
    if operation in ("add_many", "put_many"):
        pairs = [(key, b"%d" % at) for at, key in enumerate(args[0])]
        return shard.add_many(pairs) if operation == "add_many" else shard.put_many(sorted(pairs, key=itemgetter(0)))
    return getattr(shard, operation)(*args)


def run_steps(view: View, steps: list[tuple[Any, ...]]) -> list[Any]:
    answers = []
    for name, *args in steps:
        if name == "first":
            answers.append(view.first(args[0], None, args[1]))
        else:
            answers.append(getattr(view, name)(*args))
    return answers


def halves(keys: list[bytes]) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
    """Return what change_many is to do with some keys: every other one is stored, the others are deleted."""
    keys = sorted(set(keys))
    return [(key, b"%d" % at) for at, key in enumerate(keys[::2])], keys[1::2]


def run_on_dict(model: dict[bytes, bytes], operation: str, args: list[Any]) -> Any:
    match operation:
        case "put":
            model[args[0]] = args[1]
        case "add":
            present = model.get(args[0])
            model.setdefault(args[0], args[1])
            return present
        case "modify":
            model[args[0]] = (model.get(args[0]) or b"-")[:4] + args[1]
        case "get":
            return model.get(args[0])
        case "contains":
            return args[0] in model
        case "delete":
            return model.pop(args[0], None) is not None
        case "pop":
            return model.pop(args[0], None)
        case "get_many":
            return [model.get(key) for key in args[0]]
        case "delete_many":
            return sum(model.pop(key, None) is not None for key in args[0])
        case "add_many":
            added = [key not in model and key not in args[0][:at] for at, key in enumerate(args[0])]
            model.update((key, b"%d" % at) for at, key in enumerate(args[0]) if added[at])
            return added
        case "put_many":
            model.update((key, b"%d" % at) for at, key in enumerate(args[0]))
        case "change_many":
            pairs, keys = halves(args[0])
            model.update(pairs)
            for key in keys:
                model.pop(key, None)
        case "transact":
            view = View(
                model.get,
                model.__setitem__,
                lambda key: model.pop(key, None) is not None,
                lambda start, stop, limit: sorted(i for i in model.items() if i[0] >= start)[:limit],
            )
            return run_steps(view, args[0])
        case "pop_first":
            return (key := min(model), model.pop(key)) if model else None
        case "count":
            return len(model)
        case "clear":
            model.clear()
    return None
