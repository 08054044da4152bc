"""``rack.care.verify``: stores in use: no false alarm while others write, and damage is found all the same."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from rack import LockTimeoutError, PersistentDict, StoreNotFoundError
from rack.care.verify import verify
from tests.care.test_verify import CONTENT, found, state
from tests.care.test_verify import path as path
from tests.support.damage import in_child
from tests.support.processes import Crew, assert_sound, hear, tell
from tests.support.processes import engine as engine


def test_who_opens_the_store_waits_for_the_workers(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They examine files that are at rest, as if nobody could change them."""
    waited = []

    def attempt(part: float, shards: int) -> None:
        if not waited:
            with pytest.raises(LockTimeoutError):
                PersistentDict[str, Any](path, timeout=0.05).open()
            waited.append(part)

    assert verify(path, workers=2, progress=attempt).sound
    assert waited
    assert_sound(PersistentDict(path))


def test_a_store_that_this_process_has_open_is_verified(path: Path) -> None:
    with PersistentDict[str, Any](path) as store:
        for workers in (1, 2):
            report = verify(path, workers=workers)
            assert report.sound, report.as_dict()
            assert report.in_use == [0, 1, 2, 3]
            assert report.entries == len(CONTENT)
        store["more"] = 1
        assert store.check() == len(CONTENT) + 1
    assert_sound(store)


def test_a_log_that_a_killed_process_left_is_part_of_the_store(path: Path) -> None:
    def die() -> None:
        store = PersistentDict[str, Any](path).open()
        store["last words"] = 1
        os.kill(os.getpid(), 9)

    assert in_child(die) == 9
    before = state(path.parent)
    report = verify(path)
    assert report.sound, report.as_dict()
    assert report.entries == len(CONTENT) + 1
    assert state(path.parent) == before
    assert_sound(PersistentDict(path))


def _write(path: Path, seed: int, seconds: float) -> int:
    chance = random.Random(seed)
    deadline = time.monotonic() + seconds
    rounds = 0
    with PersistentDict[str, Any](path, flag="w") as store:
        tell("open")
        while time.monotonic() < deadline:
            rounds += 1
            for _ in range(200):
                key = f"{chance.randrange(3000)}" + "l" * chance.choice((0, 0, 0, 600))
                what = chance.randrange(10)
                if what < 6:
                    store[key] = b"v" * chance.choice((1, 20, 300, 3000, 20_000))
                elif what < 9:
                    store.pop(key, None)
                else:
                    store.incr("counter")
            if not rounds % 20:
                store.update({f"bulk{number}": number for number in range(2000)})
            if not rounds % 90:
                store.clear()
    return rounds


def test_no_false_alarm_while_four_processes_write(tmp_path: Path, engine: str, seed: int, long: bool) -> None:
    path = tmp_path / "store"
    seconds = 60.0 if long else 2.5
    with PersistentDict[str, Any](path, shards=2) as store:
        store.update(CONTENT)
    with Crew() as crew:
        workers = [crew.start(_write, path, seed + number, seconds) for number in range(4)]
        for worker in workers:
            worker.hear()
        reports = 0
        deadline = time.monotonic() + seconds - 1
        while time.monotonic() < deadline:
            report = verify(path)
            assert report.sound, report.as_dict()
            assert report.in_use == [0, 1]
            with PersistentDict[str, Any](path, flag="w") as store:
                store.check()
            reports += 1
        rounds = [worker.result() for worker in workers]
    print(f"{reports} reports, rounds of the writers: {rounds}")
    assert reports
    assert verify(path).in_use == []
    assert_sound(PersistentDict(path))


def _come_and_go(path: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    number = 0
    while time.monotonic() < deadline:
        with PersistentDict[str, Any](path, flag="w") as store:
            for _ in range(20):
                number += 1
                store[f"{os.getpid()}-{number % 500}"] = b"v" * (number % 5000)


def test_no_false_alarm_while_processes_open_and_close_the_store(tmp_path: Path, engine: str) -> None:
    path = tmp_path / "store"
    with PersistentDict[str, Any](path, shards=2) as store:
        store.update(CONTENT)
    with Crew() as crew:
        workers = [crew.start(_come_and_go, path, 2.0) for _ in range(2)]
        deadline = time.monotonic() + 1.5
        for processes in itertools.cycle((1, 2)):
            if time.monotonic() > deadline:
                break
            report = verify(path, workers=processes)
            assert report.sound, report.as_dict()
        for worker in workers:
            worker.result()
    assert_sound(PersistentDict(path))


def _replace(path: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(BlockingIOError), PersistentDict[str, Any](path, flag="n", shards=3) as store:
            store.update(CONTENT)


def test_a_store_that_is_replaced_meanwhile_is_no_alarm(tmp_path: Path, engine: str) -> None:
    path = tmp_path / "store"
    with PersistentDict[str, Any](path, shards=3) as store:
        store.update(CONTENT)
    with Crew() as crew:
        worker = crew.start(_replace, path, 2.0)
        deadline = time.monotonic() + 1.5
        while time.monotonic() < deadline:
            with contextlib.suppress(StoreNotFoundError):
                report = verify(path)
                assert report.sound, report.as_dict()
        worker.result()
    assert_sound(PersistentDict(path))


def _stay(path: Path) -> None:
    with PersistentDict[str, Any](path, flag="w") as store:
        store["x"] = 1
        tell("open")
        hear()


def test_damage_is_found_while_the_store_is_in_use(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with PersistentDict[str, Any](path, shards=1, engine="lmdb") as store:
        store.update(CONTENT)
    with Crew() as crew:
        worker = crew.start(_stay, path)
        worker.hear()
        with open(f"{path}-0000.lmdb", "r+b") as file:
            data = file.read()
            file.seek(data.index(b"v" * 5000) + 4500)
            file.write(b"!")
        report = verify(path)
        assert (report.in_use, found(report)) == ([0], {(0, "checksum")})
        worker.tell()
        worker.result()
