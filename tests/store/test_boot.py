"""A power failure is noticed: a store that was in use under an earlier boot is not served as if nothing had been."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict
from rack.errors import CorruptShardError, LockTimeoutError
from rack.shard import ENGINES
from rack.store import gate, writing
from rack.store.record import DURABILITIES, Record
from rack.system import boot
from tests.support.processes import Crew, as_the_same_files, assert_sound, hear, run, run_script, tell


def after_reboot(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of a copy of the store's files; the system has booted since."""
    place = path.parent / f"after-{time.monotonic_ns()}"
    place.mkdir()
    for file in path.parent.glob(f"{path.name}*"):
        if not file.name.endswith(".lmdb-lock"):
            shutil.copyfile(file, place / file.name)
    as_the_same_files(place / path.name)
    monkeypatch.setattr("rack.system.boot.boot_id", lambda: place.name)
    return place / path.name


def test_the_boot_id_is_the_same_in_every_process() -> None:
    assert boot.boot_id()
    assert run_script("import rack.system.boot; print(rack.system.boot.boot_id())").strip() == boot.boot_id()


def test_a_store_is_marked_while_it_is_open_for_writing_and_clean_when_the_last_one_closed_it(tmp_path: Path) -> None:
    path = tmp_path / "d"

    def open_for_a_while() -> None:
        with PersistentDict[str, int](path) as d:
            d["b"] = 2
            tell()
            hear()

    with Crew() as crew:
        worker = crew.prepare(open_for_a_while)
        with PersistentDict[str, int](path) as d:
            d["a"] = 1
            assert Record.read(str(path))[:2] == (boot.boot_id(), "everysec")
            worker.ready()
            worker.go()
            worker.hear()
        assert Record.read(str(path)).boot == boot.boot_id()
        worker.tell()
        worker.result()
    assert Record.read(str(path))[:2] == ("", "everysec")
    with PersistentDict[str, int](path, flag="r"):
        assert Record.read(str(path))[:2] == ("", "everysec")
    assert_sound(PersistentDict(path))


def test_a_child_that_uses_a_store_after_its_parent_closed_it_marks_it_again(tmp_path: Path) -> None:
    path = tmp_path / "d"
    d = PersistentDict[str, int](path).open()

    def use() -> str:
        hear()
        d["child"] = 1
        marked = Record.read(str(path)).boot
        d.close()
        return marked

    with Crew() as crew:
        worker = crew.start(use)
        d.close()
        assert Record.read(str(path)).boot == ""
        worker.tell()
        assert worker.result() == boot.boot_id()
    assert Record.read(str(path)).boot == ""
    assert_sound(PersistentDict(path))


def test_a_clean_store_opens_after_a_reboot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PersistentDict[str, int](tmp_path / "d") as d:
        d["a"] = 1
    after = after_reboot(tmp_path / "d", monkeypatch)
    with PersistentDict[str, int](after) as d:
        assert dict(d) == {"a": 1}


