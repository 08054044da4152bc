"""Goes over all of an LMDB shard without letting LMDB read its trees: the pages, Rack's records, the long keys."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import FileIO

import lmdb

from rack.errors import CorruptShardError, LockTimeoutError, RackError
from rack.shard.base import Examined, Pair, ShardSpec, unknown_hash
from rack.shard.holding import operation, refuse_inside_change, settle
from rack.shard.lmdb import pages
from rack.shard.lmdb.datafile import IDENTITY, LONG_TABLE
from rack.shard.lmdb.held import held_state, opened, too_fast
from rack.shard.lmdb.longkeys import stem_of
from rack.shard.lmdb.opening import identity, open_env, translated
from rack.shard.lmdb.pages import Meta, PageError
from rack.shard.lmdb.reader import LmdbReader
from rack.shard.lmdb.sealed import unseal
from rack.shard.lmdb.walk import check_metas, walk
from rack.shard.problem import Problem, UncleanError, identity_problem, missing
from rack.system.disk import path_error

_TRIES = 10_000
_SURE = 511 - 4 - 255  # how many bytes of a long key are in its record's key, whatever the digest's size is


def examine_file(spec: ShardSpec, alone: bool) -> Examined:
    """As :meth:`rack.shard.base.Shard.examine_file`."""
    try:
        fd = os.open(spec.path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield Problem("missing", "is missing")
        return
    except OSError as error:
        raise path_error(error, spec.path) from error
    try:
        try:
            metas = pages.read_metas(fd)
        except PageError as error:
            yield Problem("structure" if _has_magic(fd) else "foreign", f"is not an LMDB file: {error}")
            return
        if alone:
            yield from examine(fd, metas, spec)
        else:
            yield from _examine_in_use(fd, spec)
    finally:
        os.close(fd)


def _has_magic(fd: int) -> bool:
    return os.pread(fd, 20, 0)[16:] == pages.MAGIC


def _examine_in_use(fd: int, spec: ShardSpec) -> Examined:
    """Opens the file with LMDB, which reads its meta pages and no other."""
    spec = spec._replace(readonly=True)
    for _ in range(_TRIES):
        try:
            env, unregistered = open_env(spec, os.fstat(fd).st_size)
            break
        except lmdb.MapResizedError:  # another process has just made the file larger
            continue
        except lmdb.Error as error:
            raise translated(error, spec.path) from error
    else:
        raise too_fast(spec.path)
    with env:
        if unregistered:
            raise RackError(f"{spec.path} is in use: it takes the permission to write {spec.path}-lock to examine it")
        try:
            with held_state(env, fd, spec.path, lambda: env.set_mapsize(os.fstat(fd).st_size)) as metas:
                yield from examine(fd, metas, spec)
        except PageError as error:
            yield Problem("structure", str(error))


@operation
def examine_open(self: LmdbReader, timeout: float | None) -> Examined:
    """As :meth:`rack.shard.base.Shard.examine`, of which it is a part: an operation's shard is its ``self``."""
    refuse_inside_change(self)
    # Of an operation in whose middle a handler came.
    outer = self._held if self._lock._is_owned() else None
    try:
        if not self._lock.acquire(timeout=-1 if timeout is None else timeout):
            raise LockTimeoutError(f"{self.path}: another thread's write is still waiting; not examined")
        self._held = outer or True
        self.count()  # reopens, or raises, as any operation would
        with opened(self) as file:
            yield from _examine(self, file.fileno())
        self._held = outer
        self._lock.release()
    except BaseException:
        self._held = outer
        settle(self)
        raise


def _examine(shard: LmdbReader, fd: int) -> Examined:
    try:
        with held_state(shard._env, fd, shard.path, shard._adopt_size) as metas:
            for item in examine(fd, metas, shard._spec):
                if shard._unregistered and shard._overtaken(pages.newest(metas).number):
                    raise too_fast(shard.path)
                yield item
    except PageError as error:
        yield Problem("structure", str(error))


