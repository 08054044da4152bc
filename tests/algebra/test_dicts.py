"""Dicts beside dicts give what ``dict`` gives: views, ``|``, ``==``, ``merge``, whatever the shape of the other is."""

from __future__ import annotations

import operator
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rack import PersistentDict
from tests.conformance.model import plain
from tests.support.processes import assert_sound, run
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

KEYS = st.one_of(st.integers(0, 30).map(str), st.sampled_from(["long" * 200 + str(n) for n in range(3)]))
VALUES = st.sampled_from([1, 1.0, 2, "x", None, (1, 2)])
DICTS = st.dictionaries(KEYS, VALUES, max_size=30)
SHAPES = ("alike", "shards", "engine", "codec", "serdes", "dict", "self")
SET_OPERATORS = (operator.or_, operator.and_, operator.sub, operator.xor)
COMPARISONS = (operator.lt, operator.le, operator.eq, operator.ne, operator.ge, operator.gt)


def shaped(stack: ExitStack, directory: Path, mine: Any, content: dict[str, Any], shape: str, engine: str) -> Any:
    if shape in ("self", "dict"):
        return mine if shape == "self" else content
    options: dict[str, Any] = {"shards": 2, "engine": engine, "key_serdes": "str"}
    options |= {
        "shards": {"shards": 3},
        "engine": {"engine": "lmdb" if engine == "sqlite3" else "sqlite3"},
        "codec": {"key_serdes": "marshal"},
        "serdes": {"serdes": "pickle"},
    }.get(shape, {})
    other = stack.enter_context(PersistentDict(directory / "other", **options))
    other.update(content)
    return other


@given(ours=DICTS, content=DICTS, shape=st.sampled_from(SHAPES))
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_two_dicts_answer_as_two_of_the_built_in_ones(
    engine: str, ours: dict[str, Any], content: dict[str, Any], shape: str
) -> None:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        mine: Any = stack.enter_context(PersistentDict(directory / "mine", shards=2, engine=engine, key_serdes="str"))
        mine.update(ours)
        other = shaped(stack, directory, mine, content, shape, engine)
        theirs = ours if shape == "self" else content
        assert (mine == other) is (ours == theirs)
        assert (other == mine) is (theirs == ours)
        assert plain(mine | other) == ours | theirs
        assert plain(other | mine) == theirs | ours
        for view in ("keys", "items"):
            views = [getattr(each, view)() for each in (mine, other, ours, theirs)]
            for op in SET_OPERATORS:
                assert plain(op(views[0], views[1])) == op(views[2], views[3]), (view, op)
                assert plain(op(views[1], views[0])) == op(views[3], views[2]), (view, op)
            for op in COMPARISONS:
                assert op(views[0], views[1]) is op(views[2], views[3]), (view, op)
                assert op(views[1], views[0]) is op(views[3], views[2]), (view, op)
            assert views[0].isdisjoint(views[1]) is views[2].isdisjoint(views[3])
        calls: list[tuple[str, Any, Any]] = []

        def resolve(key: str, one: Any, two: Any) -> Any:
            calls.append((key, one, two))
            return [one, two]

        mine.merge(other, resolve)
        both = {key: [ours[key], theirs[key]] for key in ours.keys() & theirs.keys()}
        assert dict(mine) == ours | theirs | both
        assert sorted(calls, key=operator.itemgetter(0)) == [(key, *both[key]) for key in sorted(both)]
        mine |= other if shape != "self" else {}
        assert dict(mine) == ours | theirs | (both if shape == "self" else {key: theirs[key] for key in both})
        assert mine.check() == len(mine)


def test_a_key_that_comes_twice_meets_what_the_first_one_has_made(tmp_path: Path, engine: str) -> None:
    with PersistentDict[str, int](tmp_path / "d") as d:
        d["a"] = 1
        d.merge([("a", 10), ("b", 2), ("a", 100), ("b", 20)], lambda key, mine, theirs: mine + theirs)
        assert dict(d) == {"a": 111, "b": 22}
        d.merge({"c": 1}, lambda key, mine, theirs: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            d.merge({"c": 1, "d": 4}, lambda key, mine, theirs: 1 // 0)
        assert d["c"] == 1
        with pytest.raises(TypeError):
            d.merge(5, max)
    assert_sound(d)


def _merge(path: Path, rounds: int) -> None:
    with PersistentDict[int, int](path) as d:
        for _ in range(rounds):
            d.merge(((key, 1) for key in range(50)), lambda key, mine, theirs: mine + theirs)


def test_no_merge_of_any_process_is_lost(tmp_path: Path, engine: str) -> None:
    rounds = 20 if engine == "lmdb" else 5
    with PersistentDict[int, int](tmp_path / "d", shards=2) as d:
        pass
    run(_merge, [(tmp_path / "d", rounds)] * 4)
    with d:
        assert dict(d) == dict.fromkeys(range(50), 4 * rounds)
    assert_sound(d)


def test_dicts_of_one_shape_are_read_side_by_side(tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with PersistentDict[int, int](tmp_path / "a") as a, PersistentDict[int, int](tmp_path / "b") as b:
        a.update((n, n) for n in range(20_000))
        b.update((n, n % 19_000) for n in range(10_000, 30_000))

        def refuse(*args: object) -> None:
            raise AssertionError("a key was looked up")

        for shard in (*a._store.shards, *b._store.shards):
            for name in ("get", "get_many", "contains"):
                monkeypatch.setattr(shard, name, refuse)
        assert plain(a.keys() - b.keys()) == set(range(10_000))
        assert plain(a.items() & b.items()) == {(n, n) for n in range(10_000, 19_000)}
        assert plain(a | b) == {n: n if n < 10_000 else n % 19_000 for n in range(30_000)}
        assert a != b
        assert not a.items() <= b.items()
        assert not a.keys().isdisjoint(b.keys())
        assert a.items() == a.items()
    assert_sound(a)
    assert_sound(b)
