"""The programs in docs/recipes/ do what they promise: whenever they are killed, no page of the site is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import rack
from rack import PersistentDict, PersistentQueue
from rack.cli.site import Kind, Site
from tests.support.processes import end_sound as end_sound

pytest.importorskip("httpx")

ROOT = Path(rack.__file__).parent.parent
RECIPES = ROOT / "docs" / "recipes"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
LIMIT = 100.0  # seconds

pytestmark = pytest.mark.skipif(not RECIPES.is_dir(), reason="docs/ is beside the tests in the repository only")


class Program:
    """A recipe that runs, with the processes that it has started: a group of their own."""

    def __init__(self, *command: object, warnings: str = "error") -> None:
        self.log = tempfile.TemporaryFile()  # noqa: SIM115  # which no reader has to empty
        self.process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            env={**ENVIRONMENT, "PYTHONWARNINGS": warnings},
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def children(self) -> list[int]:
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, check=True).stdout
        rows = [[int(word) for word in line.split()] for line in listed.splitlines()]
        return [pid for pid, parent in rows if parent == self.process.pid]

    def kill(self) -> int:
        """Kill all of its processes, and return how many there were."""
        there = len(self.children()) + 1
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()
        return there

    def end(self) -> str:
        """Wait until it ends by itself, and well."""
        code = self.process.wait(LIMIT)
        self.log.seek(0)
        with self.log:
            output = self.log.read().decode()
        assert code == 0, output
        return output


def wait_for(site: Site, requests: int, program: Program) -> None:
    """Wait until the site was asked for so many pages."""
    deadline = time.monotonic() + LIMIT
    while sum(site.asked().values()) < requests:
        if program.process.poll() is not None:
            pytest.fail(f"it has ended: {program.end()}")
        assert time.monotonic() < deadline, "it goes no further"
        time.sleep(0.01)


def killed_moments(kills: int, site: Site, chance: random.Random) -> Iterator[int]:
    """Yield after how many requests to kill: some time in each part of the crawl."""
    part = site.pages // (kills + 1)
    for number in range(kills):
        yield number * part + chance.randrange(part // 4, part)


@pytest.mark.parametrize("recipe", ["crawl_processes", "crawl_asyncio"])
def test_whenever_it_is_killed_each_page_is_stored(recipe: str, tmp_path: Path, seed: int, long: bool) -> None:
    chance, kills, killed = random.Random(seed), 40 if long else 5, 0
    with Site(4000 if long else 500, seed, hosts=8, delay=0.05) as site:
        command = RECIPES / f"{recipe}.py", tmp_path, site.start, 0
        program = Program(*command)
        try:
            for moment in killed_moments(kills, site, chance):
                wait_for(site, moment, program)
                workers = program.children()
                if workers and chance.random() < 0.5:  # one of them: the others go on
                    os.kill(chance.choice(workers), signal.SIGKILL)
                    killed += 1
                else:
                    killed += program.kill()
                    program = Program(*command)
            program.end()
        finally:
            if program.process.poll() is None:
                program.kill()
        check(site, tmp_path, killed if recipe == "crawl_processes" else killed * 8)


def check(site: Site, place: Path, again: int) -> None:
    """Each page of the site is stored, and was a job once; at most so many were served again."""
    with PersistentDict[str, str](place / "pages", flag="r") as pages:
        assert set(pages) == site.there()
        assert all(text.encode() == site.body(site.number(url) or 0) for url, text in pages.items())
    gone = {site.url(number) for number in range(site.pages) if site.kind(number) is Kind.GONE}
    with PersistentQueue[str](place / "todo", flag="r") as todo:
        counts = todo.counts()
        assert {(job.item, job.reason) for job in todo.failed()} == {(url, "404 Not Found") for url in gone}
    assert (counts.waiting, counts.delayed, counts.leased) == (0, 0, 0)
    assert (counts.done, counts.failed) == (site.pages - len(gone), len(gone))
    served = site.served()
    assert min(served.values()) == 1
    assert sum(served.values()) - len(served) <= again


def test_whenever_one_of_two_scrapy_processes_is_killed_each_page_is_stored(
    tmp_path: Path, seed: int, long: bool
) -> None:
    pytest.importorskip("scrapy")
    chance, kills, killed = random.Random(seed), 20 if long else 3, 0
    with Site(3000 if long else 300, seed, hosts=8, delay=0.05) as site:

        def start() -> Program:
            return Program(RECIPES / "crawl_scrapy.py", tmp_path, site.start, 0, warnings="ignore")

        programs = [start(), start()]
        try:
            for moment in killed_moments(kills, site, chance):
                wait_for(site, moment, programs[0])
                for number in chance.choice([[0], [1], [0, 1]]):
                    if programs[number].process.poll() is None:
                        killed += programs[number].kill()
                        programs[number] = start()
            outputs = [program.end() for program in programs]
        finally:
            for program in programs:
                if program.process.poll() is None:
                    program.kill()
        assert all("Spider closed (finished)" in output for output in outputs)
        with PersistentDict[str, dict[str, str]](tmp_path / "crawl-pages-items", flag="r") as items:
            texts = {item["url"]: item["text"] for item in items.values()}
        assert set(texts) == site.there()
        assert all(text.encode() == site.body(site.number(url) or 0) for url, text in texts.items())
        assert killed
