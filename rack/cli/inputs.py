"""Inputs as blocks of whole records: files, parts of files, compressed files, pipes.

A *record* is what lies between separators (a newline, or NUL). A *block* is ``separator.join(records)``: it has no
separator after its last record, so that ``block.split(separator)`` gives the records back. Text after the last
separator of an input is a record too; nothing after it is none.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, Self

from rack.cli.ready import is_readable

#: How many bytes are read before the records among them are handled, if nothing else is said.
BLOCK = 1 << 20

#: How many records of a block are handled at once, at most: as objects they take far more than their bytes.
RECORDS = 1 << 18

#: How long a block read from a pipe waits for more after its last bytes, and after its first ones, in seconds.
LINGER = 0.05
LONGEST = 0.25

_PIECE = 1 << 20  # bytes that are asked for at once; a pipe holds less

#: How often ``idle`` is called while a pipe has nothing to read, in seconds.
IDLE = 0.2


class InputError(Exception):
    """An input cannot be read, or not to its end. The message names it and is for the user."""


class Decoder(Protocol):
    """What the decompressing files have in common."""

    def read1(self, size: int = ..., /) -> bytes: ...


class Input:
    """An open input: read it, then close it (``with`` does that).

    ``consumed`` is how many bytes of the file itself (compressed ones, say) were used up so far.
    """

    def __init__(self, file: io.FileIO | io.BufferedReader[io.FileIO]) -> None:
        self.consumed = 0
        self._file = file

    def read(self, size: int) -> bytes:
        """Return about ``size`` bytes: fewer if that is all there is now, none at the end only."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()


class PlainFile(Input):
    """The records of a regular file that begin at byte ``start`` or after, and before byte ``end``.

    So parts that lie side by side hold every record exactly once, wherever the cuts are.
    """

    def __init__(self, path: str, separator: bytes, start: int = 0, end: int | None = None) -> None:
        super().__init__(io.FileIO(path))
        self._separator = separator
        self._end = sys.maxsize if end is None else end
        self._position = self._first_record(start) if start else 0
        self._done = self._position >= self._end

    def _first_record(self, start: int) -> int:
        """Seek to the first record that begins at ``start`` or after, and return where that is."""
        position = start - 1  # a separator just before ``start`` makes a record begin there
        self._file.seek(position)
        while position < self._end and (chunk := self._file.read(1 << 16)):
            at = chunk.find(self._separator)
            if at >= 0:
                position += at + 1
                break
            position += len(chunk)
        self._file.seek(position)
        return position

    def read(self, size: int) -> bytes:
        if self._done:
            return b""
        last = self._end - 1 - self._position  # with this byte, a separator may end the part
        if last > 0:
            chunk = self._file.read(min(size, last))
        else:
            chunk = self._file.read(1 << 16)
            at = chunk.find(self._separator)
            if at >= 0:
                chunk = chunk[: at + 1]
                self._done = True
        self._position += len(chunk)
        self.consumed += len(chunk)
        return chunk


class Stream(Input):
    """A pipe, a terminal, a socket, or any other file to be read from where it stands.

    What is there is given without waiting long for more, so that lines which come slowly go out as they come.
    ``idle`` is called now and then while there is nothing.
    """

    def __init__(self, file: int | str, idle: Callable[[], None]) -> None:
        super().__init__(io.FileIO(file, closefd=isinstance(file, str)))
        self._idle = idle
        self._ended = False

    def read(self, size: int) -> bytes:
        pieces: list[bytes] = []
        total = 0
        end = 0.0
        while total < size and not self._ended:
            if not pieces:
                while not self._ready(IDLE):
                    self._idle()
                end = time.monotonic() + LONGEST
            elif (left := end - time.monotonic()) <= 0 or not self._ready(min(LINGER, left)):
                break
            piece = self._file.read(min(size - total, _PIECE))
            if piece is None:  # in non-blocking mode, and another process was faster
                continue
            self._ended = not piece  # remembered: after Ctrl-D, a terminal could be read on
            pieces.append(piece)
            total += len(piece)
        self.consumed += total
        return b"".join(pieces)

    def _ready(self, seconds: float) -> bool:
        return is_readable(self._file.fileno(), seconds)


