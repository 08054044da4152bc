"""The rows of an import, one by one: where one is bad, those before it count, and the error says which one it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from rack.codec.failure import is_failure, type_name
from rack.system.imports import importing

T = TypeVar("T")
Result = TypeVar("Result")

NO_ROW: Any = object()


def blame(error: Exception, number: int, row: object = NO_ROW) -> None:
    """Note in ``error`` that row ``number`` (from 1) was bad; without ``row``: that there was none after ``number``."""
    if row is NO_ROW:
        taken = number
        what = f"row {number + 1:,} could not be had"
    else:
        with importing():
            from reprlib import Repr

        taken = number - 1
        short = Repr()
        short.maxstring = short.maxother = 100
        try:
            shown = short.repr(row)
        except Exception as failure:  # an int of thousands of digits has no repr
            if not is_failure(failure):
                raise
            shown = f"<{type_name(type(row))}>"
        what = f"row {number:,} was bad: {shown}"
    if taken > 1:
        before = f"the {taken:,} rows before it were taken"
    else:
        before = "the row before it was taken" if taken else "no row was taken before it"
    error.add_note(f"{what}; {before}")


def dumped(
    rows: Iterable[T], dump: Callable[[T], Result], otherwise: Callable[[T, TypeError], Result] | None = None
) -> Iterator[Result]:
    """Yield ``dump(row)`` of each row; where that is a TypeError, ``otherwise(row, error)``, if it is given."""
    number, row, no_row = 0, NO_ROW, NO_ROW
    try:
        for number, row in enumerate(rows, 1):  # noqa: B007 - it is for the error
            try:
                result = dump(row)
            except TypeError as error:
                if otherwise is None:
                    raise
                result = otherwise(row, error)
            yield result
            row = no_row  # what is raised from here on, until there is another one, is not its fault
    except Exception as error:
        blame(error, number, row)
        raise


def flattened(blocks: Iterable[list[T]]) -> Iterator[T]:
    """Yield the rows of blocks that a store is read in."""
    number = 0
    try:
        for block in blocks:
            yield from block
            number += len(block)
    except Exception as error:
        blame(error, number)
        raise


def pieces(rows: Iterable[T], size: int) -> Iterator[tuple[list[T], Exception | None]]:
    """Yield the rows in lists of at most ``size``, and with the last one what they raised, if they did."""
    iterator = iter(rows)
    while True:
        piece: list[T] = []
        try:
            piece.extend(islice(iterator, size))  # which keeps what came before an error
        except Exception as error:
            yield piece, error
            return
        if not piece:
            return
        yield piece, None


def chunks(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the rows in lists of ``size``; what they raise is raised once those before it have been handed out."""
    for piece, failure in pieces(rows, size):
        if piece:
            yield piece
        if failure is not None:
            raise failure
