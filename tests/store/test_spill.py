"""What a new store is given and memory does not hold waits on the disk, sorted: nothing is lost of it, nor left."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict, PersistentSet, ReadOnlyError, StoreFullError
from rack.shard.base import Pair
from rack.store import spill
from rack.store.bulk import KEY, Bulk
from rack.store.spill import Spill
from rack.store.taking import items_in_blocks
from tests.support.processes import assert_sound, run
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

MIB = 1 << 20
COUNT = 30_000  # takes several times LEAST_MEMORY, and more runs than are merged at once


def rows(count: int = COUNT, seed: int = 1) -> Iterator[tuple[bytes, int]]:
    """Yield rows in random order, some with a key that came before."""
    rng = random.Random(seed)
    keys = [rng.randbytes(30) for _ in range(count)]
    for number in range(count):
        yield keys[number if number % 7 else rng.randrange(number + 1)], number


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of which shards runs were written, one after the other."""
    written: list[int] = []
    write = Spill.write

    def noted(self: Spill, number: int, pairs: list[Pair], size: int) -> bool:
        written.append(number)
        return write(self, number, pairs, size)

    monkeypatch.setattr(Spill, "write", noted)
    return written


@pytest.fixture
def full_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have no space for runs after so many of their blocks."""
    write = spill._write
    left: list[int] = []

    def limited(fd: int, data: bytes, at: int) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, "injected")
        left[0] -= 1
        return write(fd, data, at)

    def limit(blocks: int) -> None:
        left[:] = [blocks]
        monkeypatch.setattr(spill, "_write", limited)

    return limit


def opened(path: Path, **options: Any) -> PersistentDict[bytes, int]:
    return PersistentDict(path, key_serdes="bytes", shards=3, memory=MIB, **options)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.mark.parametrize("shards", [1, 3, 64])
@pytest.mark.parametrize("memory", [MIB, 1 << 17])
def test_runs_are_merged_in_order_and_the_last_of_equal_keys_wins(
    shards: int, memory: int, tmp_path: Path, seed: int, runs: list[int]
) -> None:
    written: list[list[Pair]] = [[] for _ in range(shards)]
    pairs = [(key[:3], number.to_bytes(4, "big")) for key, number in rows(seed=seed)]
    waiting = Spill(str(tmp_path / "s"), shards, lambda number: True, KEY)
    for _ in Bulk(shards, lambda number, block: written[number].extend(block), 20_000, memory, waiting).run(
        items_in_blocks(pairs)
    ):
        pass
    waiting.close()
    assert runs
    assert {key: value for each in written for key, value in each} == dict(pairs)
    assert sum(map(len, written)) == len(pairs)
    for each in written:
        descents = sum(later[0] < earlier[0] for earlier, later in pairwise(each))
        assert descents <= len(runs) // shards // 4 + 1  # each time that as many runs are there as are merged at once
    assert not names(tmp_path)


def test_a_new_store_larger_than_memory_is_appended_to(tmp_path: Path, engine: str, runs: list[int]) -> None:
    with opened(tmp_path / "d") as d, PersistentSet[bytes](tmp_path / "s", shards=3, memory=MIB) as s:
        d.update(rows())
        assert dict(d) == dict(rows())
        assert s.add_many(key for key, _ in rows()) == len(d)
        assert s == set(d)
        assert len(runs) > 15
        runs.clear()
        d.update(rows(seed=2))
        assert not runs, "others are to see what comes into a store that has entries"
        assert dict(d) == dict(rows()) | dict(rows(seed=2))
    for store in (d, s):
        assert_sound(store)


def test_pages_are_full(tmp_path: Path) -> None:
    with PersistentSet[bytes](tmp_path / "s", serdes="bytes", shards=1, memory=16 * MIB, engine="lmdb") as s:
        s.update(key for key, number in rows(200_000) if number % 7)
        pages = s._store.shards[0]._read(lambda shard, txn: txn.stat()["leaf_pages"])  # type: ignore[attr-defined]
        assert pages * 4000 < len(s) * (30 + 12) * 1.1


def test_what_comes_in_order_does_not_wait_on_the_disk(tmp_path: Path, runs: list[int]) -> None:
    with opened(tmp_path / "d") as d:
        d.update((number.to_bytes(30, "big"), number) for number in range(COUNT))
        assert not runs
        assert len(d) == COUNT
        with d.copy(shards=5) as copy:
            assert copy == d
            assert not runs
        with d.copy(shards=5, key_serdes="marshal", engine="sqlite3") as copy:
            assert dict(copy) == dict(d)


def test_large_values_do_not_wait_on_the_disk(tmp_path: Path, runs: list[int]) -> None:
    with opened(tmp_path / "d", serdes="bytes") as d:
        large: Any = {random.Random(number).randbytes(30): bytes(5000) for number in range(1000)}
        d.update(large)
        assert dict(d) == large
    assert not runs


@pytest.mark.parametrize("blocks", [0, 1, 2, 30])
def test_without_space_for_runs_all_is_written_at_once(
    blocks: int, tmp_path: Path, engine: str, full_after: Callable[[int], None]
) -> None:
    full_after(blocks)
    with opened(tmp_path / "d") as d:
        d.update(rows())
        assert dict(d) == dict(rows())
    assert_sound(d)


def test_where_no_file_can_be_made_all_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(beside: str) -> Any:
        raise OSError(errno.EMFILE, "injected")

    monkeypatch.setattr(spill, "_unnamed_file", refused)
    with opened(tmp_path / "d") as d:
        d.update(rows())
        assert dict(d) == dict(rows())


def test_where_all_files_have_names_none_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: list[int]
) -> None:
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    with opened(tmp_path / "d") as d:
        d.update(watched(rows(), lambda: not any("spill" in name for name in names(tmp_path))))
        assert runs
        assert dict(d) == dict(rows())


def watched(given: Iterable[Any], is_right: Callable[[], bool]) -> Iterator[Any]:
    for number, row in enumerate(given):
        if not number % 1000:
            assert is_right()
        yield row


class _LimitError(Exception):
    pass


def failing(count: int, error: BaseException) -> Iterator[tuple[bytes, int]]:
    for number, row in enumerate(rows()):
        if number == count:
            raise error
        yield row


def test_rows_before_an_error_are_there_though_they_waited_on_the_disk(
    tmp_path: Path, engine: str, runs: list[int]
) -> None:
    with opened(tmp_path / "d") as d:
        with pytest.raises(_LimitError) as caught:
            d.update(failing(COUNT - 5, _LimitError()))
        assert runs
        assert caught.value.__notes__ == [
            f"row {COUNT - 4:,} could not be had; the {COUNT - 5:,} rows before it were taken"
        ]
        assert dict(d) == dict(row for number, row in enumerate(rows()) if number < COUNT - 5)


def test_an_interrupt_leaves_nothing_on_the_disk(tmp_path: Path, runs: list[int]) -> None:
    with opened(tmp_path / "d", durability="process") as d:
        d[b"before"] = -1
        assert len(d) == 1  # all shards are open now
        before = names(tmp_path)
        descriptors = len(os.listdir("/dev/fd"))
        with pytest.raises(KeyboardInterrupt):
            d.update(failing(COUNT - 5, KeyboardInterrupt()))
        assert runs
        assert len(os.listdir("/dev/fd")) == descriptors
        assert names(tmp_path) == before
        assert set(d.items()) <= {(b"before", -1), *rows()}


def _killed(path: Path) -> None:
    with opened(path) as d:
        d.update(_killing())


def _killing() -> Iterator[tuple[bytes, int]]:
    for number, row in enumerate(rows()):
        if number == COUNT - 5:
            os.kill(os.getpid(), signal.SIGKILL)
        yield row


def test_a_process_that_is_killed_leaves_nothing_but_the_store(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"-9|SIGKILL|killed"):
        run(_killed, [(tmp_path / "d",)])
    assert all(name.startswith(("d.rack", "d-000")) and "spill" not in name for name in names(tmp_path))
    with opened(tmp_path / "d") as d:
        assert set(d.items()) <= set(rows())
    assert_sound(d)


def _add_others(path: Path, count: int) -> None:
    with opened(path) as d:
        d.update((key, -1) for key, _ in rows(count, seed=3))
        d.update((key, -1) for key, _ in rows(count))


def test_what_others_write_meanwhile_is_no_harm(tmp_path: Path, engine: str, runs: list[int]) -> None:
    def interrupted() -> Iterator[tuple[bytes, int]]:
        for number, row in enumerate(rows()):
            if number == COUNT // 2:
                assert runs
                run(_add_others, [(tmp_path / "d", 1000)], method="spawn")
            yield row

    with opened(tmp_path / "d") as d:
        d.update(interrupted())
        assert d.keys() == {key for key, _ in (*rows(), *rows(1000), *rows(1000, seed=3))}
        assert set(d.items()) <= {*rows(), *((key, -1) for key, _ in (*rows(1000), *rows(1000, seed=3)))}
        others = {key for key, _ in rows(1000)}
        assert {key: value for key, value in d.items() if key not in others and value >= 0}.items() <= dict(
            rows()
        ).items()
    assert_sound(d)


def test_a_store_that_cannot_be_written_to_says_so_before_all_has_come(tmp_path: Path) -> None:
    with opened(tmp_path / "d"):
        pass
    taken = 0

    def counted() -> Iterator[tuple[bytes, int]]:
        nonlocal taken
        for taken, row in enumerate(rows()):  # noqa: B007
            yield row

    with opened(tmp_path / "d", flag="r") as d, pytest.raises(ReadOnlyError):
        d.update(counted())
    assert 0 < taken < COUNT // 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting a small file system is not permitted: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_disk_that_is_too_small_is_an_error_and_has_its_room_again(
    small_disk: Path, engine: str, runs: list[int]
) -> None:
    with opened(small_disk / "d", durability="process") as d:
        with pytest.raises(StoreFullError):
            d.update(rows(200_000))
        assert runs
        present = dict(d)
        assert present
        assert present.items() <= set(rows(200_000))
        d.check()
        d.clear()
        d.update(rows(5000))
        assert dict(d) == dict(rows(5000))
    assert_sound(d)
