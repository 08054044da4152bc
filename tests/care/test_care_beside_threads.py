"""A store that is verified or repaired may meanwhile be opened by other threads of the same process: they wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import rack
from rack import PersistentDict
from rack.store import registry
from rack.store.lock import StoreLock
from tests.support.processes import engine as engine

LIMIT = 60.0  # seconds, after which it hangs


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("work", [rack.verify, lambda name: rack.repair(name, f"{name}-new")], ids=["verify", "repair"])
def test_who_opens_the_store_in_another_thread_gets_it_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[str], Any]
) -> None:
    name = str(tmp_path / "d")
    with PersistentDict(name, shards=2) as d:
        d["a"] = 1
    found: list[object] = []
    openers: list[Thread] = []

    def read() -> None:
        with PersistentDict(name) as d:
            found.append(d["a"])

    def claim(self: StoreLock) -> bool:
        claimed = real(self)
        if claimed and self.path == f"{name}.rack-lock" and not openers:
            openers.append(Thread(target=read, daemon=True))
            openers[0].start()
            deadline = time.monotonic() + LIMIT
            while registry.guard().acquire(blocking=False):  # type: ignore[attr-defined]
                registry.guard().release()  # type: ignore[attr-defined]
                assert time.monotonic() < deadline
                time.sleep(0.001)
            time.sleep(0.1)  # it has the registry's lock, and waits for the store's
        return claimed

    real = StoreLock.claim
    monkeypatch.setattr(StoreLock, "claim", claim)
    worker = Thread(target=work, args=(name,), daemon=True)
    worker.start()
    worker.join(LIMIT)
    assert not worker.is_alive()
    openers[0].join(LIMIT)
    assert found == [1]
