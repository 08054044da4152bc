"""A store that is open and that nobody uses costs next to nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rack.shard.lmdb import journal
from tests.support.everysec import everysec, stop_keepers


def test_shards_that_are_not_open_here_cost_nothing_while_nobody_else_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a hundred open stores, 1,600 journals were opened each second."""
    opened = []
    newest = journal.Journal.newest

    def noted(spec: Any) -> journal.Journal:
        opened.append(spec.number)
        return newest(spec)

    def round_of(has_company: bool) -> list[int]:
        opened.clear()
        for shard in d._held.shards:
            shard.keep(has_company)
            shard.shorten()
        return sorted(opened)

    with everysec(tmp_path / "d", shards=8) as d:
        stop_keepers(d)
        d["a"] = 1
        (used,) = (shard for shard in d._held.shards if shard._env is not None)
        others = [number for number, shard in enumerate(d._held.shards) if shard is not used]
        monkeypatch.setattr(journal.Journal, "newest", noted)
        assert round_of(False) == others  # somebody who was killed may have written to them
        assert round_of(False) == []
        assert round_of(True) == others
        assert used.put_away()
        assert round_of(False) == [d._held.shards.index(used)]
        assert round_of(False) == []
