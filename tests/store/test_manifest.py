"""The manifest: what it holds, how arguments that contradict it are told, what is adopted, and where keys go."""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rack import ManifestError, MismatchError, PersistentDict, PersistentSet, StoreNotFoundError
from rack.shard import ENGINES
from rack.store.manifest import DEFAULT_SHARDS
from rack.store.router import router
from tests.conformance.raw import RAW

every_engine = pytest.mark.parametrize("engine", ENGINES)


def blake(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def manifest_of(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.with_name(path.name + ".rack").read_text()))


@every_engine
def test_the_manifest_says_what_the_store_is(tmp_path: Path, engine: str) -> None:
    options: dict[str, Any] = {"serdes": "json", "key_serdes": "ordered", "hash": blake, "shards": 3}
    with PersistentDict(tmp_path / "d", engine=engine, **options) as d:
        d["k"] = 1
        assert d.check() == 1
    content = manifest_of(tmp_path / "d")
    store_id = content.pop("id")
    assert len(bytes.fromhex(store_id)) == 16
    assert content == {
        "format": 1,
        "kind": "dict",
        "engine": engine,
        "shards": 3,
        "serdes": "json",
        "key_serdes": "ordered",
        "hash": "blake",
        "layout": "direct",
        "probes": {"hash": [b"rack".hex(), blake(b"rack").hex()]},
    }
    before = (tmp_path / "d.rack").read_bytes()
    with PersistentDict(tmp_path / "d", hash=blake) as d:
        d["more"] = 2
        assert d.check() == 2
    assert (tmp_path / "d.rack").read_bytes() == before, "the manifest changed after the store was made"


def test_a_store_made_with_defaults_records_them(tmp_path: Path) -> None:
    with PersistentSet(tmp_path / "s") as s:
        assert s.check() == 0
    content = manifest_of(tmp_path / "s")
    assert {key: content[key] for key in ("kind", "engine", "shards", "serdes", "key_serdes", "hash", "layout")} == {
        "kind": "set",
        "engine": "lmdb",
        "shards": DEFAULT_SHARDS,
        "serdes": "marshal",
        "key_serdes": "canonical",
        "hash": "sha256",
        "layout": "direct",
    }
    assert 8 <= DEFAULT_SHARDS <= 32


@every_engine
def test_the_files_of_a_store_have_the_documented_names(tmp_path: Path, engine: str) -> None:
    with PersistentDict(tmp_path / "a name.with é", engine=engine, shards=12) as d:
        d.update({number: number for number in range(100)})
        assert d.check() == 100
    names = {path.name for path in tmp_path.iterdir()}
    suffix = RAW[engine].suffix
    shards = {f"a name.with é-{number:04d}{suffix}" for number in range(12)}
    others = {"a name.with é.rack", "a name.with é.rack-lock", "a name.with é.rack-boot"}
    assert shards | others <= names
    rest = names - shards - others
    assert {name[: name.index(suffix) + len(suffix)] for name in rest} <= shards


def test_a_name_needs_no_directory_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with PersistentSet("plain", shards=1) as s:
        os.chdir("/")
        s.add(1)
        assert s.check() == 1
    assert (tmp_path / "plain.rack").exists()


OTHER: dict[str, tuple[Any, Any]] = {
    "shards": (4, r"shards=4\b.*shards=3\b"),
    "serdes": ("pickle", r"serdes='pickle'.*serdes='json'"),
    "key_serdes": ("ordered", r"key_serdes='ordered'.*key_serdes='canonical'"),
    "hash": (blake, r"hash=.*blake.*hash=sha256"),
}


@every_engine
@pytest.mark.parametrize("argument", OTHER)
def test_an_argument_that_contradicts_the_store_is_told_with_both_values(
    tmp_path: Path, engine: str, argument: str
) -> None:
    given, message = OTHER[argument]
    with PersistentDict(tmp_path / "d", engine=engine, shards=3, serdes="json") as d:
        d["k"] = 1
    for flag in "rwc":
        with pytest.raises(MismatchError, match=f"(?s){message}") as caught:
            PersistentDict(tmp_path / "d", **{argument: given}, flag=flag).open()
        assert str(tmp_path / "d.rack") in str(caught.value)
    with PersistentDict(tmp_path / "d") as d:
        with pytest.raises(MismatchError, match=f"(?s){message}"):
            PersistentDict(tmp_path / "d", **{argument: given}).open()
        assert d["k"] == 1
        assert d.check() == 1


