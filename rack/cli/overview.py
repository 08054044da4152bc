"""What a store is like, as a table for people."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rack.care.stat import BALANCE, ShardStat, Stat
from rack.care.words import duration, size
from rack.cli.failure import as_given, counted
from rack.jobs.job import Counts
from rack.shard import SERVED

_BAR = 24  # columns
_PROCESSES = 20  # that are listed


def lines(stat: Stat) -> str:
    """Return the table as text, for the terminal that standard output is, or for 80 columns."""
    console = Console(highlight=False)
    with console.capture() as capture:
        console.print(overview(stat))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def overview(stat: Stat) -> Table:
    """Return the table."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for title, value in _rows(stat):
        table.add_row(title, plain(value))
    return table


def plain(text: str) -> Text:
    """Return a text that is no markup, and in which nothing is left that a terminal would obey."""
    shown = as_given(text)
    return Text("".join(each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in shown))


def _rows(stat: Stat) -> Iterator[tuple[str, str]]:
    yield "store", f"{stat.name}: a {stat.kind} on {stat.engine}, {counted(stat.shards, 'shard')}"
    made = f"serdes {stat.serdes}, key serdes {stat.key_serdes}, hash {stat.hash}"
    yield "made with", made + ("" if stat.layout == "direct" else f", layout {stat.layout}")
    is_served = stat.engine in SERVED
    # What has "process" and "everysec" there is for the server to say; who has "always" is not known from outside.
    yield "durability", "as the server's appendfsync says" if is_served else stat.durability
    each = "" if stat.bytes_per_entry is None else f", {size(stat.bytes_per_entry)} each"
    yield "entries", f"{stat.entries:,}{each}"
    if stat.kind == "queue":
        yield "jobs", _jobs(stat.jobs)
    if is_served:
        yield "in memory", f"about {size(stat.bytes_data)}"
    else:
        yield from _on_disk(stat)
    yield "largest", _shard(stat.largest_shard)
    yield "smallest", _shard(stat.smallest_shard)
    yield "balance", "\n".join(_balance(stat))
    if not is_served:
        yield "open in", "\n".join(_processes(stat))
        yield "oldest read", _oldest(stat)
    if stat.dead_readers:
        yield "dead readers", ", ".join(map(str, stat.dead_readers))
    if stat.leftovers:
        yield "leftovers", "\n".join(stat.leftovers)
    for number, sentence in enumerate(stat.advice):
        yield "" if number else "advice", f"- {sentence}"


def _on_disk(stat: Stat) -> Iterator[tuple[str, str]]:
    yield "on the disk", f"{size(stat.bytes_allocated)}; the files are {size(stat.bytes_apparent)} long"
    part = f" ({100 * stat.bytes_free / stat.bytes_data:.0f} %)" if stat.bytes_data else ""
    yield "shards' files", f"{size(stat.bytes_data)}, of which {size(stat.bytes_free)}{part} is free"
    if stat.bytes_journal or stat.bytes_base:
        bases = f", bases {size(stat.bytes_base)}" if stat.bytes_base else ""
        yield "journals", f"{size(stat.bytes_journal)}{bases}{_unsynced(stat)}"
    yield "last sync", _last_sync(stat)


def _jobs(counts: Counts | None) -> str:
    if counts is None:
        return "not known"
    return ", ".join(f"{getattr(counts, state):,} {state}" for state in counts.__slots__)


def _unsynced(stat: Stat) -> str:
    if stat.bytes_unsynced is None:
        return ""
    return f"; {size(stat.bytes_unsynced)} not yet on the disk" if stat.bytes_unsynced else "; all on the disk"


def _last_sync(stat: Stat) -> str:
    if stat.last_sync is None:
        return "not known; it was written to since" if not stat.clean else "not known"
    then = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(stat.last_sync))
    return f"{then}, {duration(time.time() - stat.last_sync)} ago{'; clean' if stat.clean else ''}"


def _shard(shard: ShardStat) -> str:
    return f"shard {shard.number}: {counted(shard.entries, 'entry')}, {size(shard.bytes)}"


def _balance(stat: Stat) -> Iterator[str]:
    """Yield a histogram: how many shards have so much of the average number of entries."""
    bounds = [f"{100 * bound:.0f} %" for bound in BALANCE]
    between = (f"{low[:-2]} - {high}" for low, high in pairwise(bounds))
    titles = [f"< {bounds[0]}", *between, f">= {bounds[-1]}"]
    there = [number for number, count in enumerate(stat.balance) if count]
    for title, count in list(zip(titles, stat.balance, strict=True))[there[0] : there[-1] + 1]:
        bar = "#" * -(-_BAR * count // stat.shards)
        yield f"{title:>11} {bar:<{_BAR}} {count:,}".rstrip()


def _processes(stat: Stat) -> Iterator[str]:
    if stat.processes is None:
        yield "not known: this system does not tell"
    elif not stat.processes:
        yield "no process"
    for user in (stat.processes or ())[:_PROCESSES]:
        since = "" if user.started is None else f" {duration(time.time() - user.started):>8}"
        yield f"{user.pid:>7} {user.mode:<5}{since}  {user.command or '(command not known)'}"
    if (more := len(stat.processes or ()) - _PROCESSES) > 0:
        yield f"and {more:,} more"


def _oldest(stat: Stat) -> str:
    oldest = stat.oldest_snapshot
    if oldest is None:
        return "nobody reads just now" if stat.dead_readers is not None else "not known"
    held = "" if oldest.bytes_held is None else f", which holds {size(oldest.bytes_held)}"
    age = "" if oldest.age_at_most is None else f"; for {duration(oldest.age_at_most)} at most"
    pids = ", ".join(map(str, oldest.pids))
    return f"process {pids} in shard {oldest.shard}, {oldest.behind:,} behind{held}{age}"
