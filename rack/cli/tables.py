"""CSV and TSV: a row for each entry, of the key and the value, as text."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from rack.cli.inputs import is_compressed

DELIMITERS = {"csv": ",", "tsv": "\t"}
FORMATS = ("jsonl", *DELIMITERS)

_SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv"}

_END = "\r\n"


def format_of(path: str) -> str:
    """Guess a format by the suffix of a file; what compresses it does not count."""
    return _SUFFIXES.get(os.path.splitext(os.path.splitext(path)[0] if is_compressed(path) else path)[1], "jsonl")


def write_rows(rows: Iterable[tuple[bytes, ...]], format: str, titles: tuple[str, ...]) -> Iterator[bytes]:
    """Yield the lines, without their ends, of a table: the titles first. Fields need not be UTF-8."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=DELIMITERS[format], lineterminator=_END)  # so that it quotes them
    for fields in chain([tuple(title.encode() for title in titles)], rows):
        yield _line(writer, buffer, fields)


def _line(writer: Any, buffer: io.StringIO, fields: Iterable[bytes]) -> bytes:
    buffer.seek(0)
    buffer.truncate()
    writer.writerow([field.decode("utf-8", "surrogateescape") for field in fields])
    return buffer.getvalue().removesuffix(_END).encode("utf-8", "surrogateescape")


def read_rows(lines: Iterable[bytes], format: str) -> Iterator[list[str]]:
    """Yield the rows of a table, but empty ones. What is no UTF-8 is escaped by surrogates.

    :raises csv.Error: it is none.
    """
    csv.field_size_limit(sys.maxsize)
    texts = (line.decode("utf-8", "surrogateescape") + "\n" for line in lines)
    reader = csv.reader(_without_mark(texts), delimiter=DELIMITERS[format], strict=True)
    for fields in reader:
        if fields:
            yield fields


def _without_mark(texts: Iterator[str]) -> Iterator[str]:
    """Leave out the byte order mark that some programs begin a file with."""
    for text in texts:
        yield text.removeprefix("\ufeff")
        break
    yield from texts


def column_of(wanted: str | None, titles: list[str] | None, default: int) -> int:
    """Return the number of a column, from 0: that of its title; or of its number, from 1, if it has no title.

    :raises ValueError: there is none.
    """
    if wanted is None:
        return default
    if titles is not None and wanted in titles:
        return titles.index(wanted)
    if wanted.isdecimal() and int(wanted) and (titles is None or int(wanted) <= len(titles)):
        return int(wanted) - 1
    there = "" if titles is None else f"; there are {', '.join(map(repr, titles))}"
    raise ValueError(f"there is no column {wanted!r}{there}")
