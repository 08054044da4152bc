"""The SQLite engine's shard, and what is its own: rows that the sqlite3 shell can read."""

from __future__ import annotations

import contextlib
import sqlite3

from tests.conformance.bench import Bench
from tests.conformance.raw import RAW
from tests.conformance.shard_suite import ShardSuite
from tests.processes import end_sound as end_sound


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
