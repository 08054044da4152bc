"""The pages of an SQLite database, read without SQLite (sqlite.org/fileformat): those of its log hold before its own.

Of the format, this knows what a shard has: index B-trees, which is what tables WITHOUT ROWID are, on pages that begin
with their kind (2 inner, 10 leaf); the list of free pages; the schema, on the first page; the write-ahead log.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

INNER, LEAF = 2, 10
_SCHEMA_LEAF = 13
_MAGIC = b"SQLite format 3\0"
_WAL_MAGIC = 0x377F0682  # little-endian checksums; one more: big-endian
_WAL_HEADER, _FRAME_HEADER = 32, 24
_DEFAULT_SIZE = 4096


class PageError(Exception):
    """A page is not what it should be. The message says how."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A record of a B-tree; in an inner page with the child whose records come before it."""

    child: int
    payload_size: int
    local: bytes
    overflow: int  # the first page of the rest, or 0


class Database:
    """A database file and its log. ``problems`` tells what is wrong with the beginnings of both."""

    def __init__(self, fd: int, wal: int | None) -> None:
        self._fd = fd
        self.problems: list[str] = []
        header = os.pread(fd, 100, 0)
        self._frames: dict[int, int] = {}  # where in the log a page is
        self._wal = wal
        in_log = 0
        if wal is not None:
            in_log = self._read_log(wal)
            if 1 in self._frames:
                header = os.pread(wal, 100, self._frames[1])
        self.header_is_right = len(header) == 100 and header.startswith(_MAGIC)
        self.size = in_log or _DEFAULT_SIZE
        if self.header_is_right:
            size = int.from_bytes(header[16:18], "big")
            size = 65536 if size == 1 else size
            self.header_is_right = 512 <= size <= 65536 and not size & (size - 1)
            if self.header_is_right:
                self.size = size
        if not self.header_is_right:
            self.problems.append("the header of the database is lost")
        self.usable = self.size - (header[20] if self.header_is_right else 0)
        self._first_free, self._free_count = struct.unpack(">II", header[32:40]) if self.header_is_right else (0, 0)
        self.count = max([os.fstat(fd).st_size // self.size, *self._frames])
        #: How many pages there should be.
        self.claimed = int.from_bytes(header[28:32], "big") if self.header_is_right else self.count

    def _read_log(self, wal: int) -> int:
        """Find the pages that committed transactions have left in the log; return the size of pages, 0 if no log."""
        header = os.pread(wal, _WAL_HEADER, 0)
        if len(header) < _WAL_HEADER:
            return 0
        magic, _, size, _, salt1, salt2, sum1, sum2 = struct.unpack(">8I", header)
        if magic & ~1 != _WAL_MAGIC:
            self.problems.append("the write-ahead log is not one: it is left out")
            return 0
        order = ">" if magic & 1 else "<"
        sums = _checksum(header[:24], (0, 0), order)
        if sums != (sum1, sum2) or not 512 <= size <= 65536:
            self.problems.append("the header of the write-ahead log is damaged: it is left out")
            return 0
        at = _WAL_HEADER
        pending: dict[int, int] = {}
        while True:
            frame = os.pread(wal, _FRAME_HEADER + size, at)
            if len(frame) < _FRAME_HEADER + size:
                break
            number, commit, one, two, sum1, sum2 = struct.unpack_from(">6I", frame)
            sums = _checksum(frame[_FRAME_HEADER:], _checksum(frame[:8], sums, order), order)
            if (one, two) != (salt1, salt2) or sums != (sum1, sum2):
                break  # from an earlier round, or not finished
            pending[number] = at + _FRAME_HEADER
            if commit:
                self._frames.update(pending)
                pending.clear()
            at += len(frame)
        return int(size)

    def page(self, number: int) -> bytes:
        at = self._frames.get(number)
        if at is not None and self._wal is not None:
            data = os.pread(self._wal, self.size, at)
        else:
            data = os.pread(self._fd, self.size, (number - 1) * self.size) if number else b""
        if len(data) < self.size:
            raise PageError("lies behind the end of the file")
        return data

    def roots(self) -> dict[str, int]:
        """Return the root pages of the tables by their names.

        :raises PageError: the schema cannot be read.
        """
        page = self.page(1)
        if page[100] != _SCHEMA_LEAF:
            raise PageError("has no schema that can be read")
        roots = {}
        for at in _places(page, 100, 8, self.usable):
            size, at = _varint(page, at)
            _, at = _varint(page, at)
            record = self._parse(page[at : at + size])
            if len(record) == 5 and record[0] == "table" and isinstance(record[1], str) and isinstance(record[3], int):
                roots[record[1]] = record[3]
        return roots

    def cells(self, page: bytes) -> tuple[list[Cell], int]:
        """Take a page of an index B-tree apart: its cells, and the child behind the last of them (0 in a leaf).

        :raises PageError: it is none, or its cells overlap or reach out of it.
        """
        kind = page[0]
        if kind not in (INNER, LEAF):
            raise PageError(f"is no page of a table (kind {kind})")
        inner = kind == INNER
        cells, spans = [], []
        for begin in _places(page, 0, 12 if inner else 8, self.usable):
            cell, end = self._cell(page, begin, inner)
            cells.append(cell)
            spans.append((begin, end))
        spans.sort()
        if any(end > begin for (_, end), (begin, _) in pairwise(spans)):
            raise PageError("has records that overlap")
        return cells, int.from_bytes(page[8:12], "big") if inner else 0

    def any_cells(self, page: bytes) -> Iterator[Cell]:
        """Yield the cells of a leaf that lie within it, however damaged it is."""
        if page[0] != LEAF:
            return
        for at in range(8, min(8 + 2 * int.from_bytes(page[3:5], "big"), self.usable - 1), 2):
            try:
                yield self._cell(page, int.from_bytes(page[at : at + 2], "big"), False)[0]
            except PageError:
                continue

    def _cell(self, page: bytes, at: int, inner: bool) -> tuple[Cell, int]:
        child = int.from_bytes(page[at : at + 4], "big") if inner else 0
        size, at = _varint(page, at + 4 * inner)
        most, least = (self.usable - 12) * 64 // 255 - 23, (self.usable - 12) * 32 // 255 - 23
        local = size
        if size > most:
            local = least + (size - least) % (self.usable - 4)
            if local > most:
                local = least
        end = at + local + 4 * (local < size)
        if end > self.usable:
            raise PageError("has a record that reaches out of it")
        overflow = int.from_bytes(page[at + local : end], "big")
        return Cell(child, size, page[at : at + local], overflow), end

    def overflow(self, cell: Cell) -> list[int]:
        """Return the pages that the rest of a record is in.

        :raises PageError: they are not as many as they should be.
        """
        numbers: list[int] = []
        number = cell.overflow
        rest = cell.payload_size - len(cell.local)
        if rest > self.count * self.size:
            raise PageError(f"has a record of {cell.payload_size} bytes, more than the file has")
        while rest > 0:
            if not number:
                raise PageError("has a record whose pages end too early")
            numbers.append(number)
            rest -= self.usable - 4
            number = int.from_bytes(self.page(number)[:4], "big")
        if number and numbers:
            raise PageError("has a record with more pages than it needs")
        return numbers

    def record(self, cell: Cell) -> list[object]:
        """Return the columns of a record; None for those of a kind that Rack has not."""
        payload = bytearray(cell.local)
        for number in self.overflow(cell):
            payload += self.page(number)[4 : self.usable]
        return self._parse(bytes(payload[: cell.payload_size]))

    @staticmethod
    def _parse(payload: bytes) -> list[object]:
        size, at = _varint(payload, 0)
        body = size
        columns: list[object] = []
        while at < size:
            kind, at = _varint(payload, at)
            width = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0)[kind] if kind < 12 else (kind - 12) // 2
            data = payload[body : body + width]
            body += width
            if kind >= 12:
                columns.append(data.decode(errors="replace") if kind & 1 else data)
            elif kind in (8, 9):
                columns.append(kind - 8)
            else:
                columns.append(int.from_bytes(data, "big", signed=True) if 1 <= kind <= 6 else None)
        if at != size or body != len(payload):
            raise PageError("has a record that is cut short")
        return columns

    def free_pages(self) -> Iterator[int]:
        """Yield the numbers of the free pages.

        :raises PageError: the list is damaged.
        """
        found = 0
        trunk = self._first_free
        while trunk:
            page = self.page(trunk)
            following, count = struct.unpack_from(">II", page)
            found += 1 + count
            if count > self.usable // 4 - 2 or found > self._free_count:
                raise PageError("is in a list of free pages that is longer than it should be")
            yield trunk
            yield from struct.unpack_from(f">{count}I", page, 8)
            trunk = following
        if found != self._free_count:
            raise PageError("ends a list of free pages that is shorter than it should be")


def _places(page: bytes, header: int, width: int, usable: int) -> tuple[int, ...]:
    count = int.from_bytes(page[header + 3 : header + 5], "big")
    begin = header + width
    if begin + 2 * count > usable:
        raise PageError("counts more records than there is place for")
    places: tuple[int, ...] = struct.unpack_from(f">{count}H", page, begin)
    if any(not begin + 2 * count <= place < usable for place in places):
        raise PageError("has a record outside of it")
    return places


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of variable length, and the position behind it."""
    value = 0
    for number in range(9):
        if at >= len(data):
            raise PageError("has a record that is cut short")
        byte = data[at]
        at += 1
        if number == 8:
            return value << 8 | byte, at
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            break
    return value, at


def _checksum(data: bytes, sums: tuple[int, int], order: str) -> tuple[int, int]:
    one, two = sums
    for first, second in struct.iter_unpack(f"{order}II", data):
        one = one + first + two & 0xFFFFFFFF
        two = two + second + one & 0xFFFFFFFF
    return one, two
