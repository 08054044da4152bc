"""A fork may come at any moment: inside operations of other threads, while stores open and close."""

from __future__ import annotations

import gc
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict
from rack.store.manifest import Manifest
from tests.processes.test_fork import busy
from tests.support.processes import assert_sound, run
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")


def test_garbage_collected_inside_an_operation_does_not_stop_a_fork(tmp_path: Path) -> None:
    collect = threading.Event()
    inside = threading.Event()

    def loads(data: bytes) -> int:
        if collect.is_set():
            collect.clear()
            inside.set()
            threading.Event().wait(0.2)  # the other thread is in fork by now
            gc.collect()
        return int(data)

    with PersistentDict[str, int](tmp_path / "store", serdes=(loads, lambda value: b"%d" % value), shards=1) as store:
        store["n"] = 1
        cycle: list[Any] = [PersistentDict(tmp_path / "other", shards=1).open()]
        cycle.append(cycle)
        del cycle
        collect.set()
        thread = threading.Thread(target=store.incr, args=("n",), daemon=True)
        thread.start()
        inside.wait(60)

        def in_time() -> None:
            run(lambda: store.incr("n"), [()])
            thread.join(60)

        forker = threading.Thread(target=in_time, daemon=True)
        forker.start()
        forker.join(20)
        assert not forker.is_alive(), "deadlock between the collector and fork"
        assert store["n"] == 3
    gc.collect()
    assert_sound(store)


def test_fork_at_random_moments_of_opening_and_closing(tmp_path: Path, seed: int, long: bool) -> None:
    rng = random.Random(seed)
    kept = PersistentDict[str, int](tmp_path / "kept", shards=2).open()

    def open_and_close(number: int) -> None:
        with PersistentDict[str, int](tmp_path / f"store {number % 3}", shards=2) as store:
            store.incr("thread")

    with busy(open_and_close, open_and_close):
        for _ in range(150 if long else 25):
            threading.Event().wait(rng.uniform(0, 0.01))
            run(lambda: kept.incr("children"), [()], limit=20)
    kept.close()
    for name in ("kept", "store 0", "store 1", "store 2"):
        assert_sound(PersistentDict(tmp_path / name))


def test_a_container_collected_while_its_store_is_opened_again_does_not_close_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cycle: list[Any] = [PersistentDict[str, int](tmp_path / "store", shards=1).open()]
    cycle[0]["n"] = 1
    cycle.append(cycle)
    del cycle
    read = Manifest.read

    def collecting(path: str) -> Manifest:
        gc.collect()
        return read(path)

    monkeypatch.setattr(Manifest, "read", collecting)
    with PersistentDict[str, int](tmp_path / "store") as store:
        assert store["n"] == 1
    assert_sound(store)
