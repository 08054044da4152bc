"""The dbm module on Rack: as those of the standard library, and ``shelve`` on it."""

from __future__ import annotations

import dbm as standard
import os
import shelve
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rack
from rack.adapters import dbm
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine
from tests.support.processes import run, run_script


def test_strings_are_encoded_and_bytes_come_out(tmp_path: Path, engine: str) -> None:
    with dbm.open(tmp_path / "d", "c") as db:
        db["ä"] = "ö"
        db[bytearray(b"b")] = memoryview(b"\0\xff")
        assert db["ä".encode()] == "ö".encode()
        assert sorted(db.keys()) == sorted(db) == [b"b", "ä".encode()]
        assert sorted(db.values()) == [b"\0\xff", "ö".encode()]
        assert sorted(db.items()) == [(b"b", b"\0\xff"), ("ä".encode(), "ö".encode())]
        assert "ä" in db
        assert b"a" not in db
        assert len(db) == 2
        assert db == {b"b": b"\0\xff", "ä".encode(): "ö".encode()}
        with pytest.raises(KeyError):
            db["a"]
        with pytest.raises(KeyError):
            del db["a"]
        for wrong in (1, None, 1.5):
            with pytest.raises(TypeError, match="keys must be bytes or strings"):
                db[wrong] = b""  # type: ignore[index]
            with pytest.raises(TypeError, match="values must be bytes or strings"):
                db["a"] = wrong  # type: ignore[assignment]
    with rack.PersistentDict[bytes, bytes](tmp_path / "d", flag="r") as d:
        assert d["ä".encode()] == "ö".encode()


def test_the_rest_of_a_mapping(tmp_path: Path) -> None:
    with dbm.open(tmp_path / "d", "n") as db:
        assert (db.setdefault("a", "1"), db.setdefault("a", "2"), db.setdefault("b")) == (b"1", b"1", b"")
        assert (db.get("a"), db.get("c"), db.get("c", 3)) == (b"1", None, 3)
        assert (db.pop("a"), db.pop("a", 7)) == (b"1", 7)
        with pytest.raises(KeyError):
            db.pop("a")
        assert db.popitem() == (b"b", b"")
        with pytest.raises(KeyError):
            db.popitem()
        db.update({"a": "1"}, b="2")
        db.update([("c", "3")])
        db.update(db)
        assert sorted(db.items()) == [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]
        db.sync()
        db.clear()
        assert not db


FLAGS: dict[str, tuple[bool, bool]] = {"r": (True, False), "w": (True, True), "c": (True, True), "n": (False, True)}


@pytest.mark.parametrize(("flag", "does"), FLAGS.items())
def test_flags(flag: str, does: tuple[bool, bool], tmp_path: Path) -> None:
    keeps, writes = does
    if flag in "rw":
        with pytest.raises(dbm.error) as caught:
            dbm.open(tmp_path / "d", flag)
        assert isinstance(caught.value.__cause__, rack.StoreNotFoundError)
        assert (caught.value.errno, caught.value.filename) == (2, str(tmp_path / "d.rack"))
    dbm.open(tmp_path / "d", "c").close()
    with dbm.open(tmp_path / "d", "w") as db:
        db["a"] = "1"
    with dbm.open(tmp_path / "d", flag) as db:
        assert db.keys() == [b"a"] * keeps
        changes: list[Callable[[], Any]] = [
            *(lambda: db.__setitem__("b", "2"), lambda: db.__delitem__("b"), lambda: db.setdefault("c", "3")),
            *(lambda: db.pop("c"), lambda: db.update(d="4"), db.clear),
        ]
        for change in changes:
            if writes:
                change()
            else:
                with pytest.raises(dbm.error, match="opened for reading only"):
                    change()
    with pytest.raises(ValueError, match="'r', 'w', 'c', or 'n', not 'x'"):
        dbm.open(tmp_path / "d", "x")


def test_the_default_is_to_read(tmp_path: Path) -> None:
    with pytest.raises(dbm.error):
        dbm.open(tmp_path / "d")


