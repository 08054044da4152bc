"""Handles go to worker processes by pickle, and come out as handles of the same store."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rack import NotOpenError, PersistentDict, PersistentSet, ReadOnlyError, StoreNotFoundError
from tests.support.processes import assert_sound, run_script
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine


def _count(store: PersistentDict[Any, int], number: int) -> tuple[int, bool]:
    """Use a handle in a worker as it comes, open or closed; return who did and whether it came open."""
    came_open = not store.closed
    with store:
        store.incr("calls")
        store[number] = store["base"] + number
    return os.getpid(), came_open


def _state(store: PersistentDict[Any, Any]) -> tuple[str, bool, dict[Any, Any] | None]:
    return store.name, store.closed, None if store.closed else dict(store)


def _try_to_write(store: PersistentDict[str, int]) -> str:
    try:
        with store:
            assert store["base"] == 100
            store["base"] = 0
    except ReadOnlyError:
        return "refused"
    return "written"


def _truncated(store: PersistentDict[str, int]) -> bool:
    with store:
        return "base" not in store


def _add_all(seen: PersistentSet[str], words: list[str]) -> list[str]:
    os.chdir("/")
    with seen:
        return [word for word in words if seen.add(word)]


@pytest.fixture(scope="module", params=["spawn", "forkserver"])
def executor(request: pytest.FixtureRequest) -> Any:
    context = multiprocessing.get_context(request.param)
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        yield executor


@pytest.fixture
def store(tmp_path: Path) -> PersistentDict[Any, int]:
    with PersistentDict[Any, int](tmp_path / "store", shards=4) as store:
        store["base"] = 100
    return store


@pytest.mark.usefixtures("engine")
def test_a_closed_handle_is_opened_by_the_worker(executor: ProcessPoolExecutor, store: Any) -> None:
    came_open = {state for _, state in executor.map(_count, [store] * 40, range(40))}
    assert came_open == {False}
    with store:
        assert store["calls"] == 40
        assert all(store[number] == 100 + number for number in range(40))
    assert_sound(store)


@pytest.mark.usefixtures("engine")
def test_an_open_handle_is_open_in_the_worker_while_the_parent_goes_on(
    executor: ProcessPoolExecutor, store: Any
) -> None:
    with store:
        results = executor.map(_count, [store] * 40, range(40))
        for _ in range(100):
            store.incr("parent")
        pids, came_open = zip(*results, strict=True)
        assert set(came_open) == {True}
        assert os.getpid() not in pids
        assert (store["calls"], store["parent"]) == (40, 100)
    assert_sound(store)


@pytest.mark.parametrize("is_open", [False, True])
def test_flag_n_does_not_empty_the_store_in_a_worker(
    is_open: bool, executor: ProcessPoolExecutor, tmp_path: Path
) -> None:
    store = PersistentDict[str, int](tmp_path / "store", shards=2, flag="n").open()
    store["base"] = 100
    if is_open:
        assert not executor.submit(_truncated, store).result(60)
    store.close()
    if not is_open:
        assert not executor.submit(_truncated, store).result(60)
    with PersistentDict[str, int](tmp_path / "store") as store:
        assert store["base"] == 100
    assert_sound(store)


@pytest.mark.parametrize("is_open", [False, True])
def test_flag_r_stays_r(is_open: bool, executor: ProcessPoolExecutor, store: Any) -> None:
    reader = PersistentDict[str, int](store.name, flag="r")
    if is_open:
        reader.open()
    assert executor.submit(_try_to_write, reader).result(60) == "refused"
    reader.close()
    with store:
        assert store["base"] == 100
    assert_sound(store)


def test_a_relative_name_means_the_same_file_after_a_change_of_directory(
    executor: ProcessPoolExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with PersistentSet[str]("seen", shards=2) as seen:
        words = [f"word {number % 50}" for number in range(100)]
        new = [*executor.map(_add_all, [seen, seen], [words, words])]
        assert sorted(new[0] + new[1]) == sorted(set(words))
        monkeypatch.chdir("/")
        assert len(seen) == 50
    copy = pickle.loads(pickle.dumps(seen))
    assert copy.name == "seen"
    assert_sound(PersistentSet(tmp_path / "seen"))


def test_arguments_travel_with_the_handle(executor: ProcessPoolExecutor, tmp_path: Path) -> None:
    options: dict[str, Any] = {"serdes": "json", "durability": "always", "timeout": 5.0, "shards": 3}
    with PersistentDict[str, Any](tmp_path / "store", **options) as store:
        store["a"] = [1, {"b": None}]
        assert executor.submit(_state, store).result(60) == (str(tmp_path / "store"), False, {"a": [1, {"b": None}]})
    assert executor.submit(_state, store).result(60) == (str(tmp_path / "store"), True, None)
    assert_sound(store)


def test_an_open_handle_of_a_store_that_is_gone_is_an_error_and_does_not_make_it_anew(tmp_path: Path) -> None:
    with PersistentDict[str, int](tmp_path / "store", shards=2) as store:
        data = pickle.dumps(store)
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(StoreNotFoundError):
        pickle.loads(data)
    assert list(tmp_path.glob("*.rack")) == []


def test_a_pickled_handle_in_the_same_process_shares_the_open_store(store: Any) -> None:
    with store:
        twin = pickle.loads(pickle.dumps(store))
        twin["twin"] = 1
        assert store["twin"] == 1
        twin.close()
        with pytest.raises(NotOpenError):
            twin["twin"]
        assert store["twin"] == 1
    assert_sound(store)


@pytest.mark.usefixtures("engine")
def test_a_handle_of_a_nameless_store_does_not_delete_it(executor: ProcessPoolExecutor, store: Any) -> None:
    with store, store | {"more": 1} as nameless:
        assert executor.submit(_state, nameless).result(60)[2] == {"base": 100, "more": 1}
        assert dict(nameless) == {"base": 100, "more": 1}
        assert nameless.check() == 2
    assert_sound(store)


def test_a_program_can_start_its_workers_by_spawn(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from multiprocessing import get_context\n"
        "from rack import PersistentDict\n"
        "def work(pair):\n"
        "    counts, word = pair\n"
        "    return counts.incr(word)\n"
        "if __name__ == '__main__':\n"
        "    with PersistentDict(sys.argv[1], shards=2) as counts, get_context('spawn').Pool(2) as pool:\n"
        "        pool.map(work, [(counts, word) for word in 'abracadabra'])\n"
        "        print(sorted(counts.items()))\n"
        "        pool.close()\n"
        "        pool.join()\n"
    )
    output = run_script("import runpy; runpy.run_path(sys.argv[2], run_name='__main__')", tmp_path / "store", program)
    assert output == "[('a', 5), ('b', 2), ('c', 1), ('d', 1), ('r', 2)]\n"
    assert_sound(PersistentDict(tmp_path / "store"))
