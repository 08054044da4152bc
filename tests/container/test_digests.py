"""Stores with digest keys: what a dict and a set do with keys, they do with the keys' digests."""

from __future__ import annotations

import operator
import pickle
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

import rack
from rack import (
    Digest,
    DigestKeysError,
    MismatchError,
    PersistentDict,
    PersistentSet,
    SerializationError,
    UnorderedKeysError,
)
from rack.algebra.compare import Counts, compare
from rack.codec.keys import resolve_codec
from rack.codec.serdes import MARSHAL
from rack.set_small import PersistentSet as SmallSet
from rack.shard import ENGINES
from tests.support.processes import end_sound as end_sound

KEYS: list[Any] = ["a", "b", "", b"a", b"", 1, 2.5, None, (), ("a", 1), frozenset({1}), "long" * 600, b"\xff" * 600]
MINE = {*KEYS, *range(10, 40)}
THEIRS = {"a", b"a", ("a", 1), "b" * 600, "new", *range(30, 60)}

Set = PersistentSet[Any]
Dict = PersistentDict[Any, Any]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def name(engine: str) -> str:
    return "digest" if engine == "lmdb" else "digest:sha256:20"


def digests(keys: Iterable[Any], name: str = "digest") -> set[Digest]:
    dump = resolve_codec(name, MARSHAL).dumps
    return {Digest(dump(key)) for key in keys}


@pytest.fixture
def s(tmp_path: Path, engine: str, name: str) -> Iterator[Set]:
    with Set(tmp_path / "s", key_serdes=name, shards=2, engine=engine, durability="process") as s:
        s.update(MINE)
        yield s
        if not s.closed:
            s.check()


@pytest.fixture
def d(tmp_path: Path, engine: str, name: str) -> Iterator[Dict]:
    with Dict(tmp_path / "d", key_serdes=name, serdes="json", shards=2, engine=engine, durability="process") as d:
        d.update(dict.fromkeys(MINE, 1))
        yield d
        d.check()


# One key


def test_a_set_answers_for_keys_and_for_their_digests(s: Set, name: str) -> None:
    assert len(s) == len(MINE)
    assert set(s) == digests(MINE, name)
    assert all(type(each) is Digest for each in s)
    assert all(key in s for key in MINE)
    assert all(key in s for key in (1.0, True, frozenset({1.0})))
    assert "absent" not in s
    assert [*s.contains_many(["a", "absent", 1.0, next(iter(s))])] == [True, False, True, True]
    assert [s.add("a"), s.add("new"), s.add("new"), s.discard("new"), s.discard("new")] == [*(0, 1, 0, 1, 0)]
    assert [*s.filter_new(["a", "x", 5, "x", 1.0])] == ["x", 5]
    assert (s.add_many(["x", "y"]), s.discard_many(["x", "y", "z", 5.0])) == (1, 3)
    s.remove("a")
    with pytest.raises(KeyError):
        s.remove("a")
    with pytest.raises(TypeError, match="unhashable"):
        s.add([])
    with pytest.raises(SerializationError, match="register_key"):
        s.add(object())
    assert {3} not in s
    assert s.add(frozenset({2}))
    assert {2} in s


def test_what_a_loop_gives_is_taken_by_the_store_that_gave_it(s: Set, d: Dict) -> None:
    for digest in s:
        assert digest in s
        assert bytes(digest) not in s
        assert not s.add(digest)
        assert s.discard(digest)
    assert not s
    for digest, value in d.items():
        assert d[digest] == d.get(digest) == value == 1
        d[digest] = 2
        assert d.incr(digest) == 3
    assert len(d) == len(MINE)
    assert {*d.values()} == {3}
    digest, value = d.popitem()
    assert digest not in d
    d[digest] = value
    assert {*d} == digests(MINE, d.key_serdes)
    s.update(d)
    assert s.pop() in d
    with pytest.raises(SerializationError, match="a digest of 3 bytes"):
        s.add(Digest(b"abc"))
    assert Digest(b"abc") not in s


def test_a_dict_does_all_that_it_does_with_whole_keys(d: Dict) -> None:
    assert d["a"] == d[1.0] == 1
    assert d.pop("a") == 1
    assert "a" not in d
    with pytest.raises(KeyError, match="'a'"):
        d["a"]
    assert (d.setdefault("a", 5), d.setdefault("a", 6), d.incr("a", 2), d.transform("a", str)) == (5, 5, 7, "7")
    assert d.compare_and_set("a", "7", [])
    assert not d.add("a", 1)
    assert d.get_many(["a", "absent", 2.5]) == {"a": [], 2.5: 1}
    d.merge({"a": 1, "c": 2}, lambda key, mine, theirs: [*mine, theirs] if key in d else None)
    assert (d["a"], d["c"]) == ([1], 2)
    with d.batch() as batch:
        batch["c"] = 3
        del batch["a"]
    assert d.delete_many(["a", "c"]) == 1
    assert d._ipython_key_completions_() == []
    part = next(part for part in d.shards() if 12 in part)
    assert part[12] == 1


# Stores together


