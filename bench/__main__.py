"""The command line: ``python -m bench --help``."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from bench import report, runner
from bench.algebra import ALGEBRA
from bench.crawl import CRAWL
from bench.data import FULL, QUICK
from bench.ingest import Ingest
from bench.lines import DEDUP
from bench.queues import QUEUES
from bench.scans import SCANS
from bench.sqlite import SQLITE
from bench.workloads import WORKLOADS

ALL = [*WORKLOADS, *SCANS, *SQLITE, *QUEUES, *ALGEBRA, *DEDUP, *CRAWL, Ingest]
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
SLOW_SQLITE = ("sqlite-writers-8", "sqlite-fairness", "space")
SLOW_BIG = (*(workload.name for workload in (*ALGEBRA, *DEDUP)), "queue-waiting", "crawl-memory", "ingest")
SLOW = ("writers-2", "writers-8", "shards-set", "shards-get", "shards-writers", *SLOW_SQLITE, *SLOW_BIG)
NAMES = [workload.name for workload in ALL]


def chosen(only: tuple[str, ...], quick: bool) -> list[str]:
    """Names of the benchmarks to run: a family name like `writers` stands for its members."""
    if not only:
        return [name for name in NAMES if not (quick and name in SLOW)]
    for wanted in only:
        if not any(wanted in (name, name.split("-")[0]) for name in NAMES):
            raise click.BadParameter(f"no benchmark {wanted!r}; there are: {', '.join(NAMES)}", param_hint="--only")
    return [name for name in NAMES if name in only or name.split("-")[0] in only]


@click.command(context_settings={"max_content_width": 120})
@click.option(
    "--quick", is_flag=True, help=f"Less than a minute: smaller, fewer rounds, and without {', '.join(SLOW)}."
)
@click.option("--only", multiple=True, metavar="NAME", help=f"Only this one, may be repeated: {', '.join(NAMES)}.")
@click.option("--rounds", type=click.IntRange(1), help=f"Rounds ({FULL.rounds}, quick {QUICK.rounds}).")
@click.option("--seed", default=1, show_default=True, help="Seed of keys, values and orders.")
@click.option("--json", "as_json", is_flag=True, help="JSON on standard output instead of tables.")
@click.option("--dir", "base", type=FOLDER, help="Where to put the temporary stores.")
def main(quick: bool, only: tuple[str, ...], rounds: int | None, seed: int, as_json: bool, base: Path | None) -> None:
    """Measure Rack beside diskcache, sqlitedict, shelve, lmdbm, rocksdict, py-lmdb by hand, persist-queue and huey."""
    scale = QUICK if quick else FULL
    if rounds is not None:
        scale = replace(scale, rounds=rounds)
    workloads = [workload(scale, seed) for workload in ALL if workload.name in chosen(only, quick)]
    settings = asdict(scale) | {"seed": seed}
    load = os.getloadavg()[0]
    console = Console(stderr=as_json, highlight=False)
    if not console.is_terminal:
        console.width = 120
    results: dict[str, runner.Result] = {}
    if not as_json:
        report.print_header(console, settings, load)
    stderr = Console(stderr=True)
    with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        task = progress.add_task("", total=sum(runner.ticks(workload, scale.rounds) for workload in workloads))
        for workload in workloads:
            progress.update(task, description=workload.name)
            run = getattr(workload, "contest", partial(runner.run, workload))
            result = run(scale.rounds, base, lambda: progress.advance(task))
            results[workload.name] = result
            if not as_json:
                progress.stop()
                console.print(getattr(workload, "table", report.result_table)(result))
                progress.start()
    if as_json:
        click.echo(json.dumps(report.as_data(results, settings, load), indent=1))
    else:
        report.print_footer(console, results)


if __name__ == "__main__":
    main()
