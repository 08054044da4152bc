"""The verifier of LMDB files: finds damage of every kind, has no false alarm, and never crashes."""

from __future__ import annotations

import random
import shutil
import signal
import struct
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import lmdb
import lmdb.verify
import pytest

from rack import PersistentDict
from rack.shard.lmdb.walk import findings
from tests.support.damage import PAGE, damage, in_child, use_with_lmdb

# Shapes of a file: each reaches parts of the format that others do not.


def _small(store: PersistentDict[str, bytes], chance: random.Random) -> None:
    store["a"] = b"1"


def _empty(store: PersistentDict[str, bytes], chance: random.Random) -> None:
    pass


def _deep(store: PersistentDict[str, bytes], chance: random.Random) -> None:
    """Keys so large that a tree of four levels is small."""
    store.update({f"{number:08}" + "k" * 480: b"v" for number in chance.sample(range(10**6), 600)})


def _many(store: PersistentDict[str, bytes], chance: random.Random) -> None:
    store.update({f"key-{number}": b"%d" % number for number in range(5000)})
    for number in chance.sample(range(5000), 1500):
        del store[f"key-{number}"]


def _large(store: PersistentDict[str, bytes], chance: random.Random) -> None:
    """Values in overflow pages, and a list of free pages."""
    for number in range(120):
        store[f"{number}"] = b"v" * chance.randrange(20_000)
    for number in range(0, 120, 3):
        del store[f"{number}"]


def _long(store: PersistentDict[str, bytes], chance: random.Random) -> None:
    for number in range(120):
        store["x" * 505 + f"{number}"] = b"v" * chance.choice((1, 100, 5000))
        store[f"{number}"] = b"v"


def _freed(store: PersistentDict[str, bytes], chance: random.Random) -> None:
    """A list of free pages so long that it is in overflow pages itself."""
    store.update({f"{number}": b"v" * 4000 for number in range(1500)})
    store.clear()
    store.update({f"{number}": b"v" for number in range(100)})


SHAPES: dict[str, Callable[[PersistentDict[str, bytes], random.Random], None]] = {
    shape.__name__.strip("_"): shape for shape in (_small, _empty, _deep, _many, _large, _long, _freed)
}