@pytest.fixture
def operands(tmp_path: Path, s: Set, engine: str, name: str) -> Iterator[dict[str, Callable[[], Any]]]:
    """THEIRS, as operands of all kinds."""
    with (
        Set(tmp_path / "alike", key_serdes=name, shards=2, engine=engine) as alike,
        Set(tmp_path / "other", key_serdes=name, shards=3) as other,
        Set(tmp_path / "whole", shards=2) as whole,
        Dict(tmp_path / "keys", key_serdes=name, shards=2, serdes="bytes") as keys,
    ):
        for each in (alike, other, whole):
            each.update(THEIRS)
        keys.update(dict.fromkeys(THEIRS, b""))
        yield {
            "alike": lambda: alike,
            "other": lambda: other,
            "whole": lambda: whole,
            "keys": keys.keys,
            "plain": lambda: THEIRS,
            "digests": lambda: digests(THEIRS, name),
        }


METHODS = ("union", "intersection", "difference", "symmetric_difference")
COMPARISONS = (operator.le, operator.lt, operator.eq, operator.ne, operator.ge, operator.gt)


def test_set_algebra_is_that_of_the_keys(s: Set, operands: dict[str, Callable[[], Any]], name: str) -> None:
    for kind, operand in operands.items():
        other = operand()
        for method in METHODS:
            expected = digests(getattr(MINE, method)(THEIRS), name)
            with getattr(s, method)(other) as made:
                assert set(made) == expected, (kind, method)
                assert made.key_serdes == name
            with s.copy() as changed:
                getattr(changed, "update" if method == "union" else f"{method}_update")(other)
                assert set(changed) == expected, (kind, method)
        for op in (operator.or_, operator.and_, operator.sub, operator.xor):
            assert set(op(s, other)) == digests(op(MINE, THEIRS), name), (kind, op)
            if kind != "whole":  # which would have to make keys of digests
                assert set(op(other, s)) == digests(op(THEIRS, MINE), name), (kind, op)


def test_comparisons_are_those_of_the_keys(s: Set, operands: dict[str, Callable[[], Any]]) -> None:
    for kind, operand in operands.items():
        other = operand()
        for mine, theirs in ((MINE, THEIRS), (MINE, MINE), (MINE, {"a"}), ({"a"}, MINE), ({"a"}, {"x"})):
            s.clear()
            s.update(mine)
            if isinstance(other, PersistentSet):
                other.clear()
                other.update(theirs)
            else:
                theirs = THEIRS
            assert s.isdisjoint(other) == mine.isdisjoint(theirs), kind
            for op in COMPARISONS:
                assert op(s, other) == op(mine, theirs), (kind, op, mine)
                assert op(other, s) == op(theirs, mine), (kind, op, mine)


def test_a_set_of_whole_keys_beside_one_of_digests(s: Set, operands: dict[str, Callable[[], Any]]) -> None:
    whole = operands["whole"]()
    assert set(whole & s) == THEIRS & MINE
    assert set(whole - s) == THEIRS - MINE
    assert not whole.isdisjoint(s)
    before = set(whole)
    for refused in (
        *(lambda: whole | s, lambda: whole ^ s, lambda: whole.update(s), lambda: whole.update([], s)),
        *(lambda: whole.symmetric_difference_update(s), lambda: s.copy(key_serdes="marshal")),
        *(lambda: next(iter(s)) in whole, lambda: whole.add(next(iter(s))), lambda: whole.update(list(s))),
    ):
        with pytest.raises(DigestKeysError):
            refused()
    assert set(whole) == before
    whole.intersection_update(s)
    assert set(whole) == THEIRS & MINE
    assert whole <= s
    whole.update(["new"])
    whole.difference_update(s)
    assert set(whole) == {"new"}
    assert whole.isdisjoint(s)


def test_digests_of_two_kinds_do_not_meet(s: Set, d: Dict, tmp_path: Path, engine: str) -> None:
    with Set(tmp_path / "o", key_serdes="digest:blake2s", engine=engine) as o:
        o.update(MINE)
        for refused in (
            *(lambda: o | s, lambda: o & s, lambda: s - o, lambda: o.update(s), lambda: o.difference_update(s)),
            *(lambda: o == s, lambda: o.isdisjoint(s), lambda: o >= s, lambda: o.update(d.keys())),
            *(lambda: compare(o, s), lambda: s.copy(key_serdes="digest:blake2s")),
        ):
            with pytest.raises(DigestKeysError, match="digest:blake2s"):
                refused()
        assert set(o) == digests(MINE, "digest:blake2s")