def examine(fd: int, metas: tuple[Meta, Meta], spec: ShardSpec) -> Examined:
    """Yield how many entries a shard counts, what is wrong with it, and its entries in blocks, as a user sees them."""
    meta = pages.newest(metas)
    records = Records(spec)
    yield max(0, meta.main.entries - records.own)
    for finding in check_metas(metas):
        yield Problem("structure", finding)
    damaged = False
    for found in walk(fd, meta, values=True):
        if isinstance(found, str):
            damaged = True
            yield Problem("structure", found)
        else:
            yield from records.take(found)
    if not damaged:
        yield from records.missing()


class Records:
    """Turns the records of a shard's two trees, as they come from :func:`walk`, into entries."""

    def __init__(self, spec: ShardSpec) -> None:
        self._spec = spec
        self._small = spec.layout == "small"
        self.own = 1 if self._small else 2
        self._identified = False
        self._in_long = False
        self._stem = b""
        self._same_stem: set[bytes] = set()  # long keys that may be twice there

    def take(self, block: list[Pair]) -> Iterator[Problem | list[Pair]]:
        if not block:
            self._in_long = True
            if self._small:
                yield Problem("record", "has a table of long keys, and its layout has none")
            return
        if not self._in_long and block[0][0] == IDENTITY:
            self._identified = True
            problem = identity_problem(identity(self._spec).decode(), block[0][1].decode("latin-1"))
            if problem is not None:
                yield problem
            block = block[1:]
        entries = []
        for key, stored in block:
            try:
                value = unseal(stored, self._spec.path)
            except CorruptShardError:
                yield Problem("checksum", f"has a value that is not what was stored, under the key {key[:60]!r}")
                continue
            if not self._in_long and key == LONG_TABLE:
                yield Problem("record", "has an entry in the place of the record of the table of long keys")
            elif not self._in_long:
                entries.append((key, value))
            elif isinstance(pair := self._long_entry(key, value), Problem):
                yield pair
            else:
                entries.append(pair)
        if entries:
            yield entries

    def _long_entry(self, record_key: bytes, record: bytes) -> Pair | Problem:
        end = 4 + int.from_bytes(record[:4], "big")
        if end > len(record) or len(record) < 4:
            return Problem("record", f"has a record of a long key that is cut short: {record_key[:60]!r}")
        key, value = record[4:end], record[end:]
        if self._spec.hash is unknown_hash and len(key) > 1:
            stem, rest = key[:_SURE], len(record_key) - _SURE
        else:
            stem, rest = stem_of(key, self._spec.hash), 4 * (len(key) > 1)
        if not record_key.startswith(stem) or len(record_key) != len(stem) + rest:
            return Problem("record", f"has the long key {key[:60]!r} in the wrong place")
        if stem != self._stem:
            self._stem, self._same_stem = stem, set()
        if key in self._same_stem:
            return Problem("order", f"has the long key {key[:60]!r} twice")
        self._same_stem.add(key)
        return key, value

    def missing(self) -> Iterator[Problem]:
        if not self._identified:
            yield Problem("foreign", "is an LMDB file, but not a Rack shard: it carries no identity")
        elif not self._in_long and not self._small:
            yield Problem("record", "has no table of long keys")


def verify(path: str) -> None:
    """Raise UncleanError if a file that nobody has open is damaged: after a power failure."""
    try:
        file = FileIO(path)
    except FileNotFoundError:
        raise missing(path) from None
    fd = file.fileno()
    try:
        for found in walk(fd, pages.newest(pages.read_metas(fd)), values=True):
            if isinstance(found, str):
                raise UncleanError(path, f"is damaged: {found}")
            for _, stored in found:
                unseal(stored, path)
    except pages.PageError as error:
        raise UncleanError(path, f"is damaged: {error}") from error
    except UncleanError:
        raise
    except CorruptShardError as error:
        raise UncleanError(path, "is damaged: a value does not match its checksum") from error
    finally:
        file.close()
