"""The entries of a file that ``rack load`` reads: of JSON Lines, or of a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import Any

import click

from rack.cli import jsonl
from rack.cli.failure import Failure, tell
from rack.cli.mapper import Mapper
from rack.cli.tables import column_of, read_rows
from rack.cli.values import Read, key_reader, reader, written_as
from rack.codec import digest
from rack.codec.failure import is_damage
from rack.codec.keys import CANONICAL, KeyCodec, resolve_codec
from rack.codec.serdes import PRESETS, Serdes
from rack.errors import told
from rack.shard import ENGINES, SERVED
from rack.shard.base import Pair
from rack.store.manifest import KINDS, MAX_SHARDS
from rack.store.record import DURABILITIES

_TOLD = 10  # skipped lines that are told one by one


class BadLineError(Exception):
    """A line is no entry of the store. The message goes on from the line's number."""


@dataclass
class Options:
    """What the command line says about a load."""

    format: str
    is_skipping: bool
    kind: str | None
    engine: str | None
    shards: int | None
    serdes: str | None
    key_serdes: str | None
    durability: str | None
    raw: bool
    key_type: str | None
    value_type: str | None
    key_column: str | None
    value_column: str | None
    no_header: bool
    workers: int

    def check(self) -> None:
        """:raises click.UsageError: something does not go with the format."""
        if self.format != "jsonl":
            if self.raw:
                raise click.UsageError("--raw is for JSON Lines: a table has no stored bytes")
            if self.workers > 1:
                raise click.UsageError("--workers is for JSON Lines")
            return
        for name, option in (("key_type", "key"), ("value_type", "value"), *((name, name) for name in _OF_TABLES)):
            if getattr(self, name):
                raise click.UsageError(f"--{option.replace('_', '-')} is for csv and tsv, and this is JSON Lines")

    def asked(self) -> dict[str, Any]:
        """Return what a store is asked to be."""
        names = ("engine", "shards", "serdes", "key_serdes", "durability")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


_OF_TABLES = ("key_column", "value_column", "no_header")


