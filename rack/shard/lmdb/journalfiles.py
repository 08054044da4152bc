"""The journals and bases of an LMDB shard that nobody has open: begun, ended, and made a shard of again."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from io import FileIO
from typing import Any

import lmdb

from rack.errors import CorruptShardError
from rack.shard.base import Examined, ShardSpec
from rack.shard.lmdb import datafile, pages
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
    unsynced_part,
)
from rack.shard.problem import Problem
from rack.system.disk import sync_directory, sync_path, sync_paths
from rack.system.place import take_after_path


def begin(specs: Sequence[ShardSpec]) -> None:
    """Have a base and a journal for each shard of a store that is on the disk, and that nobody writes to: O(its size).

    They are made for all shards at once, which takes little longer than for one.
    """
    fresh = [spec for spec in specs if not is_begun(spec.path)]
    for spec in fresh:
        remove(spec.path)  # what somebody who was killed has left
    _begin_generations([(spec, 1, spec.path) for spec in fresh])
    for directory in {os.path.dirname(spec.path) for spec in specs if spec not in fresh}:
        sync_directory(directory)  # who made the others may have been killed before that


def is_begun(shard: str) -> bool:
    """Return whether a shard has a base, and so a journal."""
    return any(os.path.exists(base_path(shard, slot)) for slot in range(SLOTS))


def _begin_generations(made: Sequence[tuple[ShardSpec, int, str]]) -> None:
    """For each shard, make a base of a copy of a file, and an empty journal of a generation."""
    paths = []
    for spec, generation, source in made:
        base = base_path(spec.path, generation) + "-new"
        _copy_used(source, base)
        take_after_path(base, spec.path)
        paths += [create(spec, generation), base]  # in the order in which they get their names
    sync_paths(paths)
    for path in paths:
        os.rename(path, path.removesuffix("-new"))
    for spec, generation, _ in made:
        journal = Journal(spec, generation)
        journal.base_size = os.path.getsize(base_path(spec.path, generation))
        journal.close()
    for directory in {os.path.dirname(spec.path) for spec, _, _ in made}:
        sync_directory(directory)


def _copy_used(source: str, target: str) -> None:
    """Copy a file up to the last page that is in use."""
    _copy(source, target)
    with open(target, "r+b") as file:
        meta = pages.newest(pages.read_metas(file.fileno()))
        os.ftruncate(file.fileno(), (meta.last_page + 1) * meta.page_size)


def rebuild(spec: ShardSpec) -> None:
    """Make the shard's file anew, after a power failure, from its newest base and what was journalled since.

    A power failure meanwhile does no harm: the old generations stay until the new file is in its place.

    :raises CorruptShardError: there is no base.
    """
    if not is_begun(spec.path):
        raise CorruptShardError(f"{spec.path} was in use at a power failure, and the base of its journal is missing")
    made = spec.path + "-rebuilt"
    _remove_unused(spec)
    base, journals = _newest(spec.path)
    if (sound := _before_hole(spec, journals)) != journals:
        raise CorruptShardError(
            f"{journal_path(spec.path, sound[-1])} is damaged, and there is a later one: {spec.path} cannot be made of"
            " them"
        )
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
    _begin_generations([(spec, generation, made)])
    os.rename(made, spec.path)
    sync_directory(os.path.dirname(spec.path))
    remove(spec.path, below=generation)


def _before_hole(spec: ShardSpec, journals: list[int]) -> list[int]:
    """Return the journals up to the first that is not whole. What a later one says may contradict what is missing."""
    for number, generation in enumerate(journals[:-1]):
        if not is_whole(spec, generation) and any(_is_used(spec, later) for later in journals[number + 1 :]):
            return journals[: number + 1]
    return journals


def _is_used(spec: ShardSpec, generation: int) -> bool:
    return any(True for _ in records(spec, generation))


def _remove_unused(spec: ShardSpec) -> None:
    """Remove what is before the newest base, and journals of a rebuilding that was killed, in which there is nothing.

    So there are never more generations than there are names.
    """
    sync_directory(os.path.dirname(spec.path))
    newest = generations(spec.path, "base")[-1]
    remove(spec.path, below=newest)
    for generation in reversed(generations(spec.path, "journal")):
        if generation <= newest or _is_used(spec, generation):
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
    replay(spec, path, _before_hole(spec, journals))
    return all(is_whole(spec, generation) for generation in journals)


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


def journals(shard: str) -> list[str]:
    return [journal_path(shard, slot) for slot in range(SLOTS)]


def unsynced(shard: str) -> int | None:
    """Return how many bytes of the journals are not known to be on the disk; None if there are no journals."""
    found = [part for path in journals(shard) if (part := unsynced_part(path)) is not None]
    return sum(found) if found else None


def _unfinished(shard: str) -> list[str]:
    """Return what somebody who was killed may have left."""
    unfinished = [path(shard, slot) + "-new" for slot in range(SLOTS) for path in (base_path, journal_path)]
    raw = [base_path(shard, slot) + "-new-raw" for slot in range(SLOTS)]
    return [*unfinished, *raw, shard + "-rebuilt"]


def remove(shard: str, below: int | None = None) -> None:
    """Remove journals and bases of earlier generations than ``below``, or all, and what is not finished."""
    for kind, path in (("base", base_path), ("journal", journal_path)):
        for generation in generations(shard, kind):
            if below is None or generation < below:
                unlink(path(shard, generation))
    for path_left in _unfinished(shard):
        unlink(path_left)


def _copy(source: str, target: str) -> None:
    with FileIO(source) as file, FileIO(target, "w") as copy:
        datafile.copy(file.fileno(), copy.fileno(), os.fstat(file.fileno()).st_size)


def unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
