"""Files that are not what they should be: each gets its own clear error, and nothing that was stored is lost."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest

from rack import (
    CorruptShardError,
    ManifestError,
    MismatchError,
    PersistentDict,
    PersistentSet,
    RackError,
    StoreNotFoundError,
)
from rack.shard import ENGINES, shard_class
from tests.support.processes import assert_sound, default_engine
from tests.support.processes import engine as engine

Store = PersistentDict[str, Any]
CONTENT = {"a": 1, "b": "two", "c" * 1000: [3]}


@pytest.fixture
def path(tmp_path: Path, engine: str) -> Path:
    """The name of a store of two shards that holds CONTENT."""
    with Store(tmp_path / "store", shards=2) as store:
        store.update(CONTENT)
    return tmp_path / "store"


def shard(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}-{number:04d}{shard_class(default_engine()).suffix}")


def assert_intact(path: Path) -> None:
    with Store(path, flag="w") as store:
        assert dict(store) == CONTENT
    assert_sound(store)


def refused(name: Any, expected: type[RackError], builtin: type[Exception], *mentions: object, **options: Any) -> None:
    """Open a store; assert what error it gives, and that the message names the things mentioned."""
    store = Store(name, **options)
    try:
        with pytest.raises(expected) as caught:
            store.open()
    finally:
        store.close()
    assert type(caught.value) is expected
    assert isinstance(caught.value, RackError)
    assert isinstance(caught.value, builtin)
    for mention in mentions:
        assert str(mention) in str(caught.value)
    for attempt in ("r", "w"):  # it is refused again: nothing was changed
        with pytest.raises(RackError):
            Store(name, **options | {"flag": attempt}).open()


# Shard files

Damage = Callable[[Path], None]


def _cut_to(size: int) -> Damage:
    def damage(file: Path) -> None:
        os.truncate(file, size)

    damage.__name__ = f"cut_to_{size}"
    return damage


def _missing(file: Path) -> None:
    file.unlink()


def _text(file: Path) -> None:
    file.write_text("This is no database. " * 5000)


def _zeros(file: Path) -> None:
    file.write_bytes(bytes(65536))


def _another_database(file: Path) -> None:
    file.unlink()
    if file.suffix == ".sqlite3":
        with contextlib.closing(sqlite3.connect(file)) as connection:
            connection.execute("CREATE TABLE not_racks(x)")
        return
    with lmdb.open(str(file), subdir=False) as env, env.begin(write=True) as txn:
        txn.put(b"not", b"rack's")


def _of_another_store(file: Path) -> None:
    with Store(file.parent / "other", shards=2) as other:
        other["x"] = 1
    shutil.copy(shard(Path(other.name), 0), file)


def _swapped(file: Path) -> None:
    shutil.copy(shard(file.parent / "store", 1), file)


def _no_magic_number(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[0:20] = bytes(20)  # where SQLite's magic number is, and that of LMDB's first meta page
    file.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [_cut_to(0), _cut_to(100), _cut_to(4096), _cut_to(8192), _cut_to(10_000), _missing, _text, _zeros, _no_magic_number]
    + [_another_database, _of_another_store, _swapped],
    ids=lambda damage: damage.__name__.strip("_"),
)
def test_a_shard_file_that_is_not_the_shard_is_noticed_when_opened(damage: Damage, path: Path) -> None:
    file = shard(path, 0)
    good = file.read_bytes()
    damage(file)
    bad = file.read_bytes() if file.exists() else None
    refused(path, CorruptShardError, OSError, file)
    assert (file.read_bytes() if file.exists() else None) == bad  # it is left for whoever repairs it
    file.unlink(missing_ok=True)
    file.write_bytes(good)
    assert_intact(path)


def test_shard_files_that_changed_places_are_noticed(path: Path) -> None:
    first, second, aside = shard(path, 0), shard(path, 1), path.with_name("aside")
    for one, two in ((first, aside), (second, first), (aside, second)):
        one.rename(two)
    refused(path, CorruptShardError, OSError, first, "shard 1")
    for one, two in ((first, aside), (second, first), (aside, second)):
        one.rename(two)
    assert_intact(path)


def test_a_missing_manifest_is_not_replaced_by_a_new_one(path: Path) -> None:
    manifest = Path(f"{path}.rack")
    content = manifest.read_bytes()
    manifest.unlink()
    for flag in "cn":
        with pytest.raises(CorruptShardError, match="in the way") as caught:
            Store(path, flag=flag, shards=2).open()
        assert caught.value.errno == errno.EEXIST
    refused(path, StoreNotFoundError, FileNotFoundError, manifest, flag="w")
    manifest.write_bytes(content)
    assert_intact(path)


# The manifest


def _changed(**changes: Any) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps(json.loads(content) | changes).encode()


def _without(key: str) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps({k: v for k, v in json.loads(content).items() if k != key}).encode()


MANIFESTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda content: b"", "not a Rack manifest"),
    "half": (lambda content: content[: len(content) // 2], "not a Rack manifest"),
    "no text": (lambda content: b"\xff\xfe" + content, "not a Rack manifest"),
    "list": (lambda content: b"[1, 2]", "not a Rack manifest"),
    "null": (lambda content: b"null", "not a Rack manifest"),
    "newer": (_changed(format=99), "pip install --upgrade rack"),
    "newer with more in it": (_changed(format=2, more=1), "pip install --upgrade rack"),
    "format is text": (_changed(format="1"), "not a Rack manifest"),
    "no format": (_without("format"), "not a Rack manifest"),
    "no shards": (_without("shards"), "shards"),
    "no id": (_without("id"), "id"),
    "no probes": (_without("probes"), "probes"),
    "unknown field": (_changed(more=1), "more"),
    "0 shards": (_changed(shards=0), "shards"),
    "too many shards": (_changed(shards=10**9), "shards"),
    "true shards": (_changed(shards=True), "shards"),
    "shards are text": (_changed(shards="2"), "shards"),
    "other engine": (_changed(engine="oracle"), "oracle"),
    "other kind": (_changed(kind=7), "kind"),
    "other serdes": (_changed(serdes="yaml"), "yaml"),
    "other key_serdes": (_changed(key_serdes="yaml"), "yaml"),
    "other layout": (_changed(layout="upside down"), "layout"),
    "probes are a list": (_changed(probes=[]), "probes"),
    "hash without probe": (_changed(hash="md5", probes={}), "probes"),
    "id is a number": (_changed(id=5), "id"),
}


@pytest.mark.parametrize("damage", MANIFESTS)
def test_a_manifest_that_is_damaged_or_newer(damage: str, path: Path) -> None:
    change, mention = MANIFESTS[damage]
    manifest = Path(f"{path}.rack")
    content = manifest.read_bytes()
    manifest.write_bytes(change(content))
    refused(path, ManifestError, ValueError, manifest, mention)
    manifest.write_bytes(content)
    assert_intact(path)


def test_arguments_that_contradict_the_store(path: Path) -> None:
    other_engine = next(engine for engine in ENGINES if engine != default_engine())
    options: list[dict[str, Any]] = [
        {"shards": 3},
        {"serdes": "json"},
        {"key_serdes": "ordered"},
        {"engine": other_engine},
    ]
    options.append({"engine": other_engine})
    options.append({"hash": lambda data: data[:4].ljust(4)})
    for option in options:
        refused(path, MismatchError, ValueError, f"{path}.rack", next(iter(option)), **option)
    with pytest.raises(MismatchError, match="PersistentDict"):
        PersistentSet(path).open()
    assert_intact(path)
