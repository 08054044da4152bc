"""Operations whose answer says what this call did: of all processes that do the same at once, exactly one did it."""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict, PersistentSet
from tests.support.processes import assert_sound, default_engine, run
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

PROCESSES = 32
MANY = 128  # more than LMDB has places for readers if it is not told how many to have
ADDS = 500
DISTINCT = 8_000  # keys to choose from: each is added two or eight times


def _add_to_set(path: Path, keys: list[int]) -> list[int]:
    with PersistentSet[int](path) as store:
        return [key for key in keys if store.add(key)]


def _add_to_dict(path: Path, keys: list[int]) -> list[int]:
    with PersistentDict[int, int](path) as store:
        return [key for key in keys if store.add(key, -key)]


def _filter_new(path: Path, keys: list[int]) -> list[int]:
    with PersistentSet[int](path) as store:
        return list(store.filter_new(keys))


def _add_many(path: Path, keys: list[int]) -> int:
    with PersistentSet[int](path) as store:
        return store.add_many(keys)


def _choices(seed: int, processes: int = PROCESSES) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(DISTINCT) for _ in range(ADDS)] for _ in range(processes)]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("function", [_add_to_set, _add_to_dict, _filter_new])
def test_a_key_added_by_many_processes_at_once_is_new_to_exactly_one(
    function: Callable[..., Any], tmp_path: Path, seed: int
) -> None:
    chosen = _choices(seed, MANY if (function, default_engine()) == (_add_to_set, "lmdb") else PROCESSES)
    path = tmp_path / "store"
    won = run(function, [(path, keys) for keys in chosen])
    distinct = {key for keys in chosen for key in keys}
    winners = Counter(key for keys in won for key in keys)
    assert max(winners.values()) == 1
    assert set(winners) == distinct
    for keys, new in zip(chosen, won, strict=True):
        positions = [keys.index(key) for key in new]
        assert positions == sorted(positions)  # each process has its winners in the order in which it added
    cls = PersistentDict if function is _add_to_dict else PersistentSet
    store: Any = cls(path)
    with store:
        assert set(store) == distinct
        if isinstance(store, PersistentDict):
            assert all(value == -key for key, value in store.items())
    assert_sound(store)


def test_the_counts_of_add_many_sum_up_to_the_number_of_distinct_elements(tmp_path: Path, seed: int) -> None:
    chosen = _choices(seed)
    counts = run(_add_many, [(tmp_path / "store", keys) for keys in chosen])
    distinct = {key for keys in chosen for key in keys}
    assert sum(counts) == len(distinct)
    assert_sound(PersistentSet(tmp_path / "store"))


def test_an_inherited_handle_adds_exactly_once_as_well(tmp_path: Path, seed: int) -> None:
    chosen = _choices(seed)
    with PersistentSet[int](tmp_path / "store") as store:
        won = run(lambda keys: [key for key in keys if store.add(key)], [(keys,) for keys in chosen])
    winners = Counter(key for keys in won for key in keys)
    assert max(winners.values()) == 1
    assert set(winners) == {key for keys in chosen for key in keys}
    assert_sound(store)


def test_increments_by_many_processes_are_all_counted(tmp_path: Path, seed: int) -> None:
    def work(number: int) -> Counter[str]:
        rng = random.Random(seed + number)
        done: Counter[str] = Counter()
        with PersistentDict[str, int](tmp_path / "counts", shards=4) as counts:
            for _ in range(500):
                word = rng.choice("abcdefgh") * rng.choice([1, 700])  # long keys as well
                delta = rng.randrange(1, 10)
                counts.incr(word, delta)
                done[word] += delta
        return done

    done: Counter[str] = sum(run(work, [(number,) for number in range(16)]), Counter())
    with PersistentDict[str, int](tmp_path / "counts") as counts:
        assert dict(counts) == done
    assert_sound(counts)