def test_another_engine_is_told_with_both_values(tmp_path: Path) -> None:
    for mine, other in ((a, b) for a in ENGINES for b in ENGINES if a != b):
        with PersistentDict(tmp_path / mine, engine=mine, shards=1) as d:
            d["k"] = 1
        with pytest.raises(MismatchError, match=f"engine='{other}'.*engine='{mine}'"):
            PersistentDict(tmp_path / mine, engine=other).open()
        with PersistentDict(tmp_path / mine) as d:
            assert d["k"] == 1
            assert d.check() == 1


def test_another_kind_is_told(tmp_path: Path) -> None:
    with PersistentDict(tmp_path / "d", shards=1) as d, PersistentSet(tmp_path / "s", shards=1) as s:
        d["k"] = 1
        s.add("k")
        with pytest.raises(MismatchError, match=r"is a dict.*PersistentDict"):
            PersistentSet(tmp_path / "d").open()
        with pytest.raises(MismatchError, match=r"is a set.*PersistentSet"):
            PersistentDict(tmp_path / "s").open()
        assert (d.check(), s.check()) == (1, 1)


def test_another_durability_in_one_process_is_told_with_both_values(tmp_path: Path) -> None:
    with PersistentDict(tmp_path / "d", shards=1) as d:
        with pytest.raises(MismatchError, match=r"durability='always'.*'everysec'"):
            PersistentDict(tmp_path / "d", durability="always").open()
        with PersistentDict(tmp_path / "d", durability="everysec") as other:
            other["k"] = 1
        assert d.check() == 1
    with PersistentDict(tmp_path / "d", durability="always") as d:
        d["k"] = 2
        with PersistentDict(tmp_path / "d") as adopted:
            assert adopted["k"] == 2
        with pytest.raises(MismatchError, match=r"durability='process'.*'always'"):
            PersistentDict(tmp_path / "d", durability="process").open()
        assert d.check() == 1


@every_engine
def test_what_the_manifest_says_is_adopted(tmp_path: Path, engine: str) -> None:
    with PersistentDict(tmp_path / "d", engine=engine, shards=5, serdes="json", key_serdes="str") as d:
        d["k"] = [1]
    for options in ({}, {"shards": 5}, {"serdes": "json"}, {"engine": engine}, {"flag": "w"}, {"flag": "r"}):
        with PersistentDict(tmp_path / "d", **options) as d:  # type: ignore[arg-type]
            assert len(d.shards()) == 5
            assert engine in repr(d)
            assert d["k"] == [1]
            if "flag" not in options:
                d["k"] = [1]
            assert d.check() == 1


def test_a_hash_of_the_user_must_be_given_again(tmp_path: Path) -> None:
    key = "long" * 300
    with PersistentDict(tmp_path / "d", blake, shards=1) as d:
        d[key] = 1
    with pytest.raises(MismatchError, match=r"None \(sha256\).*hash=blake"):
        PersistentDict(tmp_path / "d").open()
    with PersistentDict(tmp_path / "d", lambda data: blake(data)) as d:  # it gives the same digests
        assert d[key] == 1
        assert d.check() == 1


@pytest.mark.parametrize("bad", [lambda data: "text", lambda data: b"x" * 256, lambda data: data, 5])
def test_a_hash_that_is_none_is_refused_before_anything_is_made(tmp_path: Path, bad: Any) -> None:
    with pytest.raises(TypeError, match="hash="):
        PersistentDict(tmp_path / "d", bad).open()
    assert list(tmp_path.iterdir()) == []


BAD_MANIFESTS = ["", "{", "[]", "5", "null", '{"format": 1}', '{"format": "x"}', "\0" * 100, "\xff"]


