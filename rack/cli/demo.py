"""``rack demo``: the main job, on files that every machine with Python has, checked against the plain types."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rack import PersistentDict, PersistentSet
from rack.cli.arguments import workers_option
from rack.cli.crew import Crew
from rack.cli.display import Wish
from rack.cli.failure import Command, Failure, counted
from rack.cli.output import say
from rack.cli.progress import Meter, size

if TYPE_CHECKING:
    from rich.table import Table

_WORD = re.compile(r"[A-Za-z_]\w+")

#: What a worker reports of a file: its bytes, lines, new lines, words, calls of incr().
Report = tuple[int, int, int, int, int]


@click.command(cls=Command)
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Make the stores here, replacing those of an earlier demo.  [default: a new temporary directory, kept]",
)
@click.option(
    "--megabytes",
    type=click.FloatRange(min=0, min_open=True),
    default=16,
    show_default=True,
    metavar="N",
    help="Read at most N MB of source files.",
)
@workers_option("Read with N processes.", default=4)
def demo(directory: Path | None, megabytes: float, workers: int) -> None:
    """See Rack at work: several processes fill one set and one dict at once.

    They read the source files of Python's standard library, put the lines into a PersistentSet, and count the words in
    a PersistentDict with incr(). Then the result is compared with what one process gets with a set and a Counter in
    memory; the exit code is 1 if they differ. The stores are kept, to be tried.
    """
    paths = _source_files(megabytes * 1e6)
    place = directory or Path(tempfile.mkdtemp(prefix="rack-demo-"))
    # Names of the demo's own: flag="n" will replace no store of the user's.
    lines_name, words_name = str(place / "demo-lines"), str(place / "demo-words")
    read = (
        f"1 process reads {counted(len(paths), 'file')}"
        if workers == 1
        else (f"{workers:,} processes read {counted(len(paths), 'file')}")
    )
    say(f"{read} of Python's standard library ...")
    try:
        place.mkdir(parents=True, exist_ok=True)
        total = _fill(paths, workers, lines_name, words_name)
    except BaseException:
        if directory is None:  # half a demo, in a place that nobody was told
            shutil.rmtree(place, ignore_errors=True)
        raise
    say("One process does the same in memory, to compare ...")
    began = time.monotonic()
    lines, words = _in_memory(paths)
    seconds = time.monotonic() - began
    _compare(lines, words, total, lines_name, words_name)
    _show(total, seconds, lines, words)
    _show_next(place, lines_name, words_name, paths[0])


class Total(Meter):
    """What the workers did, summed up."""

    words = 0
    incr_calls = 0


def _source_files(limit: float) -> list[Path]:
    """Return the standard library's source files, as many as hold ``limit`` bytes. Installed packages are not it."""
    top = Path(sysconfig.get_paths()["stdlib"])
    paths: list[Path] = []
    for path in sorted(top.rglob("*.py")):
        if "site-packages" in path.parts or "dist-packages" in path.parts or not os.access(path, os.R_OK):
            continue
        limit -= path.stat().st_size
        if limit < 0 and paths:
            break
        paths.append(path)
    if not paths:
        raise Failure(f"there are no source files of the standard library in {top}")
    return paths


def _lines(data: bytes) -> list[bytes]:
    return data.removesuffix(b"\n").split(b"\n") if data else []


def _words(data: bytes) -> Counter[str]:
    return Counter(_WORD.findall(data.decode("utf-8", "replace")))


