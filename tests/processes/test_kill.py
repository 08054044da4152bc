"""``kill -9`` of a writer at any instant: what was acknowledged is there, and nobody waits for the dead."""

from __future__ import annotations

import os
import random
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rack import PersistentDict
from tests.support.processes import Crew, FailedError, Worker, assert_sound
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

Store = PersistentDict[tuple[int, int], bytes]
_NUMBER = struct.Struct("=Q")


def _value(number: int) -> bytes:
    return b"%d." % number * (1 + number * 7919 % 1500)


def _key(generation: int, number: int) -> tuple[int, int]:
    return generation, number


# Writers: each writes the numbers 0, 1, 2... under its generation, and acknowledges how many are written.

Acknowledge = Callable[[int], None]


def _set(store: Store, generation: int, acknowledge: Acknowledge) -> None:
    number = 0
    while True:
        store[_key(generation, number)] = _value(number)
        number += 1
        acknowledge(number)


def _add_and_delete(store: Store, generation: int, acknowledge: Acknowledge) -> None:
    number = 0
    while True:
        assert store.add((-1 - generation, number), b"passing")
        assert store.add(_key(generation, number), _value(number))
        del store[-1 - generation, number]
        number += 1
        acknowledge(number)


def _update(store: Store, generation: int, acknowledge: Acknowledge) -> None:
    number = 0
    while True:
        end = number + 1 + number % 700
        store.update((_key(generation, n), _value(n)) for n in range(number, end))
        number = end
        acknowledge(number)


def _batch(store: Store, generation: int, acknowledge: Acknowledge) -> None:
    number = 0
    while True:
        end = number + 1 + number % 300
        with store.batch() as batch:
            for n in range(number, end):
                batch[_key(generation, n)] = _value(n)
        number = end
        acknowledge(number)


def _transform(store: Store, generation: int, acknowledge: Acknowledge) -> None:
    number = 0
    while True:
        store.transform(_key(generation, number), lambda old: old or _value(number))  # noqa: B023 - called at once
        store.setdefault(_key(generation, number), b"")
        number += 1
        acknowledge(number)


WRITERS = [_set, _add_and_delete, _update, _batch, _transform]


def _write(path: Path, writer: Callable[..., None], generation: int, pipe: int) -> None:
    with Store(path) as store:
        writer(store, generation, lambda count: os.write(pipe, _NUMBER.pack(count)))


class _Ears:
    """Reads what a writer acknowledges, so that it does not wait, and keeps the last number."""

    def __init__(self) -> None:
        self._read, self.pipe = os.pipe()
        self.count = 0
        self._thread = threading.Thread(target=self._listen)

    def listen(self) -> None:
        os.close(self.pipe)  # the writer has the other one
        self._thread.start()

    def _listen(self) -> None:
        with open(self._read, "rb", buffering=0) as file:
            rest = b""
            while data := file.read(1 << 16):
                rest += data
                whole = len(rest) // _NUMBER.size * _NUMBER.size
                if whole:
                    (self.count,) = _NUMBER.unpack(rest[whole - _NUMBER.size : whole])
                rest = rest[whole:]

    def all(self) -> int:
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.count


def _survivor(path: Path, stop: threading.Event, slowest: list[float]) -> None:
    """Write all the time; note the longest wait. In a thread of the test's process."""
    with Store(path) as store:
        number = 0
        while not stop.is_set():
            started = time.monotonic()
            store[-(2**40), number % 50] = b"survivor"
            slowest[0] = max(slowest[0], time.monotonic() - started)
            number += 1
            time.sleep(0.001)


@pytest.mark.timeout(1500)
@pytest.mark.usefixtures("engine")
def test_what_killed_writers_acknowledged_is_there_and_others_go_on(tmp_path: Path, seed: int, long: bool) -> None:
    rng = random.Random(seed)
    path = tmp_path / "store"
    rounds = 200 if long else 5
    generation = 0
    stop = threading.Event()
    slowest = [0.0]
    for number in range(rounds):
        if number % 5 == 0:  # from the smallest size again
            for file in tmp_path.iterdir():
                file.unlink()
        with Store(path, shards=2, flag="c") as store, Crew() as crew:
            stop.clear()
            writers: list[tuple[Worker, _Ears]] = []
            first = generation
            for _ in range(3):
                ears = _Ears()
                writers.append((crew.start(_write, path, rng.choice(WRITERS), generation, ears.pipe), ears))
                ears.listen()
                generation += 1
            survivor = threading.Thread(target=_survivor, args=(path, stop, slowest))
            survivor.start()
            time.sleep(rng.choice([0.01, 0.1, 0.5]) * rng.random())
            counts = []
            for worker, ears in writers:
                worker.kill()
                counts.append(ears.all())
                time.sleep(0.05 * rng.random())
                with Store(path, flag="w") as again:
                    again[-(2**41), 0] = b"opened"
            stop.set()
            survivor.join(30)
            assert not survivor.is_alive(), "a live writer hangs on the lock of a dead one"
            for written, count in enumerate(counts, first):
                for n in range(count):
                    assert store[_key(written, n)] == _value(n), f"{written, n} of {count} was acknowledged and is gone"
        assert_sound(store)
    assert slowest[0] < 10


def test_a_process_killed_inside_transactions_of_all_shards_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "store"

    def hold() -> None:
        with Store(path, shards=4) as store:
            store[0, 0] = b"before"
            assert len(store) == 1  # all shards are open
            held = store._held
            assert held is not None
            txns = [shard._env.begin(write=True) for shard in held.shards]  # type: ignore[attr-defined]
            for txn in txns:
                for n in range(20):
                    txn.put(b"unfinished %d" % n, bytes(100))
            os.kill(os.getpid(), 9)

    with Crew() as crew, pytest.raises(FailedError, match="ended with -9"):
        crew.start(hold).result()

    def use() -> None:
        with Store(path) as store:
            assert list(store.items()) == [((0, 0), b"before")]
            store.update(((1, n), b"after") for n in range(1000))

    with Crew() as crew:
        crew.start(use).result(20)
    with Store(path) as store:
        assert len(store) == 1001
    assert_sound(store)


def test_readers_killed_in_the_middle_do_not_keep_the_store_from_reusing_its_pages(tmp_path: Path) -> None:
    path = tmp_path / "store"

    def hold_snapshot() -> None:
        with Store(path, shards=1) as store:
            store[0, 0] = bytes(1000)
            held = store._held
            assert held is not None
            held.shards[0]._env.begin()  # type: ignore[attr-defined]
            txn = held.shards[0]._env.begin()  # type: ignore[attr-defined]
            txn.get(b"x")
            os.kill(os.getpid(), 9)

    for _ in range(20):
        with Crew() as crew, pytest.raises(FailedError, match="ended with -9"):
            crew.start(hold_snapshot).result()
    with Store(path) as store:
        for n in range(3000):
            store[0, 0] = bytes(n)
    assert Path(f"{path}-0000.lmdb").stat().st_size < 2 << 20
    assert_sound(store)
