"""Set algebra gives what ``set`` gives, whatever the operands are; stores of one shape are read side by side."""

from __future__ import annotations

import operator
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rack import PersistentDict, PersistentSet, SerializationError
from tests.conformance.model import plain
from tests.support.processes import Crew, assert_sound, hear, tell
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

METHODS = ("union", "intersection", "difference")
UPDATES = ("update", "intersection_update", "difference_update")
TESTS = ("isdisjoint", "issubset", "issuperset")
OPERATORS = (operator.or_, operator.and_, operator.sub, operator.xor)
COMPARISONS = (operator.lt, operator.le, operator.eq, operator.ne, operator.ge, operator.gt)

# Many that are shared, some that LMDB holds as long keys.
ELEMENTS = st.one_of(st.integers(0, 40).map(str), st.sampled_from(["long" * 200 + str(n) for n in range(4)] + [""]))
SETS = st.sets(ELEMENTS, max_size=40)
SHAPES = ("alike", "shards", "engine", "codec", "keys", "list", "generator", "set", "self", "twice")


@pytest.fixture(params=["as it is", "small blocks, merged", "small blocks, looked up", "spilled"])
def _boundaries(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a few elements meet what else takes thousands."""
    if request.param != "as it is":
        monkeypatch.setattr("rack.algebra.operand._BLOCK_ITEMS", 3)
    if "merged" in request.param:
        monkeypatch.setattr("rack.algebra.joins._LOOKUP", 10**9)
    if "looked up" in request.param:
        monkeypatch.setattr("rack.algebra.joins._LOOKUP", 0)
    if request.param == "spilled":
        monkeypatch.setattr("rack.algebra.operand._GATHERED_BYTES", 300)


class Bench:
    """Makes a set, and operands of every shape beside it, in a directory of their own."""

    def __init__(self, engine: str) -> None:
        self.stack = ExitStack()
        self.directory = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.engine = engine
        self.made = 0

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *args: object) -> None:
        self.stack.close()

    def store(self, content: set[str], kind: Any = PersistentSet, **options: Any) -> Any:
        self.made += 1
        options = {"shards": 2, "engine": self.engine, "serdes": "str", **options}
        store = self.stack.enter_context(kind(self.directory / f"store{self.made}", **options))
        store.update(content if kind is PersistentSet else dict.fromkeys(content, "v"))
        return store

    def operand(self, mine: Any, content: set[str], shape: str) -> Callable[[], Any]:
        if shape == "list":
            return lambda: [*content, *content]
        if shape == "generator":
            return lambda: iter(sorted(content))
        if shape == "set":
            return lambda: content
        if shape == "self":
            return lambda: mine
        if shape == "twice":
            again = self.stack.enter_context(PersistentSet(mine.name))
            return lambda: again
        if shape == "keys":
            keys = self.store(content, PersistentDict).keys()
            return lambda: keys
        other_engine = "sqlite3" if self.engine == "lmdb" else "lmdb"
        options = {"shards": {"shards": 3}, "engine": {"engine": other_engine}, "codec": {"serdes": "pickle"}}
        store = self.store(content, **options.get(shape, {}))
        return lambda: store


CASES = given(ours=SETS, others=st.lists(st.tuples(SETS, st.sampled_from(SHAPES)), max_size=3))
QUICK = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))


def meant(ours: set[str], content: set[str], shape: str) -> set[str]:
    return ours if shape in ("self", "twice") else content


@pytest.mark.usefixtures("_boundaries", "engine")
@CASES
@QUICK
def test_methods_answer_as_those_of_set_for_operands_of_any_shape(
    engine: str, ours: set[str], others: list[tuple[set[str], str]]
) -> None:
    with Bench(engine) as bench:
        mine = bench.store(ours)
        theirs = [bench.operand(mine, *other) for other in others]
        contents = [meant(ours, *other) for other in others]
        for method in METHODS:
            found = plain(getattr(mine, method)(*(each() for each in theirs)))
            assert found == getattr(ours, method)(*contents), method
        for content, each in zip(contents, theirs, strict=True):
            assert plain(mine.symmetric_difference(each())) == ours ^ content
            for method in TESTS:
                assert getattr(mine, method)(each()) is getattr(ours, method)(content), method
            if not isinstance(each(), list | Iterator):
                for op in OPERATORS:
                    assert plain(op(mine, each())) == op(ours, content), op
                    assert plain(op(each(), mine)) == op(content, ours), op
                for op in COMPARISONS:
                    assert op(mine, each()) is op(ours, content), op
                    assert op(each(), mine) is op(content, ours), op
        assert set(mine) == ours
        assert mine.check() == len(ours)


@pytest.mark.usefixtures("_boundaries", "engine")
@CASES
@QUICK
def test_updates_do_as_those_of_set_for_operands_of_any_shape(
    engine: str, ours: set[str], others: list[tuple[set[str], str]]
) -> None:
    with Bench(engine) as bench:
        mine = bench.store(ours)
        theirs = [bench.operand(mine, *other) for other in others]
        for method in UPDATES:
            model = set(ours)
            getattr(mine, method)(*(each() for each in theirs))
            getattr(model, method)(*(meant(model, *other) for other in others))
            assert set(mine) == model, method
            assert mine.check() == len(model)
            mine.clear()
            mine.update(ours)
        for (content, shape), each in zip(others, theirs, strict=True):
            mine.symmetric_difference_update(each())
            assert set(mine) == ours ^ meant(ours, content, shape)
            mine.clear()
            mine.update(ours)
        assert mine.check() == len(ours)


@pytest.fixture
def two(tmp_path: Path, engine: str) -> Iterator[tuple[PersistentSet[int], PersistentSet[int]]]:
    with PersistentSet[int](tmp_path / "a", shards=4) as a, PersistentSet[int](tmp_path / "b", shards=4) as b:
        a.update(range(30_000))
        b.update(range(15_000, 45_000))
        yield a, b
    assert_sound(a)
    assert_sound(b)
    assert not list(tmp_path.glob("*anonymous*"))


def test_sets_of_one_shape_are_read_side_by_side_and_not_looked_up_in(
    two: tuple[PersistentSet[int], PersistentSet[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = two

    def refuse(*args: object) -> None:
        raise AssertionError("a key was looked up")

    for shard in (*a._store.shards, *b._store.shards):
        for name in ("get", "get_many", "contains"):
            monkeypatch.setattr(shard, name, refuse)
    assert plain(a - b) == set(range(15_000))
    assert plain(a.union(b, a, b)) == set(range(45_000))
    assert plain(a & b) == set(range(15_000, 30_000))
    assert plain(a ^ b) == {*range(15_000), *range(30_000, 45_000)}
    assert not a <= b
    assert not a.isdisjoint(b)
    a |= b
    assert a >= b
    assert a > b
    a ^= b
    a &= b
    assert not a


def test_a_small_set_is_looked_up_in_a_large_one_and_not_the_other_way_round(
    two: tuple[PersistentSet[int], PersistentSet[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, _ = two
    with PersistentSet[int](tmp_path / "small", shards=4) as small:
        small.update([5, 1_000_000])

        def refuse(*args: object) -> None:
            raise AssertionError("the large set was read through")

        for shard in large._store.shards:
            monkeypatch.setattr(shard, "scan", refuse)
        assert plain(small & large) == {5}
        assert plain(large & small) == {5}
        assert plain(small - large) == {1_000_000}
        assert not small <= large
        assert not large.isdisjoint(small)
        large -= small
        assert 5 not in large
        large |= small
        assert 1_000_000 in large
    assert_sound(small)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("method", [*METHODS, "symmetric_difference"])
def test_processes_share_the_shards(
    two: tuple[PersistentSet[int], PersistentSet[int]], tmp_path: Path, method: str
) -> None:
    a, b = two
    for other in (b, list(b)):
        with getattr(a, method)(other, workers=3) as made:
            assert set(made) == getattr(set(a), method)(b)
            assert made.check() == len(made)
    for wrong, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error):
            getattr(a, method)(b, workers=wrong)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("method", [*UPDATES, "symmetric_difference_update"])
def test_processes_share_the_shards_in_place(two: tuple[PersistentSet[int], PersistentSet[int]], method: str) -> None:
    a, b = two
    for other in (b, list(b)):
        expected = set(a)
        getattr(expected, method)(set(b))
        getattr(a, method)(other, workers=3)
        assert set(a) == expected
        assert a.check() == len(expected)
    for wrong, error in ((0, ValueError), (1.5, TypeError)):
        for other in (b, [1], a):
            with pytest.raises(error):
                getattr(a, method)(other, workers=wrong)
    assert set(a) == expected


def test_a_result_with_a_name_is_there_as_a_whole_or_not_at_all(
    two: tuple[PersistentSet[int], PersistentSet[int]], tmp_path: Path
) -> None:
    a, b = two

    def failing() -> Iterator[int]:
        yield from range(100_000)
        assert not (tmp_path / "made.rack").exists()
        raise ZeroDivisionError

    for method in METHODS:
        with pytest.raises(ZeroDivisionError):
            getattr(a, method)(b, failing(), name=tmp_path / "made")
        assert not list(tmp_path.glob("made*"))
        assert not list(tmp_path.glob("*anonymous*"))
        with getattr(a, method)(b, name=tmp_path / method) as made:
            pass
        assert_sound(made)
        with PersistentSet(tmp_path / method) as again:
            assert set(again) == getattr(set(a), method)(b)
        with pytest.raises(FileExistsError):
            getattr(a, method)(b, name=tmp_path / method)
        with pytest.raises(FileExistsError):
            getattr(a, method)(b, name=tmp_path / "b")


def test_what_a_set_cannot_hold_is_in_no_intersection_and_an_error_in_a_union(tmp_path: Path, engine: str) -> None:
    with PersistentSet[Any](tmp_path / "a", serdes="str") as a, PersistentSet[Any](tmp_path / "b") as b:
        a.update(["x", "y"])
        b.update(["x", 1])
        for other in (b, ["x", 1]):
            assert plain(a.intersection(other)) == {"x"}
            assert plain(a.difference(other)) == {"y"}
            assert not a.issubset(other)
            assert not a.issuperset(other)
            assert a != set(b)
            for method in ("union", "symmetric_difference", "update", "symmetric_difference_update"):
                with pytest.raises(SerializationError):
                    getattr(a, method)(other)
        a.intersection_update(b)
        assert set(a) == {"x"}
    assert_sound(a)
    assert_sound(b)


def test_serializers_of_the_users_own_are_the_same_when_they_are_the_same_functions(tmp_path: Path) -> None:
    pair = (bytes.decode, str.encode)
    options: dict[str, Any] = {"key_serdes": pair, "serdes": pair, "shards": 2}
    with PersistentSet(tmp_path / "a", **options) as a, PersistentSet(tmp_path / "b", **options) as b:
        a.update(["x", "y"])
        b.update(["x", "z"])
        assert plain(a - b) == {"y"}
        assert plain(a ^ b) == {"y", "z"}
        upper = (lambda data: data.decode().lower(), lambda text: text.upper().encode())
        with PersistentSet(tmp_path / "c", key_serdes=upper, serdes=upper, shards=2) as c:
            c.update(["x", "z"])
            assert plain(a - c) == {"y"}
            assert plain(a | c) == {"x", "y", "z"}


def _disturb(path: Path) -> None:
    with PersistentSet[int](path) as numbers:
        tell("open")
        turn = 0
        while True:
            turn += 1
            numbers.update(range(100_000 + turn % 7, 140_000, 7))
            numbers.discard_many(range(100_000 + turn % 5, 140_000, 5))
            if not turn % 3:
                tell("turn")
                if hear() == "stop":
                    return


def test_what_is_in_both_throughout_is_seen_while_another_process_writes(
    two: tuple[PersistentSet[int], PersistentSet[int]],
) -> None:
    a, b = two
    with Crew() as crew:
        worker = crew.start(_disturb, Path(b.name))
        worker.hear()
        for _ in range(3):
            worker.hear()
            worker.tell("go on")
            stays = {number for number in plain(a.intersection(b)) if number < 100_000}
            assert stays == set(range(15_000, 30_000))
            assert {number for number in plain(a | b) if number < 100_000} == set(range(45_000))
            assert plain(a - b) == set(range(15_000))
        worker.hear()
        worker.tell("stop")
        worker.result()
