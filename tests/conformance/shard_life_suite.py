"""What every engine's shard promises about damage, closing, reading only and forks; part of ``ShardSuite``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from rack.errors import CorruptShardError, NotOpenError, ReadOnlyError
from tests.conformance.bench import Bench
from tests.conformance.raw import RawEngine
from tests.conformance.scan_suite import walk


class ShardLifeSuite:
    engine: ClassVar[str]
    raw: ClassVar[RawEngine]

    # Damage

    def test_every_damage_is_noticed_and_never_served(self, bench: Bench, tmp_path: Path) -> None:
        bench.sound = False
        assert bench.raw.damages()
        for number, (damage_name, damage) in enumerate(bench.raw.damages().items()):
            directory = tmp_path / str(number)
            directory.mkdir()
            victim = Bench(self.engine, self.raw, directory, bench.hash)
            victim.shard.put_many([(b"a", b"1"), (b"b" * 600, b"2"), (b"c" * 600, b"3")])
            victim.shard.check()
            victim.shard.close()
            damage(victim.path)
            problem = problem_of(victim)
            assert problem is not None, f"{damage_name}: not noticed"
            assert str(victim.path) in problem, damage_name

    # Life

    def test_a_closed_shard_refuses_everything_and_closes_again(self, bench: Bench) -> None:
        shard = bench.shard
        bench.sound = False
        shard.close()
        shard.close()
        calls: list[Callable[[], object]] = [
            lambda: shard.get(b"k"),
            lambda: shard.contains(b"k"),
            lambda: shard.put(b"k", b"v"),
            lambda: shard.add(b"k", b"v"),
            lambda: shard.delete(b"k"),
            lambda: shard.pop(b"k"),
            lambda: shard.pop_first(),
            lambda: shard.modify(b"k", lambda _: b"v"),
            lambda: shard.transact(lambda view: view.get(b"k")),
            lambda: shard.get_many([b"k"]),
            lambda: shard.put_many([(b"k", b"v")]),
            lambda: shard.change_many([(b"k", b"v")], [b"l"]),
            lambda: shard.add_many([(b"k", b"v")]),
            lambda: shard.delete_many([b"k"]),
            lambda: shard.scan(b"", None, False, False),
            lambda: shard.count(),
            lambda: shard.clear(),
            lambda: shard.version(),
            lambda: shard.check(),
            lambda: shard.sync(),
        ]
        for call in calls:
            with pytest.raises(NotOpenError):
                call()

    def test_a_read_only_shard_reads_and_refuses_writes(self, bench: Bench) -> None:
        bench.shard.put_many([(b"k", b"v"), (b"l" * 600, b"w")])
        bench.open(readonly=True)
        shard = bench.shard
        assert shard.get(b"k") == b"v"
        assert shard.get_many([b"l" * 600]) == [b"w"]
        assert walk(shard, False) == [b"k", b"l" * 600]
        writes: list[Callable[[], object]] = [
            lambda: shard.put(b"k", b"x"),
            lambda: shard.add(b"n", b"x"),
            lambda: shard.delete(b"k"),
            lambda: shard.pop(b"k"),
            lambda: shard.pop_first(),
            lambda: shard.modify(b"k", lambda _: b"x"),
            lambda: shard.transact(lambda view: view.delete(b"k")),
            lambda: shard.put_many([(b"k", b"x")]),
            lambda: shard.change_many([(b"k", b"x")], []),
            lambda: shard.change_many([], [b"k"]),
            lambda: shard.add_many([(b"n", b"x")]),
            lambda: shard.delete_many([b"k"]),
            lambda: shard.clear(),
        ]
        for write in writes:
            with pytest.raises(ReadOnlyError):
                write()
        assert bench.stored() == {b"k": b"v", b"l" * 600: b"w"}

    def test_a_durable_shard_does_the_same(self, bench: Bench) -> None:
        bench.open(durability="always")
        bench.shard.put(b"k", b"v")
        assert bench.shard.add(b"k", b"w") == b"v"
        bench.shard.sync()
        assert bench.stored() == {b"k": b"v"}

    def test_a_write_can_be_abandoned_by_the_check_that_follows_the_writer_lock(self, bench: Bench) -> None:
        def refuse(begun: bool) -> None:
            if begun:
                raise TimeoutError

        bench.shard.put(b"k", b"v")
        bench.shard.on_write(refuse)
        for write in (lambda: bench.shard.put(b"k", b"w"), lambda: bench.shard.put_many([(b"n", b"w")])):
            with pytest.raises(TimeoutError):
                write()
        assert bench.shard.get(b"k") == b"v"
        bench.shard.on_write(lambda begun: None)
        bench.shard.put(b"m", b"w")
        assert bench.stored() == {b"k": b"v", b"m": b"w"}

    def test_a_forked_child_rejoins_once_and_its_write_is_seen(self, bench: Bench) -> None:
        bench.shard.put(b"parent", b"1")
        before = bench.rejoined
        bench.shard.before_fork()
        child = os.fork()
        if not child:
            status = 1
            try:
                bench.shard.after_fork_in_child()
                bench.shard.put(b"child", bench.shard.get(b"parent") or b"")
                status = 0 if bench.rejoined == before + 1 else 2
            finally:
                os._exit(status)
        bench.shard.after_fork_in_parent()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert bench.shard.get(b"child") == b"1"


def problem_of(victim: Bench) -> str | None:
    try:
        victim.open()
        victim.shard.check()
    except CorruptShardError as error:
        return str(error)
    finally:
        victim.close()
    return None
