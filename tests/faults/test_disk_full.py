"""A disk that is full at any point of anything: an error, no harm done, and all goes on once there is space.

Each case leaves the file system, or the size that files may have, a few more pages than the one before, until what is
tried succeeds. It runs in a process of its own, so that a SIGBUS is noticed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rack import PersistentDict, PersistentSet, StoreFullError
from tests.support.processes import Crew, assert_sound
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

PAGE = 4096
MIB = 1 << 20
Dict = PersistentDict[str, bytes]

BEFORE = {f"key {number}": bytes([number]) * 700 for number in range(60)} | {"long" * 200: b"before"}
BULK = {f"key {number}": bytes([number]) * 900 for number in range(40, 240)}


class Disk:
    """A place for a store, and a limit to what can be written there."""

    pages: ClassVar[list[int]]  # what is left, from case to case

    def __init__(self, place: Path) -> None:
        self.place = place

    def limit(self, pages: int) -> None: ...

    def lift(self) -> None: ...

    def limit_surely(self, pages: int) -> None:
        """Limit what can be written, and see that more cannot."""
        self.limit(pages)
        probe = self.place / "other-probe"
        try:
            assert not succeeds(lambda: probe.write_bytes(bytes((pages + 1) * PAGE)))
        finally:
            probe.unlink(missing_ok=True)


class SmallDisk(Disk):
    pages: ClassVar = [*range(20), 24, 28, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 400, 512, 700, 900]

    def limit(self, pages: int) -> None:
        with open(self.place / "other", "wb", buffering=0) as file:
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(16 * PAGE))
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(PAGE))
            file.truncate(file.tell() - pages * PAGE)

    def lift(self) -> None:
        (self.place / "other").unlink(missing_ok=True)


class SmallFiles(Disk):
    pages: ClassVar = [
        0,
        1,
        2,
        3,
        5,
        8,
        12,
        15,
        16,
        17,
        18,
        20,
        24,
        30,
        32,
        33,
        40,
        48,
        64,
        65,
        80,
        128,
        256,
        512,
        1024,
    ]

    def limit(self, pages: int) -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (pages * PAGE, hard))

    def lift(self) -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


@pytest.fixture(params=["disk", "files"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A small file system where one may be mounted, and a limit to the size of files."""
    place = tmp_path / "disk"
    place.mkdir()
    if request.param == "files":
        yield SmallFiles(place)
        return
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"mounting a small file system is not permitted: {done.stderr.strip()}")
    try:
        yield SmallDisk(place)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def succeeds(action: Callable[[], object]) -> bool:
    """Do something; return False if there was no space for it. Any other error is one."""
    try:
        action()
    except StoreFullError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        return False
    return True


def assert_each_key_is_as_before_or_as_after(found: dict[str, bytes], after: dict[str, bytes], atomic: bool) -> None:
    if atomic:
        assert found in (BEFORE, after)
    for key in {*found, *BEFORE, *after}:
        assert found.get(key) in (BEFORE.get(key), after.get(key)), key


def _batch(store: Dict) -> None:
    with store.batch() as batch:
        for key, value in BULK.items():
            batch[key] = value


def _without(*keys: str) -> dict[str, bytes]:
    return {key: value for key, value in BEFORE.items() if key not in keys}


