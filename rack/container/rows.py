"""The rows of an import, one by one: where one is bad, those before it count, and the error says which one it was."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sized
from itertools import count, islice
from typing import Any, TypeVar

from rack.codec.failure import is_failure, type_name
from rack.store.taking import Pace, in_blocks
from rack.system.imports import importing

T = TypeVar("T")
Result = TypeVar("Result")

NO_ROW: Any = object()

CHUNK = 1024  # how many rows a streaming operation takes in at a time
_ROW_BYTES = 400  # what a row takes while its block is dealt with, besides the bytes of its key


_LOADED = 256  # entries that are loaded before the first of them is given out


def parts(block: list[T]) -> Iterator[list[T]]:
    """Yield a block of stored entries in parts that are loaded at once."""
    for at in range(0, len(block), _LOADED):
        yield block[at : at + _LOADED]


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


def dumped_blocks(
    rows: Iterable[T], dump_block: Callable[[list[T]], list[Result] | None], dump: Callable[[T, int], Result]
) -> Iterator[list[Result]]:
    """Yield the rows as bytes, in blocks: ``dump_block`` of some; where that is None, ``dump`` of each.

    ``dump`` is told the number of the row, from 0. What is raised comes once the rows before it have been handed out.
    """
    number = 0
    pace = Pace()
    blocks = in_blocks(rows, pace)
    while True:
        try:
            block = next(blocks, None)
        except Exception as error:
            blame(error, number)
            raise
        if block is None:
            return
        failure = None
        dumped: list[Result] | None = None
        try:
            dumped = dump_block(block)
        except Exception as error:  # which row it was is found out below
            failure = error
        if dumped is None:
            dumped = []
            try:
                dumped.extend(map(dump, block, count(number)))
            except Exception as error:
                if failure is None or is_failure(failure):
                    failure = error
        if dumped:
            yield dumped
        if failure is not None:
            taken = len(dumped)
            if taken < len(block):
                blame(failure, number + taken + 1, block[taken])
            else:
                blame(failure, number + taken)
            try:
                raise failure
            finally:
                del failure  # whose traceback has this frame
        number += len(block)
        pace.tell(dumped)


def stored_blocks(blocks: Iterable[list[T]]) -> Iterator[list[T]]:
    """Yield the blocks that a store is read in."""
    number = 0
    try:
        for block in blocks:
            yield block
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


def gathered(
    rows: Iterable[T], dump: Callable[[T], Result], memory: int
) -> Iterator[tuple[list[T], list[Result], Exception | None]]:
    """Yield the rows in blocks, with ``dump`` of each, and with the last block what they or ``dump`` raised.

    A block is CHUNK rows: others may be long in coming. Of rows that are at hand it is as many as ``memory`` holds. If
    ``dump`` raised, the row that it was for is in the block behind those that were dumped.

    :param dump: gives bytes, or None.
    """
    if not _are_at_hand(rows):
        memory = 0
    block: list[T] = []
    keys: list[Any] = []
    size = 0
    for piece, failure in pieces(rows, CHUNK):
        at = len(keys)
        block += piece
        try:
            keys.extend(map(dump, piece))  # which keeps what came before an error
        except Exception as error:
            failure = error
        if failure is not None:
            yield block, keys, failure
            return
        size += sum(map(len, filter(None, keys[at:]))) + len(piece) * _ROW_BYTES
        if size >= memory:
            yield block, keys, None
            block, keys, size = [], [], 0
    if block:
        yield block, keys, None


def _are_at_hand(rows: object) -> bool:
    """Return whether the next row never has to be waited for: a collection's, or that of a file on a disk."""
    if isinstance(rows, io.IOBase):
        try:
            return stat.S_ISREG(os.fstat(rows.fileno()).st_mode)
        except (OSError, ValueError):  # it is not a file of the system's; it is closed
            return False
    return isinstance(rows, Sized)


def chunks(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the rows in lists of ``size``; what they raise is raised once those before it have been handed out."""
    for piece, failure in pieces(rows, size):
        if piece:
            yield piece
        if failure is not None:
            raise failure
