"""Workers of a queue that are killed at their work, and what must be true of its jobs then."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rack import PersistentQueue
from rack.jobs.job import Counts
from tests.support.processes import LIMIT, Crew, Worker

#: Items from here on were put by a worker.
_LINKS = 1_000_000


def check_kills(place: Any, log: Path, kills: int, jobs: int, rng: random.Random, **options: Any) -> None:
    """Kill workers of a new queue, and see that no job is lost, or done twice while its worker is alive.

    How far the work is decides when the next worker is killed, not the time: each second one of them is killed
    between its claim and the job's end, and none of them finds the queue empty before.

    :param place: Where the queue is made.
    :param log: A file in which the workers note what they do.
    :param jobs: How many there are, for each kill.
    """
    killed: set[int] = set()
    with PersistentQueue[int](place, **options) as queue, Crew() as crew:
        queue.put(-1)
        held = queue.claim()  # so that the workers wait for the end of the kills
        assert held is not None
        more = (queue.put(_LINKS * 2 + each) for each in range(_LINKS))
        workers = [crew.start(_work, place, log) for _ in range(4)]
        for number in range(kills):
            assert queue.put_many(range(number * jobs, (number + 1) * jobs)) == jobs
            _wait_for(log, number * jobs + rng.randrange(jobs))
            victim = workers[number % 4]
            if number % 2:
                _catch_at_work(victim, log, more)
            victim.kill()
            killed.add(victim.pid)
            workers[number % 4] = crew.start(_work, place, log)
        held.release()
        for worker in workers:
            worker.result()
        counts = queue.counts()

    claims: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    done: Counter[int] = Counter()
    for what, item, count, pid in _lines(log):
        if what == "claimed":
            claims[item].append((count, pid))
        elif what == "done":
            done[item] += 1
    assert counts == Counts(0, 0, 0, counts.done, 0)
    assert claims.keys() >= {-1, *range(kills * jobs)}
    assert len(claims) <= counts.done <= len(claims) + kills  # what was claimed, and not noted any more, is counted too
    assert max(done.values()) == 1
    repeated = [sorted(each) for each in claims.values() if len(each) > 1]
    assert kills // 2 <= sum(len(each) - 1 for each in repeated) <= kills  # at most one for each kill
    print(f"{len(repeated)} of {len(claims)} jobs were claimed again after {kills} kills")
    for each in repeated:  # nobody got it while its worker was alive
        assert {pid for _, pid in each[:-1]} <= killed


def _note(log: int, *words: object) -> None:
    os.write(log, (" ".join(map(str, words)) + "\n").encode())  # as a whole, at the end of the file


def _work(place: Any, log: Path) -> None:
    """Claim jobs until none is left, and note what is done with each; of half of them, put another one."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    rng = random.Random(os.getpid())
    with PersistentQueue[int](place, lease=600.0) as queue:
        while True:
            job = queue.claim(wait=0.2)
            if job is None:
                if queue.join(timeout=0.01):
                    return
                continue
            _note(file, "claimed", job.item, job.claims, os.getpid())
            if 0 <= job.item < _LINKS and job.claims == 1 and rng.random() < 0.5:
                queue.put(job.item + _LINKS)  # a link on the page
            time.sleep(rng.random() * 0.004)
            _note(file, "working", job.item, job.claims, os.getpid())
            job.done()
            _note(file, "done", job.item, job.claims, os.getpid())


def _lines(log: Path) -> Iterator[tuple[str, int, int, int]]:
    for line in log.read_text().splitlines() if log.exists() else ():
        what, item, count, pid = line.split()
        yield what, int(item), int(count), int(pid)


def _wait_for(log: Path, claims: int) -> None:
    """Return once so many claims were noted."""
    deadline = time.monotonic() + LIMIT
    while sum(line[0] == "claimed" for line in _lines(log)) < claims:
        assert time.monotonic() < deadline, "the workers do nothing"
        time.sleep(0.01)


def _catch_at_work(victim: Worker, log: Path, more: Iterator[bool]) -> None:
    """Stop a process while it has a job; give it ``more`` jobs as long as it has none."""
    deadline = time.monotonic() + LIMIT
    while True:
        victim.kill(signal.SIGSTOP)
        mine = [line[0] for line in _lines(log) if line[3] == victim.pid]
        if mine and mine[-1] == "claimed":
            return
        assert time.monotonic() < deadline, "the process was never seen at work"
        victim.kill(signal.SIGCONT)
        next(more)
        time.sleep(0.001)
