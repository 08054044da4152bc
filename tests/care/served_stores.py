"""What tests of looking after stores on servers have in common."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import rack
from rack import (
    PersistentDict,
    StoreNotFoundError,
)
from rack.shard.redis.link import Link
from tests.support.servers import Cluster, Server
from tests.support.servers import cluster as cluster
from tests.support.servers import server as server

Url = Callable[[str], str]
CONTENT = {f"key {number}": [number] for number in range(300)}
NEW = {"new": True}


@pytest.fixture(params=["server", "cluster"])
def url(request: pytest.FixtureRequest, long: bool) -> Iterator[Url]:
    """What makes the URL of a store that only this test has; nothing of them is left then."""
    if request.param == "cluster" and "_killed_" in request.node.name and not long:
        pytest.skip("runs with --long on a cluster")
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
