"""``rack repair`` on the command line, and stores of which files or the manifest are lost."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from rack import (
    ManifestError,
    PersistentDict,
    PersistentSet,
    StoreExistsError,
    StoreInUseError,
    StoreNotFoundError,
)
from rack.care.guess import guess_manifest
from rack.care.repair import repair
from tests.cli.test_verify import run
from tests.support.commands import Rack
from tests.support.commands import rack as rack
from tests.support.damage import PAGE
from tests.support.processes import Crew, assert_sound, default_engine, hear, tell
from tests.support.processes import engine as engine

CONTENT: dict[str, Any] = {f"k{n}": [n, "v" * (n % 300)] for n in range(1000)}


@pytest.fixture
def path(tmp_path: Path, engine: str) -> Path:
    with PersistentDict[str, Any](tmp_path / "store", shards=4, durability="process") as store:
        store.update(CONTENT)
    return tmp_path / "store"


def shard(path: Path, number: int) -> Path:
    return Path(f"{path}-{number:04d}.{default_engine()}")


def files(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def content(path: Path) -> dict[str, Any]:
    with PersistentDict[str, Any](path, flag="w") as store:
        found = dict(store)
    assert_sound(store)
    return found


def of_shard(number: int, shards: int = 4) -> dict[str, Any]:
    import marshal

    import xxhash

    return {
        key: value
        for key, value in CONTENT.items()
        if xxhash.xxh3_64_intdigest(marshal.dumps(key, 2)) * shards >> 64 == number
    }


# The command


def test_what_is_whole_is_exit_code_0(path: Path) -> None:
    assert run("repair", path) == (0, f"1,000 entries are in {path}-repaired\n", "")
    assert content(Path(f"{path}-repaired")) == CONTENT
    assert run("repair", path, "--to", path.with_name("quiet"), "-q") == (0, "", "")
    assert content(path.with_name("quiet")) == CONTENT
    assert_sound(PersistentDict(path))


def test_what_is_damaged_is_exit_code_1_and_told_for_each_shard(path: Path) -> None:
    shard(path, 2).unlink()
    before = files(path.parent)
    code, output, errors = run("repair", path, "--json")
    report: Any = json.loads(output)
    lost = of_shard(2)
    assert (code, errors, report["sound"], report["kept"]) == (1, "", False, 1000 - len(lost))
    assert [entry["lost"] for entry in report["shards"]] == [0, 0, None, 0]
    assert [bool(entry["problems"]) for entry in report["shards"]] == [False, False, True, False]
    assert report["to"] == f"{path}-repaired"
    assert content(Path(report["to"])) == {key: CONTENT[key] for key in CONTENT.keys() - lost.keys()}
    assert {name: data for name, data in files(path.parent).items() if "-repaired" not in name} == before
    code, output, errors = run("repair", path, "--to", path.with_name("new"))
    assert (code, errors) == (1, "")
    assert f"{shard(path, 2)} is lost" in output


def test_what_cannot_be_done_is_exit_code_2_and_makes_nothing(path: Path) -> None:
    before = files(path.parent)
    code, output, errors = run("repair", path.with_name("nothing"))
    assert (code, output) == (2, "")
    assert errors.startswith("rack repair: there is no store ")
    assert run("repair", path, "--to", path)[0] == 2
    assert run("repair", path, "--to", path.parent / "no" / "directory")[0] == 2
    assert run("repair")[0] == 2
    assert run("repair", path, "--kind", "list")[0] == 2
    assert files(path.parent) == before
    assert_sound(PersistentDict(path))


def _stay(path: Path) -> None:
    with PersistentDict[str, Any](path, flag="w"):
        tell("open")
        hear()


def test_a_store_in_use_is_not_repaired(path: Path) -> None:
    with Crew() as crew:
        worker = crew.start(_stay, path)
        worker.hear()
        with pytest.raises(StoreInUseError, match=str(worker.pid)):
            repair(path)
        worker.tell()
        worker.result()
    with PersistentDict[str, Any](path), pytest.raises(StoreInUseError):
        repair(path)
    assert not list(path.parent.glob("*repaired*"))
    assert_sound(PersistentDict(path))


def test_a_store_that_is_there_is_not_replaced(path: Path) -> None:
    repair(path)
    with pytest.raises(StoreExistsError):
        repair(path)
    assert content(Path(f"{path}-repaired")) == CONTENT
    with pytest.raises(StoreNotFoundError):
        repair(path.with_name("nothing"))


# Files that are lost, or in each other's place


def test_shards_that_changed_places_are_told_by_what_they_say(path: Path) -> None:
    aside = path.with_name("aside")
    for one, two in ((0, aside), (1, 0), (aside, 1)):
        source = shard(path, one) if isinstance(one, int) else one
        source.rename(shard(path, two) if isinstance(two, int) else two)
    report = repair(path)
    assert not report.sound
    assert [entry.lost for entry in report.shards] == [0, 0, 0, 0]
    assert content(Path(report.to)) == CONTENT


def test_a_copy_of_a_shard_in_the_place_of_another_is_left_out(path: Path) -> None:
    with PersistentDict[str, Any](path) as store:
        shutil.copy(shard(path, 0), path.with_name("old"))
        store.update(dict.fromkeys(of_shard(0), "new"))
    os.replace(path.with_name("old"), shard(path, 1))
    report = repair(path)
    assert any("left out" in problem for problem in report.problems)
    kept = {**CONTENT, **dict.fromkeys(of_shard(0), "new")}
    assert content(Path(report.to)) == {key: kept[key] for key in kept.keys() - of_shard(1).keys()}


def test_a_shard_of_another_store_is_left_out(path: Path) -> None:
    with PersistentDict[str, Any](path.with_name("other"), shards=4) as other:
        other.update(dict.fromkeys(CONTENT, "not ours"))
    shutil.copy(shard(path.with_name("other"), 3), shard(path, 3))
    report = repair(path)
    assert any("another store" in problem for problem in report.problems)
    assert content(Path(report.to)) == {key: CONTENT[key] for key in CONTENT.keys() - of_shard(3).keys()}


# A manifest that is lost

STORES: dict[str, tuple[type[Any], dict[str, Any], Any]] = {
    "dict": (PersistentDict, {"shards": 5}, {f"k{n}": n for n in range(500)}),
    "set": (PersistentSet, {"shards": 3}, {f"k{n}" for n in range(500)}),
    "numbers": (PersistentSet, {"shards": 7}, {(n, n / 3) for n in range(500)}),
    "pickle": (PersistentDict, {"serdes": "pickle"}, {f"k{n}": complex(n) for n in range(500)}),
    "json": (PersistentDict, {"serdes": "json"}, {f"k{n}": {"n": [n]} for n in range(500)}),
    "ordered": (PersistentDict, {"key_serdes": "ordered"}, {(n, str(n)): n for n in range(500)}),
    "str": (PersistentDict, {"serdes": "str"}, {f"k{n}": f"väl {n}" for n in range(500)}),
    "bytes": (PersistentDict, {"serdes": "bytes"}, {b"\xff%d" % n: b"\xfe%d" % n for n in range(500)}),
}


@pytest.mark.parametrize("name", STORES)
@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_store_whose_manifest_is_lost_is_told_by_its_shards(
    name: str, damage: str, tmp_path: Path, engine: str
) -> None:
    cls, options, entries = STORES[name]
    path = tmp_path / "store"
    with cls(path, **options) as store:
        store.update(entries)
    Path(f"{path}.rack").unlink()
    if damage == "damaged":
        Path(f"{path}.rack").write_bytes(b"{}")
    report = repair(path)
    assert not report.sound
    assert report.kept == len(entries)
    with cls(report.to, flag="w") as new:
        assert (dict if cls is PersistentDict else set)(new) == entries
        assert len(new.shards()) == options.get("shards", 16)
    assert_sound(new)


def test_what_the_shards_do_not_tell_can_be_given(path: Path) -> None:
    with PersistentSet[str](path.with_name("none"), shards=2):
        pass
    for name in ("store", "none"):
        path.with_name(f"{name}.rack").unlink()
    with pytest.raises(ManifestError, match="kind"):
        repair(path.with_name("none"))
    assert run("repair", path.with_name("none"), "--kind", "set")[0] == 1
    with PersistentSet[str](path.with_name("none-repaired"), flag="w") as new:
        assert set(new) == set()
    assert_sound(new)
    given, _ = guess_manifest(str(path), "dict", "pickle", "str")
    assert (given.kind, given.serdes, given.key_serdes) == ("dict", "pickle", "str")
    assert run("repair", path, "--serdes", "marshal", "--key-serdes", "marshal")[0] == 1
    assert content(Path(f"{path}-repaired")) == CONTENT


def test_shards_that_are_lost_with_the_manifest_are_counted_all_the_same(path: Path) -> None:
    Path(f"{path}.rack").unlink()
    shard(path, 3).unlink()
    report = repair(path)
    assert len(report.shards) == 4
    assert content(Path(report.to)) == {key: CONTENT[key] for key in CONTENT.keys() - of_shard(3).keys()}


# Pages that may be old


def test_both_meta_pages_lost_is_what_stray_is_for(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with PersistentDict[str, Any](path, shards=1, engine="lmdb", durability="process") as store:
        store.update(CONTENT)
    file = Path(f"{path}-0000.lmdb")
    data = file.read_bytes()
    file.write_bytes(bytes(2 * PAGE) + data[2 * PAGE :])
    report = repair(path)
    assert (report.kept, report.shards[0].counted) == (0, None)
    assert report.shards[0].strays >= len(CONTENT)
    report = repair(path, tmp_path / "stray", stray=True)
    assert report.kept == report.shards[0].strays_kept == len(CONTENT)
    assert content(tmp_path / "stray") == CONTENT  # nothing has been changed since it was stored
    code, output, _ = run("repair", path, "--to", tmp_path / "third")
    assert code == 1
    assert "--stray keeps them" in output


def test_a_branch_that_is_lost_costs_nothing(tmp_path: Path) -> None:
    """What was below it is in pages that are neither free nor in their place: so it is in the store."""
    path = tmp_path / "store"
    with PersistentDict[str, Any](path, shards=1, engine="lmdb", durability="process") as store:
        store.update(CONTENT)
        store.update(dict.fromkeys(CONTENT, "changed"))
        for key in list(CONTENT)[::3]:
            del store[key]
        expected = dict(store)
    file = Path(f"{path}-0000.lmdb")
    data = bytearray(file.read_bytes())
    branches = [at for at in range(2 * PAGE, len(data), PAGE) if data[at + 10] == 1]
    assert branches
    for at in branches:
        data[at : at + PAGE] = bytes(PAGE)
    file.write_bytes(data)
    report = repair(path)
    assert (report.shards[0].lost, report.shards[0].strays) == (0, 0)
    assert content(Path(report.to)) == expected


# What is made is what it was


@pytest.mark.parametrize("lines", [[b"a", b"b"], [b"\xff", b"plain"], []], ids=["text", "bytes", "empty"])
def test_a_store_of_dedup_whose_manifest_is_lost_can_be_used_by_it_again(
    lines: list[bytes], tmp_path: Path, engine: str, rack: Rack
) -> None:
    (tmp_path / "f").write_bytes(b"".join(line + b"\n" for line in lines))
    (tmp_path / "g").write_bytes(b"more\n")
    assert rack("dedup", tmp_path / "s", tmp_path / "f", "-q", "--count")[0] == 0
    (tmp_path / "s.rack").unlink()
    assert rack("repair", tmp_path / "s", "--serdes", "bytes", "--kind", "set")[0] == 1
    code, output, errors = rack("dedup", tmp_path / "s-repaired", tmp_path / "f", tmp_path / "g", "-q")
    assert (code, output, errors) == (0, "more\n", "")
    with PersistentSet[bytes](tmp_path / "s-repaired", serdes="bytes", flag="w") as store:
        assert set(store) == {*lines, b"more"}
    assert_sound(store)


@pytest.mark.parametrize("serdes", ["marshal", "pickle", "json", "str", "bytes", "ordered"])
@pytest.mark.parametrize("cls", [PersistentSet, PersistentDict])
def test_the_serdes_that_is_given_makes_what_it_made_at_first(
    cls: type[Any], serdes: str, tmp_path: Path, engine: str, rack: Rack
) -> None:
    keys: list[Any] = [b"\xff", b"b"] if serdes == "bytes" else ["a", "b"]
    with cls(tmp_path / "s", serdes=serdes, shards=2) as store:
        store.update(keys if cls is PersistentSet else dict.fromkeys(keys, keys[0]))
        manifest = store._manifest
    (tmp_path / "s.rack").unlink()
    kind = "set" if cls is PersistentSet else "dict"
    assert rack("repair", tmp_path / "s", "--serdes", serdes, "--kind", kind)[0] == 1
    with cls(tmp_path / "s-repaired", serdes=serdes, flag="w") as made:
        assert set(made) == set(keys)
        assert (made._manifest.serdes, made._manifest.key_serdes) == (manifest.serdes, manifest.key_serdes)
    # Nothing is given: it is a store like that, if the shards tell.
    assert rack("repair", tmp_path / "s", "--to", tmp_path / "t")[0] == 1
    with cls(tmp_path / "t", flag="w") as guessed:
        assert set(guessed) == set(keys)
    if cls is PersistentSet and serdes in ("str", "bytes"):
        with cls(tmp_path / "t", serdes=serdes, flag="w") as guessed:
            assert set(guessed) == set(keys)
