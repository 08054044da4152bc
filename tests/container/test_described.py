"""What a container tells of itself: attributes, ``repr``, what notebooks ask for. It never waits and never fails."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from rack import CorruptShardError, NotOpenError, PersistentDict, PersistentSet
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

Dict = PersistentDict[Any, Any]


@pytest.fixture
def path(tmp_path: Path, engine: str) -> Path:
    return tmp_path / "d"


def test_a_handle_tells_what_the_store_is(path: Path, engine: str) -> None:
    d = PersistentDict[str, Any](path, serdes="json", key_serdes="str", durability="always", shards=3)
    for name in ("engine", "durability", "serdes", "key_serdes"):
        with pytest.raises(NotOpenError):
            getattr(d, name)
    with d:
        assert (d.engine, len(d.shards()), d.durability) == (engine, 3, "always")
        assert (d.serdes, d.key_serdes) == ("json", "str")
        with d.snapshot() as then:
            assert (then.engine, then.serdes) == (engine, "json")


def test_repr_says_how_many_entries_there_are(path: Path, engine: str) -> None:
    d = Dict(path, shards=2)
    assert repr(d) == f"<PersistentDict {str(path)!r}, closed>"
    with d:
        assert repr(d) == f"<PersistentDict {str(path)!r}, {engine}, 2 shards, 0 entries>"
        d[1] = 1
        with d.snapshot() as then:
            d.update({2: 2, 3: 3})
            assert repr(d).endswith("2 shards, 3 entries>")
            assert repr(then).endswith("2 shards, snapshot, 1 entry>")
            assert then.stat().entries == 3, "of the store"
        with Dict(path, flag="r", timeout=1) as reader:
            assert repr(reader).endswith("2 shards, 3 entries>")
    with PersistentSet[int](path.with_name("s"), shards=1) as s:
        assert repr(s) == f"<PersistentSet {str(path.with_name('s'))!r}, {engine}, 1 shard, 0 entries>"


def test_repr_waits_for_nobody(path: Path) -> None:
    with Dict(path, shards=2) as d:
        assert d._held is not None
        begun, over = threading.Event(), threading.Event()

        def be_busy() -> None:
            assert d._held is not None
            with d._held.shards[1]._lock:
                begun.set()
                over.wait(30)

        thread = threading.Thread(target=be_busy)
        thread.start()
        begun.wait(30)
        try:
            assert repr(d).endswith(" 2 shards>")
            assert "entries" not in d._repr_html_()
            assert d._ipython_key_completions_() == []
        finally:
            over.set()
            thread.join()
        assert repr(d).endswith(" 2 shards, 0 entries>")


def test_repr_in_the_middle_of_an_operation_leaves_the_number_out(path: Path) -> None:
    seen = []

    def dump(value: object) -> bytes:
        seen.append(repr(d))
        return repr(value).encode()

    d = Dict(path, shards=1, serdes=(eval, dump), key_serdes="str")
    with d:
        d.incr("a")
        assert seen[-1].endswith(" 1 shard>"), "incr() calls the serdes inside of its transaction"
        d["b"] = 1
        assert seen[-1].endswith(" 1 shard, 1 entry>")
        assert d.check() == 2


def test_repr_in_a_signal_handler_does_no_harm(path: Path) -> None:
    seen = set()
    with Dict(path, shards=1) as d:
        before = signal.signal(signal.SIGALRM, lambda signum, frame: seen.add(repr(d).rpartition(" ")[2]))
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        try:
            for number in range(4000):
                d[number % 10] = number
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert len(d) == 10
    assert seen <= {"entries>", "entry>", "shard>"}
    assert seen


def test_repr_of_a_damaged_store_leaves_the_number_out(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Dict(path, shards=2) as d:
        d[1] = 1

        def fail() -> int:
            raise CorruptShardError(5, "is damaged")

        assert d._held is not None
        monkeypatch.setattr(d._held.shards[0], "count", fail)
        assert repr(d).endswith(" 2 shards>")
        assert d._ipython_key_completions_() == []
        monkeypatch.undo()
        assert len(d) == 1


def test_a_notebook_gets_a_table_in_which_nothing_is_markup(tmp_path: Path, engine: str) -> None:
    d = Dict(tmp_path / "<b>&", shards=2)
    assert "closed" in d._repr_html_()
    with d:
        d["a"] = 1
        table = d._repr_html_()
    assert table.startswith("<table>")
    assert "&lt;b&gt;&amp;" in table
    assert "<b>" not in table
    for told in ("PersistentDict", engine, "2 shards", "1 entry", "marshal", "everysec"):
        assert f">{told}</" in table, told


def test_ipython_completes_the_first_keys(path: Path) -> None:
    d = Dict(path)
    assert d._ipython_key_completions_() == []
    with d:
        assert d._ipython_key_completions_() == []
        d.update((f"key {number}", number) for number in range(3000))
        found = d._ipython_key_completions_()
        assert len(set(found)) == 100
        assert all(key in d for key in found)
