"""What the scheduler promises for one request: order, filter, leases, settings."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("scrapy")

from scrapy import Request, Spider
from scrapy.dupefilters import BaseDupeFilter
from scrapy.exceptions import NotConfigured
from scrapy.settings import Settings

from rack import PersistentQueue, StoreFullError
from rack.adapters.scrapy import RackAddon
from rack.jobs.job import Counts
from tests.adapters.scrapy.alone import Alone, Named, alone, in_child
from tests.adapters.scrapy.crawls import counts
from tests.support.processes import end_sound as end_sound

#: A test's body, in a process of its own.
Body = Callable[[Path], None]


def alone_in(path: Path, **settings: Any) -> Any:
    return alone({"JOBDIR": str(path)} | settings)


def _order(path: Path) -> None:
    with alone_in(path) as it:
        for number in range(200):
            it.put(f"{number}")
        it.put("low", priority=-1)
        it.put("high", priority=1)
        it.put("far", priority=2**40)
        it.put("deep", priority=-(2**40))
        assert it.paths(2) == ["far", "high"]
        assert it.paths(60) == [f"{number}" for number in range(60)]
        it.put("urgent", priority=5)  # some are claimed ahead by now
        it.put("more urgent", priority=6)
        it.put("201")
        assert it.paths() == [
            *("more%20urgent", "urgent"),
            *(f"{number}" for number in range(60, 200)),
            *("201", "low", "deep"),
        ]
        assert not it.scheduler.has_pending_requests()


def _filter(path: Path) -> None:
    with alone_in(path) as it:
        assert [it.put("a"), it.put("b"), it.put("a"), it.put("a", dont_filter=True)] == [True, True, False, True]
        assert it.paths() == ["a", "b", "a"]
        assert [it.put("a"), it.put("b"), it.put("c")] == [False, False, True]
        assert it.stat("dupefilter/filtered") == 3
        assert it.stat("scheduler/enqueued") == it.stat("scheduler/enqueued/disk") == 4
        assert it.stat("scheduler/dequeued") == it.stat("scheduler/dequeued/disk") == 3
        assert sum("Filtered duplicate" in line for line in it.log) == 1
    with alone_in(path, DUPEFILTER_DEBUG=True) as it:  # another process
        assert any("Resuming crawl (1 requests scheduled)" in line for line in it.log)
        assert [it.put("a"), it.put("c"), it.put("d")] == [False, False, True]
        assert sum("Filtered duplicate" in line for line in it.log) == 2
        assert it.paths() == ["c", "d"]
        it.turn()
        assert counts(path / "requests") == Counts(0, 0, 0, 5, 0)
    with alone_in(path) as it:
        assert any("This crawl was finished" in line for line in it.log)


def _own_filter(path: Path) -> None:
    with alone_in(path, DUPEFILTER_CLASS=BaseDupeFilter) as it:
        assert [it.put("a"), it.put("a")] == [True, True]
        assert it.paths() == ["a", "a"]


def _unserializable(path: Path) -> None:
    with alone_in(path, SCHEDULER_DEBUG=True) as it:
        callback = lambda response: None  # noqa: E731
        assert [it.put("a", callback=callback), it.put("b", meta={"x": callback}), it.put("c")] == [True, True, True]
        assert not it.put("a", callback=callback)
        assert it.stat("scheduler/unserializable") == it.stat("scheduler/enqueued/memory") == 2
        assert sum("Unable to serialize request" in line for line in it.log) == 1
        assert sorted(it.paths()) == ["a", "b", "c"]
        assert it.stat("scheduler/dequeued/memory") == 2


def _started(path: Path) -> None:
    def start(it: Alone) -> list[bool]:
        arguments: dict[str, Any] = {"dont_filter": True, "meta": {"is_start_request": True}}
        return [it.put("a", **arguments), it.put("a", **arguments), it.put("b", **arguments)]

    with alone_in(path) as it:
        assert start(it) == [True, True, True]
        first = it.take()
        assert first is not None
        assert it.put("a")  # as ever: what is not filtered does not count as seen
        assert it.scheduler.enqueue_request(first.replace(meta=first.meta | {"retry_times": 1}))  # as a retry is
        it.over(first)
    with alone_in(path) as it:
        assert start(it) == [False, False, False]
        assert it.put("b", dont_filter=True, meta={"is_start_request": False})
        assert it.stat("rack/started_before") == 3
        retry = [request for request in iter(it.take, None) if request.meta.get("retry_times")]
        assert len(retry) == 1
        assert it.scheduler.enqueue_request(retry[0].replace(meta=retry[0].meta | {"retry_times": 2}))


def _others(path: Path) -> None:
    with alone_in(path) as it, alone_in(path) as other:
        it.put("a")
        it.put("b")
        first = it.take()
        assert first is not None
        assert other.scheduler.has_pending_requests()
        assert other.paths() == ["b"]
        other.turn()
        assert other.take() is None
        assert other.scheduler.has_pending_requests()  # the first one may lead to more
        it.put("c")
        it.over(first)
        assert it.take() is not None
        before = other.woken
        other.turn()
        assert other.woken == before
        it.turn()
        (request,) = it.progress
        it.over(request)
        it.turn()
        other.turn()
        assert other.woken == before + 1  # to see that all is done
        assert not other.scheduler.has_pending_requests()
        assert not it.scheduler.has_pending_requests()


def _unused(path: Path) -> None:
    with alone_in(path) as it:
        for number in range(100):
            it.put(f"{number}")
        assert len(it.paths(40)) == 40
        it.turn()
        assert counts(path / "requests").leased > 0
        time.sleep(0.6)
        it.turn()
        left = counts(path / "requests")
        assert (left.leased, left.done, left.waiting) == (0, 40, 60)
        assert it.paths() == [f"{number}" for number in range(40, 100)]


def _extended(path: Path) -> None:
    with alone_in(path, RACK_LEASE=0.6) as it, alone_in(path, RACK_LEASE=0.6) as other:
        it.put("a")
        it.put("b")
        held = it.take()
        assert held is not None
        for _ in range(20):
            time.sleep(0.06)
            it.turn()
            assert [each for each in other.paths() if each == "a"] == []
        it.over(held)
        it.turn()
        assert it.stat("rack/leases_lost") == 0


def _lost(path: Path) -> None:
    with alone_in(path, RACK_LEASE=0.2) as it, alone_in(path, RACK_LEASE=60) as other:
        it.put("a")
        held = it.take()
        assert held is not None
        time.sleep(0.3)
        assert other.paths() == ["a"]
        assert other.stat("rack/claimed_again") == 1
        other.turn()
        it.over(held)
        it.turn()
        assert it.stat("rack/leases_lost") == 1
        assert any("RACK_LEASE=0.2 is too short" in line for line in it.log)
        assert counts(path / "requests") == Counts(0, 0, 0, 1, 0)


def _unreadable(path: Path) -> None:
    with alone_in(path) as it:
        it.put("a", callback=it.spider.other)  # type: ignore[attr-defined]
        it.put("b")

    class Renamed(Spider):
        name = "named"

    with alone({"JOBDIR": str(path)}, Renamed) as it:
        assert it.paths() == ["b"]
        assert it.stat("rack/unreadable") == 1
        assert any(line.startswith("ERROR A stored request cannot be read") for line in it.log)
        assert not it.scheduler.has_pending_requests()
    with PersistentQueue[bytes](path / "requests") as queue:
        assert ["other" in failed.reason for failed in queue.failed()] == [True]
        assert queue.retry_failed() == 1
    with alone_in(path) as it:
        assert it.paths() == ["a"]


def _failing(path: Path) -> None:
    def fail(*args: object) -> bool:
        raise StoreFullError("no space")

    with alone_in(path) as it:
        it.put("a")
        it.put("b")
        first, second = it.take(), it.take()
        assert first is not None
        assert second is not None
        it.over(first)
        it.turn()
        queue = it.scheduler._requests._share._queue
        queue.knows = fail
        assert not it.put("c")  # of the second page, which is not done, then
        assert it.take() is None
        assert not it.scheduler.has_pending_requests()
        it.over(second)
        it.turn()
        assert it.closed == ["rack_error"]
        del queue.knows
    assert counts(path / "requests") == Counts(1, 0, 0, 1, 0)


BODIES: list[Body] = [
    *(_order, _filter, _own_filter, _unserializable, _started, _others),
    *(_unused, _extended, _lost, _unreadable, _failing),
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__[1:])
def test_what_the_scheduler_promises(body: Body, tmp_path: Path) -> None:
    in_child(body, tmp_path / "job")


# Settings


def test_stores_are_named_by_the_crawl_and_the_spider(tmp_path: Path) -> None:
    class Slashed(Named):
        name = "a/b c.org"

    def body() -> None:
        for spider in (Named, Slashed):
            with alone({"RACK_STORE": tmp_path / "new" / "crawl", "JOBDIR": str(tmp_path / "job")}, spider) as it:
                assert it.put("a")  # each has a crawl of its own

    in_child(body)
    made = sorted(path.name for path in (tmp_path / "new").glob("*.rack"))
    assert made == ["crawl-a%2Fb c.org-requests.rack", "crawl-named-requests.rack"]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, NotConfigured, "JOBDIR .* RACK_STORE"),
        ({"RACK_STORE": 5}, ValueError, "RACK_STORE=5: must be a path"),
        ({"RACK_STORE": "data/"}, ValueError, "RACK_STORE='data/': must be the beginning of files' names"),
        ({"JOBDIR": "job", "RACK_LEASE": 0}, ValueError, "RACK_LEASE=0: must be a number of seconds"),
        ({"JOBDIR": "job", "RACK_LEASE": "soon"}, ValueError, "RACK_LEASE='soon'"),
        ({"JOBDIR": "job", "RACK_LEASE": "nan"}, ValueError, "RACK_LEASE='nan'"),
    ],
)
def test_wrong_settings_are_told(
    settings: dict[str, Any], error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        RackAddon().update_settings(Settings(settings))


def test_what_a_project_sets_goes_before(tmp_path: Path) -> None:
    settings = Settings({"JOBDIR": str(tmp_path), "SCHEDULER": "mine", "ITEM_PIPELINES": {}})
    RackAddon().update_settings(settings)
    assert settings["SCHEDULER"] == "mine"
    assert "Rack" in settings["HTTPCACHE_STORAGE"].__name__


def test_a_request_is_a_key_of_its_own() -> None:
    """Requests are told apart as objects: two equal ones may be in progress."""
    assert Request("http://127.0.0.1/") != Request("http://127.0.0.1/")
