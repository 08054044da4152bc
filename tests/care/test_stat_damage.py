"""``rack.stat`` of a store that is damaged, or not there: the errors that opening it raises."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import rack
from rack import PersistentDict, RackError, StoreDeletedError, StoreNotFoundError
from rack.store.record import Record
from tests.care.test_stat import path as path
from tests.care.test_stat import state_of
from tests.support.processes import Crew, default_engine
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

Dict = PersistentDict[Any, Any]


def cut(path: Path) -> None:
    os.truncate(f"{path}-0000.{default_engine()}", 5000)


def swap(path: Path) -> None:
    first, second = (Path(f"{path}-000{number}.{default_engine()}") for number in (0, 1))
    first.rename(path.with_name("aside"))
    second.rename(first)
    path.with_name("aside").rename(second)


def lose(path: Path) -> None:
    Path(f"{path}-0001.{default_engine()}").unlink()


def overwrite(path: Path) -> None:
    Path(f"{path}-0001.{default_engine()}").write_bytes(b"what is this" * 1000)


def break_manifest(path: Path) -> None:
    Path(f"{path}.rack").write_text("{")


def copy_files_in_use(path: Path) -> None:
    Record.read(str(path))._replace(opened="boot").write(str(path))
    record = Path(f"{path}.rack-boot")
    content = record.read_bytes()
    record.unlink()
    Path(f"{path}.other").touch()
    record.write_bytes(content)


@pytest.mark.damages
@pytest.mark.parametrize("damage", [cut, swap, lose, overwrite, break_manifest, copy_files_in_use])
def test_a_damaged_store_is_the_error_that_opening_it_is(path: Path, damage: Any) -> None:
    damage(path)
    with pytest.raises(RackError) as opening:
        Dict(path).open()
    with pytest.raises(type(opening.value)) as looking:
        rack.stat(path)
    assert type(looking.value) is type(opening.value)
    assert str(looking.value).split(". ")[0] == str(opening.value).split(". ")[0]


def test_a_store_that_is_not_there_is_an_error(path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        rack.stat(path.with_name("nothing"))
    d = Dict(path).open()
    for file in path.parent.iterdir():
        file.unlink()
    with pytest.raises(StoreDeletedError):
        d.stat()
    with pytest.raises(StoreDeletedError):
        d.close()


@pytest.mark.damages
def test_one_that_was_in_use_when_the_system_stopped_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die() -> None:
        d = Dict(path).open()
        d[1] = "late"
        os.kill(os.getpid(), signal.SIGKILL)

    with Crew() as crew:
        crew.start(die)._process.join()
    monkeypatch.setattr("rack.system.boot.boot_id", lambda: "another boot")
    before = state_of(path.parent)
    assert any("recovers it" in sentence for sentence in rack.stat(path).advice)
    assert state_of(path.parent) == before
