"""A batch collects writes in an object: its container is never in a mode, whoever enters and leaves the block."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from rack import LockTimeoutError, NotOpenError, PersistentDict, PersistentSet, RackError, ReadOnlyError, StoreFullError
from rack.container import batch as batch_module
from rack.shard.base import Pair
from rack.shard.proxy import ShardProxy
from rack.store.openstore import OpenStore
from rack.store.sharded import Store
from tests.support.faulty import Fault
from tests.support.faulty import fault as fault
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine
from tests.support.processes import run

pytestmark = pytest.mark.usefixtures("engine")

Dict = PersistentDict[Any, Any]
Set = PersistentSet[Any]


@pytest.fixture(params=[1, 5])
def d(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    with Dict(tmp_path / "d", shards=request.param) as d:
        yield d


@pytest.fixture
def s(tmp_path: Path) -> Any:
    with Set(tmp_path / "s", shards=3) as s:
        yield s


def elsewhere(container: Any) -> Any:
    """Return what another process sees."""
    return run(_content, [(type(container), container.name)])[0]


def _content(cls: Any, name: str) -> Any:
    with cls(name, flag="r") as container:
        return dict(container) if isinstance(container, PersistentDict) else set(container)


# What it is for


def test_a_batch_is_written_when_its_block_ends_and_changes_nothing_until_then(d: Dict) -> None:
    d.update({"a": 1, "b": 2, "long" * 200: 3})
    before = dict(d)
    with d.batch() as batch:
        batch["a"] = 10
        batch["new"] = [1, 2]
        batch["long" * 300] = "value"
        del batch["b"]
        del batch["long" * 200]
        del batch["absent"]
        assert dict(d) == before
        assert "new" not in d
    assert dict(d) == elsewhere(d) == {"a": 10, "new": [1, 2], "long" * 300: "value"}


def test_a_batch_of_a_set_adds_and_discards(s: Set) -> None:
    s.update(["a", "b", frozenset({1})])
    with s.batch() as batch:
        batch.add("a")
        batch.add("c")
        batch.discard("b")
        batch.discard("absent")
        batch.discard({1})  # found as the frozenset that is equal to it, as in `set`
        batch.discard(object())
        assert len(s) == 3
    assert s == elsewhere(s) == {"a", "c"}


def test_of_writes_to_one_key_the_last_one_counts(d: Dict, s: Set) -> None:
    d["gone"] = 0
    with d.batch() as batch, s.batch() as other:
        batch[1] = "first"
        batch[1.0] = "second"
        batch["twice"] = 1
        del batch["twice"]
        del batch["gone"]
        batch["gone"] = "back"
        other.add("x")
        other.discard("x")
        other.discard("y")
        other.add("y")
    assert dict(d) == {1: "second", "gone": "back"}
    assert s == {"y"}


def test_any_batch_does_to_a_store_what_it_does_to_a_dict(d: Dict, seed: int) -> None:
    rng = random.Random(seed)
    model: dict[Any, Any] = {}
    for _ in range(30):
        with d.batch() as batch:
            for _ in range(rng.randrange(40)):
                key = rng.choice([rng.randrange(20), "long" * 200 + str(rng.randrange(5))])
                if rng.random() < 0.4:
                    del batch[key]
                    model.pop(key, None)
                else:
                    batch[key] = model[key] = rng.random()
        assert dict(d) == model


class _Journal(ShardProxy):
    """Notes which bulk writes reach a shard."""

    writes: list[tuple[int, int, int]] = []  # noqa: RUF012 - one for all

    def change_many(self, pairs: list[Pair], keys: list[bytes]) -> None:
        self.writes.append((id(self), len(pairs), len(keys)))
        super().change_many(pairs, keys)


def test_what_a_batch_does_to_a_shard_is_one_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Journal, "writes", [])
    plain = OpenStore.store
    monkeypatch.setattr(OpenStore, "store", lambda held, mode: Store([_Journal(s) for s in plain(held, mode).shards]))
    with Dict(tmp_path / "d", shards=4) as d:
        d.update((number, 0) for number in range(30_000))
        with d.batch() as batch:
            for number in range(30_000, 90_000):
                batch[number] = 1
            for number in range(30_000):
                del batch[number]
        assert len(_Journal.writes) == len({shard for shard, _, _ in _Journal.writes}) == 4
        assert [sum(column) for column in zip(*_Journal.writes, strict=True)][1:] == [60_000, 30_000]
        assert len(d) == 60_000
        with d.batch():
            pass
        assert len(_Journal.writes) == 4, "a batch of nothing is a transaction"


def test_a_batch_of_as_many_writes_as_it_holds_is_one_transaction_of_one_shard(tmp_path: Path) -> None:
    with Dict(tmp_path / "d", shards=1) as d:
        rng = random.Random(1)
        d.update((rng.randbytes(16), bytes(400)) for _ in range(60_000))
        with d.batch() as batch:
            for number in range(99_999):
                batch[rng.randbytes(16)] = number
        assert len(d) == 159_999


# Leaving it


def test_an_exception_in_the_block_writes_nothing(d: Dict, s: Set) -> None:
    d["a"] = 1
    for error in (ZeroDivisionError, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit, SystemExit):
        with pytest.raises(error), d.batch() as batch, s.batch() as other:  # noqa: PT012 - the end of the block raises
            batch["b"] = 2
            del batch["a"]
            other.add("x")
            raise error
    assert dict(d) == {"a": 1}
    assert not s
    with d.batch() as batch:
        batch["c"] = 3
    assert dict(d) == {"a": 1, "c": 3}


def test_what_cannot_be_stored_is_an_error_at_once_and_the_rest_is_written(d: Dict, s: Set) -> None:
    with d.batch() as batch, s.batch() as other:
        batch["a"] = 1
        for call in (
            lambda: batch.__setitem__("bad", object()),
            lambda: batch.__setitem__(object(), 1),
            lambda: batch.__setitem__([], 1),
            lambda: batch.__delitem__([]),
            lambda: other.add(object()),
            lambda: other.add([]),
            lambda: other.discard([]),
        ):
            with pytest.raises(TypeError):
                call()
        del batch[object()]  # cannot be there, and is not
        batch["b"] = 2
        other.add("x")
    assert dict(d) == {"a": 1, "b": 2}
    assert s == {"x"}


def test_a_batch_is_used_once_and_only_inside_of_its_block(d: Dict, s: Set) -> None:
    for container, use in (
        (d, lambda batch: batch.__setitem__("k", 1)),
        (d, lambda batch: batch.__delitem__("k")),
        (s, lambda batch: batch.add("k")),
        (s, lambda batch: batch.discard("k")),
    ):
        batch = container.batch()
        with pytest.raises(NotOpenError, match="has not begun"):
            use(batch)
        with batch:
            with pytest.raises(NotOpenError, match="once"):
                batch.__enter__()
            use(batch)
        with pytest.raises(NotOpenError, match="over"):
            use(batch)
        with pytest.raises(NotOpenError, match="once"), batch:
            raise AssertionError("the block runs")
        assert issubclass(NotOpenError, RackError)
        assert not hasattr(batch, "__getitem__")


def test_a_store_closed_inside_of_the_block_is_an_error_at_its_end(d: Dict, s: Set) -> None:
    with pytest.raises(NotOpenError), d.batch() as batch:  # noqa: PT012 - the end of the block raises
        batch["a"] = 1
        d.close()
        with pytest.raises(NotOpenError):
            batch["b"] = 2
    d.open()
    with d.batch() as batch:
        batch["c"] = 3
        d.close()
        d.open()
        batch["d"] = 4
    assert dict(d) == {"c": 3, "d": 4}
    s.close()
    with pytest.raises(NotOpenError), s.batch():
        raise AssertionError("the block runs")
    s.open()


def test_a_read_only_store_refuses_what_a_batch_writes(d: Dict) -> None:
    d["a"] = 1
    with d.snapshot() as then, pytest.raises(ReadOnlyError), then.batch() as batch:
        batch["a"] = 2
    assert d["a"] == 1


# Its budget


def test_more_than_the_budget_is_written_before_the_block_ends(
    d: Dict, s: Set, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ZeroDivisionError), d.batch() as batch:  # noqa: PT012 - the end of the block raises
        for number in range(40):
            batch[number] = bytes(1 << 20)
        assert 25 < len(d) < 40
        written = len(d)
        raise ZeroDivisionError
    assert len(d) == written
    monkeypatch.setattr(batch_module, "_WRITES", 100)
    with pytest.raises(ZeroDivisionError), s.batch() as other:  # noqa: PT012 - the end of the block raises
        for number in range(250):
            other.add(number)
        raise ZeroDivisionError
    assert s == set(range(200))


def test_what_could_not_be_written_is_held_on_and_written_later(
    tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "_WRITES", 50)
    with Dict(tmp_path / "d", shards=4) as d:
        for done in range(4):
            d.clear()
            with d.batch() as batch:
                for number in range(49):
                    batch[number] = 1
                with fault.after(done, lambda: LockTimeoutError("injected")), pytest.raises(LockTimeoutError):
                    batch[49] = 1
                assert 0 < len(batch._held) <= 50
                del batch[0]
                batch[1] = 2
            assert dict(d) == {1: 2, **dict.fromkeys(range(2, 50), 1)}


def test_an_end_that_fails_says_so_and_the_batch_is_over(tmp_path: Path, fault: Fault) -> None:
    with Dict(tmp_path / "d", shards=4) as d:
        for done in range(4):
            d.clear()
            batch = d.batch().__enter__()
            for number in range(100):
                batch[number] = 1
            with fault.after(done, lambda: StoreFullError(28, "injected")), pytest.raises(StoreFullError):
                batch.__exit__(None, None, None)
            assert len({d._store.shards.index(d._route(d._dump_key(key))) for key in d}) == done
            with pytest.raises(NotOpenError):
                batch["later"] = 1