def test_dicts_together(d: Dict, tmp_path: Path, name: str) -> None:
    plain: dict[Any, Any] = dict.fromkeys(MINE, 1)
    with Dict(tmp_path / "other", key_serdes=name, shards=3) as other, Dict(tmp_path / "whole") as whole:
        for each in (other, whole):
            each.update(plain)
        for each in (other, whole, plain):
            assert d == each
            assert each == d
        for each in (other, whole):
            assert compare(d, each) == compare(each, d) == Counts(both=len(MINE))
        whole["more"] = other["more"] = plain["more"] = 2
        for each in (other, whole, plain):
            assert d != each
            assert dict(d | each) == dict.fromkeys(digests(MINE, name), 1) | dict.fromkeys(digests(["more"], name), 2)
        assert compare(d, whole) == Counts(only_theirs=1, both=len(MINE))
        assert compare(whole, d) == Counts(only_mine=1, both=len(MINE))
        with pytest.raises(DigestKeysError):
            whole.update(d)
        assert d.keys() == MINE
        assert d.keys() <= MINE | {"x"}
        for mine in (d.keys(), other.keys()):
            assert set(mine & ["a", "x"]) == digests(["a"], name)
            assert set(mine - MINE - {"more"}) == set()
            assert set(mine | {"x"}) >= digests({"x"} | MINE, name)
            assert not mine.isdisjoint(["a"])
        assert set(d.shards()[0].keys() & MINE) == set(d.shards()[0])
        same = d.items() & d.copy().items()
        assert {*same} == {(digest, 1) for digest in digests(MINE, name)}
        assert all(pair in d.items() for pair in same)


def test_workers_join_and_copy_digests(tmp_path: Path) -> None:
    with Set(tmp_path / "whole", shards=2) as whole:
        whole.update(MINE)
        with whole.copy(tmp_path / "a", key_serdes="digest", workers=2) as a, a.copy(shards=3) as b:
            assert set(a) == set(b) == digests(MINE)
            assert a == b == whole
            with a.union(a.copy(), workers=2) as both:
                assert both == a
            assert a.check(workers=2) == len(MINE)


# The store


def test_the_key_serdes_is_kept_and_not_contradicted(tmp_path: Path, engine: str, s: Set, name: str) -> None:
    path = s._path
    for given in (None, name):
        with Set(path, key_serdes=given) as again:
            assert (again.key_serdes, again.stat().key_serdes, again == s) == (name, name, True)
    for wrong in ("marshal", "digest:sha256", "str"):
        with pytest.raises(MismatchError, match=name):
            Set(path, key_serdes=wrong).open()
    with Set(tmp_path / "whole"), pytest.raises(MismatchError, match="canonical"):
        Set(tmp_path / "whole", key_serdes=name).open()


def _tells(given: Set, key: Any) -> tuple[bool, int]:
    return key in given, len(given)


def test_handles_snapshots_and_copies_are_of_digests(s: Set, name: str, tmp_path: Path) -> None:
    with get_context("spawn").Pool(1) as pool:
        assert pool.apply(_tells, (s, "a")) == (True, len(MINE))
    with s.snapshot() as then:
        s.discard("a")
        assert "a" in then
        assert set(then) == digests(MINE, name)
        then.backup(tmp_path / "backup")
    assert pickle.loads(pickle.dumps(s)).close() is None
    for made in (s.copy(tmp_path / "copy", shards=3), s.copy(serdes="str"), Set(tmp_path / "backup").open()):
        assert made.key_serdes == name
        made.discard("a")
        assert made == s
        made.close()
    s.close()
    rack.compact(s._path)
    rack.reshard(s._path, 5)
    report = rack.verify(s._path)
    assert report.sound
    assert not report.not_checked
    with Set(s._path) as moved:
        assert set(moved) == digests(MINE - {"a"}, name)
        assert moved.discard(10.0)
        moved.check()


def test_digests_have_no_order(s: Set, d: Dict) -> None:
    for scan in (s.scan, s.shards()[0].scan, d.scan, d.keys().scan):
        with pytest.raises(UnorderedKeysError, match="digests"):
            next(scan())


def test_a_repaired_store_is_one_of_digests(s: Set, name: str, tmp_path: Path) -> None:
    s.close()
    assert rack.repair(s._path, tmp_path / "whole").sound
    (tmp_path / "s.rack").unlink()
    told = rack.repair(s._path, tmp_path / "told", key_serdes=name)
    guessed = rack.repair(s._path, tmp_path / "guessed")
    for copy in ("whole", "told"):
        with Set(tmp_path / copy, flag="w") as repaired:
            assert (repaired.key_serdes, set(repaired)) == (name, digests(MINE, name))
            repaired.check()
    assert not any("digests" in each for each in told.problems)
    assert "as digests are" in guessed.problems[-1]
    with Set(tmp_path / "guessed", flag="w") as repaired:
        assert (repaired.key_serdes, len(repaired)) == ("bytes", len(MINE))

    again = rack.repair(tmp_path / "guessed", tmp_path / "again")
    assert again.sound


def test_verify_finds_what_is_no_digest(s: Set, name: str) -> None:
    s._store.shards[0].put(next(key for key in map(bytes, range(20)) if s._route(key) is s._store.shards[0]), b"")
    with pytest.raises(rack.DeserializationError, match="cannot be read"):
        s.check()
    s._store.shards[0].delete_many([bytes(size) for size in range(20)])


def test_a_small_set_has_room_for_digests(tmp_path: Path) -> None:
    with SmallSet[Any](tmp_path / "small", key_serdes="digest:sha512:32") as small:
        small.update(MINE)
        assert "long" * 600 in small
        assert set(small) == digests(MINE, "digest:sha512:32")