@pytest.mark.parametrize("content", BAD_MANIFESTS, ids=repr)
def test_a_damaged_manifest_is_told_and_nothing_is_lost(tmp_path: Path, content: str) -> None:
    with PersistentDict(tmp_path / "d", shards=2) as d:
        d["k"] = 1
    file = tmp_path / "d.rack"
    good = file.read_bytes()
    file.write_bytes(content.encode("latin-1"))
    for flag in "rwcn":
        with pytest.raises(ManifestError, match=r"d\.rack"):
            PersistentDict(tmp_path / "d", flag=flag).open()
    file.write_bytes(good)
    with PersistentDict(tmp_path / "d") as d:
        assert d["k"] == 1
        assert d.check() == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2.*Upgrade"),
        ({"engine": "mystery"}, "mystery"),
        ({"shards": "3"}, "'3'"),
        ({"surplus": 1}, "surplus"),
    ],
    ids=str,
)
def test_a_manifest_of_another_rack_is_told(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with PersistentDict(tmp_path / "d", shards=3) as d:
        d["k"] = 1
    content = manifest_of(tmp_path / "d")
    (tmp_path / "d.rack").write_text(json.dumps(content | change))
    with pytest.raises(ManifestError, match=message):
        PersistentDict(tmp_path / "d").open()
    (tmp_path / "d.rack").write_text(json.dumps(content))
    with PersistentDict(tmp_path / "d") as d:
        assert d.check() == 1


def test_without_its_manifest_a_store_is_not_there_and_its_data_is_not_replaced(tmp_path: Path) -> None:
    with PersistentDict(tmp_path / "d", shards=1) as d:
        d["k"] = 1
    good = (tmp_path / "d.rack").read_bytes()
    (tmp_path / "d.rack").unlink()
    for flag in "rw":
        with pytest.raises(StoreNotFoundError):
            PersistentDict(tmp_path / "d", flag=flag).open()
    with pytest.raises(OSError, match="in the way"):
        PersistentDict(tmp_path / "d", shards=1).open()
    (tmp_path / "d.rack").write_bytes(good)
    with PersistentDict(tmp_path / "d") as d:
        assert d["k"] == 1


# The router: stores on disk depend on it.

GOLDEN = {b"": 2, b"a": 14, b"b": 5, b"rack": 0, b"\0": 12, b"key" * 500: 3}


def test_keys_go_where_they_always_went() -> None:
    route = router(range(16))
    found = {key: route(key) for key in GOLDEN}
    assert found == GOLDEN
    for key in [b"%d" % number for number in range(2_000)]:
        assert router(range(7))(key) == RAW["lmdb"].shard_of(key, 7)


@pytest.mark.parametrize("shards", [2, 3, 7, 16, 100])
def test_keys_spread_evenly(shards: int) -> None:
    route = router(range(shards))
    keys = 2_000 * shards
    counts = Counter(route(b"%d" % number) for number in range(keys))
    assert set(counts) == set(range(shards))
    chi_squared = sum((count - 2_000) ** 2 / 2_000 for count in counts.values())
    assert chi_squared < shards + 6 * (2 * shards) ** 0.5, "too uneven to be chance"


@pytest.mark.parametrize("shards", [1, 3, 8])
def test_twice_the_shards_split_each_in_two(shards: int) -> None:
    few, many = router(range(shards)), router(range(2 * shards))
    halves = {(few(key), many(key)) for key in (b"%d" % number for number in range(3_000))}
    assert halves == {(number // 2, number) for number in range(2 * shards)}


def test_serializers_of_one_name_with_other_bytes_are_told_apart(tmp_path: Path) -> None:
    def serdes(prefix: bytes) -> tuple[Any, Any]:
        def dumps(value: Any) -> bytes:
            return prefix + repr(value).encode()

        def loads(data: bytes) -> Any:
            return ast.literal_eval(data.removeprefix(prefix).decode())

        return loads, dumps

    with PersistentDict(tmp_path / "d", serdes=serdes(b"a"), shards=1) as d:
        d["k"] = [1]
    with pytest.raises(MismatchError, match=r"serdes"):
        PersistentDict(tmp_path / "d", serdes=serdes(b"b")).open()
    with PersistentDict(tmp_path / "d", serdes=serdes(b"a")) as d:
        assert d["k"] == [1]