def test_errors_are_those_of_dbm_and_of_rack(tmp_path: Path) -> None:
    assert issubclass(dbm.error, standard.error)
    assert issubclass(dbm.error, rack.RackError)
    for name in ("", tmp_path / "nowhere" / "d"):
        with pytest.raises(dbm.error):
            dbm.open(name, "c")
    with rack.PersistentDict(tmp_path / "other", serdes="json") as other, pytest.raises(dbm.error, match="serdes"):
        dbm.open(other.name, "c")


def test_what_is_closed_says_so(tmp_path: Path) -> None:
    db = dbm.open(tmp_path / "d", "c")
    db["a"] = "1"
    begun, unused = iter(db), iter(db)
    next(begun)
    db.close()
    db.close()
    uses: list[Callable[[], Any]] = [
        *(lambda: db["a"], lambda: db.__setitem__("a", "2"), lambda: db.__delitem__("a"), lambda: "a" in db),
        *(lambda: len(db), db.keys, db.values, db.items, db.popitem, db.clear, db.sync, lambda: db.get("a")),
        *(lambda: next(unused), lambda: db.pop("a"), lambda: db.update(a="2"), lambda: db.setdefault("a")),
    ]
    for use in uses:
        with pytest.raises(dbm.error, match="already been closed"):
            use()


@pytest.mark.parametrize("path", [str, os.fsencode, Path], ids=["str", "bytes", "path"])
def test_names(path: Callable[[str], Any], tmp_path: Path) -> None:
    with dbm.open(path(f"{tmp_path}/d"), "c") as db:
        db["a"] = "1"
    assert rack.exists(tmp_path / "d")


def test_the_mode_of_new_files(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        for name, mode in (("a", 0o637), ("b", 0o640), ("c", 0o666), ("d", 0o000)):
            dbm.open(tmp_path / name, "c", mode).close()
            with dbm.open(tmp_path / name, "w") as db:  # which may make more of them
                db["a"] = "1"
        assert os.umask(0o002) == 0o002
    finally:
        os.umask(before)
    modes = {
        name: {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.glob(f"{name}[.-]*")}
        for name in ("a", "b", "c", "d")
    }
    assert modes == {"a": {0o624 | 0o600}, "b": {0o640}, "c": {0o664}, "d": {0o600}}


@pytest.mark.parametrize("writeback", [False, True])
def test_a_shelf(writeback: bool, tmp_path: Path) -> None:
    with shelve.Shelf(dbm.open(tmp_path / "s", "c"), writeback=writeback) as shelf:
        shelf["list"] = [1]
        shelf["list"].append(2)
        shelf["ä"] = {"b": None}
        shelf.sync()
        shelf["list"].append(3)
        del shelf["ä"]
    with shelve.Shelf(dbm.open(tmp_path / "s")) as shelf:
        assert dict(shelf) == {"list": [1, 2, 3] if writeback else [1]}
        with pytest.raises(dbm.error):
            shelf["new"] = 1


def _fill(path: Path, number: int) -> int:
    with shelve.Shelf(dbm.open(path, "c")) as shelf:
        for key in range(200):
            shelf[f"{number} {key}"] = [number, key]
        return sum(shelf.dict.setdefault(str(key), str(number)) == str(number).encode() for key in range(100))


def test_many_processes_share_a_shelf(tmp_path: Path, engine: str) -> None:
    won = run(_fill, [(tmp_path / "s", number) for number in range(4)])
    assert sum(won) == 100  # each key was set by one of them
    with dbm.open(tmp_path / "s") as db:
        assert len(db) == 4 * 200 + 100


def test_it_is_what_dbm_open_opens_if_it_is_told_to(tmp_path: Path) -> None:
    script = """
        import dbm, shelve
        import rack.adapters.dbm
        dbm._defaultmod = rack.adapters.dbm
        with shelve.open(sys.argv[1], writeback=True) as shelf:
            shelf["a"] = [1]
            shelf["a"].append(2)
    """
    run_script(script, tmp_path / "s")
    with shelve.Shelf(dbm.open(tmp_path / "s")) as shelf:
        assert shelf["a"] == [1, 2]
