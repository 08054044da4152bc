"""Stores on servers get other names, other shards and an end: as a whole, whenever a process is killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import rack
from rack import (
    PersistentDict,
    StoreExistsError,
    StoreNotFoundError,
    StorePathError,
    UnsupportedOperation,
)
from tests.care.served_stores import CONTENT, NEW, Url, content, filled, killed_at, left_beside, remove_all
from tests.care.served_stores import url as url
from tests.support.servers import Server
from tests.support.servers import cluster as cluster
from tests.support.servers import server as server


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


def test_a_killed_copy_is_there_as_a_whole_or_not_at_all(url: Url) -> None:
    some = dict(list(CONTENT.items())[:20])

    def copy() -> None:
        with PersistentDict[str, Any](url("a"), flag="r") as d:
            d.copy(name=url("b")).close()

    filled(url("a"), some, shards=2)
    number = 0
    seen = set()
    while True:
        number += 1
        killed = killed_at(number, copy)
        assert content(url("b")) in (None, some)
        seen.add(content(url("b")) is not None)
        for left in left_beside(url("")):
            rack.remove(left)
        assert (content(url("b")) is not None) in seen
        assert content(url("a")) == some
        remove_all(url("b"))
        if not killed:
            break
    assert seen == {True, False}
    remove_all(url("a"))
