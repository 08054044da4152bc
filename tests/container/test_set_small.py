"""rack.set_small: elements of 1 to 511 bytes when serialized, ``lmdb.BadValsizeError`` for others, nothing lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest

from rack import MismatchError, TooLargeError, set_lmdb
from rack import set as rack_set
from rack.set_small import PersistentSet
from tests.conformance.raw import RAW
from tests.support.processes import end_sound as end_sound

LONGEST, TOO_LONG = b"k" * 511, b"k" * 512


@pytest.fixture
def small(tmp_path: Path) -> Any:
    with PersistentSet(tmp_path / "small", serdes="bytes", shards=2) as small:
        small.update([b"a", b"b"])
        yield small
        assert small.check() == len(set(small))


@pytest.mark.parametrize(
    "add",
    [
        lambda s, e: s.add(e),
        lambda s, e: s.update([b"new", e]),
        lambda s, e: s.add_many([b"new", e]),
        lambda s, e: list(s.filter_new([b"new", e])),
        lambda s, e: s.symmetric_difference_update([e]),
        lambda s, e: s.__ior__({e}),
    ],
    ids=["add", "update", "add_many", "filter_new", "symmetric_difference_update", "ior"],
)
@pytest.mark.parametrize("element", [TOO_LONG, b"k" * 10_000, b""], ids=["512 bytes", "10,000 bytes", "0 bytes"])
def test_an_element_that_does_not_fit_is_refused_and_nothing_is_lost(
    small: PersistentSet[bytes], add: Callable[[Any, bytes], object], element: bytes
) -> None:
    for error in (lmdb.BadValsizeError, TooLargeError, OverflowError):
        with pytest.raises(error, match=f"{len(element)} bytes.*rack.set"):
            add(small, element)
    assert {b"a", b"b"} <= set(small) <= {b"a", b"b", b"new"}


def test_the_longest_element_fits(small: PersistentSet[bytes]) -> None:
    assert small.add(LONGEST)
    assert not small.add(LONGEST)
    assert LONGEST in small
    assert list(small) == [b"a", b"b", LONGEST]
    assert small.discard(LONGEST)
    assert list(small.filter_new([LONGEST, b"\xff" * 509])) == [LONGEST, b"\xff" * 509]


def test_the_limit_is_on_the_serialized_bytes(tmp_path: Path) -> None:
    with PersistentSet[str](tmp_path / "s", shards=1) as small:
        assert small.add("x" * 506)  # marshal adds five bytes
        with pytest.raises(lmdb.BadValsizeError):
            small.add("x" * 507)
        with pytest.raises(lmdb.BadValsizeError):
            small.add("é" * 254)
        assert small.check() == 1


def test_elements_are_lmdb_keys_and_there_is_no_other_table(small: PersistentSet[bytes], tmp_path: Path) -> None:
    small.close()
    assert RAW["lmdb"].read_store(tmp_path / "small", 2) == {b"a": b"", b"b": b""}
    for number in range(2):
        path = str(tmp_path / f"small-{number:04d}.lmdb")
        with lmdb.open(path, subdir=False, readonly=True, lock=False, lib_version=0) as env, env.begin() as txn:
            assert txn.get(b"\x01") is None
    small.open()


def test_set_algebra_makes_small_sets(small: PersistentSet[bytes]) -> None:
    with small | {b"c"} as union:
        assert type(union) is PersistentSet
        assert union == {b"a", b"b", b"c"}
        with pytest.raises(lmdb.BadValsizeError):
            union.add(TOO_LONG)
        assert union.check() == 3


def test_a_small_set_cannot_be_opened_as_another_and_the_other_way_round(tmp_path: Path) -> None:
    with PersistentSet(tmp_path / "small", shards=1) as small:
        small.add("a")
    with rack_set.PersistentSet(tmp_path / "direct", shards=1) as direct:
        direct.add("a")
    with pytest.raises(MismatchError, match=r"layout='small'.*layout='direct'"):
        PersistentSet(tmp_path / "direct").open()
    with set_lmdb.PersistentSet(tmp_path / "small") as adopted:  # it adopts what the manifest says
        with pytest.raises(lmdb.BadValsizeError):
            adopted.add("x" * 600)
        assert adopted.check() == 1
