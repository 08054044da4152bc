"""A crawl that Scrapy's own scheduler has begun in JOBDIR goes on with Rack, or it is told why not."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("scrapy")

from rack import PersistentQueue
from rack.adapters.scrapy import takeover
from rack.cli.site import Site
from tests.adapters.scrapy.alone import alone, in_child
from tests.adapters.scrapy.crawls import counts, crawl, pages, wait_for
from tests.support.processes import Crew, FailedError
from tests.support.processes import end_sound as end_sound

OWN = "scrapy.core.scheduler.Scheduler"
KINDS: dict[str, dict[str, str]] = {
    "aware": {},
    "plain": {"SCHEDULER_PRIORITY_QUEUE": "scrapy.pqueues.ScrapyPriorityQueue"},
    "fifo": {"SCHEDULER_DISK_QUEUE": "scrapy.squeues.MarshalFifoDiskQueue", "SCHEDULER_START_DISK_QUEUE": ""},
    "sqlite": {"SCHEDULER_DISK_QUEUE": "scrapy.squeues.PickleFifoSQLiteQueue"},
}


WAITING = Counter([*map(str, range(20)), "start", "again", "again"])


def _begin(path: Path, settings: dict[str, str]) -> str:
    """Have Scrapy's own scheduler put requests, take some, and stop; return which of those above was taken."""
    with alone({"JOBDIR": str(path), "SCHEDULER": OWN} | settings) as it:
        start: dict[str, Any] = {"dont_filter": True, "meta": {"is_start_request": True}}
        assert it.put("start", **start)
        assert it.put("again", dont_filter=True)
        assert it.put("again", dont_filter=True)
        assert it.put("high", priority=5, callback=it.spider.other)  # type: ignore[attr-defined]
        for number in range(20):
            assert it.put(f"{number}")
        assert it.paths(1) == ["high"]
    with alone({"JOBDIR": str(path), "SCHEDULER": OWN} | settings) as it:
        (taken,) = it.paths(1)  # a resumed crawl's files are of two runs
        return taken


def _left(path: Path) -> dict[str, bytes]:
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


def _goes_on(path: Path, settings: dict[str, str]) -> None:
    gone = _begin(path, settings)
    before = _left(path / "requests.queue")
    with alone({"JOBDIR": str(path)} | settings) as it:
        assert any("goes on (22 requests taken over" in line for line in it.log), it.log
        assert not it.put("3")  # was seen, whether it waits or was taken
        assert not it.put("high")
        assert it.put("start", dont_filter=True, meta={"is_start_request": True}) == (gone == "start")
        assert Counter(it.paths()) == WAITING - (Counter([gone]) if gone != "start" else Counter())
    assert not (path / "requests.queue").exists()
    (taken,) = path.glob("requests.queue.taken-over-*")
    assert _left(taken) == before
    assert not (path / "requests.queue-copy").exists()
    with alone({"JOBDIR": str(path)} | settings) as it:
        assert not it.put("high")
        assert it.paths() == []
    assert counts(path / "requests").done == (23 if gone == "start" else 22)


@pytest.mark.parametrize("kind", KINDS)
def test_what_scrapys_scheduler_has_left_is_taken_over(kind: str, tmp_path: Path) -> None:
    in_child(_goes_on, tmp_path / "job", KINDS[kind])


def test_it_may_be_killed_while_it_takes_over(tmp_path: Path) -> None:
    def killed_after(moment: int) -> None:
        def die(*args: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        if moment == 0:
            takeover.shutil.copytree = die  # type: ignore[attr-defined]
        elif moment == 1:
            PersistentQueue.remember = die  # type: ignore[assignment,method-assign]
        else:
            takeover.os.rename = die  # type: ignore[attr-defined]
        with alone({"JOBDIR": str(tmp_path)}):
            pass

    gone = in_child(_begin, tmp_path, {})
    for moment in range(3):
        with pytest.raises(FailedError, match="-9"):
            in_child(killed_after, moment)

    def goes_on() -> None:
        with alone({"JOBDIR": str(tmp_path)}) as it:
            found = it.paths()
            assert Counter(found) == WAITING - Counter([gone])

    in_child(goes_on)


def _warned(path: Path, removed: bool) -> None:
    _begin(path, {})
    time.sleep(0.05)  # the clock of files is a coarse one
    (queue,) = (each for each in (path / "requests.queue").rglob("*") if each.is_file() and each.name == "0")
    if removed:
        queue.unlink()  # as of a crawl that was resumed, and killed
    else:
        os.utime(queue)
    with alone({"JOBDIR": str(path)}) as it:
        warnings = [line for line in it.log if line.startswith("WARNING")]
        assert ["was not stopped in good order" in line for line in warnings] == [True], it.log
        assert it.put("high")  # the crawl begins anew: what was lost is found again
        assert it.paths() == ["high"]
    assert (path / "requests.queue").exists()


@pytest.mark.parametrize("removed", [False, True])
def test_a_crawl_that_was_killed_is_told_of_and_begins_anew(removed: bool, tmp_path: Path) -> None:
    in_child(_warned, tmp_path / "job", removed)


def _refused(path: Path) -> None:
    _begin(path, {})
    with (
        pytest.raises(ValueError, match=r"cannot be read .* Set SCHEDULER_PRIORITY_QUEUE.* or remove"),
        alone({"JOBDIR": str(path)} | KINDS["plain"]),
    ):
        pass
    assert (path / "requests.queue").exists()
    assert not (path / "requests.queue-copy").exists()
    with alone({"JOBDIR": str(path)}) as it:
        assert len(it.paths()) == 22


def test_settings_that_are_not_those_of_the_files_are_refused(tmp_path: Path) -> None:
    in_child(_refused, tmp_path / "job")


def test_a_crawl_that_scrapy_has_begun_finds_all_pages(tmp_path: Path) -> None:
    own = {"ADDONS": {}, "JOBDIR": str(tmp_path / "job")}
    with Site(200, seed=3, delay=0.005) as site, Crew() as crew:
        worker = crew.start(crawl, site.start, own)
        wait_for(lambda: pages(site) >= 60)
        os.kill(worker.pid, signal.SIGTERM)
        assert worker.result()["finish_reason"] == "shutdown"
        assert crew.start(crawl, site.start, {"JOBDIR": str(tmp_path / "job")}).result()["finish_reason"] == "finished"
        served = site.served()
        assert sorted(served) == sorted(site.there())
        assert {count for url, count in served.items() if url != site.start} == {1}
