"""The LMDB engine's shard, and what is its own: the layout of its file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from rack import PersistentDict
from rack.errors import CorruptShardError, TooLargeError
from tests.conformance.bench import Bench
from tests.conformance.raw import RAW, RawLmdb, long_record, sha256
from tests.conformance.shard_suite import ShardSuite
from tests.support.processes import end_sound as end_sound


class TestShardLmdb(ShardSuite):
    engine = "lmdb"
    raw = RAW["lmdb"]

    def test_a_short_key_is_the_key_in_the_file_and_a_long_one_is_under_its_digest(self, bench: Bench) -> None:
        long = b"l" * 600
        bench.shard.put_many([(b"k" * 511, b"short"), (long, b"long")])
        bench.close()
        assert isinstance(bench.raw, RawLmdb)
        with bench.raw.env(bench.path) as env:
            table = env.open_db(b"\x01", create=False)
            with env.begin() as txn:
                assert txn.get(b"k" * 511) == b"short"
                assert txn.get(long_record(long, sha256), db=table) == (600).to_bytes(4, "big") + long + b"long"
                assert txn.stat()["entries"] == 3
                assert txn.get(b"\0") == b"rack-shard-1 " + b"0123456789abcdef" * 2 + b" 3 direct"
        bench.open()

    def test_the_file_has_no_holes(self, bench: Bench) -> None:
        bench.shard.put(b"large", os.urandom(3 << 20))
        status = bench.path.stat()
        assert status.st_blocks * 512 >= status.st_size - 2 * 4096

    def test_a_value_too_large_for_lmdb_is_refused_by_name(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("rack.shard.lmdb.operations.MAX_VALUE", 1000)
        with pytest.raises(TooLargeError, match="1001 bytes"):
            bench.shard.put(b"l" * 600, b"v" * 1001)
        assert bench.stored() == {}

    def test_an_lmdb_file_of_another_program_is_not_a_shard(self, bench: Bench) -> None:
        bench.close()
        bench.path.unlink()
        with lmdb.open(str(bench.path), subdir=False, lib_version=0) as env, env.begin(write=True) as txn:
            txn.put(b"k", b"v")
        bench.sound = False
        with pytest.raises(CorruptShardError, match="not a Rack shard"):
            bench.open()

    @pytest.mark.parametrize("key", [b"short", b"l" * 600])
    @pytest.mark.parametrize("size", [1501, 1900, 5000])
    def test_a_long_value_that_was_torn_is_an_error_to_every_reader(self, bench: Bench, key: bytes, size: int) -> None:
        value = os.urandom(size)
        bench.shard.put(key, value)
        assert bench.stored() == {key: value}
        bench.close()
        data = bench.path.read_bytes()
        at = data.rindex(value[-20:])
        with open(bench.path, "r+b") as file:
            file.seek(at)
            file.write(bytes(20))
        bench.open()
        readers: list[Callable[[], object]] = [
            lambda: bench.shard.get(key),
            lambda: bench.shard.get_many([key]),
            lambda: bench.shard.scan(b"", None, False, True),
            lambda: bench.shard.add(key, b"other"),
            lambda: bench.shard.pop(key),
            bench.shard.pop_first,
            lambda: bench.shard.modify(key, lambda old: b"new"),
        ]
        for reader in readers:
            with pytest.raises(CorruptShardError, match=r"shard.*checksum"):
                reader()
        if key == b"short":  # what a torn record's long key was cannot be known
            bench.shard.delete(key)
            assert bench.stored() == {}
        else:
            bench.sound = False


def _one_digest(data: bytes) -> bytes:
    return bytes(32)


def test_long_keys_of_one_digest_are_told_apart_also_when_the_first_is_deleted(tmp_path: Path) -> None:
    with PersistentDict[bytes, int](tmp_path / "d", engine="lmdb", shards=1, key_serdes="bytes", hash=_one_digest) as d:
        first, second, third, fourth = (b"x" * 600 + b"%d" % number for number in range(1, 5))
        d.update({first: 1, second: 2, third: 3})
        del d[first]
        assert dict(d) == {second: 2, third: 3}
        d[fourth] = 4
        d[third] = 33
        assert (d.add(second, 0), d.add(first, 11)) == (False, True)
        assert dict(d) == {first: 11, second: 2, third: 33, fourth: 4}
        assert d.check() == 4
        del d[third], d[first]
        assert dict(d) == {second: 2, fourth: 4}
        assert d.check() == 2
