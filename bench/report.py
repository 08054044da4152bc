"""Tables for people, and the same as plain data."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.style import Style
from rich.table import Table

from bench.rivals import contestants
from bench.runner import Result, Series
from bench.targets import TARGETS, Limit


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": affinity,
    }


def versions() -> dict[str, str | None]:
    """Library versions; None: not installed."""
    return {rival.label: rival.version() for rival in contestants()}


def micros(seconds: float) -> str:
    """Microseconds with three digits that matter."""
    value = seconds * 1e6
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def times(ratio: float) -> str:
    """A ratio with two or three digits."""
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}" if ratio < 100 else f"{ratio:,.0f}"


def spread(values: list[float], show: Any) -> str:
    """min..max."""
    return f"{show(min(values))}..{show(max(values))}"


def bytes_per_item(result: Result, series: Series) -> str:
    """Disk space an entry; only where every entry was written once and the store is as it will stay."""
    return f"{series.disk / series.ops:,.0f}" if result.name == "update" else ""


def plain_table(title: str) -> Table:
    """A table without lines down."""
    style = Style(bold=True)
    return Table(title=escape(title), title_justify="left", title_style=style, caption_justify="left", box=SIMPLE_HEAD)


def result_table(result: Result) -> Table:
    """One benchmark."""
    table = plain_table(result.title)
    table.add_column("", no_wrap=True)
    for column in ("operations", "µs each", "min..max", "per second"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("Rack is x", justify="right", style="bold", no_wrap=True)
    table.add_column("min..max", justify="right", no_wrap=True)
    if result.name == "update":
        table.add_column("bytes each", justify="right")
    failures = [f"{series.label}: {series.error}" for series in result.series if series.error]
    table.caption = escape("\n".join(failures)) or None
    for series in result.series:
        if series.problem:
            table.add_row(series.label, series.problem, style="dim")
            continue
        ratios = result.ratios(series.label)
        middle = result.ratio(series.label)
        compared = middle is not None and series is not result.series[0]
        row = [
            series.label,
            f"{series.ops:,}",
            micros(series.time),
            spread(series.times, micros),
            f"{1 / series.time:,.0f}",
            times(middle) if compared and middle is not None else "",
            spread(ratios, times) if compared else "",
        ]
        if result.name == "update":
            row.append(bytes_per_item(result, series))
        table.add_row(*row)
    return table


def target_rows(results: Mapping[str, Result]) -> list[dict[str, Any]]:
    """Each target that was measured or should have been, with what was reached."""
    rows = []
    for target in TARGETS:
        if target.benchmark not in results:
            continue
        reached = target.reached(results)
        row: dict[str, Any] = {"benchmark": target.benchmark}
        if isinstance(target, Limit):
            row |= {"rival": None, "beyond": target.beyond, "seconds": target.most}
            good = reached is not None and reached <= target.most
        else:
            row |= {"rival": target.rival, "target": target.least}
            good = reached is not None and reached >= target.least
        row |= {"reached": reached, "verdict": "not measured" if reached is None else "ok" if good else "MISSED"}
        rows.append(row)
    return rows


def target_table(results: Mapping[str, Result]) -> Table:
    """Targets and what was reached."""
    table = plain_table("targets: Rack's speed as a multiple, median of the rounds")
    table.add_column("benchmark")
    table.add_column("compared with")
    table.add_column("target", justify="right")
    table.add_column("reached", justify="right")
    table.add_column("")
    for row in target_rows(results):
        show, goal = (times, f">= {times(row['target'])}") if row["rival"] else (micros, f"<= {micros(row['seconds'])}")
        reached = "" if row["reached"] is None else show(row["reached"])
        compared = row["rival"] or ("microseconds" if row["beyond"] is None else f"more than {row['beyond']}")
        cells = (row["benchmark"], compared, goal, reached, row["verdict"])
        table.add_row(*cells, style="" if row["verdict"] == "ok" else "bold red")
    return table


def losses(results: Mapping[str, Result]) -> list[str]:
    """Where another contestant was faster than Rack, worst first."""
    found = []
    for result in results.values():
        for series in result.series[1:]:
            ratio = result.ratio(series.label)
            if ratio is not None and ratio < 1:
                found.append((ratio, f"{result.name}: {series.label} is {times(1 / ratio)} times as fast"))
    return [line for _, line in sorted(found)]


def as_data(results: Mapping[str, Result], settings: dict[str, Any], load: float) -> dict[str, Any]:
    """Everything, ready for JSON."""
    return {
        "machine": machine() | {"load_at_start": load},
        "versions": versions(),
        "settings": settings,
        "benchmarks": [
            {
                "name": result.name,
                "title": result.title,
                "contestants": [
                    {
                        "name": series.label,
                        "operations": series.ops,
                        "seconds_each": series.rounds,
                        "rack_is_times": result.ratio(series.label),
                        "bytes_on_disk": series.disk,
                        "problem": ": ".join(filter(None, (series.problem, series.error))) or None,
                    }
                    for series in result.series
                ],
            }
            for result in results.values()
        ],
        "targets": target_rows(results),
        "losses": losses(results),
    }


def print_header(console: Console, settings: dict[str, Any], load: float) -> None:
    """The machine, the libraries and the sizes."""
    facts = machine()
    console.print(f"{facts['python']}, {facts['system']}, {facts['cpus']} CPUs, load {load:.1f} at the start")
    console.print(", ".join(f"{name}: {version or 'not installed'}" for name, version in versions().items()))
    console.print(", ".join(f"{name} {value:,}" for name, value in settings.items()))
    console.print(
        "Slow libraries do fewer operations, which makes their stores smaller and flatters them. "
        "'Rack is x': their time by Rack's in the same round, median; above 1 Rack is faster.\n"
    )


def print_footer(console: Console, results: Mapping[str, Result]) -> None:
    """Targets, then losses."""
    if target_rows(results):
        console.print(target_table(results))
    console.print("\n[bold]Where Rack is slower[/bold]")
    comparable = {name: result for name, result in results.items() if not name.startswith("shards")}
    for line in losses(comparable) or ["nowhere in this run"]:
        console.print(f"  {line}", highlight=False)