#: What is done, to what it leads, and whether it is one operation on one key.
OPERATIONS: dict[str, tuple[Callable[[Dict], object], dict[str, bytes], bool]] = {
    "a small value": (lambda d: d.__setitem__("new", b"x"), BEFORE | {"new": b"x"}, True),
    "another value": (lambda d: d.__setitem__("key 1", b"y" * 600), BEFORE | {"key 1": b"y" * 600}, True),
    "a long key": (lambda d: d.add("new" * 300, b"x"), BEFORE | {"new" * 300: b"x"}, True),
    "a large value": (lambda d: d.__setitem__("new", bytes(MIB // 2)), BEFORE | {"new": bytes(MIB // 2)}, True),
    "transform": (lambda d: d.transform("key 2", lambda v: b"t" * 20_000), BEFORE | {"key 2": b"t" * 20_000}, True),
    "delete": (lambda d: d.pop("key 5", None), _without("key 5"), True),
    "many deletes": (
        lambda d: d.delete_many(["key 5", "key 6", "long" * 200]),
        _without("key 5", "key 6", "long" * 200),
        False,
    ),
    "update": (lambda d: d.update(BULK), BEFORE | BULK, False),
    "batch": (_batch, BEFORE | BULK, False),
    "clear": (lambda d: d.clear(), {}, False),
}

_LARGE = ("a large value", "update", "batch")  # for which a few pages are not enough


def _prepare(disk: Disk, durability: str = "process") -> Path:
    for file in disk.place.iterdir():
        file.unlink()
    with Dict(disk.place / "store", serdes="pickle", shards=2, durability=durability) as store:
        store.update(BEFORE)
    return disk.place / "store"


def _cases(disk: Disk, long: bool, seed: int) -> list[int]:
    return disk.pages if long else [*disk.pages[:1], *disk.pages[1 + seed % 4 :: 4], *disk.pages[-1:]]


def _in_a_process(function: Callable[[int], Any], pages: int) -> Any:
    with Crew() as crew:
        return crew.start(function, pages).result(60)


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("name", "durability"),
    [
        *((name, "process") for name in OPERATIONS),
        *((name, "everysec") for name in ("a small value", "update", "batch")),
    ],
)
def test_an_operation_on_a_full_disk_has_not_happened_and_can_be_done_later(
    name: str, durability: str, disk: Disk, seed: int, long: bool
) -> None:
    operation, after, atomic = OPERATIONS[name]

    def work(pages: int) -> bool:
        with Dict(path, durability=durability) as store:
            assert len(store) == len(BEFORE)  # all shards are open
            disk.limit_surely(pages)
            done = succeeds(lambda: operation(store))
            found = dict(store)
            assert found == after if done else assert_each_key_is_as_before_or_as_after(found, after, atomic) is None
            assert len(store) == len(found)
            assert done or dict(store.items()) == found
        disk.lift()  # only now: closing a store needs no space
        with Dict(path, durability=durability) as store:
            assert dict(store) == found
            operation(store)
            assert dict(store) == after
            store["more"] = bytes(MIB)
        return done

    outcomes = []
    for pages in _cases(disk, long, seed):
        path = _prepare(disk, durability)
        outcomes.append(_in_a_process(work, pages))
        assert_sound(Dict(path))
    assert outcomes[-1], "there was never enough space"
    assert name not in _LARGE or not outcomes[0], "there was always enough space"


def test_opening_on_a_full_disk_fails_or_succeeds_and_nothing_is_lost(disk: Disk, seed: int, long: bool) -> None:
    def work(pages: int) -> None:
        disk.limit_surely(pages)
        for flag in "rwc":
            store = Dict(path, flag=flag)
            if succeeds(store.open):
                assert succeeds(lambda: dict(store)) is False or dict(store) == BEFORE  # noqa: B023
                store.close()
        disk.lift()
        with Dict(path) as store:
            assert dict(store) == BEFORE
            store["more"] = bytes(MIB)

    for pages in _cases(disk, long, seed):
        path = _prepare(disk)
        for lock in disk.place.glob("*.lmdb-lock"):
            lock.unlink()  # as after a copy of the store
        _in_a_process(work, pages)
        assert_sound(Dict(path))


def _names(place: Path) -> set[str]:
    return {file.name for file in place.iterdir() if file.name != "other"}


def test_a_store_is_made_on_a_full_disk_as_a_whole_or_not_at_all(disk: Disk, seed: int, long: bool) -> None:
    path = disk.place / "store"

    def work(pages: int) -> bool:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(f"{path}.rack-lock", os.O_CREAT | os.O_EXCL))
        disk.limit_surely(pages)
        made = succeeds(lambda: Dict(path, shards=2).open().close())
        assert made == (disk.place / "store.rack").exists()
        if not made:
            assert _names(disk.place) <= {"store.rack-lock"}
        disk.lift()
        with Dict(path, shards=2) as store:
            store.update(BEFORE)
        return made

    outcomes = []
    for pages in _cases(disk, long, seed):
        for file in disk.place.iterdir():
            file.unlink()
        outcomes.append(_in_a_process(work, pages))
        with Dict(path) as store:
            assert dict(store) == BEFORE
        assert_sound(Dict(path))
    assert outcomes[-1], "there was never enough space"
    assert not outcomes[0], "there was always enough space"


COPIES: dict[str, Callable[[Dict, Path], Any]] = {
    "copy": lambda store, target: store.copy(name=target),
    "copy with more shards": lambda store, target: store.copy(name=target, shards=3),
    "merge": lambda store, target: store | {"more": b"x"},
    "backup": lambda store, target: store.backup(target),
    "keys": lambda store, target: store.keys() & BEFORE.keys(),
}


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", COPIES)
def test_a_store_made_by_an_operation_on_a_full_disk_is_whole_or_leaves_nothing(
    name: str, disk: Disk, seed: int, long: bool
) -> None:
    target = disk.place / "made"

    def work(pages: int) -> bool:
        with Dict(path) as store:
            assert len(store) == len(BEFORE)
            disk.limit_surely(pages)
            before = _names(disk.place)
            made: Any = None

            def make() -> None:
                nonlocal made
                made = COPIES[name](store, target)

            done = succeeds(make)
            if done:
                disk.lift()
                with made or Dict(target) as made:
                    assert BEFORE.keys() <= set(made)
            else:
                assert {each for each in _names(disk.place) - before if not each.endswith("-shm")} <= {"made.rack-lock"}
                disk.lift()
                with COPIES[name](store, target) or Dict(target) as made:
                    assert BEFORE.keys() <= set(made)
            assert dict(store) == BEFORE
        return done

    outcomes = []
    for pages in _cases(disk, long, seed):
        path = _prepare(disk)
        outcomes.append(_in_a_process(work, pages))
        assert_sound(Dict(path))
        if target.with_suffix(".rack").exists():
            assert_sound(Dict(target))
    assert outcomes[-1], "there was never enough space"
    assert not outcomes[0], "there was always enough space"


def test_writers_that_fill_a_disk_together_keep_all_that_was_acknowledged(disk: Disk) -> None:
    def work(number: int) -> int:
        disk.limit(700) if isinstance(disk, SmallFiles) else None
        with PersistentSet[str](path, shards=2) as store:
            for count in range(100_000):
                if not succeeds(lambda: store.add(f"{number} {count} " + "x" * 400)):  # noqa: B023
                    return count
        raise AssertionError("never full")

    path = disk.place / "store"
    with PersistentSet[str](path, shards=2):
        pass
    if isinstance(disk, SmallDisk):
        (disk.place / "other").write_bytes(bytes(3 * MIB))
    with Crew() as crew:
        workers = [crew.start(work, number) for number in range(3)]
        counts = [worker.result() for worker in workers]
    disk.lift()
    with PersistentSet[str](path) as store:
        for number, count in enumerate(counts):
            assert all(f"{number} {at} " + "x" * 400 in store for at in range(count))
        assert len(store) == sum(counts)
        assert store.add("more")
    assert_sound(store)
