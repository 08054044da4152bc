"""Set algebra of a container with any others, shard by shard; ``workers`` processes can share the shards.

While other processes write, each block (some thousand keys of each operand) is read at a moment of its own: a key that
is in, or is not in, an operand throughout counts as such; one that comes or goes meanwhile may count either way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import filterfalse, groupby, repeat
from typing import Any, TypeVar

from rack.algebra import joins
from rack.algebra.joins import Blocks, Joined, Keys
from rack.algebra.operand import Operand, Report, Stored, alike, container_of, keys_of, operands
from rack.container.base import Container
from rack.container.maker import Name
from rack.container.same import check_keys
from rack.shard.base import Shard
from rack.system.arguments import whole
from rack.system.fanout import fan_out

Join = Callable[[Sequence[Keys]], Blocks]
Progress = Callable[[int], object]
Result = TypeVar("Result")

#: Joins that need all that the other operands have; the rest need to know only what these share with the first.
_WHOLE: tuple[Join, ...] = (joins.union, joins.symmetric_difference)


def made(
    mine: Container,
    join: Join,
    others: Sequence[Iterable[Any]],
    name: Name = None,
    workers: int = 1,
    progress: Progress | None = None,
    **options: Any,
) -> Any:
    """Return a new, open set with what ``join`` makes of ``mine`` and the others: ``mine`` makes it.

    ``options`` of the constructor make it differ from ``mine``.
    """

    def fill(result: Container) -> None:
        with operands(mine, others, join in _WHOLE) as theirs:
            each_shard(_fill, (result, join, [Stored(mine), *theirs]), mine, workers, progress)

    return mine._make_set(name, fill, **options)


def streamed(mine: Container, join: Join, others: Sequence[Iterable[Any]], progress: Progress) -> Blocks:
    """Yield the keys of what ``join`` makes of ``mine`` and the others, in order, in blocks. No store is made."""
    with operands(mine, others, join in _WHOLE) as theirs:
        sources = [Stored(mine), *theirs]
        numbers = range(len(mine._store.shards))
        yield from joins.in_order([join(keys_of(sources, number, progress, len(numbers))) for number in numbers])


def is_empty(mine: Container, join: Join, other: Iterable[Any]) -> bool:
    """Return whether ``join`` makes nothing of the two. It stops at the first key."""
    with operands(mine, [other], join in _WHOLE) as theirs:
        sources = [Stored(mine), *theirs]
        shards = (join(keys_of(sources, number, _silent)) for number in range(len(mine._store.shards)))
        return not any(True for shard in shards for _ in shard)


# In place


def update(mine: Container, others: Sequence[Iterable[Any]], workers: int) -> None:
    """Add all elements of the others to a set."""
    workers = whole("workers", workers, 1)
    for readable, group in groupby(others, lambda other: alike(mine, other)):
        if readable:
            _change(mine, _add_from, [other for other in group if container_of(other) is not mine], workers)
        else:
            for other in group:
                mine._put(other)  # type: ignore[attr-defined]


def difference_update(mine: Container, others: Sequence[Iterable[Any]], workers: int) -> None:
    """Remove all elements of the others."""
    workers = whole("workers", workers, 1)
    for readable, group in groupby(others, lambda other: alike(mine, other)):
        if readable:
            others = list(group)
            if any(container_of(other) is mine for other in others):
                mine.clear()
            else:
                _change(mine, _remove_from, others, workers)
        else:
            for other in group:
                mine._delete_each(elements_of(mine, other))


def elements_of(mine: Container, other: Iterable[Any]) -> Iterable[Any]:
    """Return what yields the elements of ``other``; if that has only digests, those of them that ``mine`` has.

    :raises DigestKeysError: both have digests, of different kinds.
    """
    if not has_digests(other):
        return other
    container = container_of(other)
    if mine._codec.digest is None:
        return (key for key, value in container._lookup(mine._keys()) if value is not None)
    check_keys(mine, container)
    return other


def has_digests(other: object) -> bool:
    """Whether ``other`` is a store that has only digests of its elements."""
    container = container_of(other)
    return container is not None and container._codec.digest is not None


def intersection_update(mine: Container, others: Sequence[Iterable[Any]], workers: int) -> None:
    """Remove all that is not in all others."""
    _change(mine, _keep_from, others, workers)


def symmetric_difference_update(mine: Container, other: Iterable[Any], workers: int) -> None:
    """Remove what is also in the other, and add what is only there."""
    workers = whole("workers", workers, 1)
    if container_of(other) is mine:
        mine.clear()
    else:
        _change(mine, _toggle, [other], workers, whole=True)


def _change(
    mine: Container, change: Callable[..., None], others: Sequence[Iterable[Any]], workers: int, whole: bool = False
) -> None:
    if not others:
        return
    with operands(mine, others, whole) as theirs:
        each_shard(change, (mine, [Stored(mine), *theirs]), mine, workers)


def each_shard(
    function: Callable[..., Result],
    shared: tuple[Any, ...],
    mine: Container,
    workers: int = 1,
    progress: Progress | None = None,
) -> list[Result]:
    """Return ``function(*shared, number, report)`` for each shard of ``mine``."""
    return fan_out(function, shared, range(len(mine._store.shards)), workers, progress)


# What is done to one shard. It is read ahead of where it is changed, by at most a block: a change never meets what it
# has itself made.


def _fill(result: Container, join: Join, sources: Sequence[Operand], number: int, report: Report) -> None:
    shard = result._store.shards[number]
    for keys in join(keys_of(sources, number, report)):
        _put(shard, keys)


def _add_from(mine: Container, sources: Sequence[Operand], number: int, report: Report) -> None:
    ours, *others = _changing(mine, sources, number, report)
    for keys in joins.missing(Joined(others), [ours]):
        _put(mine._store.shards[number], keys)


def _remove_from(mine: Container, sources: Sequence[Operand], number: int, report: Report) -> None:
    ours, *others = _changing(mine, sources, number, report)
    for keys, (present,) in joins.beside(Joined(others), [ours], all_needed=True):
        _delete(mine._store.shards[number], filter(present.__contains__, keys))


def _keep_from(mine: Container, sources: Sequence[Operand], number: int, report: Report) -> None:
    ours, *others = _changing(mine, sources, number, report)
    for keys in joins.outside(ours, others):
        _delete(mine._store.shards[number], keys)


def _toggle(mine: Container, sources: Sequence[Operand], number: int, report: Report) -> None:
    ours, theirs = _changing(mine, sources, number, report)
    shard = mine._store.shards[number]
    for keys, (present,) in joins.beside(theirs, [ours]):
        _delete(shard, filter(present.__contains__, keys))
        _put(shard, filterfalse(present.__contains__, keys))


def _changing(mine: Container, sources: Sequence[Operand], number: int, report: Report) -> list[Keys]:
    return keys_of(sources, number, report, synced=mine._open_store().durability == "always")


def _put(shard: Shard, keys: Iterable[bytes]) -> None:
    if pairs := list(zip(keys, repeat(b""))):
        shard.put_many(pairs)


def _delete(shard: Shard, keys: Iterable[bytes]) -> None:
    if found := list(keys):
        shard.delete_many(found)


def _silent(count: int) -> None:
    pass
