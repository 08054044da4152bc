"""Stores with durability "everysec", and power failures for them.

A power failure is played with :func:`fail_power`: of the shards' own files there is nothing but noise, of the journals
what was synced. (The simulation that takes any subset of pages is tests/powerfail/test_promises.py.)
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict
from rack.store.record import Record
from tests.support.processes import as_the_same_files

Store = PersistentDict[Any, Any]


def fail_power(path: Path, monkeypatch: pytest.MonkeyPatch, synced: bool = True) -> Path:
    """Return the path of a copy of the store as a power failure may leave it; the system has booted since."""
    place = path.parent / f"after-{time.monotonic_ns()}"
    place.mkdir()
    is_clean = not Record.read(str(path)).boot  # so nobody has written to it
    for file in path.parent.glob(f"{path.name}*"):
        if file.name.endswith(".lmdb-lock"):
            continue
        data = bytearray(file.read_bytes())
        if file.suffix == ".lmdb" and not is_clean:
            data[8192:] = os.urandom(max(0, len(data) - 8192))
        elif "-journal-" in file.name and synced and not file.name.endswith("-new"):
            end = struct.unpack_from("<Q", data, 2056)[0] or len(data)
            data[max(end, 4096) :] = bytes(len(data) - max(end, 4096))
        (place / file.name).write_bytes(data)
    as_the_same_files(place / path.name)
    monkeypatch.setattr("rack.system.boot.boot_id", lambda: place.name)
    return place / path.name


def everysec(path: Path, **options: Any) -> Store:
    return PersistentDict(path, durability="everysec", **options)


def stop_keepers(d: Store) -> None:
    assert d._held is not None
    d._held.begin_writing()  # which starts them
    assert d._held._keepers
    for keeper in d._held._keepers:
        keeper.stop()
