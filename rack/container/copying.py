"""Copies of stores, shard by shard; ``workers`` processes can share the shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

from rack.container.base import Container
from rack.container.maker import Name
from rack.container.same import same_codec, same_serdes
from rack.shard.spans import ALL, blocks
from rack.system.fanout import check_workers, fan_out

Report = Callable[[int], object]


def copied(
    source: Any, name: Name, workers: int, options: dict[str, Any], progress: Callable[[int], object] | None = None
) -> Any:
    """Return a copy of a container, opened; ``options`` of the constructor make it differ."""
    check_workers(workers)

    def fill(made: Container) -> None:
        fan_out(_copy_shard, (source, made), range(len(source._store.shards)), workers, progress)

    return source._derived(name, fill, **options)


def _copy_shard(source: Any, made: Any, number: int, report: Report) -> None:
    if not (same_codec(source, made) and (source._kind == "set" or same_serdes(source, made))):
        part = source.shards()[number]
        made._put(_told(part.items() if source._kind == "dict" else part, report))
        return
    found = blocks(source._store.shards[number], ALL, values=True)
    if len(source._store.shards) != len(made._store.shards):
        made._store.put_all(_told(chain.from_iterable(found), report))
        return
    shard = made._store.shards[number]
    for pairs in found:
        shard.put_many(pairs)  # behind all that is there: it appends
        report(len(pairs))


def _told(entries: Iterable[Any], report: Report) -> Iterator[Any]:
    """Yield the entries; report on them by the thousand."""
    told = number = 0
    for number, entry in enumerate(entries, 1):
        yield entry
        if number - told >= 1024:
            report(number - told)
            told = number
    report(number - told)
