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
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from rack import PersistentDict, PersistentSet
from rack.care.remove import remove
from rack.care.words import size
from rack.cli.arguments import workers_option
from rack.cli.crawl import PAGES, TODO, crawl
from rack.cli.crew import Crew
from rack.cli.display import Wish
from rack.cli.failure import Command, Failure, counted
from rack.cli.output import say
from rack.cli.plot import check_plotting, plot
from rack.cli.progress import Meter

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
@workers_option("Read, or crawl, with N processes.", default=4)
@click.option(
    "--plot",
    "picture",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Do it with 1, 2, 4... and N processes, and draw how fast they are (.png, .svg, .pdf).",
)
@click.option("--crawl", "is_crawl", is_flag=True, help="Crawl a site of this machine, and kill the workers.")
@click.option(
    "--pages", type=click.IntRange(min=1), default=3000, show_default=True, metavar="N", help="Crawl N pages."
)
@click.option(
    "--kills", type=click.IntRange(min=0), default=20, show_default=True, metavar="N", help="Kill N of the workers."
)
@click.pass_context
def demo(
    context: click.Context,
    directory: Path | None,
    megabytes: float,
    workers: int,
    picture: Path | None,
    is_crawl: bool,
    pages: int,
    kills: int,
) -> None:
    """See Rack at work: several processes fill one set and one dict at once.

    They read the source files of Python's standard library, put the lines into a PersistentSet, and count the words in
    a PersistentDict with incr(). Then the result is compared with what one process gets with a set and a Counter in
    memory; the exit code is 1 if they differ. The stores are kept, to be tried.

    With --crawl they crawl a site that this machine serves to itself, with redirects, errors and slow pages. They take
    jobs from a PersistentQueue, and put pages into a PersistentDict. Again and again one of them is killed with -9. The
    exit code is 1 unless each page of the site is stored, and at most one for each kill was served again.

    Example: rack demo --megabytes 4
    """
    for name in ("megabytes", "picture") if is_crawl else ("pages", "kills"):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = "plot" if name == "picture" else name
            raise click.UsageError(f"--{option} is {'not ' if is_crawl else ''}for --crawl")
    if picture is not None:
        check_plotting()
    if is_crawl:
        _crawl(directory, pages, workers, kills)
    else:
        _read(directory, megabytes, workers, picture)


@contextmanager
def _made(directory: Path | None) -> Iterator[Path]:
    """Give a place for the stores. It is removed after an exception if it is one that nobody was told."""
    place = directory or Path(tempfile.mkdtemp(prefix="rack-demo-"))
    try:
        place.mkdir(parents=True, exist_ok=True)
        yield place
    except BaseException:
        if directory is None:
            shutil.rmtree(place, ignore_errors=True)
        raise


def _crawl(directory: Path | None, pages: int, workers: int, kills: int) -> None:
    of = f"{workers:,} processes crawl" if workers > 1 else "1 process crawls"
    say(f"{of} {counted(pages, 'page')} of a site of this machine ...")
    with _made(directory) as place:
        crawled = crawl(place, pages, workers, kills)
    crawled.prove()
    rack, todo, stored = _this_command(), shlex.quote(str(place / TODO)), shlex.quote(str(place / PAGES))
    commands = {
        "what became of the jobs": f"{rack} queue {todo}",
        "which pages are stored": f"{rack} keys {stored}",
        "remove the stores": f"{rack} rm --yes {todo} {stored}",
    }
    _show_next(place, commands)


def _read(directory: Path | None, megabytes: float, workers: int, picture: Path | None) -> None:
    paths = _source_files(megabytes * 1e6)
    read = (
        f"1 process reads {counted(len(paths), 'file')}"
        if workers == 1
        else (f"{workers:,} processes read {counted(len(paths), 'file')}")
    )
    say(f"{read} of Python's standard library ...")
    with _made(directory) as place:
        # Names of the demo's own: flag="n" will replace no store of the user's.
        lines_name, words_name = str(place / "demo-lines"), str(place / "demo-words")
        total = _fill(paths, workers, lines_name, words_name)
    say("One process does the same in memory, to compare ...")
    began = time.monotonic()
    lines, words = _in_memory(paths)
    seconds = time.monotonic() - began
    _compare(lines, words, total, lines_name, words_name)
    _show(total, seconds, lines, words)
    if picture is not None:
        _plot(paths, workers, str(place / "demo-plot"), picture)
    _show_next(place, _commands(lines_name, words_name, paths[0]))


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


def _plot(paths: list[Path], workers: int, name: str, picture: Path) -> None:
    """Fill stores with fewer and more processes, remove them, and draw how fast that was."""
    names = f"{name}-lines", f"{name}-words"
    counts = sorted({*(1 << power for power in range(workers.bit_length())), workers})
    rates = []
    for count in counts:
        say(f"{count:,} of {workers:,} processes, to draw it ...")
        total = _fill(paths, count, *names)
        rates.append((count, total.lines / total.seconds))
    for each in names:
        remove(each)
    plot(rates, picture)
    say(f"How fast that was is drawn in {picture}.")


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


def _commands(lines_name: str, words_name: str, path: Path) -> dict[str, str]:
    rack = _this_command()
    lines, words = shlex.quote(lines_name), shlex.quote(words_name)
    look = 'import rack, sys; words = rack.PersistentDict(sys.argv[1]).open(); print(len(words), words["self"])'
    return {
        "every line of this file has been seen: none is new": f"{rack} dedup {lines} {shlex.quote(str(path))} --count",
        "a line is new once, over all runs": f"echo 'a line of my own' | {rack} dedup {lines}",
        "how often there is a word": f"{rack} get {words} self --key text",
        "what the dict is like": f"{rack} stat {words}",
        "the dict in Python": f"{shlex.quote(sys.executable)} -c {shlex.quote(look)} {words}",
        "remove the stores": f"{rack} rm --yes {lines} {words}",
    }


def _show_next(place: Path, commands: dict[str, str]) -> None:
    """Print commands that can be copied into a shell as they are."""
    say(f"The stores are in {place}. To try next:\n")
    for what, command in commands.items():
        say(f"  # {what}")
        say(f"  {command}")


def _this_command() -> str:
    """How this very command can be called again, from any directory."""
    called = shutil.which("rack")
    if called is not None and Path(called).resolve() == Path(sys.argv[0]).resolve():
        return "rack"
    return f"{shlex.quote(sys.executable)} -m rack"
