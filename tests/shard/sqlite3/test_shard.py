"""The SQLite engine's shard, and what is its own: rows that the sqlite3 shell can read."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from rack import CorruptShardError, PersistentDict
from rack.care.repair import repair
from rack.care.verify import verify
from tests.conformance.bench import Bench
from tests.conformance.raw import RAW
from tests.conformance.shard_suite import ShardSuite
from tests.support.processes import assert_sound
from tests.support.processes import end_sound as end_sound


class TestShardSqlite3(ShardSuite):
    engine = "sqlite3"
    raw = RAW["sqlite3"]

    def test_rows_can_be_read_and_changed_by_another_connection_meanwhile(self, bench: Bench) -> None:
        bench.shard.put(b"k", b"v")
        with contextlib.closing(sqlite3.connect(bench.path)) as connection:
            assert connection.execute("SELECT key, value FROM entries").fetchall() == [(b"k", b"v")]
            with connection:
                connection.execute("INSERT INTO entries VALUES (?, ?)", (b"other", b"w"))
        assert bench.shard.get(b"other") == b"w"
        assert bench.shard.count() == 2

    def test_the_database_is_in_wal_mode_with_the_store_and_number_in_it(self, bench: Bench) -> None:
        with contextlib.closing(sqlite3.connect(bench.path)) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            rows = dict(connection.execute("SELECT name, value FROM rack"))
        assert rows["identity"] == "rack-shard-1 " + "0123456789abcdef" * 2 + " 3"
        assert rows["count"] == 0


@pytest.mark.parametrize("text", [b"CREATE TABLE rack", b"CREATE TABLE entries", b"identity"])
def test_damage_that_sqlite_quotes_in_its_message_is_told(text: bytes, tmp_path: Path) -> None:
    """It is no UTF-8 then, and Python cannot make an error of it."""
    with PersistentDict[str, int](tmp_path / "d", engine="sqlite3", shards=1) as d:
        d["a"] = 1
    file = tmp_path / "d-0000.sqlite3"
    good = file.read_bytes()
    assert text in good
    for at in range(len(text)):
        file.write_bytes(good.replace(text, text[:at] + b"\xa0" + text[at + 1 :]))
        report = verify(tmp_path / "d")
        assert not report.sound, at
        with pytest.raises(CorruptShardError), PersistentDict(tmp_path / "d", flag="w") as d:
            d["a"]
        repair(tmp_path / "d", tmp_path / f"repaired-{at}")
    file.write_bytes(good)
    assert_sound(PersistentDict(tmp_path / "d"))
