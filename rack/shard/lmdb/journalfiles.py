"""The journals and bases of an LMDB shard that nobody has open: begun, ended, and made a shard of again."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import lmdb

from rack.errors import CorruptShardError
from rack.shard.base import Examined, ShardSpec
from rack.shard.lmdb import datafile
from rack.shard.lmdb.journal import (
    DELETE,
    LONG,
    PUT,
    SLOTS,
    Journal,
    base_path,
    create,
    generations,
    is_whole,
    journal_path,
    operations,
    records,
)
from rack.shard.problem import Problem
from rack.system.disk import sync_directory, sync_path
from rack.system.imports import importing
from rack.system.place import take_after_path


def start(spec: ShardSpec) -> None:
    """Begin to journal a shard that nobody has open: O(its size)."""
    stop(spec)
    _begin_generation(spec, 1, spec.path)


def stop(spec: ShardSpec) -> None:
    """End journalling a shard that nobody has open."""
    sync_path(spec.path)
    remove(spec.path)


def _begin_generation(spec: ShardSpec, generation: int, source: str) -> None:
    """Make a base of a copy of ``source``, and its empty journal."""
    create(spec, generation)
    base = base_path(spec.path, generation)
    _copy(source, base + "-new")
    take_after_path(base + "-new", spec.path)
    sync_path(base + "-new")
    os.rename(base + "-new", base)
    journal = Journal(spec, generation)
    journal.base_size = os.path.getsize(base)
    journal.close()
    sync_directory(os.path.dirname(base))


def rebuild(spec: ShardSpec) -> None:
    """Make the shard's file anew, after a power failure, from its newest base and what was journalled since.

    A power failure meanwhile does no harm: the old generations stay until the new file is in its place.

    :raises CorruptShardError: there is no base.
    """
    if not has_base(spec.path):
        raise CorruptShardError(f"{spec.path} was in use at a power failure, and the base of its journal is missing")
    made = spec.path + "-rebuilt"
    _remove_unused(spec)
    base, journals = _newest(spec.path)
    _copy(base, made)
    with open(made, "rb") as file:
        try:
            datafile.check_header(file.fileno(), base)
        except CorruptShardError as error:
            raise CorruptShardError(
                f"{spec.path} was in use at a power failure, and its base is damaged: {error}"
            ) from None
    take_after_path(made, base)
    replay(spec, made, journals)
    sync_path(made)
    generation = max(generations(spec.path, "base") + generations(spec.path, "journal")) + 1
    _begin_generation(spec, generation, made)
    os.rename(made, spec.path)
    sync_directory(os.path.dirname(spec.path))
    remove(spec.path, below=generation)


def _remove_unused(spec: ShardSpec) -> None:
    """Remove what is before the newest base, and journals of a rebuilding that was killed, in which there is nothing.

    So there are never more generations than there are names.
    """
    sync_directory(os.path.dirname(spec.path))
    newest = generations(spec.path, "base")[-1]
    remove(spec.path, below=newest)
    for generation in reversed(generations(spec.path, "journal")):
        if generation <= newest or any(True for _ in records(spec, generation)):
            break
        unlink(journal_path(spec.path, generation))


def remake(spec: ShardSpec, path: str, examine_file: Callable[[ShardSpec, bool], Examined]) -> bool:
    """Make at ``path`` what the newest base and the journals say a shard holds; return whether they say all.

    :raises CorruptShardError: the base is damaged, or a journal missing.
    """
    base, journals = _newest(spec.path)
    _copy(base, path)
    for found in examine_file(spec._replace(path=path), True):  # LMDB must not write to a damaged file
        if isinstance(found, Problem):
            raise CorruptShardError(f"{base} {found.message}")
    replay(spec, path, journals)
    return all(is_whole(spec, generation) for generation in journals)


def has_base(shard: str) -> bool:
    return bool(generations(shard, "base"))


def _newest(shard: str) -> tuple[str, list[int]]:
    """Return the path of the newest base, and the generations of the journals that go on from it."""
    first = generations(shard, "base")[-1]
    there = generations(shard, "journal")
    needed = list(range(first, max([first, *there]) + 1))
    for generation in needed:
        if generation not in there:
            raise CorruptShardError(f"{journal_path(shard, generation)} is missing: a part of the shard's journal")
    return base_path(shard, first), needed


def replay(spec: ShardSpec, path: str, journals: list[int]) -> None:
    """Do everything that the journals say to the LMDB file at ``path``."""
    with datafile.open_alone(path) as env:
        long = env.open_db(datafile.LONG_TABLE, create=False) if spec.layout != "small" else None
        main = env.open_db()
        for body in _bodies(spec, journals):
            while True:
                try:
                    with env.begin(write=True) as txn:
                        _redo(txn, body, main, long)
                    break
                except lmdb.MapFullError:
                    _grow(env, path, len(body))


def _redo(txn: Any, body: bytes, main: Any, long: Any) -> None:
    for kind, key, value in operations(body):
        db = long if kind & LONG else main
        if kind & ~LONG == PUT:
            txn.put(key, value, db=db)
        elif kind & ~LONG == DELETE:
            txn.delete(key, db=db)
        else:
            txn.drop(db, delete=False)


def _bodies(spec: ShardSpec, journals: list[int]) -> Iterator[bytes]:
    """Yield the bodies of the records that count."""
    last: tuple[int, bytes] | None = None
    for generation in journals:
        for record in records(spec, generation):
            if last is not None and record[0] != last[0]:  # else the transaction of the last record did not commit
                yield last[1]
            last = record
    if last is not None:
        yield last[1]


def _grow(env: Any, path: str, need: int) -> None:
    with open(path, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        env.set_mapsize(datafile.grow(file.fileno(), size, 2 * need + (1 << 20), path))


def files(shard: str) -> list[str]:
    """Return the files that journals and bases of a shard may be in, a base before the journal that goes with it."""
    return [path(shard, slot) for slot in range(SLOTS) for path in (base_path, journal_path)] + _unfinished(shard)


def _unfinished(shard: str) -> list[str]:
    """Return what somebody who was killed may have left."""
    unfinished = [path(shard, slot) + "-new" for slot in range(SLOTS) for path in (base_path, journal_path)]
    return [*unfinished, shard + "-rebuilt"]


def remove(shard: str, below: int | None = None) -> None:
    """Remove journals and bases of earlier generations than ``below``, or all, and what is not finished."""
    for kind, path in (("base", base_path), ("journal", journal_path)):
        for generation in generations(shard, kind):
            if below is None or generation < below:
                unlink(path(shard, generation))
    for path_left in _unfinished(shard):
        unlink(path_left)


def _copy(source: str, target: str) -> None:
    with importing():
        from shutil import copyfile  # which few processes need

    copyfile(source, target)


def unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
