"""``rack copy`` brings the stores of Rack 0.1 along. They are written here as that version wrote them."""

from __future__ import annotations

import hashlib
import marshal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import lmdb
import pytest

from rack import CorruptShardError, DeserializationError, PersistentDict, PersistentSet, StoreNotFoundError
from rack.care import legacy
from tests.support.processes import end_sound as end_sound

PAIRS: dict[Any, Any] = {f"key {i}": i for i in range(500)} | {(1, 2): ["x"], "long" * 300: None}


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def write_lmdb_dict(path: Path) -> None:
    with lmdb.open(str(path), subdir=False, max_dbs=4, map_size=1 << 24) as env:
        h2n = env.open_db(b"h2n", dupsort=True, dupfixed=True)
        n2k, n2v = env.open_db(b"n2k"), env.open_db(b"n2v")
        with env.begin(write=True) as txn:
            for at, (key, value) in enumerate(PAIRS.items(), 1):
                number = at.to_bytes(8, "big")
                txn.put(digest(marshal.dumps(key)), number, db=h2n)
                txn.put(number, marshal.dumps(key), db=n2k)
                txn.put(number, marshal.dumps(value), db=n2v)


def write_lmdb_set(path: Path) -> None:
    with lmdb.open(str(path), subdir=False, max_dbs=3, map_size=1 << 24) as env:
        h2n, n2v = env.open_db(b"h2n", dupsort=True, dupfixed=True), env.open_db(b"n2v")
        with env.begin(write=True) as txn:
            for at, element in enumerate(PAIRS, 1):
                number = at.to_bytes(8, "big")
                txn.put(digest(marshal.dumps(element)), number, db=h2n)
                txn.put(number, marshal.dumps(element), db=n2v)


def write_small_set(path: Path) -> None:
    with lmdb.open(str(path), subdir=False, max_dbs=3, map_size=1 << 24) as env:
        table = env.open_db(b"12", dupsort=True)
        with env.begin(write=True) as txn:
            for number in range(500):
                txn.put(digest(marshal.dumps(number)), marshal.dumps(number), db=table)


def write_sqlite_dict(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE dict (k BLOB PRIMARY KEY, v BLOB) WITHOUT ROWID")
    rows = [(marshal.dumps(key), marshal.dumps(value)) for key, value in PAIRS.items()]
    connection.executemany("INSERT INTO dict VALUES (?, ?)", rows)
    connection.commit()
    connection.close()


def copy(source: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rack", "copy", source, "new"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize(("write", "file"), [(write_lmdb_dict, "old.lmdb"), (write_sqlite_dict, "old.sqlite3")])
@pytest.mark.parametrize("suffix", [False, True])
def test_one_command_brings_a_dict_along(tmp_path: Path, write: Any, file: str, suffix: bool) -> None:
    write(tmp_path / file)
    copy(file if suffix else "old", tmp_path)
    with PersistentDict(tmp_path / "new") as new:
        assert dict(new) == PAIRS
        assert new.check() == len(PAIRS)


@pytest.mark.parametrize(("write", "elements"), [(write_lmdb_set, set(PAIRS)), (write_small_set, set(range(500)))])
def test_one_command_brings_a_set_along(tmp_path: Path, write: Any, elements: set[Any]) -> None:
    write(tmp_path / "old.lmdb")
    before = (tmp_path / "old.lmdb").read_bytes()
    copy("old", tmp_path)
    with PersistentSet(tmp_path / "new") as new:
        assert set(new) == elements
        assert new.check() == len(elements)
    assert (tmp_path / "old.lmdb").read_bytes() == before


def test_what_is_no_store_of_0_1_is_told_from_one(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match=r"nothing\.rack"):
        legacy.find(str(tmp_path / "nothing"))
    (tmp_path / "text.lmdb").write_text("no database" * 1000)
    with pytest.raises(CorruptShardError, match=r"text\.lmdb"):
        legacy.find(str(tmp_path / "text"))
    (tmp_path / "text.sqlite3").write_text("no database" * 1000)
    with pytest.raises(StoreNotFoundError, match="two stores"):
        legacy.find(str(tmp_path / "text"))
    with lmdb.open(str(tmp_path / "other.lmdb"), subdir=False, max_dbs=1) as env:
        env.open_db(b"something")
    with pytest.raises(CorruptShardError, match="other tables"):
        legacy.find(str(tmp_path / "other"))


def test_a_serdes_of_its_own_is_told_with_what_to_do(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "old.lmdb"), subdir=False, max_dbs=3) as env:
        table = env.open_db(b"12", dupsort=True)
        with env.begin(write=True) as txn:
            txn.put(b"digest", b'{"json": 1}', db=table)
    with pytest.raises(DeserializationError, match=r"Read it with Rack 0\.1"):
        list(legacy.find(str(tmp_path / "old")).entries())
