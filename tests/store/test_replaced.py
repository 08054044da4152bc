"""A store whose files, or one of them, were removed or replaced while it was open: who writes where, and is told."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict
from rack.errors import StoreDeletedError
from rack.shard import shard_class
from tests.support.processes import Crew, assert_sound, hear, tell
from tests.support.processes import engine as engine

Dict = PersistentDict[Any, Any]


def grow(d: Dict) -> None:
    d.update((number, bytes(5000)) for number in range(1000, 1400))


@pytest.mark.parametrize("durability", ["process", "everysec"])
def test_a_shard_that_was_replaced_while_it_was_open_is_not_grown_into(
    durability: str, engine: str, tmp_path: Path
) -> None:
    """The manifest is still the store's: only the file's inode tells. LMDB would cut or stretch the new file."""
    with Dict(tmp_path / "d", shards=1, durability=durability) as d:
        d.update(dict.fromkeys(range(10), "before"))
    file = tmp_path / f"d-0000{shard_class(engine).suffix}"
    content = file.read_bytes()

    d = Dict(tmp_path / "d", durability=durability).open()
    d["a"] = 1
    file.rename(tmp_path / "elsewhere")
    file.write_bytes(content)  # as a tool that copies files back does it
    if engine == "lmdb":
        with pytest.raises(StoreDeletedError, match="replaced by another file"):
            grow(d)
        assert d["a"] == 1  # of the file that it has
    else:
        with Crew() as crew:
            crew.start(int).result()  # SQLite's file is opened anew after a fork
        with pytest.raises(StoreDeletedError, match="replaced by another file"):
            grow(d)
    assert file.read_bytes() == content
    with contextlib.suppress(StoreDeletedError):
        d.close()


def test_a_handle_on_removed_files_and_one_on_the_new_store_are_two(engine: str, tmp_path: Path) -> None:
    path = tmp_path / "d"

    def use_new() -> None:
        with Dict(path) as new:
            tell(dict(new))
            hear()
            new["child"] = 1

    old = Dict(path, shards=1).open()
    old["who"] = "old"
    for file in tmp_path.iterdir():
        file.unlink()
    with Dict(path, shards=3) as new, Dict(path) as same:
        assert dict(new) == {}
        assert same._held is new._held is not old._held
        for number in range(100):  # side by side
            old[number], new[number] = "old", "new"
        grow(new)
        assert (old["who"], "who" in new) == ("old", False)
        assert [old[number] for number in range(100)] == ["old"] * 100
        with Crew() as crew:
            child = crew.start(use_new)
            assert child.hear() == dict(new)
            child.tell()
            child.result()
        new["who"] = "new"
        with pytest.raises(StoreDeletedError):
            old.close()
        assert old.closed
        assert new["child"] == 1
        assert [same[number] for number in range(100)] == ["new"] * 100
        expected = dict(new)
    with Dict(path) as new:
        assert dict(new) == expected
    assert_sound(new)
