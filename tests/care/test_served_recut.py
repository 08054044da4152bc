"""Stores on servers are cut anew, restored and looked after: as a whole, whenever a process is killed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import rack
from rack import (
    PersistentDict,
    PersistentQueue,
    PersistentSet,
    StoreDeletedError,
    StoreExistsError,
    StoreInUseError,
    StoreNotFoundError,
    UnsupportedOperation,
)
from rack.shard.redis.link import Link
from tests.care.served_stores import CONTENT, NEW, Url, content, filled, killed_at, left_beside, remove_all
from tests.care.served_stores import url as url
from tests.support.servers import Server
from tests.support.servers import cluster as cluster
from tests.support.servers import server as server


@pytest.mark.parametrize("kind", ["hash", "ordered"])
def test_a_store_is_cut_anew_in_place(url: Url, kind: str) -> None:
    name = filled(f"{url('cut')}&layout={kind}")
    for shards, workers in ((7, 1), (2, 2), (1, 1)):
        assert rack.reshard(name, shards, workers=workers) == 300
        found = rack.stat(name)
        assert (found.shards, found.entries, content(name)) == (shards, 300, CONTENT)
        assert found.layout == {"hash": "direct", "ordered": "ordered"}[kind]
        assert rack.verify(name).sound
    assert rack.stores(url("")) == [url("cut")]
    assert not left_beside(url(""))
    remove_all(name)


def test_a_queue_and_a_set_are_cut_anew(url: Url) -> None:
    with PersistentQueue[int](url("jobs"), shards=2) as jobs:
        jobs.put_many(range(50))
    with PersistentSet[str](url("set"), key_serdes="digest", shards=2) as s:
        s.update(CONTENT)
    rack.reshard(url("jobs"), 5)
    rack.reshard(url("set"), 5)
    with PersistentQueue[int](url("jobs")) as jobs:
        assert sorted(job.item for job in jobs.claim_many(99)) == list(range(50))
    with PersistentSet[str](url("set")) as s:
        assert len(s) == 300
        assert all(key in s for key in CONTENT)
    remove_all(url("jobs"), url("set"))


def test_a_killed_resharding_leaves_the_old_store_or_the_new_one(url: Url) -> None:
    name = url("cut")
    number, step = 0, 0
    shapes = set()
    while True:
        number += 1
        filled(name, dict(list(CONTENT.items())[:20]), shards=2)
        killed = killed_at(number, lambda: rack.reshard(name, 3))
        assert content(name) == dict(list(CONTENT.items())[:20])
        shapes.add(rack.stat(name).shards)
        with PersistentDict[str, Any](name, flag="w") as d:
            assert len(d) == 20
        left = left_beside(url(""))
        assert all("~" in each for each in left)
        step += bool(left)
        remove_all(*left)
        assert content(name) == dict(list(CONTENT.items())[:20])
        remove_all(name)
        if not killed:
            break
    assert shapes == {2, 3}
    assert step > 5


def test_what_is_written_meanwhile_keeps_the_store_as_it_is(url: Url) -> None:
    name = filled(url("busy"))

    def disturb(done: int) -> None:
        other = threading.Thread(target=filled, args=(name, {f"other {done}": 1}))
        other.start()
        other.join()

    with pytest.raises(StoreInUseError, match="written to the store"):
        rack.reshard(name, 5, progress=disturb)
    found = content(name)
    assert {key: found[key] for key in CONTENT} == CONTENT
    assert rack.stat(name).shards == 3
    assert not left_beside(url(""))
    remove_all(name)


def test_who_has_the_old_shards_open_is_told(url: Url) -> None:
    d = PersistentDict[str, Any](filled(url("a"))).open()
    child = os.fork()
    if child == 0:
        rack.reshard(url("a"), 2)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(StoreDeletedError):
        d.close()
    assert content(url("a")) == CONTENT
    remove_all(url("a"))


def test_a_backup_is_restored_to_servers(url: Url, tmp_path: Path) -> None:
    filled(str(tmp_path / "local"))
    name = rack.backup(tmp_path / "local", tmp_path / "backups")
    assert rack.restore(name, url("a")) is None
    with pytest.raises(StoreExistsError):
        rack.restore(name, url("a"))
    filled(url("b"), NEW)
    assert rack.restore(tmp_path / "backups", url("b"), replace=True) == url("b-old")
    assert [content(url(each)) for each in ("a", "b", "b-old")] == [CONTENT, CONTENT, NEW]
    with pytest.raises(UnsupportedOperation, match="rack backup STORE DST"):
        rack.backup(url("a"), tmp_path / "backups")
    with pytest.raises(UnsupportedOperation, match="rack copy"):
        rack.backup(tmp_path / "local", url("backups"))
    with pytest.raises(UnsupportedOperation, match="gives free memory back"):
        rack.compact(url("a"))
    with PersistentQueue[int](tmp_path / "jobs", shards=2) as jobs:
        jobs.put_many(range(50))
    rack.restore(tmp_path / "jobs", url("jobs"))
    with PersistentQueue[int](url("jobs")) as jobs:
        assert sorted(job.item for job in jobs.claim_many(99)) == list(range(50))
    remove_all(*map(url, ("a", "b", "b-old", "jobs")))


def test_a_store_that_replaces_another_leaves_nothing_of_it(url: Url) -> None:
    name = url("n")
    number = 0
    while True:
        number += 1
        filled(name)
        killed = killed_at(number, lambda: filled(name, NEW, flag="n"))
        assert content(name) in (CONTENT, {}, NEW)
        remove_all(name)
        if not killed:
            break
    assert number > 4


def disturbed_at(number: int, action: Callable[[], object], other: Callable[[], object], patch: Any) -> bool:
    """Do something, and before its request of that number another thing in another process; return whether that was."""
    count = 0
    one = Link.one

    def counted(link: Link, request: Any) -> Any:
        nonlocal count
        count += 1
        if count == number:
            child = os.fork()
            if child == 0:
                Link.one = one  # type: ignore[method-assign]
                try:
                    other()
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
        return one(link, request)

    with patch.context() as patched:
        patched.setattr(Link, "one", counted)
        with suppress(StoreNotFoundError, StoreExistsError, StoreInUseError):
            action()
    return count >= number


@pytest.mark.parametrize("what", ["made", "renamed", "removed"])
def test_a_slow_rename_loses_nothing_to_who_is_quicker(server: Server, what: str, monkeypatch: Any) -> None:
    a, b, c = (f"{server.url}?name=slow-{name}" for name in "abc")
    other: dict[str, Callable[[], object]] = {
        "made": lambda: filled(b, {"c": 1}),
        "renamed": lambda: rack.rename(a, c),
        "removed": lambda: rack.remove(a),
    }
    seen = []
    number = 0
    while True:
        number += 1
        filled(a)
        was = disturbed_at(number, lambda: rack.rename(a, b), other[what], monkeypatch)
        found = content(a), content(b), content(c)
        assert (
            found
            in {
                "made": ((CONTENT, {"c": 1}, None), (None, CONTENT | {"c": 1}, None), (None, CONTENT, None)),
                "renamed": ((None, CONTENT, None), (None, None, CONTENT)),
                "removed": ((None, None, None), (None, CONTENT, None)),
            }[what]
        ), (number, found)
        seen.append(found)
        remove_all(a, b, c)
        if not was:
            break
    assert seen[0] != seen[-1]
    with server.client() as client:
        assert not [key for key in client.scan_iter("*slow*") if b":t:" not in key]
