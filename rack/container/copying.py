"""Copies of stores, shard by shard; ``workers`` processes can share the shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from rack.container.base import Container
from rack.container.maker import Name
from rack.container.same import check_keys, same_codec, same_serdes
from rack.shard.base import Shard
from rack.shard.spans import ALL, blocks
from rack.store.manifest import absolute_path
from rack.store.merge import merged
from rack.store.where import site_of
from rack.system.arguments import whole
from rack.system.fanout import fan_out

Report = Callable[[int], object]


def copied(
    source: Any, name: Name, workers: int, options: dict[str, Any], progress: Callable[[int], object] | None = None
) -> Any:
    """Return a copy of a container, opened; ``options`` of the constructor make it differ."""
    workers = whole("workers", workers, 1)
    if name is not None and site_of(absolute_path(name)) is not site_of(source._path):
        options = {"shards": None, **options}  # what is best there

    def fill(made: Container) -> None:
        check_keys(made, source)
        if workers == 1 and not _is_alike(source, made):
            _copy(source, made, source, source._store.shards, progress or (lambda done: None))
        else:
            fan_out(_copy_shard, (source, made), range(len(source._store.shards)), workers, progress)

    return source._derived(name, fill, **options)


def _is_alike(source: Any, made: Any) -> bool:
    """Whether a shard of the source has just what that shard of the copy is to have."""
    return _has_same_bytes(source, made) and len(source._store.shards) == len(made._store.shards)


def _has_same_bytes(source: Any, made: Any) -> bool:
    return same_codec(source, made) and (source._kind == "set" or same_serdes(source, made))


def _copy_shard(source: Any, made: Any, number: int, report: Report) -> None:
    if not _is_alike(source, made):
        _copy(source, made, source.shards()[number], [source._store.shards[number]], report)
        return
    shard = made._store.shards[number]
    for pairs in blocks(source._store.shards[number], ALL, values=True):
        shard.put_many(pairs)  # behind all that is there: it appends
        report(len(pairs))


def _copy(source: Any, made: Any, part: Any, shards: Sequence[Shard], report: Report) -> None:
    """Copy a part of the source, which consists of ``shards``, into shards of another number or with another serdes."""
    if _has_same_bytes(source, made):
        made._store.put_all(_told_blocks(merged(shards, ALL, values=True), report))
    else:
        made._put(_told(part.items() if source._kind == "dict" else part, report))


def _told_blocks(blocks: Iterable[list[Any]], report: Report) -> Iterator[list[Any]]:
    for block in blocks:
        yield block
        report(len(block))


def _told(entries: Iterable[Any], report: Report) -> Iterator[Any]:
    """Yield the entries; report on them by the thousand."""
    told = number = 0
    for number, entry in enumerate(entries, 1):
        yield entry
        if number - told >= 1024:
            report(number - told)
            told = number
    report(number - told)
