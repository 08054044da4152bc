"""``rack dedup``: the lines that a store has not seen."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

import click

from rack import PersistentSet
from rack.cli.arguments import store_argument
from rack.cli.crew import Crew
from rack.cli.failure import Failure, tell
from rack.cli.inputs import InputError
from rack.cli.output import Output
from rack.cli.progress import Meter
from rack.cli.signals import guard
from rack.cli.sources import Block, Part, Source


@click.command()
@store_argument
@click.argument("files", metavar="[FILE]...", nargs=-1)
@click.option("-0", "--null", is_flag=True, help="Lines end with NUL, in the input and in the output.")
@click.option("--count", is_flag=True, help="Write three counts in place of the lines: read, new, seen.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Read with N processes. With more than one, the order of the output is not that of the input.",
)
@click.option(
    "--shards", type=click.IntRange(min=1), metavar="N", help="Spread a new store over N files (more: more writers)."
)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar and no summary on standard error.")
def dedup(
    store: str, files: tuple[str, ...], null: bool, count: bool, workers: int, shards: int | None, quiet: bool
) -> None:
    """Write the lines that STORE has not seen, each exactly once.

    Lines are read from each FILE, or from standard input ("-", or no FILE), and are bytes of any length. A line is new
    to exactly one of all "rack dedup" commands that ever run on STORE, however many run at the same time. With one
    worker the output is in input order.

    Files that end in .gz, .bz2, .xz or .zst are decompressed. An empty line is a line. A last line without a newline
    is written with one, and is the same line. A FILE that cannot be read is reported; the others are read, and the
    exit code is 1.

    STORE is made if it does not exist; in Python it is PersistentSet(STORE, serdes="bytes").

    Ctrl-C and a closed pipe (as in "| head") end the command quietly. What was written stays seen, and another run
    goes on from there. Lines are stored just before they are written, a block of about 1 MiB at a time: a process that
    is killed between the two, or whose reader goes away, has stored up to a block (per worker) that nobody was given.

    Exit codes: 0 done; 1 an error, or a FILE that could not be read; 2 wrong usage; and, as a shell shows them, 130
    after Ctrl-C and 141 after a closed pipe.
    """
    if sys.stdout is None:
        raise Failure("standard output is closed")
    try:
        seen = PersistentSet[bytes](store, serdes="bytes", shards=shards)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    output = None if count else Output()
    problems = Problems()
    sources = [source for path in files or ("-",) if (source := _look(path, output, problems))]
    with seen:
        pass  # made, or found to be what it should be, before anything is read
    if not quiet and any(source.path == "-" for source in sources) and os.isatty(0):
        tell("reading lines from the terminal; Ctrl-D ends them")

    # The bar and the lines are not to be mixed on one terminal.
    bar = not quiet and sys.stderr.isatty() and (count or not sys.stdout.isatty())
    sizes = [source.size for source in sources]
    meter = Meter(bar, None if None in sizes else sum(filter(None, sizes)))
    run = Run(store, b"\0" if null else b"\n", output, meter, problems)
    if workers > 1 and sources:
        run.with_crew(workers, sources)
    else:
        run.alone(sources)
    if count:
        click.echo(f"read\t{meter.lines}\nnew\t{meter.new}\nseen\t{meter.lines - meter.new}")
    if not quiet:
        tell(meter.summary())
    if problems.told:
        raise click.exceptions.Exit(1)


class Problems:
    """Inputs that could not be read: each is told once, however many parts of it fail."""

    def __init__(self) -> None:
        self.told: set[str] = set()
        self.say: Callable[[str], None] = tell

    def add(self, message: str) -> None:
        if message not in self.told:
            self.told.add(message)
            self.say(message)


def _look(path: str, output: Output | None, problems: Problems) -> Source | None:
    try:
        source = Source.of(path)
        if output is not None and source.size and output.is_file(os.fstat(0) if path == "-" else os.stat(path)):
            raise InputError(f"{path}: is the output as well")
    except InputError as error:
        problems.add(str(error))
        return None
    return source


class Deduper:
    """What a process does with a block: commit its new lines, then write them."""

    def __init__(self, seen: PersistentSet[bytes], separator: bytes, output: Output | None) -> None:
        self._seen = seen
        self._separator = separator
        self._output = output

    def __call__(self, block: bytes) -> tuple[int, int]:
        """Return how many lines the block has, and how many were new.

        :raises Stopped: nobody reads the output any more. If that is known before, nothing is committed.
        """
        lines = block.split(self._separator)
        if self._output is None:
            return len(lines), self._seen.add_many(lines)
        self._output.check()
        new: list[bytes] = []
        with guard.held():
            try:
                new.extend(self._seen.filter_new(lines))
            finally:  # also what was committed before an error
                count = len(new)
                if new:
                    new.append(b"")
                    self._output.write(self._separator.join(new))
        return len(lines), count


#: What a worker reports: bytes used up, lines and new lines of a block; or an input that cannot be read.
Report = tuple[int, int, int] | str


class Run:
    """One run of the command over its inputs."""

    def __init__(self, store: str, separator: bytes, output: Output | None, meter: Meter, problems: Problems) -> None:
        self._store = store
        self._separator = separator
        self._output = output
        self._meter = meter
        self._problems = problems

    def alone(self, sources: list[Source]) -> None:
        """Do everything in this process, in the order of the inputs."""
        with self._open() as seen, self._meter:
            self._problems.say = self._meter.say
            handle = Deduper(seen, self._separator, self._output)
            for source in sources:
                for block, consumed in self._readable(source.blocks(self._separator, self._idle)):
                    self._meter.add(consumed, *handle(block))

    def with_crew(self, workers: int, sources: list[Source]) -> None:
        """Hand the inputs out to processes: parts of files to read themselves, and blocks of what only we can read.

        A compressed file can only be read from its start. Where there are fewer of them than workers, they are read
        here too, so that all workers have something to do.
        """
        with Crew(workers, self._work, self._receive) as crew, self._meter:  # forked before the bar is drawn
            self._problems.say = self._meter.say

            def idle() -> None:
                crew.poll()
                self._idle()

            def tasks() -> Iterator[Part | Block]:
                packed = sum(source.is_packed for source in sources)
                for source in sources:
                    if source.local or (source.is_packed and packed < workers):
                        yield from self._readable(source.blocks(self._separator, idle))
                    else:
                        yield from source.parts(workers)

            crew.run(tasks(), self._meter.tick)

    def _open(self) -> PersistentSet[bytes]:
        return PersistentSet(self._store, serdes="bytes", flag="w")

    def _idle(self) -> None:
        self._meter.tick()
        if self._output is not None:
            self._output.check()

    def _readable(self, blocks: Iterator[Block]) -> Iterator[Block]:
        try:
            yield from blocks
        except InputError as error:
            self._problems.add(str(error))

    def _receive(self, report: Report) -> None:
        if isinstance(report, str):
            self._problems.add(report)
        else:
            self._meter.add(*report)

    def _work(self, tasks: Iterator[Part | Block], report: Callable[[Report], None]) -> None:
        """In a worker: handle blocks, and read parts."""
        with self._open() as seen:
            handle = Deduper(seen, self._separator, self._output)
            for task in tasks:
                try:
                    for block, consumed in task.blocks(self._separator) if isinstance(task, Part) else (task,):
                        report((consumed, *handle(block)))
                except InputError as error:
                    report(str(error))
