"""``rack backup --incremental`` and ``rack restore``."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from rack import PersistentSet
from tests.support.processes import engine as engine

pytest.importorskip("click")

from tests.support.commands import content, filled, run

pytestmark = pytest.mark.usefixtures("engine")


def test_backups_are_made_kept_and_restored(tmp_path: Path) -> None:
    filled(tmp_path / "a")
    time.sleep(0.15)
    for number, unchanged in enumerate([0, 2, 1]):
        if number == 2:
            with PersistentSet[int](tmp_path / "a") as store:
                store.add(-1)
            time.sleep(0.15)
        code, output, errors = run("backup", "a", "kept", "--incremental", "--keep", 2, cwd=tmp_path)
        assert (code, output) == (0, "")
        assert errors.startswith("rack backup: 1,00")
        word = "shard" if unchanged == 1 else "shards"
        assert f"; {unchanged} {word} of 2 had not changed" in errors
        assert errors.endswith("; 1 backup removed\n") == (number == 2)
    lines = run("ls", "kept", cwd=tmp_path).output.splitlines()
    assert len(lines) == 2
    code, _, errors = run("restore", "kept", "a", cwd=tmp_path)
    assert (code, errors) == (1, "rack restore: a.rack: there is a store of that name\n")
    first = lines[0].split()[0]
    done = run("restore", first, "a", "--replace", cwd=tmp_path)
    assert done == (0, "", "rack restore: the store that was a is a-old now\n")
    assert content(tmp_path / "a") == set(range(1000))
    assert content(tmp_path / "a-old") == set(range(1000)) | {-1}
    assert run("restore", "kept", "latest", cwd=tmp_path) == (0, "", "")
    assert content(tmp_path / "latest") == set(range(1000)) | {-1}


def test_wrong_use_is_told_in_the_words_of_options(tmp_path: Path) -> None:
    filled(tmp_path / "a")
    code, _, errors = run("backup", "a", "b", "--keep", 2, cwd=tmp_path)
    assert code == 2
    assert "--keep goes with --incremental" in errors
    code, _, errors = run("restore", ".", "b", cwd=tmp_path)
    assert (code, errors) == (1, "rack restore: .: there are no backups in this directory\n")
    code, _, errors = run("restore", "", "b", cwd=tmp_path)
    assert code == 2
    assert "Invalid value for 'BACKUP'" in errors
    code, _, errors = run("restore", "redis://u:secret@h/0", "b", cwd=tmp_path)
    assert code == 2
    assert "?name= is missing" in errors
    assert "secret" not in errors
    code, _, errors = run("restore", "nothing", "b", cwd=tmp_path)
    assert (code, errors) == (1, "rack restore: nothing.rack: there is no such store\n")
    (tmp_path / "file").touch()
    code, _, errors = run("backup", "a", "file", "--incremental", cwd=tmp_path)
    assert (code, errors) == (1, "rack backup: file: File exists: backups are to be in it\n")
