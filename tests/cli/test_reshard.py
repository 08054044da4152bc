"""``rack reshard``."""

from __future__ import annotations

from pathlib import Path

import pytest

from rack import PersistentSet
from tests.support.processes import assert_sound
from tests.support.processes import engine as engine

pytest.importorskip("click")

from tests.support.commands import content, filled, run

pytestmark = pytest.mark.usefixtures("engine")


@pytest.mark.parametrize("shards", [1, 4, 5])
def test_it_cuts_a_store_into_other_shards(shards: int, tmp_path: Path) -> None:
    path = filled(tmp_path / "a")
    word = "shard" if shards == 1 else "shards"
    expected = f"rack reshard: 1,000 entries in {shards} {word}\n"
    assert run("reshard", path, shards, "--workers", "2") == (0, "", expected)
    with PersistentSet[int](path, flag="r") as store:
        assert len(store.shards()) == shards
    assert content(path) == set(range(1000))
    assert_sound(PersistentSet(path))


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    path = filled(tmp_path / "a")
    for wrong in ("0", "10000", "many"):
        code, _, errors = run("reshard", path, wrong)
        assert code == 2
        assert "'N'" in errors