def test_transform_by_many_processes_loses_nothing(tmp_path: Path) -> None:
    def append(item: int, items: list[int]) -> list[int]:
        return [*items, item]

    def work(number: int) -> None:
        with PersistentDict[str, list[int]](tmp_path / "lists", shards=2) as lists:
            for item in range(40):
                lists.transform(f"list {item % 2}", functools.partial(append, 100 * number + item), [])

    run(work, [(number,) for number in range(12)])
    with PersistentDict[str, list[int]](tmp_path / "lists") as lists:
        found = [item for items in lists.values() for item in items]
    assert sorted(found) == sorted(100 * number + item for number in range(12) for item in range(40))
    assert_sound(lists)


Contest = Callable[[Any, int, int], object]


def _setdefault(store: Any, key: int, me: int) -> bool:
    return bool(store.setdefault(("new", key), me) == me)


def _compare_and_set(store: Any, key: int, me: int) -> bool:
    return bool(store.compare_and_set(key, -1, me))


def _pop(store: Any, key: int, me: int) -> bool:
    return store.pop(key, None) is not None


def _delete(store: Any, key: int, me: int) -> bool:
    try:
        del store[key]
    except KeyError:
        return False
    return True


def _discard(store: Any, key: int, me: int) -> bool:
    return bool(store.discard(key))


def _delete_many(store: Any, key: int, me: int) -> bool:
    return bool(store.delete_many([key]))


def _discard_many(store: Any, key: int, me: int) -> bool:
    return bool(store.discard_many([key]))


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("kind", "contest"),
    [
        ("dict", _setdefault),
        ("dict", _compare_and_set),
        ("dict", _pop),
        ("dict", _delete),
        ("dict", _delete_many),
        ("set", _discard),
        ("set", _discard_many),
    ],
)
def test_of_many_processes_exactly_one_wins_each_key(kind: str, contest: Contest, tmp_path: Path, seed: int) -> None:
    keys = range(300)
    cls: Any = PersistentDict if kind == "dict" else PersistentSet
    with cls(tmp_path / "store", shards=2) as store:
        store.update(dict.fromkeys(keys, -1) if kind == "dict" else keys)

    def work(me: int) -> list[int]:
        order = sorted(keys, key=lambda key: (key // 30, random.Random(seed + 1000 * me + key).random()))
        with cls(tmp_path / "store") as store:
            return [key for key in order if contest(store, key, me)]

    won = run(work, [(me,) for me in range(24)])
    assert sorted(key for keys in won for key in keys) == list(keys)
    if contest is _compare_and_set:
        with store:
            assert all(store[key] == me for me, keys in enumerate(won) for key in keys)
    assert_sound(store)


@pytest.mark.parametrize("kind", ["dict", "set"])
def test_each_entry_is_popped_by_exactly_one_process(kind: str, tmp_path: Path) -> None:
    cls: Any = PersistentDict if kind == "dict" else PersistentSet
    with cls(tmp_path / "store", shards=4) as store:
        store.update((number, number) for number in range(2000)) if kind == "dict" else store.update(range(2000))

    def work() -> list[Any]:
        popped = []
        with cls(tmp_path / "store") as store:
            while True:
                try:
                    popped.append(store.popitem() if kind == "dict" else store.pop())
                except KeyError:
                    return popped

    popped = run(work, [() for _ in range(24)])
    found = sorted(item for items in popped for item in items)
    assert found == ([(number, number) for number in range(2000)] if kind == "dict" else list(range(2000)))
    with store:
        assert len(store) == 0
    assert_sound(store)


def test_a_counter_taken_by_compare_and_set_gives_each_number_once(tmp_path: Path) -> None:
    def take() -> list[int]:
        taken: list[int] = []
        with PersistentDict[str, int](tmp_path / "counter", shards=1) as counter:
            while len(taken) < 50:
                number = counter.setdefault("next", 0)
                if counter.compare_and_set("next", number, number + 1):
                    taken.append(number)
        return taken

    results: list[list[int]] = run(take, [() for _ in range(8)])
    assert sorted(number for numbers in results for number in numbers) == list(range(400))
    assert_sound(PersistentDict(tmp_path / "counter"))
