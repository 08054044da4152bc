"""``rack queue``: what a queue has to do, and what has failed in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from typing import Any

import click

from rack.cli.arguments import store_argument, timeout_option
from rack.cli.failure import Command, Failure, counted, tell
from rack.cli.output import check_open, say
from rack.cli.patience import PatientQueue
from rack.cli.sources import Source
from rack.codec.failure import in_short
from rack.errors import StoreNotFoundError, told
from rack.jobs.job import FailedJob

_SHOWN = 20  # failed jobs


@click.command(cls=Command)
@store_argument
@click.option("--failed", is_flag=True, help="Write all failed jobs, a line each: item, claims, reason.")
@click.option("--retry", is_flag=True, help="Have all failed jobs wait again.")
@click.option("--add", "file", metavar="FILE", help='Put a job for each line of FILE ("-": standard input).')
@click.option("--create", is_flag=True, help="With --add: make STORE if it does not exist.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
@timeout_option
def queue(store: str, failed: bool, retry: bool, file: str | None, create: bool, as_json: bool) -> None:
    """Show how many jobs STORE, a queue, has in each state, and which have failed.

    "waiting" jobs can be claimed, "delayed" ones are not ready yet, somebody works on the "leased" ones. Those that are
    "done" are but counted. Those that have "failed" are kept with the reason; the first 20 are shown.

    With --add each line of FILE becomes a job: text, in a queue of serdes "bytes" bytes. A line that is there as a job
    is left out. How many are new is written on standard error. With --json the object has waiting, delayed, leased,
    done and failed.

    Example: rack queue data/pages --retry
    """
    if failed and as_json:
        raise click.UsageError("--failed and --json are two forms: give one of them")
    if create and file is None:
        raise click.UsageError("--create is for --add")
    check_open()
    with ExitStack() as stack:
        jobs = PatientQueue(store, flag="r" if not (retry or file) else "c" if create else "w")
        try:
            stack.enter_context(jobs)
        except StoreNotFoundError as error:
            if file is None or create:
                raise
            raise Failure(f"{told(error)}; --create makes one") from error
        if file is not None:
            tell(f"{counted(jobs.put_many(_lines(file, jobs.serdes)), 'job')} put")
        if retry:
            tell(f"{counted(jobs.retry_failed(), 'job')} wait again")
        if failed:
            for job in jobs.failed():
                say(_line(job))
        else:
            _show(jobs, as_json)


def _lines(file: str, serdes: str) -> Iterator[Any]:
    for block, _ in Source.of(file).blocks(b"\n", lambda: None):
        for line in block.split(b"\n"):
            yield line if serdes == "bytes" else line.decode("utf-8", "surrogateescape")


def _show(jobs: PatientQueue, as_json: bool) -> None:
    counts = jobs.counts()
    found = {name: getattr(counts, name) for name in counts.__slots__}
    if as_json:
        say(json.dumps(found))
        return
    for name, number in found.items():
        say(f"{name:8} {number:,}")
    if counts.failed:
        say("")
        for job in islice(jobs.failed(), _SHOWN):
            say(_line(job))
        if counts.failed > _SHOWN:
            say(f"... and {counts.failed - _SHOWN:,} more: --failed writes all")


def _line(job: FailedJob[Any]) -> str:
    item = job.item if isinstance(job.item, str) else in_short(job.item)
    parts = item, counted(job.claims, "claim"), job.reason
    return "\t".join(part.replace("\n", " ").replace("\t", " ") for part in parts)
