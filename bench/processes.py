"""Writer processes on one store, timed from a barrier to the last one's end."""

from __future__ import annotations

import copy
import gc
import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import Any

from bench.rival import Rival
from bench.workloads import Workload

PATIENCE = 120  # seconds that writers wait for each other
PRELOAD = ["bench.__main__", "rack", "diskcache", "sqlitedict", "lmdbm"]  # so that starting a process is cheap


def measure(workload: Workload, rival: Rival, directory: Path, ops: int) -> float:
    """Seconds from the first start to the last end of all writers. The clock is the system's, one for all of them."""
    store = copy.copy(rival)  # an open one cannot be pickled to a worker
    store.open(directory, workload.capacity(ops), workload.kind)
    store.close()
    spans = [_span(answer) for answer in _answers(workload, rival, directory, ops)]
    store.open(directory, workload.capacity(ops), workload.kind)
    try:
        workload.verify(store, workload.work(ops), [])
    finally:
        store.close()
    return max(end for _, end in spans) - min(start for start, _ in spans)


def _answers(workload: Workload, rival: Rival, directory: Path, ops: int) -> list[Any]:
    """What each writer sent; failures that have a cause of their own come first."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    barrier = context.Barrier(workload.processes)
    receivers = []
    workers = []
    for number in range(workload.processes):
        mine = type(workload)(workload.scale, workload.seed, number)
        receiver, sender = context.Pipe(duplex=False)
        worker = context.Process(target=_write, args=(mine, rival, directory, ops, barrier, sender), daemon=True)
        worker.start()
        sender.close()
        receivers.append(receiver)
        workers.append(worker)
    answers: list[Any] = []
    for receiver in receivers:
        try:
            answers.append(receiver.recv() if receiver.poll(2 * PATIENCE) else TimeoutError("no answer from a writer"))
        except EOFError:
            barrier.abort()
            answers.append(RuntimeError("a writer died"))
    for worker in workers:
        worker.join(10)
        if worker.is_alive():
            worker.kill()
    return sorted(answers, key=lambda answer: "Barrier" in type(answer).__name__)


def _span(answer: Any) -> tuple[float, float]:
    if isinstance(answer, Exception):
        raise answer
    start, end = answer
    return start, end


def _write(workload: Workload, rival: Rival, directory: Path, ops: int, barrier: Any, sender: Connection) -> None:
    """A writer process: sends when it began and when it ended, or what went wrong."""
    try:
        work = workload.work(ops)
        rival.open(directory, workload.capacity(ops), workload.kind)
        workload.warm(rival)
        gc.collect()
        gc.disable()
        barrier.wait(PATIENCE)
        start = perf_counter()
        workload.run(rival, work)
        end = perf_counter()
        rival.close()
        sender.send((start, end))
    except BaseException as error:
        barrier.abort()
        sender.send(error if isinstance(error, Exception) else RuntimeError(repr(error)))
