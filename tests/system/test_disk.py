"""Files are synced by several threads; descriptors are closed once."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from rack.system import disk
from rack.system.descriptor import Descriptor
from tests.interrupts.inject import Injector, Interrupt, count, raising


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    for number in range(6):
        (tmp_path / str(number)).write_text("x")
    return [str(tmp_path / str(number)) for number in range(6)]


def test_each_file_is_synced_once(paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(disk, "sync_path", synced.append)
    disk.sync_paths(paths)
    disk.sync_paths([])
    assert sorted(synced) == paths


def test_an_error_of_any_thread_is_raised(paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> None:
        if path == paths[3]:
            raise OSError(errno.EIO, "I/O error", path)

    monkeypatch.setattr(disk, "sync_path", fail)
    with pytest.raises(OSError, match="I/O error"):
        disk.sync_paths(paths)


def test_a_file_that_no_thread_has_synced_is_an_error(paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> None:
        raise MemoryError

    monkeypatch.setattr(disk, "sync_path", fail)
    monkeypatch.setattr("sys.unraisablehook", lambda unraisable: None)
    with pytest.raises(MemoryError):
        disk.sync_paths(paths)


def test_it_syncs_all_where_no_thread_can_be_started(paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise RuntimeError("can't start new thread")

    synced: list[str] = []
    monkeypatch.setattr(disk, "start_new_thread", refuse)
    monkeypatch.setattr(disk, "sync_path", synced.append)
    disk.sync_paths(paths)
    assert synced == paths


def test_an_exception_at_any_instruction_comes_out_and_leaves_no_file_being_synced(
    paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    busy: set[str] = set()

    def sync(path: str) -> None:
        busy.add(path)
        os.stat(path)
        busy.discard(path)

    monkeypatch.setattr(disk, "sync_path", sync)
    for place in range(count(lambda: disk.sync_paths(paths)) + 40):  # how many there are depends on the threads
        injector = Injector(place, raising(Interrupt))
        try:
            injector.run(lambda: disk.sync_paths(paths))
        except Interrupt:
            continue
        finally:
            assert not busy
        assert injector.where is None


def test_a_descriptor_is_closed_at_any_instruction_of_syncing_a_directory(tmp_path: Path) -> None:
    def open_directories() -> int:
        links = (f"/dev/fd/{fd}" for fd in os.listdir("/dev/fd"))
        return sum(os.path.exists(link) and os.path.samefile(link, tmp_path) for link in links)

    for place in range(count(lambda: disk.sync_directory(str(tmp_path)))):
        with pytest.raises(Interrupt):
            Injector(place, raising(Interrupt)).run(lambda: disk.sync_directory(str(tmp_path)))
        assert not open_directories(), place


def test_a_descriptor_can_be_closed_twice() -> None:
    descriptor = Descriptor()
    descriptor.close()
    descriptor.open(os.dup, 0)
    fd = descriptor.fileno()
    assert descriptor.is_open
    descriptor.close()
    descriptor.close()
    assert not descriptor.is_open
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