@dataclass
class Kept:
    """How far a load is: the line that was read last, the entries that were taken, the lines that were not."""

    line: int = 0
    entries: int = 0
    skipped: int = 0
    say: Callable[[str], object] = tell

    def lines(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        for self.line, line in enumerate(lines, 1):
            yield line

    def skip(self, message: str) -> None:
        self.skipped += 1
        if self.skipped <= _TOLD:
            self.say(f"line {self.line:,} is skipped: {message}")


class Entries:
    """The entries of JSON Lines."""

    def __init__(self, blocks: Iterator[list[bytes]], options: Options, kept: Kept) -> None:
        self._options = options
        self._kept = kept
        self._header: dict[str, Any] = {}
        self._is_open = False  # whether a header was seen, and not yet the last line that goes with it
        self._before = 0  # entries before the header
        seen = []
        self._first = b""  # the first line that is not blank
        for block in blocks:
            seen.append(block)
            self._first = next(filter(bytes.strip, block), b"")
            if self._first:
                kept.line += block.index(self._first) + 1
                break
            kept.line += len(block)
        self._blocks = chain(seen, blocks)
        item = _parsed(self._first)
        if "key" not in item and item.get("format") == jsonl.FORMAT:
            self._header = item

    # What a new store is to be

    def kind(self) -> str:
        """Return what the entries are of: "dict", "set" or "queue".

        :raises BadLineError: that is not known.
        """
        kind = self._header.get("kind") or self._options.kind
        if kind is None:
            item = _parsed(self._first)
            if "key" not in item:
                raise BadLineError("neither a header nor an entry; --kind says what to make")
            kind = "dict" if "value" in item else "set"
        elif kind not in KINDS:
            raise BadLineError(f"a header with the kind {kind!r}, which is not known")
        if self._options.kind not in (None, kind):
            raise BadLineError(f"the header of a {kind}, and not of a {self._options.kind}")
        return str(kind)

    def shape(self) -> dict[str, Any]:
        """Return the arguments of a new store's constructor: what the command line says, else the header.

        :raises BadLineError: the header says what cannot be.
        """
        given = self._options.asked()
        if not self._header:
            return given
        found: dict[str, Any] = {name: self._header.get(name) for name in _FIELDS}
        for name, is_right in _FIELDS.items():
            if not is_right(found[name]):
                raise BadLineError(f"a header whose {name.replace('_', ' ')} is {found[name]!r}, which is not known")
        own = found["key_serdes"]
        if own.partition("+")[0] == CANONICAL.name:
            found["key_serdes"] = None if "+" in own else "marshal"
        # Another serdes brings its own for keys, unless the keys had one that did not come with the values'.
        went = self.kind() == "set" or own == _goes_with(found["serdes"])
        if "serdes" in given and went and not digest.is_named(own):  # no other key can be made of a digest
            found["key_serdes"] = None
        return found | self.own_serdes() | given

    def own_serdes(self) -> dict[str, Any]:
        """Return what stands for functions of the user's that the store was made with: they take no objects.

        :raises BadLineError: there are such functions, and stored bytes are not wanted.
        """
        found = {}
        for name in ("serdes", "key_serdes"):
            serdes = self._header.get(name)
            if isinstance(serdes, str) and serdes.startswith("custom:") and name not in self._options.asked():
                if not self._options.raw:
                    raise BadLineError(
                        f"the header of a store with the {name.replace('_', ' ')} {serdes[7:]}, which is not Rack's:"
                        " --raw takes the stored bytes as they are"
                    )
                try:
                    found[name] = jsonl.stand_in(serdes, self._header.get("probes", {}).get(name))
                except Exception as error:
                    if not is_damage(error):
                        raise
                    raise BadLineError(f"a header whose probes are {self._header['probes']!r:.80}: {error}") from error
        return found

    # Entries

    def pairs(
        self, kind: str, codec: KeyCodec, serdes: Serdes, stack: ExitStack, tick: Callable[[], None]
    ) -> Iterator[Pair]:
        """Return the entries as a store of that kind, codec and serdes has them.

        It is not to be open yet: workers may be started, which live as long as ``stack``. What is returned raises
        BadLineError at a line that is no entry. If such lines are skipped, it does so only at a wrong header.
        """
        read = jsonl.Reader(kind, codec, serdes, self._options.raw)
        if self._options.workers == 1:
            return self._taken(map(read, self._blocks), kind)
        crew: Mapper[list[bytes], list[jsonl.Outcome]] = stack.enter_context(Mapper(self._options.workers, read))
        return self._taken(crew.results(self._blocks, tick), kind)

    def _taken(self, outcomes: Iterable[list[jsonl.Outcome]], kind: str) -> Iterator[Pair]:
        self._kept.line = 0
        for outcome in chain.from_iterable(outcomes):
            self._kept.line += 1
            if type(outcome) is tuple:
                self._kept.entries += 1
                yield outcome
            elif type(outcome) is dict:
                self._pass_header(outcome, kind)
            elif type(outcome) is str:
                self._bad(outcome)
        if self._is_open:
            self._bad("the end of the file, but not of the dump: it was cut off")

    def _pass_header(self, item: dict[str, Any], kind: str) -> None:
        """Take note of a header, or of the last line of a dump. Dumps may follow one another."""
        if item.get("end"):
            found = self._kept.entries + self._kept.skipped - self._before
            if self._is_open and item.get("entries") != found:
                self._bad(f"the end of a dump of {item.get('entries')} entries, and {found:,} were there")
            self._is_open = False
            return
        if item.get("version") != jsonl.VERSION:
            raise BadLineError(f"the header of a dump of version {item.get('version')}, which this Rack does not know")
        if item.get("kind") != kind:
            raise BadLineError(f"the header of a {item.get('kind')}, and the store is a {kind}")
        self._is_open = True
        self._before = self._kept.entries + self._kept.skipped

    def _bad(self, message: str) -> None:
        if not self._options.is_skipping:
            raise BadLineError(message)
        self._kept.skip(message)


def _parsed(line: bytes) -> dict[str, Any]:
    """Return the object of a line; an empty one if it has none."""
    try:
        item = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return item if type(item) is dict else {}


def _goes_with(serdes: str) -> str:
    return resolve_codec(None, PRESETS[serdes]).name if serdes in PRESETS else CANONICAL.name


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "engine": lambda value: isinstance(value, str) and (value in ENGINES or value in SERVED),
    "shards": lambda value: type(value) is int and 1 <= value <= MAX_SHARDS,
    "serdes": lambda value: isinstance(value, str) and (value in PRESETS or value.startswith("custom:")),
    "key_serdes": lambda value: (
        isinstance(value, str)
        and (value in PRESETS or value.startswith(("custom:", CANONICAL.name)) or digest.is_normal(value))
    ),
    "durability": lambda value: value in DURABILITIES,
}


