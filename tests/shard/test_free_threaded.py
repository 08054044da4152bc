"""Where the GIL is forced off, LMDB stores are refused, as py-lmdb crashes there; SQLite stores work."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict, RackError
from tests.support.processes import assert_sound

Dict = PersistentDict[Any, Any]


@pytest.fixture
def no_gil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)


@pytest.mark.usefixtures("no_gil")
def test_making_an_lmdb_store_without_the_gil_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RackError, match=r"PYTHON_GIL=0.*sqlite3"):
        Dict(tmp_path / "d").open()
    assert not {file.name for file in tmp_path.iterdir()} - {"d.rack-lock"}


@pytest.mark.parametrize("flag", ["r", "w", "c", "n"])
def test_opening_an_lmdb_store_without_the_gil_is_refused(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Dict(tmp_path / "d", shards=2, durability="everysec") as d:
        d["a"] = 1
    with monkeypatch.context() as patch:
        patch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
        with pytest.raises(RackError, match="PYTHON_GIL=0"):
            Dict(tmp_path / "d", flag=flag).open()
    if flag != "n":
        with Dict(tmp_path / "d") as d:
            assert dict(d) == {"a": 1}
        assert_sound(d)


@pytest.mark.usefixtures("no_gil")
def test_an_sqlite_store_works_without_the_gil(tmp_path: Path) -> None:
    with Dict(tmp_path / "d", engine="sqlite3", shards=2) as d:
        d["a"] = 1
        assert d.copy() == {"a": 1}
    assert_sound(d)


@pytest.mark.skipif(not hasattr(sys, "_is_gil_enabled"), reason="a Python that always has the GIL")
def test_with_the_gil_lmdb_stores_work_on_this_python(tmp_path: Path) -> None:
    with Dict(tmp_path / "d") as d:
        d["a"] = 1
        assert sys._is_gil_enabled()
