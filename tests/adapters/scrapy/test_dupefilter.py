"""The filter on its own, in place of Scrapy's: what was seen outlives a kill, and Scrapy's file is taken over."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("scrapy")

from scrapy import Request
from scrapy.dupefilters import RFPDupeFilter
from scrapy.utils.request import fingerprint

from rack import NotOpenError
from rack.adapters.scrapy import RackDupeFilter
from rack.adapters.scrapy.dupefilter import fingerprints
from rack.cli.site import Site
from tests.adapters.scrapy.crawls import SiteSpider, crawl
from tests.support.processes import Crew
from tests.support.processes import end_sound as end_sound


def request(number: int) -> Request:
    return Request(f"http://127.0.0.1/{number}")


def test_a_request_is_seen_once(tmp_path: Path) -> None:
    filter = RackDupeFilter(str(tmp_path))
    with pytest.raises(NotOpenError):
        filter.request_seen(request(1))
    filter.open()
    assert [filter.request_seen(request(number)) for number in (1, 2, 1, 3)] == [False, False, True, False]
    filter.close("finished")
    again = RackDupeFilter(str(tmp_path))
    again.open()
    assert [again.request_seen(request(number)) for number in (1, 4)] == [True, False]
    again.close("finished")


def test_what_a_killed_process_has_seen_was_seen(tmp_path: Path) -> None:
    def see() -> None:
        filter = RackDupeFilter(str(tmp_path))
        filter.open()
        for number in range(50):
            filter.request_seen(request(number))
        os.kill(os.getpid(), 9)

    with Crew() as crew:
        worker = crew.start(see)
        worker._process.join(60)
    filter = RackDupeFilter(str(tmp_path))
    filter.open()
    assert all(filter.request_seen(request(number)) for number in range(50))
    filter.close("finished")


def test_scrapys_file_is_taken_over(tmp_path: Path) -> None:
    scrapys = RFPDupeFilter(str(tmp_path))
    assert not any(scrapys.request_seen(request(number)) for number in range(100))
    scrapys.close("finished")
    before = (tmp_path / "requests.seen").read_bytes()
    filter = RackDupeFilter(str(tmp_path))
    filter.open()
    assert [filter.request_seen(request(number)) for number in (0, 99, 100)] == [True, True, False]
    filter.close("finished")
    assert (tmp_path / "requests.seen").read_bytes() == before


def test_both_forms_of_scrapys_file_are_read_and_what_is_cut_off_is_left_out() -> None:
    keys = [fingerprint(request(number)) for number in range(3)]
    binary = b"".join(b"\0\x14" + key for key in keys)
    lines = "".join(f"{key.hex()}\n" for key in keys).encode()
    for whole in (binary, lines, lines.replace(b"\n", b"\r\n")):
        assert list(fingerprints(io.BytesIO(whole))) == keys
        for missing in (1, 2, 15):
            assert list(fingerprints(io.BytesIO(whole[:-missing]))) in (keys[:2], keys)
    assert list(fingerprints(io.BytesIO(lines[:-2]))) == keys[:2]
    assert list(fingerprints(io.BytesIO(binary[:-1]))) == keys[:2]
    assert list(fingerprints(io.BytesIO(b""))) == []


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_crawl_with_scrapys_scheduler_and_this_filter(on_disk: bool, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"ADDONS": {}, "DUPEFILTER_CLASS": "rack.adapters.scrapy.RackDupeFilter"}
    if on_disk:
        settings["JOBDIR"] = str(tmp_path / "job")
    with Site(60, seed=5, delay=0.001) as site, Crew() as crew:
        stats = crew.start(crawl, site.start, settings, SiteSpider).result()
        assert stats["finish_reason"] == "finished"
        assert stats["dupefilter/filtered"] > 100
        assert {count for url, count in site.served().items() if url != site.start} == {1}
    assert (tmp_path / "job" / "seen.rack").exists() == on_disk