class Table(Entries):
    """The entries of a table."""

    def __init__(self, blocks: Iterator[list[bytes]], options: Options, kept: Kept) -> None:
        self._options = options
        self._kept = kept
        rows = read_rows(kept.lines(chain.from_iterable(blocks)), options.format)
        titles = None if options.no_header else next(rows, [])
        first = next(rows, [])
        self._rows = chain([first] if first else [], rows)
        self._columns = len(first if titles is None else titles)
        try:
            self._key_column = column_of(options.key_column, titles, 0)
            self._value_column = column_of(options.value_column, titles, 1)
        except ValueError as error:
            raise Failure(str(error)) from error

    def kind(self) -> str:
        return self._options.kind or ("dict" if self._columns > 1 else "set")

    def shape(self) -> dict[str, Any]:
        given = self._options.asked()
        if self.kind() == "set":
            return {"serdes": _AS_TYPED.get(self._options.key_type or "text", "marshal"), **given}
        found = {"serdes": _AS_TYPED.get(self._options.value_type or "text", "marshal")}
        if "serdes" not in given:
            found["key_serdes"] = "str" if self._options.key_type in (None, "text") else "marshal"
        return found | given

    def own_serdes(self) -> dict[str, Any]:
        return {}

    def pairs(
        self, kind: str, codec: KeyCodec, serdes: Serdes, stack: ExitStack, tick: Callable[[], None]
    ) -> Iterator[Pair]:
        dump = jsonl.Reader(kind, codec, serdes)
        is_dict = kind == "dict"
        given = written_as(kind, codec.name, serdes.name)
        read_key = _checked(key_reader(given, self._options.key_type or "text"), given)
        value_type = self._options.value_type or ("json" if serdes.name == "json" else "text")
        read_value = _checked(reader(serdes.name, value_type), serdes.name)
        needed = max(self._key_column, self._value_column if is_dict else 0)
        for fields in self._rows:
            try:
                if len(fields) <= needed:
                    raise ValueError(f"a row of {len(fields)} columns, and column {needed + 1} is wanted")
                key = codec.dumps(read_key(fields[self._key_column]))
                value = dump.stored(read_value(fields[self._value_column])) if is_dict else b""
            except (ValueError, TypeError) as error:
                self._bad(told(error))
                continue
            self._kept.entries += 1
            yield key, value


#: The serdes of what is read as a type.
_AS_TYPED = {"text": "str", "json": "json"}


def _checked(read: Read, serdes: str) -> Read:
    """Refuse what is no UTF-8, but for bytes, which need not be any."""
    if serdes == "bytes":
        return read

    def checked(text: str) -> Any:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{text!r} is no UTF-8") from None
        return read(text)

    return checked