@pytest.fixture(scope="module", params=SHAPES)
def good(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound data file."""
    name = tmp_path_factory.mktemp("good") / "store"
    with PersistentDict[str, bytes](name, serdes="bytes", key_serdes="str", shards=1) as store:
        SHAPES[request.param](store, random.Random(request.param))
    return Path(f"{name}-0000.lmdb")


def test_a_sound_file_has_no_findings(good: Path) -> None:
    before = good.read_bytes()
    assert list(findings(str(good))) == []
    assert lmdb.verify.verify(str(good), subdir=False) == []  # type: ignore[no-untyped-call]
    assert good.read_bytes() == before


def test_a_damaged_file_is_told_from_one_that_lmdb_can_use(good: Path, tmp_path: Path, seed: int, long: bool) -> None:
    """What has no findings neither crashes LMDB nor is damaged in the eyes of the verifier that comes with it."""
    chance = random.Random(seed)
    data = good.read_bytes()
    file = tmp_path / "damaged"
    passed = 0
    for case in range(1500 if long else 60):
        damaged, done = damage(data, chance)
        file.write_bytes(damaged)
        began = time.monotonic()
        found = list(findings(str(file)))
        assert time.monotonic() - began < 10, f"case {case}: {done}"
        if found:
            continue
        passed += 1
        copy = shutil.copy(file, tmp_path / "copy")
        number = in_child(partial(use_with_lmdb, copy, case))
        assert number == 0, f"case {case}: {done}: {signal.Signals(number).name} in LMDB"
        assert lmdb.verify.verify(str(file), subdir=False) == [], f"case {case}: {done}"  # type: ignore[no-untyped-call]
    print(f"{passed} passed the verifier, and LMDB used them")


def _keys(file: Path) -> list[bytes]:
    env = lmdb.open(str(file), subdir=False, readonly=True, lock=False, max_dbs=1, lib_version=0)
    with env, env.begin() as txn:
        keys = list(txn.cursor().iternext(values=False))
        keys += txn.cursor(env.open_db(b"\x01", txn, create=False)).iternext(values=False)
        return keys


def test_any_page_lost_is_found_unless_no_key_was_in_it(good: Path, tmp_path: Path) -> None:
    """Zeros, and another page of the file, in the place of each page in turn."""
    data = good.read_bytes()
    keys = _keys(good)
    file = tmp_path / "damaged"
    used = max(struct.unpack_from("=Q", data, at + 136)[0] for at in (0, PAGE))  # the last page, of a meta page
    for number in range(min(used + 1, 150)):
        for content in (bytes(PAGE), data[2 * PAGE : 3 * PAGE], data[used * PAGE : (used + 1) * PAGE]):
            damaged = data[: number * PAGE] + content + data[(number + 1) * PAGE :]
            if damaged == data:
                continue
            file.write_bytes(damaged)
            if not list(findings(str(file))):
                assert _keys(file) == keys, f"page {number}"


def test_any_bit_flipped_in_what_a_page_says_of_itself_is_found_or_changes_no_key(tmp_path: Path) -> None:
    name = tmp_path / "store"
    with PersistentDict[str, bytes](name, serdes="bytes", key_serdes="str", shards=1) as store:
        store["a"], store["b"], store["c" * 600] = b"1", b"2" * 9000, b"3"
    good = Path(f"{name}-0000.lmdb")
    data, keys, file = good.read_bytes(), _keys(good), tmp_path / "damaged"
    found = missed = 0
    for page in range(0, 10 * PAGE, PAGE):
        # Not the transaction's number: with another one, the state before the last commit may be the one that holds.
        for bit in range(8 * (144 if page < 2 * PAGE else 16)):
            damaged = bytearray(data)
            damaged[page + bit // 8] ^= 1 << bit % 8
            file.write_bytes(damaged)
            if list(findings(str(file))):
                found += 1
            else:
                missed += 1
                assert _keys(file) == keys, f"bit {bit} of page {page // PAGE}"
    assert found > 1000  # the others are in free pages, in the address of the map, or in the older meta page's trees


@pytest.mark.parametrize("content", [b"", b"x", bytes(PAGE), b"x" * 65536])
def test_what_is_no_lmdb_file_is_a_finding(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    assert len(list(findings(str(tmp_path / "file")))) == 1


def test_a_meta_page_that_claims_ever_so_many_pages_costs_no_memory(good: Path, tmp_path: Path) -> None:
    data = bytearray(good.read_bytes())
    file = tmp_path / "damaged"
    for last in (1 << 40, (1 << 64) - 1, len(data) // PAGE):
        for page in (0, PAGE):
            struct.pack_into("=Q", data, page + 136, last)
        file.write_bytes(data)
        tracemalloc.start()
        (found,) = findings(str(file))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()
        assert "truncated" in found


def test_a_value_that_shrank_where_it_was_is_no_finding(tmp_path: Path) -> None:
    """Within a transaction LMDB leaves a value that gets shorter the overflow pages that it had."""
    file = tmp_path / "file"
    with lmdb.open(str(file), subdir=False, lib_version=0) as env, env.begin(write=True) as txn:
        txn.put(b"key", b"v" * 50_000)
        txn.put(b"key", b"v" * 10_000)
    assert list(findings(str(file))) == []


def test_a_branch_with_one_child_is_found(good: Path, tmp_path: Path) -> None:
    """At which LMDB would end the process."""
    data = bytearray(good.read_bytes())
    branches = [
        page for page in range(2 * PAGE, len(data), PAGE) if data[page + 10] == 1 and data[page : page + 8] != bytes(8)
    ]
    if not branches:
        pytest.skip("a file of one leaf")
    file = tmp_path / "damaged"
    for page in branches:
        damaged = bytearray(data)
        (place,) = struct.unpack_from("=H", data, page + 16)
        node = data[page + place : page + place + 8]
        struct.pack_into("=HH", damaged, page + 12, 18, PAGE - 8)
        struct.pack_into("=H", damaged, page + 16, PAGE - 8)
        damaged[page + PAGE - 8 : page + PAGE] = node[:6] + b"\0\0"
        file.write_bytes(damaged)
        found = list(findings(str(file)))
        assert found or _keys(file) == _keys(good)  # a branch that is free now