def _fill(paths: list[Path], workers: int, lines_name: str, words_name: str) -> Total:
    """Have ``workers`` processes put the files' lines into the set and count their words in the dict."""
    with PersistentSet[bytes](lines_name, serdes="bytes", flag="n"), PersistentDict[str, int](words_name, flag="n"):
        pass

    def work(tasks: Iterator[Path], report: Callable[[Report], None]) -> None:
        with (
            PersistentSet[bytes](lines_name, serdes="bytes", flag="w") as seen,
            PersistentDict[str, int](words_name, flag="w") as counts,
        ):
            for path in tasks:
                data = path.read_bytes()
                lines, words = _lines(data), _words(data)
                new = seen.add_many(lines)  # how many of them no process had added before
                for word, count in words.items():
                    counts.incr(word, count)  # atomic: other processes count the same words at this moment
                report((len(data), len(lines), new, words.total(), len(words)))

    def receive(report: Report) -> None:
        read, lines, new, words, incr_calls = report
        total.words += words
        total.incr_calls += incr_calls
        total.add(read, lines, new)

    size_of_all = sum(path.stat().st_size for path in paths)
    total = Total(Wish(), total=size_of_all)
    with total, Crew(workers, work, receive) as crew:
        crew.run(paths, total.tick)
    return total


def _in_memory(paths: list[Path]) -> tuple[set[bytes], Counter[str]]:
    lines: set[bytes] = set()
    words: Counter[str] = Counter()
    for path in paths:
        data = path.read_bytes()
        lines.update(_lines(data))
        words.update(_words(data))
    return lines, words


def _compare(lines: set[bytes], words: Counter[str], total: Total, lines_name: str, words_name: str) -> None:
    """Raise Failure unless the stores hold what the plain types hold, and each line was new exactly once."""
    with PersistentSet[bytes](lines_name, flag="r") as seen, PersistentDict[str, int](words_name, flag="r") as counts:
        in_store = {*seen}
        if in_store != lines:
            wrong = len(in_store ^ lines)
            raise Failure(
                f"the set in {lines_name} is wrong: {counted(wrong, 'line')} missing or too many. This is a bug"
            )
        if total.new != len(lines):
            raise Failure(
                f"new to some process: {counted(total.new, 'line')}, and there are {len(lines):,}. This is a bug"
            )
        if dict(counts.items()) != words:
            wrong = sum(counts.get(word) != words.get(word) for word in {*counts} | {*words})
            raise Failure(f"the dict in {words_name} is wrong: {counted(wrong, 'word')} counted wrongly. This is a bug")


def _show(total: Total, seconds: float, lines: set[bytes], words: Counter[str]) -> None:
    from rich.table import Table

    table = Table("", "all", "distinct", "a second")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("lines", f"{total.lines:,}", f"{len(lines):,}", f"{total.lines / total.seconds:,.0f}")
    table.add_row("words", f"{total.words:,}", f"{len(words):,}", f"{total.words / total.seconds:,.0f}")
    table.add_row("incr() calls", f"{total.incr_calls:,}", "", f"{total.incr_calls / total.seconds:,.0f}")
    say(_rendered(table))
    top = Table("word", "count")
    top.columns[1].justify = "right"
    for word, count in words.most_common(10):
        top.add_row(word, f"{count:,}")
    say(_rendered(top))
    say(
        f"{size(total.bytes)} in {total.seconds:.1f} s (in memory, one process: {seconds:.1f} s)."
        " The set and the dict are equal to a set and a Counter in memory."
    )


def _rendered(table: Table) -> str:
    from rich.console import Console

    console = Console(highlight=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get().removesuffix("\n")


def _show_next(place: Path, lines_name: str, words_name: str, path: Path) -> None:
    """Print commands that can be copied into a shell as they are."""
    rack = _this_command()
    look = 'import rack, sys; words = rack.PersistentDict(sys.argv[1]).open(); print(len(words), words["self"])'
    say(f"The stores are in {place}. To try next:\n")
    say("  # every line of this file has been seen: none is new")
    say(f"  {rack} dedup {shlex.quote(lines_name)} {shlex.quote(str(path))} --count")
    say("  # a line is new once, over all runs")
    say(f"  echo 'a line of my own' | {rack} dedup {shlex.quote(lines_name)}")
    say("  # the dict in Python")
    say(f"  {shlex.quote(sys.executable)} -c {shlex.quote(look)} {shlex.quote(words_name)}")


def _this_command() -> str:
    """How this very command can be called again, from any directory."""
    called = shutil.which("rack")
    if called is not None and Path(called).resolve() == Path(sys.argv[0]).resolve():
        return "rack"
    return f"{shlex.quote(sys.executable)} -m rack"
