"""Stores on servers get other names, other shards and an end: as a whole, whenever a process is killed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
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
    StorePathError,
    UnsupportedOperation,
)
from rack.shard.redis.link import Link
from tests.support.servers import Cluster, Server
from tests.support.servers import cluster as cluster
from tests.support.servers import server as server

Url = Callable[[str], str]
CONTENT = {f"key {number}": [number] for number in range(300)}
NEW = {"new": True}


@pytest.fixture(params=["server", "cluster"])
def url(request: pytest.FixtureRequest) -> Iterator[Url]:
    """What makes the URL of a store that only this test has; nothing of them is left then."""
    made: Server | Cluster = request.getfixturevalue(request.param)
    with made.client() as client:
        client.flushall()
        yield lambda name: f"{made.url}?name={name}"
        left = [key for key in client.scan_iter("*") if b":t:" not in key]
        assert not left


def filled(name: str, content: dict[str, Any] = CONTENT, **options: Any) -> str:
    with PersistentDict[str, Any](name, **{"shards": 3, **options}) as d:
        d.update(content)
    return name


def content(name: str) -> Any:
    try:
        with PersistentDict[str, Any](name, flag="r") as d:
            return dict(d)
    except StoreNotFoundError:
        return None


def killed_at(number: int, action: Callable[[], object]) -> bool:
    """Do something in another process, which is killed before its request of that number; return whether it was."""
    child = os.fork()
    if child == 0:
        count = 0

        def counting(method: Callable[..., Any]) -> Callable[..., Any]:
            def counted(*args: Any, **kwargs: Any) -> Any:
                nonlocal count
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return method(*args, **kwargs)

            return counted

        try:
            Link.one, Link.many = counting(Link.one), counting(Link.many)  # type: ignore[method-assign]
            action()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status != 0


def remove_all(*names: str) -> None:
    for name in names:
        try:
            rack.remove(name)
        except StoreNotFoundError:
            assert not rack.exists(name)


def left_beside(name: str) -> list[str]:
    from rack.care.served import listed
    from rack.shard import address_of

    return [each.address for each in listed(address_of(name, nameless=True)) if each.problem is not None]


def test_a_store_gets_another_name_and_its_old_one_is_free(url: Url) -> None:
    one, two, three = url("one"), url("two"), url("three")
    filled(one)
    assert rack.rename(one, two) is None
    assert (content(one), content(two)) == (None, CONTENT)
    filled(one, NEW)  # whose shards cannot be where those of the other one are
    assert rack.rename(two, three) is None
    assert (content(one), content(two), content(three)) == (NEW, None, CONTENT)
    rack.rename(one, two)
    rack.rename(two, one)
    assert content(one) == NEW
    assert rack.stores(url("")) == [url("one"), url("three")]
    remove_all(one, three)
    assert rack.stores(url("")) == []


def test_the_place_of_another_store_is_taken_and_that_one_is_kept(url: Url) -> None:
    filled(url("a"))
    filled(url("b"), NEW)
    with pytest.raises(StoreExistsError):
        rack.rename(url("a"), url("b"))
    assert rack.rename(url("a"), url("b"), replace=True) == url("b-old")
    filled(url("a"), {"third": 3})
    assert rack.rename(url("a"), url("b"), replace=True) == url("b-old-2")
    assert [content(url(name)) for name in ("a", "b", "b-old", "b-old-2")] == [None, {"third": 3}, NEW, CONTENT]
    remove_all(url("b"), url("b-old"), url("b-old-2"))


def test_what_cannot_be_renamed_stays(url: Url, tmp_path: Path) -> None:
    filled(url("a"))
    with pytest.raises(StoreNotFoundError):
        rack.rename(url("nowhere"), url("b"))
    with pytest.raises(StorePathError):
        rack.rename(url("a"), url("a"))
    for source, target in ((url("a"), tmp_path / "a"), (tmp_path / "a", url("a"))):
        with pytest.raises(UnsupportedOperation, match="rack copy"):
            rack.rename(source, target)
    assert content(url("a")) == CONTENT
    remove_all(url("a"))


def test_the_same_servers_are_known_by_any_name_and_others_are_told(server: Server, tmp_path: Path) -> None:
    filled(f"{server.url}?name=same")
    other = Server(tmp_path / "other")
    try:
        with pytest.raises(UnsupportedOperation, match="other servers"):
            rack.rename(f"{server.url}?name=same", f"{other.url}?name=same")
        rack.rename(f"{server.url}?name=same", f"{server.url.replace('127.0.0.1', 'localhost')}?name=moved")
    finally:
        other.kill()
    assert content(f"{server.url}?name=moved") == CONTENT
    remove_all(f"{server.url}?name=moved")


def test_who_has_it_open_goes_on_with_it_under_its_new_name(url: Url) -> None:
    d = PersistentDict[str, Any](filled(url("a"))).open()
    rack.rename(url("a"), url("b"))
    d["more"] = 1
    with pytest.raises(StoreNotFoundError):
        PersistentDict(url("a"), flag="w").open()
    d._store.shards[0]._link.close()  # type: ignore[attr-defined]  # all that follows is on new connections
    assert d["more"] == 1
    d.close()
    assert content(url("b")) == CONTENT | {"more": 1}
    remove_all(url("b"))


@pytest.mark.parametrize("replace", [False, True])
def test_a_killed_rename_is_done_or_undone(url: Url, replace: bool) -> None:
    a, b, aside = url("a"), url("b"), url("b-old")
    number = 0
    seen = set()
    while True:
        number += 1
        filled(a)
        if replace:
            filled(b, NEW)
        before = NEW if replace else None
        killed = killed_at(number, lambda: rack.rename(a, b, replace=replace))
        found = content(a), content(b)
        assert found in ((CONTENT, before), (None, CONTENT)), number
        seen.add(found == (None, CONTENT))
        # The next one finishes it, or takes it back.
        if number % 2:
            if content(a) is not None:
                rack.rename(a, b, replace=replace)
            with PersistentDict[str, Any](b, flag="w") as d:
                assert d == CONTENT
            assert content(aside) == before
            assert rack.stores(url("")) == ([b, aside] if replace else [b])
        else:
            assert content(b) == found[1]
            filled(b, {"c": 1})
            assert content(b) == (found[1] or {}) | {"c": 1}
            assert content(a) == found[0]
        remove_all(a, b, aside)
        assert rack.stores(url("")) == left_beside(url("")) == []
        if not killed:
            break
    assert seen == {True, False}


def test_a_killed_removal_is_done_or_not(url: Url) -> None:
    name = url("gone")
    number = 0
    while True:
        number += 1
        filled(name)
        killed = killed_at(number, lambda: rack.remove(name))
        assert content(name) in (CONTENT, None)
        if content(name) is None and number % 2:
            filled(name, NEW)
            assert content(name) == NEW
        for left in left_beside(url("")):
            rack.remove(left)
        remove_all(name)
        if not killed:
            break
    assert number > 4


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
