"""No process is ever told "database is locked": not by opening, not by writing, not by reading."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from rack import PersistentDict
from tests.support.processes import assert_sound, engine, run

__all__ = ["engine"]
pytestmark = pytest.mark.usefixtures("engine")


def test_many_processes_that_open_and_write_at_once_are_never_refused(tmp_path: Path, long: bool) -> None:
    openers, writers, seconds = (200, 64, 60.0) if long else (40, 16, 1.5)
    name = tmp_path / "store"

    def work(number: int) -> int:
        with PersistentDict[str, int](name, shards=4) as store:
            store.incr("opened")
        if number >= writers:
            return 0
        written = 0
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            # Opened again and again: a first opener recovers the log, a last closer moves it.
            with PersistentDict[str, int](name) as store:
                for _ in range(200):
                    store[f"{number} {written}"] = written
                    store.incr("written")
                    assert store[f"{number} {written}"] == written
                    written += 1
        return written

    written = run(work, [(number,) for number in range(openers)], limit=seconds + 240)
    with PersistentDict[str, int](name) as store:
        assert store["opened"] == openers
        assert store["written"] == sum(written)
        assert len(store) == sum(written) + 2
        for number, count in enumerate(written):
            assert all(store[f"{number} {at}"] == at for at in range(0, count, 97))
    assert_sound(PersistentDict(name))