class CompressedFile(Input):
    """A file that is decompressed while it is read."""

    def __init__(self, path: str, decoder: Callable[[io.BufferedReader[io.FileIO]], Decoder]) -> None:
        raw = io.BufferedReader(io.FileIO(path), 1 << 17)
        super().__init__(raw)
        self._raw = raw
        self._decoder = decoder(raw)
        self._failed: Exception | None = None

    def read(self, size: int) -> bytes:
        pieces: list[bytes] = []
        total = 0
        while total < size and self._failed is None:
            try:
                piece = self._decoder.read1(size - total)
            except Exception as error:  # what was good before the damage is given first
                self._failed = error
                break
            if not piece:
                break
            pieces.append(piece)
            total += len(piece)
        if self._failed is not None and not pieces:
            raise self._failed
        if self._raw.seekable():
            self.consumed = self._raw.tell()
        return b"".join(pieces)


class _Zstandard:
    """Frames of zstd, one after another. (The library's own stream reader takes a truncated file for a whole one.)"""

    def __init__(self, raw: io.BufferedReader[io.FileIO]) -> None:
        import zstandard

        self._raw = raw
        self._error = zstandard.ZstdError
        self._new = zstandard.ZstdDecompressor().decompressobj
        self._frame: Any = None  # the one that has begun and not ended
        self._rest = b""  # what was read beyond the end of a frame

    def read1(self, size: int = -1, /) -> bytes:
        # A few bytes at a time, whatever ``size`` is: 4 bytes of zstd may stand for 128 KiB.
        while data := self._rest or self._raw.read(512):
            frame = self._frame or self._new()
            try:
                out: bytes = frame.decompress(data)
            except self._error as error:
                raise OSError(f"Not zstd, or damaged ({error})") from error
            self._frame, self._rest = (None, frame.unused_data) if frame.eof else (frame, b"")
            if out:
                return out
        if self._frame is not None:
            raise EOFError("Compressed file ended before the end-of-stream marker was reached")
        return b""


_DECODERS: dict[str, Callable[[io.BufferedReader[io.FileIO]], Decoder]] = {
    ".gz": lambda raw: gzip.GzipFile(fileobj=raw),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": _Zstandard,
}


def is_compressed(path: str) -> bool:
    """Whether the suffix says so."""
    return os.path.splitext(path)[1] in _DECODERS


def open_compressed(path: str) -> CompressedFile:
    """Open a file that :func:`is_compressed`."""
    return CompressedFile(path, _DECODERS[os.path.splitext(path)[1]])


def blocks(source: Input, separator: bytes, size: int = BLOCK) -> Iterator[bytes]:
    """Yield the records of ``source`` in blocks of about ``size`` bytes, or of one record if that is longer.

    When reading fails, the records before the failure have been yielded, and what may be a cut record has not.
    """
    pieces: list[bytes] = []  # of the record that has begun
    while chunk := source.read(size):
        cut = chunk.rfind(separator)
        if cut < 0:
            pieces.append(chunk)
            continue
        pieces.append(chunk[:cut])
        rest = chunk[cut + 1 :]
        del chunk  # neither that nor the block is kept longer than needed
        yield _joined(pieces)
        pieces.append(rest)
    if last := _joined(pieces):
        yield last


def _joined(pieces: list[bytes]) -> bytes:
    joined = b"".join(pieces)
    pieces.clear()
    return joined


def portions(block: bytes, separator: bytes) -> Iterator[list[bytes]]:
    """Yield the records of a block in lists of at most RECORDS."""
    while True:
        records = block.split(separator, RECORDS)
        if len(records) <= RECORDS:
            yield records
            return
        block = records.pop()
        yield records


@contextmanager
def named(path: str) -> Iterator[None]:
    """Errors of opening and reading inside the body become InputError with the name of the file."""
    try:
        yield
    except ModuleNotFoundError as missing:
        extra = f'{missing.name}, which is not installed: pip install "rack[zst]"'
        raise InputError(f"{path}: reading it needs {extra}") from missing
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
