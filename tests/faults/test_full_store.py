"""A store that has filled its disk can be emptied, whoever has filled the disk, and then there is room again.

Each case has a small disk of its own, which is filled by the store itself, or by something else.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from rack import PersistentDict, StoreFullError, compact
from tests.support.processes import Crew, assert_sound
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

Dict = PersistentDict[str, bytes]
SHARDS = 2


def _puts(size: int) -> Callable[[Dict], None]:
    def fill(store: Dict) -> None:
        for number in count():
            store[f"key {number}"] = bytes(size)

    return fill


def _updates(store: Dict) -> None:
    for at in count(0, 500):
        store.update({f"key {number}": bytes(300) for number in range(at, at + 500)})


FILLED = {"puts": _puts(300), "large puts": _puts(50_000), "updates": _updates}


def _each(delete: Callable[[Dict, str], object]) -> Callable[[Dict], None]:
    def empty(store: Dict) -> None:
        for key in list(store):
            delete(store, key)

    return empty


def _popitems(store: Dict) -> None:
    while store:
        store.popitem()


EMPTIED = {
    "del": _each(lambda store, key: store.__delitem__(key)),
    "pop": _each(lambda store, key: store.pop(key)),
    "popitem": _popitems,
    "delete_many": lambda store: store.delete_many(list(store)),
    "clear": lambda store: store.clear(),
}


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    size = getattr(request, "param", "6m")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting a small file system is not permitted: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill_the_rest(disk: Path) -> None:
    with open(disk / "other", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def run(work: Callable[[], None]) -> None:
    """In a process of its own: a SIGBUS is noticed."""
    with Crew() as crew:
        crew.start(work).result(120)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", EMPTIED)
@pytest.mark.parametrize("filled", FILLED)
def test_a_store_that_has_filled_its_disk_can_be_emptied(disk: Path, filled: str, name: str) -> None:
    def work() -> None:
        with Dict(disk / "store", shards=SHARDS, durability="process") as store:
            with pytest.raises(StoreFullError):
                FILLED[filled](store)
            assert len(store) * (50_000 if filled == "large puts" else 300) > 3 << 20, "most of the disk is used"
            EMPTIED[name](store)
            assert len(store) == 0 == len(list(store))
            store["again"] = b"x"  # there is room again
        assert_sound(Dict(disk / "store"))

    run(work)


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", EMPTIED)
def test_so_can_one_that_is_opened_on_a_full_disk(disk: Path, name: str) -> None:
    def work() -> None:
        with Dict(disk / "store", shards=SHARDS, durability="process") as store, pytest.raises(StoreFullError):
            FILLED["puts"](store)
        fill_the_rest(disk)
        with Dict(disk / "store") as store:
            EMPTIED[name](store)
            assert len(store) == 0 == len(list(store))
        (disk / "other").unlink()
        assert_sound(Dict(disk / "store"))

    run(work)


def test_a_store_is_filled_and_emptied_again_and_again(disk: Path) -> None:
    def work() -> None:
        sizes = []
        for _ in range(4):
            with Dict(disk / "store", shards=SHARDS, durability="process") as store:
                with pytest.raises(StoreFullError):
                    FILLED["puts"](store)
                sizes.append(len(store))
                EMPTIED["del"](store)
                assert not store
        assert min(sizes) > max(sizes) // 2

    run(work)


@pytest.mark.parametrize("disk", ["24m"], indirect=True)
def test_some_thousand_entries_can_be_removed_with_everysec_and_all_by_clear(disk: Path) -> None:
    def work() -> None:
        with Dict(disk / "store", shards=SHARDS, durability="everysec") as store:
            with pytest.raises(StoreFullError):
                FILLED["puts"](store)
            for key in list(store)[:1000]:
                del store[key]
            store.clear()
            assert len(store) == 0 == len(list(store))

    run(work)


@pytest.mark.parametrize("disk", ["8m"], indirect=True)
def test_all_can_be_removed_from_one_with_everysec_that_is_opened_with_process(disk: Path, engine: str) -> None:
    if engine == "sqlite3":
        pytest.skip("SQLite has no journals and bases, which have taken half of the disk")

    def work() -> None:
        with Dict(disk / "store", shards=SHARDS, durability="everysec") as store, pytest.raises(StoreFullError):
            FILLED["puts"](store)
        fill_the_rest(disk)
        with Dict(disk / "store", durability="process") as store:
            EMPTIED["delete_many"](store)
            assert len(store) == 0 == len(list(store))
        compact(disk / "store")
        with Dict(disk / "store", durability="everysec") as store:
            store["again"] = b"x"  # with journals and bases
        assert_sound(Dict(disk / "store"))

    run(work)


@pytest.mark.parametrize("size", [600, 1000, 3000, 5000])
def test_a_disk_that_is_not_full_takes_values_of_any_size(size: int, tmp_path: Path) -> None:
    """SQLite has a page for a value of 1,000 bytes: how many pages a bulk write needs is not known before."""
    with Dict(tmp_path / "store", shards=1) as store:
        store.update((f"key {number}", bytes(size)) for number in range(3000))
        store.update((f"other {number}", bytes(size)) for number in range(3000))
        assert len(store) == 6000


def test_what_is_free_in_a_store_is_used_by_a_bulk_write_on_a_full_disk(disk: Path, engine: str) -> None:
    def work() -> None:
        pairs = {f"key {number}": bytes(300) for number in range(3000)}
        with Dict(disk / "store", shards=SHARDS, durability="process") as store:
            store.update(pairs)
            store.clear()
            fill_the_rest(disk)
            for at in range(0, len(pairs), 100):
                store.update(list(pairs.items())[at : at + 100])
            assert dict(store) == pairs

    if engine == "sqlite3":
        pytest.skip("what SQLite writes goes through its log, for which there is no room")
    run(work)
