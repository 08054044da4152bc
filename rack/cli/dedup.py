"""``rack dedup``: the lines that a store has not seen."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import Any

import click

from rack.cli.arguments import durability_option, store_argument, timeout_option, workers_option
from rack.cli.crew import Crew
from rack.cli.display import Wish, with_wish
from rack.cli.failure import Command, Failure, tell
from rack.cli.inputs import InputError, portions
from rack.cli.output import Output, check_open, say
from rack.cli.patience import PatientSet, patience
from rack.cli.progress import Meter
from rack.cli.signals import guard
from rack.cli.sources import Block, Part, Source
from rack.cli.stores import as_lines
from rack.cli.values import written_as
from rack.codec.digest import BYTES, TEXT, is_named
from rack.codec.presets import load_str
from rack.store.manifest import MAX_SHARDS, absolute_path
from rack.store.where import site_of

#: How many bytes of the input are dealt with at a time: of many lines, neighbours lie on one page of the store.
BLOCK = 16 << 20

#: And of what is handed out to workers, so that all of them soon have something to do.
HANDED = 4 << 20


@click.command(cls=Command)
@store_argument
@click.argument("files", metavar="[FILE]...", nargs=-1)
@click.option("-0", "--null", is_flag=True, help="Lines end with NUL, in the input and in the output.")
@click.option("--digest", is_flag=True, help="Make a new STORE of digests of lines: 16 bytes for a line.")
@click.option("--count", is_flag=True, help="Write three counts in place of the lines: read, new, seen.")
@workers_option("Read with N processes. With more than one, the order of the output is not that of the input.")
@click.option(
    "--shards",
    type=click.IntRange(1, MAX_SHARDS),
    metavar="N",
    help="Spread a new store over N files (more: more writers).",
)
@durability_option("STORE")
@timeout_option
@with_wish("No progress bar and no summary on standard error.")
def dedup(
    store: str,
    files: tuple[str, ...],
    null: bool,
    digest: bool,
    count: bool,
    workers: int,
    shards: int | None,
    durability: str | None,
    wish: Wish,
) -> None:
    """Write the lines that STORE has not seen, each exactly once.

    Lines are read from each FILE, or from standard input ("-", or no FILE), and are bytes of any length. A line is new
    to exactly one of all "rack dedup" commands that ever run on STORE, however many run at the same time. With one
    worker the output is in input order.

    Files that end in .gz, .bz2, .xz or .zst are decompressed. An empty line is a line. A last line without a newline
    is written with one, and is the same line. A FILE that cannot be read is reported; the others are read, and the
    exit code is 1.

    STORE is made if it does not exist; in Python it is PersistentSet(STORE, serdes="bytes"). One that exists may be of
    serdes "str" as well: then a line that is not UTF-8 is an error, and nothing of its block is stored.

    With --digest a new STORE has 16 bytes for each line, a digest of it (xxh3_128), whatever its length: it is smaller
    and faster. Lines with the same digest are taken for one: among a billion lines the chance that there are such is
    1.5 in 10^21, unless somebody has made them on purpose. The lines cannot be had back from STORE. A STORE that exists
    is used as it is; --digest is an error if it has whole lines.

    Ctrl-C and a closed pipe (as in "| head") end the command; after Ctrl-C it says how far it came. What was written
    stays seen, and another run goes on from there. Lines are stored just before they are written, a block of up to
    16 MiB of the input at a time (of a pipe, what came within a quarter of a second): a process that is killed between
    the two, or whose reader goes away, has stored up to a block that nobody was given. With more than one worker that
    is a thousand lines per worker. Ctrl-Z stops it where no other process has to wait for it.

    Exit codes: 0 done; 1 an error, or a FILE that could not be read; 2 wrong usage; and, as a shell shows them, 130
    after Ctrl-C and 141 after a closed pipe.

    Example: zcat access.log.*.gz | cut -d" " -f1 | rack dedup visitors > new-visitors
    """
    check_open()
    output = None if count else Output()
    problems = Problems()
    sources = [source for path in files or ("-",) if (source := _look(path, output, problems))]
    serdes, key_serdes = _line_serdes(store, digest)
    with PatientSet(store, serdes=serdes, key_serdes=key_serdes, shards=shards, durability=durability):
        pass  # made, or found to be what it should be, before anything is read
    if not wish.quiet and any(source.path == "-" for source in sources) and os.isatty(0):
        tell("reading lines from the terminal; Ctrl-D ends them")

    # The bar and the lines are not to be mixed on one terminal.
    bar = count or not sys.stdout.isatty()
    sizes = [source.size for source in sources]
    meter = Meter(wish, bar, None if None in sizes else sum(filter(None, sizes)))
    run = Run(store, serdes, durability, b"\0" if null else b"\n", output, meter, problems)
    if workers > 1 and sources:
        run.with_crew(workers, sources)
    else:
        run.alone(sources)
    if count:
        say(f"read\t{meter.lines}\nnew\t{meter.new}\nseen\t{meter.lines - meter.new}")
    if not wish.quiet:
        tell(meter.summary())
    if problems.told:
        raise click.exceptions.Exit(1)


def _line_serdes(store: str, digest: bool) -> tuple[str, str | None]:
    """Return the serdes that a store of lines has, or is to have, and the key serdes to ask for.

    :raises Failure: it is to have digests, and has whole lines.
    """
    path = absolute_path(store)
    manifest = site_of(path).read(path)
    if manifest is None:
        return "bytes", "digest" if digest else None
    if digest and not is_named(manifest.key_serdes):
        copy = f"`rack copy {shlex.quote(store)} NEW --key-serdes digest`"
        raise Failure(f"{store} has whole lines, and not digests of them; {copy} makes a store that has")
    is_text = manifest.serdes == written_as("set", manifest.key_serdes, manifest.serdes) == "str"
    return "str" if is_text else "bytes", None


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
    """What a process does with a block: commit its new lines, then write them, and say that it is done."""

    def __init__(
        self,
        seen: PatientSet,
        separator: bytes,
        output: Output | None,
        done: Callable[[int, int, int], None],
        in_order: bool,
    ) -> None:
        """``done`` is told the bytes that were used up, the lines, and how many were new, a part of a block at a time.

        ``in_order``: lines are written in the order of the input, which takes that all of a block were committed. Else
        each transaction's are, so that few are committed and not yet written.
        """
        self._seen = seen
        self._in_order = in_order and output is not None
        self._is_text = as_lines(seen)
        self._separator = separator
        self._output = output
        self._done = done

    def __call__(self, block: bytes, consumed: int) -> None:
        """Deal with a block.

        :raises Failure: the store holds text, and a line is none. Nothing of the block is committed.
        :raises Stopped: nobody reads the output any more. If that is known before, nothing is committed.
        """
        if self._is_text:
            self._check_text(block)
        for lines in portions(block, self._separator):
            if self._output is not None:
                self._output.check()
            self._add(lines, consumed)
            consumed = 0

    def _add(self, lines: list[bytes], consumed: int) -> None:
        line_of = self._keys(lines)
        new: set[bytes] = set()
        count = 0
        with guard.held():
            try:
                for added in self._seen._store.add_new(line_of):
                    if self._in_order:
                        new.update(added)
                    else:
                        self._write(line_of, added)
                    count += len(added)
                    self._done(0, len(added), len(added))
                    if guard.signum is not None:  # Stopped is raised at the end of what is held
                        return
            finally:  # whatever was raised: what was committed is written
                self._write(line_of, filter(new.__contains__, line_of))
            self._done(consumed, len(lines) - count, 0)

    def _keys(self, lines: list[bytes]) -> dict[bytes, bytes | None]:
        """Return what is stored for lines, in their order, each with its line; None: it is the line."""
        digest = self._seen._codec.digest
        if digest is None:
            return dict.fromkeys(lines)
        tag = TEXT if self._is_text else BYTES
        return dict(zip(map(digest, lines, repeat(tag)), lines, strict=True))

    def _check_text(self, block: bytes) -> None:
        """:raises Failure: a line is not what a store of text can hold."""
        try:
            load_str(block)
        except UnicodeDecodeError:
            line = next(line for line in block.split(self._separator) if not _is_text(line))
            what = f"holds text (serdes str), and a line is not UTF-8: {line[:60]!r}"
            raise Failure(f"{self._seen.name} {what}") from None

    def _write(self, line_of: dict[bytes, bytes | None], keys: Iterable[bytes]) -> None:
        if self._output is not None:
            lines: Any = keys if self._seen._codec.digest is None else map(line_of.__getitem__, keys)
            if text := self._separator.join([*lines, b""]):
                self._output.write(text)


def _is_text(line: bytes) -> bool:
    try:
        load_str(line)
    except UnicodeDecodeError:
        return False
    return True


#: What a worker reports: bytes used up, lines and new lines of a block; or an input that cannot be read.
Report = tuple[int, int, int] | str


class Run:
    """One run of the command over its inputs."""

    def __init__(
        self,
        store: str,
        serdes: str,
        durability: str | None,
        separator: bytes,
        output: Output | None,
        meter: Meter,
        problems: Problems,
    ) -> None:
        self._store = store
        self._serdes = serdes
        self._durability = durability
        self._separator = separator
        self._output = output
        self._meter = meter
        self._problems = problems

    def alone(self, sources: list[Source]) -> None:
        """Do everything in this process, in the order of the inputs."""
        with self._meter, self._open() as seen:
            self._problems.say = patience.say = self._meter.say
            handle = Deduper(seen, self._separator, self._output, self._meter.add, in_order=True)
            for source in sources:
                for block, consumed in self._readable(source.blocks(self._separator, self._idle, BLOCK)):
                    handle(block, consumed)
                    del block

    def with_crew(self, workers: int, sources: list[Source]) -> None:
        """Hand the inputs out to processes: parts of files to read themselves, and blocks of what only we can read.

        A compressed file can only be read from its start. Where there are fewer of them than workers, they are read
        here too, so that all workers have something to do.
        """
        with self._meter, Crew(workers, self._work, self._receive, self._meter.say) as crew:
            self._problems.say = self._meter.say

            def idle() -> None:
                crew.poll()
                self._idle()

            def tasks() -> Iterator[Part | Block]:
                packed = sum(source.is_packed for source in sources)
                for source in sources:
                    if source.local or (source.is_packed and packed < workers):
                        yield from self._readable(source.blocks(self._separator, idle, HANDED))
                    else:
                        yield from source.parts(workers)

            crew.run(tasks(), self._meter.tick)

    def _open(self) -> PatientSet:
        return PatientSet(self._store, serdes=self._serdes, flag="w", durability=self._durability)

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
            handle = Deduper(seen, self._separator, self._output, lambda *counts: report(counts), in_order=False)
            for task in tasks:
                try:
                    for block, consumed in task.blocks(self._separator, BLOCK) if isinstance(task, Part) else (task,):
                        handle(block, consumed)
                        del block
                except InputError as error:
                    report(str(error))
