"""A file that a command writes: there as a whole, or not at all; compressed if its name says so."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, Any

from rack.cli.failure import Failure
from rack.cli.lines import Sink


def _zstandard(raw: IO[bytes]) -> Any:
    import zstandard

    return zstandard.ZstdCompressor().stream_writer(raw, closefd=False)


_ENCODERS: dict[str, Callable[[IO[bytes]], Any]] = {
    ".gz": lambda raw: gzip.GzipFile("", "wb", 6, raw, mtime=0),  # 9, the default, takes twice the time
    ".bz2": lambda raw: bz2.BZ2File(raw, "wb"),
    ".xz": lambda raw: lzma.LZMAFile(raw, "wb"),  # noqa: SIM115
    ".zst": _zstandard,
}


@contextmanager
def written(path: str) -> Iterator[Sink]:
    """Have the body write a file, in place of the one that there may be; if the body raises, that stays as it is.

    :raises Failure: it cannot be written.
    """
    with _named(path), ExitStack() as stack:
        raw: IO[bytes] = stack.enter_context(_replaced(path) if _is_replaceable(path) else _opened(path))
        encoder = _ENCODERS.get(os.path.splitext(path)[1])
        yield raw if encoder is None else stack.enter_context(encoder(raw))


def _opened(path: str) -> IO[bytes]:
    return open(path, "wb")


@contextmanager
def _replaced(path: str) -> Iterator[IO[bytes]]:
    beside = f"{path}.part-{os.getpid()}"
    try:
        with open(beside, "xb") as raw:
            yield raw
            raw.flush()
            os.fsync(raw.fileno())
        os.rename(beside, path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(beside)
        if isinstance(error, OSError) and error.filename == beside:
            error.filename = path  # which is what the user knows of
        raise


def _is_replaceable(path: str) -> bool:
    """Whether it is a regular file, or nothing yet; a pipe, a device or a link is written where it is."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except FileNotFoundError:
        return True


@contextmanager
def _named(path: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as missing:
        extra = f'{missing.name}, which is not installed: pip install "rack[zst]"'
        raise Failure(f"{path}: writing it needs {extra}") from missing
    except OSError as error:
        if error.filename is None and type(error) is OSError:  # of a write; others tell their file
            raise Failure(f"cannot write to {path}: {error.strerror}") from error
        raise