@pytest.mark.parametrize("flag", ["r", "c"])
def test_what_was_written_to_when_the_system_stopped_is_not_served(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PersistentDict[str, int](tmp_path / "d", shards=3, durability="process") as d:
        d["a"] = 1
        after = after_reboot(tmp_path / "d", monkeypatch)
        for _ in range(2):
            with pytest.raises(CorruptShardError, match=r"lmdb was being written to.*rack repair"):
                PersistentDict(after, flag=flag).open()


def test_what_was_not_written_to_since_it_was_synced_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PersistentDict[str, int](tmp_path / "d", shards=3, durability="process") as d:
        d["a"] = 1
        d.sync()
        after = after_reboot(tmp_path / "d", monkeypatch)
        with PersistentDict[str, int](after) as opened:
            assert dict(opened) == {"a": 1}
        assert_sound(PersistentDict(after))
        d["b"] = 2
        after = after_reboot(tmp_path / "d", monkeypatch)
        with pytest.raises(CorruptShardError):
            PersistentDict(after).open()


def test_while_another_process_may_write_sync_does_not_put_the_store_down_as_clean(tmp_path: Path) -> None:
    path = tmp_path / "d"

    def write() -> None:
        with PersistentDict[str, int](path) as d:
            d["b"] = 2
            tell()
            hear()

    with Crew() as crew, PersistentDict[str, int](path, shards=2, durability="process") as d:
        worker = crew.start(write)
        worker.hear()
        d["a"] = 1
        d.sync()
        assert Record.read(str(path)).boot == boot.boot_id()
        worker.tell()
        worker.result()
        worker._process.join()
        d.sync()
        assert Record.read(str(path)).boot == ""
        d["a"] = 3
        assert Record.read(str(path)).boot == boot.boot_id()
    assert Record.read(str(path))[:2] == ("", "process")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("durability", DURABILITIES)
def test_a_store_that_nobody_writes_to_is_clean_whoever_has_it_open(
    durability: str, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last writer closes, and a reader stays; the reader leaves last. (SQLite's files change until then.)"""
    path = tmp_path / "d"
    with PersistentDict[str, int](path, shards=2, durability=durability, engine=engine):
        pass

    def read() -> None:
        with PersistentDict[str, int](path, flag=hear()) as d:
            assert d.get("a") is None
            tell()
            hear()

    for flag in ("r", "w"):
        with Crew() as crew:
            reader = crew.start(read)
            reader.tell(flag)
            reader.hear()
            with PersistentDict[str, int](path) as d:
                assert Record.read(str(path)).boot == ""  # nobody has written to it
                d["b"] = 1
                assert Record.read(str(path)).boot == boot.boot_id()
            assert Record.read(str(path)).boot == ("" if engine == "lmdb" else boot.boot_id())
            reader.tell()
            reader.result()
        assert Record.read(str(path))[:2] == ("", durability)
        after = after_reboot(path, monkeypatch)
        monkeypatch.undo()
        with PersistentDict[str, int](after) as d:
            assert dict(d) == {"b": 1}


@pytest.mark.parametrize("engine", ENGINES)
def test_who_only_reads_leaves_the_store_as_it_is_put_down(engine: str, tmp_path: Path) -> None:
    with PersistentDict[str, int](tmp_path / "d", engine=engine) as d:
        d["a"] = 1
    before = Record.read(str(tmp_path / "d"))
    for flag in ("r", "w", "c"):
        with PersistentDict[str, int](tmp_path / "d", flag=flag) as d:
            assert dict(d.snapshot()) == {"a": 1}
            d.sync()
            assert Record.read(str(tmp_path / "d")) == before
        assert Record.read(str(tmp_path / "d")) == before


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("flag", ["r", "w"])
def test_what_a_killed_writer_has_left_is_put_down_by_the_next_one_that_closes(
    flag: str, engine: str, tmp_path: Path
) -> None:
    path = tmp_path / "d"

    def die() -> None:
        d = PersistentDict[str, int](path, engine=engine).open()
        d["a"] = 1
        os.kill(os.getpid(), 9)

    with Crew() as crew:
        crew.start(die)._process.join()
    assert Record.read(str(path)).boot == boot.boot_id()
    with PersistentDict[str, int](path, flag=flag) as d:
        assert dict(d) == {"a": 1}
    assert Record.read(str(path)).boot == ""


def test_always_needs_no_recovery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PersistentDict[str, int](tmp_path / "d", durability="always", shards=2) as d:
        d["a"] = 1
        after = after_reboot(tmp_path / "d", monkeypatch)
        with PersistentDict[str, int](after) as opened:
            assert dict(opened) == {"a": 1}


def test_the_least_durability_in_use_is_what_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "d"

    def write_carelessly() -> None:
        with PersistentDict[str, int](path, durability="process") as d:
            d["b"] = 2

    with Crew() as crew:
        worker = crew.prepare(write_carelessly)
        d = PersistentDict[str, int](path, durability="always", shards=1).open()
        d["a"] = 1
        worker.ready()
        worker.go()
        worker.result()
        after = after_reboot(path, monkeypatch)
        with pytest.raises(CorruptShardError):
            PersistentDict(after).open()
        d.close()


def test_sqlite_opens_after_a_reboot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PersistentDict[str, int](tmp_path / "d", engine="sqlite3") as d:
        d["a"] = 1
        after = after_reboot(tmp_path / "d", monkeypatch)
        with PersistentDict[str, int](after) as opened:
            assert dict(opened) == {"a": 1}


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b'{"boot": "", "durability": "sometimes"}'])
def test_a_store_whose_record_is_missing_or_damaged_is_verified(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "sound" / "d"
    path.parent.mkdir()
    with PersistentDict[int, int](path, shards=1, durability="process") as d:
        d.update(zip(range(2000), range(2000), strict=True))
    record = path.with_name("d.rack-boot")
    record.write_bytes(content) if content else record.unlink()
    shutil.copytree(path.parent, tmp_path / "damaged")
    with PersistentDict[int, int](path) as d:
        assert len(d) == 2000
    assert_sound(PersistentDict(path))
    shard = tmp_path / "damaged" / "d-0000.lmdb"
    data = bytearray(shard.read_bytes())
    data[4096 * 3 : 4096 * 6] = os.urandom(4096 * 3)
    shard.write_bytes(data)
    with pytest.raises(CorruptShardError, match=r"d-0000\.lmdb"):
        PersistentDict(shard.with_name("d")).open()


def test_one_opener_recovers_and_the_others_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PersistentDict[str, int](tmp_path / "d", durability="everysec", shards=2) as d:
        d["a"] = 1
        d.sync()
        after = after_reboot(tmp_path / "d", monkeypatch)
    id_now = boot.boot_id()

    def increment() -> None:
        boot.boot_id = lambda: id_now  # type: ignore[assignment]
        with PersistentDict[str, int](after) as d:
            d.incr("a")

    run(increment, [()] * 8)
    with PersistentDict[str, int](after) as d:
        assert dict(d) == {"a": 9}
    assert_sound(PersistentDict(after))


def test_waiting_at_the_gate_has_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "d"
    with PersistentDict[str, int](path, shards=1):
        pass

    def stand_in_the_gate() -> None:
        with gate.gate(str(path), None):
            tell()
            hear()

    with Crew() as crew:
        worker = crew.start(stand_in_the_gate)
        worker.hear()
        with pytest.raises(LockTimeoutError, match=str(worker.pid)):
            PersistentDict(path, timeout=0.2).open()
        worker.tell()
        worker.result()


def test_a_store_that_is_just_being_closed_can_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "d"

    def close_slowly() -> None:
        with PersistentDict[str, int](path, shards=2) as d:
            d["a"] = 1
            real: Any = writing.present_stamps

            def slowly(*args: Any) -> Any:
                tell()
                time.sleep(1)
                return real(*args)

            writing.present_stamps = slowly  # type: ignore[assignment]

    with Crew() as crew:
        worker = crew.start(close_slowly)
        worker.hear()
        with PersistentDict[str, int](path, flag="n") as d:
            assert dict(d) == {}
        worker.result()
    assert_sound(PersistentDict(path))
