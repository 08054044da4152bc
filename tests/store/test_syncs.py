"""What is had on the disk, when, and by whom; and that what is put down of it stays true."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict
from rack.shard import ENGINES
from rack.store import openstore
from rack.store.record import Record
from rack.system import boot
from tests.support.processes import Crew, hear, tell


class Disk:
    """Notes which files are had on the disk by Python, and when the record is written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[int] = []
        real = os.fdatasync

        def note(fd: int) -> None:
            self.events.append(os.fstat(fd).st_ino)
            real(fd)

        monkeypatch.setattr(os, "fdatasync", note)

    def has(self, files: list[Path]) -> bool:
        return {file.stat().st_ino for file in files} <= set(self.events)


def shard_files(path: Path, engine: str, durability: str) -> list[Path]:
    """Return the files that hold what was written last."""
    if engine == "sqlite3":
        return sorted(path.parent.glob(f"{path.name}-*.sqlite3-wal"))
    if durability == "everysec":
        return sorted(path.parent.glob(f"{path.name}-*-journal-*"))
    return sorted(path.parent.glob(f"{path.name}-*.lmdb"))


@pytest.mark.parametrize("others", ["nobody", "a reader", "a writer"])
@pytest.mark.parametrize("durability", ["process", "everysec"])
def test_who_closes_last_has_all_on_the_disk_and_with_everysec_whoever_closes(
    durability: str, others: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "d"
    with PersistentDict[Any, Any](path, shards=2, durability=durability) as d:
        d["made"] = 1

    def stay() -> None:
        with PersistentDict[Any, Any](path, flag="r" if others == "a reader" else "w") as other:
            assert other["made"]
            if others == "a writer":
                other["written"] = 1
            tell()
            hear()

    with Crew() as crew:
        worker = None if others == "nobody" else crew.start(stay)
        if worker is not None:
            worker.hear()
        d.open()
        monkeypatch.setattr("rack.store.keeper._INTERVAL", 1000)
        d.update({number: number for number in range(100)})
        disk = Disk(monkeypatch)
        files = shard_files(path, "lmdb", durability)
        assert len(files) == 2
        d.close()
        # With "process" the other writer has it on the disk when it closes.
        assert disk.has(files) == (durability == "everysec" or others != "a writer")
        if worker is not None:
            worker.tell()
            worker.result()
    assert Record.read(str(path)).boot == ""


@pytest.mark.parametrize("engine", ENGINES)
def test_sync_and_the_keeper_have_what_was_written_on_the_disk(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for interval, wait in ((1000.0, False), (0.05, True)):
        monkeypatch.setattr("rack.store.keeper._INTERVAL", interval)
        path = tmp_path / f"d{wait}"
        with PersistentDict[Any, Any](path, shards=2, engine=engine, durability="everysec") as d:
            d["made"] = 1
            disk = Disk(monkeypatch)
            d.update({number: number for number in range(100)})
            files = shard_files(path, engine, "everysec")
            assert len(files) == 2
            deadline = time.monotonic() + 20
            if not wait:
                assert not disk.has(files)
                d.sync()
            while wait and not disk.has(files) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert disk.has(files)
        monkeypatch.undo()


def test_an_exception_at_the_first_write_does_not_leave_it_without_a_keeper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PersistentDict[Any, Any](tmp_path / "d", shards=2, durability="everysec") as d:
        real = openstore.Keeper
        made: list[Any] = []

        def interrupted(work: Any) -> Any:
            if len(made) == 1:
                made.append(None)
                raise KeyboardInterrupt
            made.append(real(work))
            return made[-1]

        monkeypatch.setattr(openstore, "Keeper", interrupted)
        with pytest.raises(KeyboardInterrupt):
            d["a"] = 1
        d["a"] = 2
        assert d._held is not None
        assert len(d._held._keepers) == 2


def test_a_failed_attempt_to_put_down_that_nobody_writes_keeps_the_lock(tmp_path: Path) -> None:
    """Asking for a flock exclusively loses the one that is there, where that fails."""
    path = tmp_path / "d"

    def write() -> None:
        with PersistentDict[str, int](path) as d:
            tell()
            hear()
            d["b"] = 2
            tell()
            hear()

    with Crew() as crew, PersistentDict[str, int](path, shards=2, durability="process") as d:
        worker = crew.start(write)
        worker.hear()
        d["a"] = 1
        d.sync()  # in vain: the other one may write
        worker.tell()
        worker.hear()
        worker.tell()
        worker.result()
        worker._process.join()
        assert Record.read(str(path)).opened  # this one still has it open for writing
        assert Record.read(str(path)).boot == boot.boot_id()
    assert Record.read(str(path))[:2] == ("", "process")
    assert not Record.read(str(path)).opened


@pytest.mark.parametrize("durability", ["process", "everysec"])
def test_who_closes_last_has_what_a_killed_child_wrote_on_the_disk_without_having_used_it(
    durability: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "d"
    d: PersistentDict[Any, Any] = PersistentDict(path, engine="sqlite3", shards=2, durability=durability).open()
    monkeypatch.setattr("rack.store.keeper._INTERVAL", 1000)
    child = os.fork()
    if not child:
        try:
            d.update({number: number for number in range(100)})
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    files = shard_files(path, "sqlite3", durability)
    assert len(files) == 2
    disk = Disk(monkeypatch)
    d.close()
    assert disk.has(files)


@pytest.mark.parametrize("durability", ["process", "always"])
def test_the_durability_of_a_new_store_is_on_the_disk(
    durability: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    with PersistentDict[Any, Any](tmp_path / "d", shards=1, durability=durability) as d:
        assert disk.has([tmp_path / "d.rack-boot"])
        d.backup(tmp_path / "backup")
    assert disk.has([tmp_path / "backup.rack-boot"])
