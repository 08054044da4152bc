"""What the operations of an LMDB shard do inside a transaction: ``operation(shard, txn, *args)``."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice, takewhile
from operator import itemgetter
from typing import Any

import lmdb

from rack.errors import TooLargeError
from rack.shard.base import BLOCK_BYTES, MOST_ENTRIES, Pair, View, is_last
from rack.shard.lmdb.datafile import IDENTITY, LONG_TABLE
from rack.shard.lmdb.environment import LmdbEnvironment
from rack.shard.lmdb.journaled import put_new
from rack.shard.lmdb.longkeys import LongKeys
from rack.shard.lmdb.opening import MAX_KEY, MAX_VALUE, identity
from rack.shard.lmdb.sealed import PLAIN, seal, unseal


class ElementTooLongError(TooLargeError, lmdb.BadValsizeError):
    """A ``rack.set_small`` holds elements of 1 to 511 bytes when serialized."""


_RESERVED = (IDENTITY, LONG_TABLE)
_FEW = 16  # pairs, of which no block is made
_KEY, _VALUE = itemgetter(0), itemgetter(1)
_VALUES_BYTES = BLOCK_BYTES + 1024  # with Rack's own two records, which are taken out again


def _is_long(key: bytes) -> bool:
    return not 1 < len(key) <= MAX_KEY and (len(key) != 1 or key in _RESERVED)


def get(shard: LmdbEnvironment, txn: Any, key: bytes) -> bytes | None:
    if _is_long(key):
        return None if shard._long is None else shard._long.get(txn, key)
    stored: bytes | None = txn.get(key)
    return stored if stored is None else unseal(stored, shard._spec.path)


def contains(shard: LmdbEnvironment, txn: Any, key: bytes) -> bool:
    if _is_long(key):
        return shard._long is not None and shard._long.find(txn, key) is not None
    return bool(txn.cursor().set_key(key))


def put(shard: LmdbEnvironment, txn: Any, key: bytes, value: bytes) -> None:
    if len(value) > MAX_VALUE:
        raise TooLargeError(f"a value of {len(value)} bytes: LMDB holds up to {MAX_VALUE}")
    if _is_long(key):
        _table_for(shard, key).put(txn, key, value)
    else:
        txn.put(key, seal(value))


def _table_for(shard: LmdbEnvironment, key: bytes) -> LongKeys:
    if shard._long is None:
        raise ElementTooLongError(
            f"an element of {len(key)} bytes when serialized: rack.set_small holds 1 to {MAX_KEY} (and not the bytes 00"
            " and 01); use rack.set for others"
        )
    return shard._long


def add(shard: LmdbEnvironment, txn: Any, key: bytes, value: bytes) -> bytes | None:
    present = get(shard, txn, key)
    if present is None:
        put(shard, txn, key, value)
    return present


def delete(shard: LmdbEnvironment, txn: Any, key: bytes) -> bool:
    if _is_long(key):
        return shard._long is not None and shard._long.delete(txn, key)
    return bool(txn.delete(key))


def pop(shard: LmdbEnvironment, txn: Any, key: bytes) -> bytes | None:
    value = get(shard, txn, key)
    if value is not None:
        delete(shard, txn, key)
    return value


def pop_first(shard: LmdbEnvironment, txn: Any) -> Pair | None:
    block = scan(shard, txn, b"", None, False, True, 1)
    if not block:
        return None
    pair: Pair = block[0]
    delete(shard, txn, pair[0])
    return pair


def modify(shard: LmdbEnvironment, txn: Any, key: bytes, change: Callable[[bytes | None], bytes | None]) -> None:
    value = change(get(shard, txn, key))
    if value is not None:
        put(shard, txn, key, value)


def transact(shard: LmdbEnvironment, txn: Any, body: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    plain = getattr(txn, "inner", txn)  # reads are not journalled
    view = View(
        partial(get, shard, plain), partial(put, shard, txn), partial(delete, shard, txn), partial(first, shard, plain)
    )
    return body(view, *args)


def first(shard: LmdbEnvironment, txn: Any, start: bytes, stop: bytes | None, limit: int) -> list[Pair]:
    if not limit:
        return []
    if start <= LONG_TABLE or (shard._long is not None and not shard._long.is_empty(txn)):
        return scan(shard, txn, start, stop, False, True, limit)
    pairs: list[Pair] = []
    cursor = txn.cursor()
    found = cursor.set_range(start)
    while found and len(pairs) < limit:
        if len(pairs) == _FEW:
            return scan(shard, txn, start, stop, False, True, limit)
        key, stored = cursor.item()
        if stop is not None and key >= stop:
            break
        pairs.append((key, stored if len(stored) <= PLAIN else unseal(stored, shard._spec.path)))
        found = cursor.next()
    return pairs


def get_many(shard: LmdbEnvironment, txn: Any, keys: Sequence[bytes]) -> list[bytes | None]:
    find, path = txn.cursor().get, shard._spec.path
    return [
        (stored if (stored := find(key)) is None or len(stored) <= PLAIN else unseal(stored, path))
        if 1 < len(key) <= MAX_KEY
        else get(shard, txn, key)
        for key in keys
    ]


def put_many(shard: LmdbEnvironment, txn: Any, pairs: list[Pair]) -> None:
    cursor = txn.cursor()
    try:
        if pairs and not _has_reserved(pairs):
            # What comes behind the last key fills its pages and splits none. LMDB skips a pair that does not.
            append = cursor.last() and cursor.key() < pairs[0][0]
            sealed = pairs
            if any(map(_VALUE, pairs)) and max(map(len, map(_VALUE, pairs))) > PLAIN:
                sealed = [(key, seal(value)) for key, value in pairs]
            _, added = cursor.putmulti(sealed, append=append)
            if added == len(pairs):
                return
            if append:  # a key is there twice
                _, added = cursor.putmulti(sealed, append=False)
                return
    except lmdb.BadValsizeError:
        pass  # a long key
    for key, value in pairs:
        put(shard, txn, key, value)


def _has_reserved(pairs: list[Pair]) -> bool:
    """Return whether a key of pairs, which are in order, is empty or reserved."""
    if pairs[0][0] > LONG_TABLE:
        return False
    at = bisect_left(pairs, LONG_TABLE, key=_KEY)
    return pairs[0][0] <= IDENTITY or (at < len(pairs) and pairs[at][0] == LONG_TABLE)


def add_many(shard: LmdbEnvironment, txn: Any, pairs: list[Pair]) -> list[bool]:
    lengths = list(map(len, map(_KEY, pairs)))
    longest_value = max(map(len, map(_VALUE, pairs)), default=0)
    if pairs and min(lengths) > 1 and max(lengths) <= MAX_KEY and longest_value <= PLAIN:
        return put_new(txn, pairs)
    txn_put = txn.put
    return [
        txn_put(key, seal(value), True, False) if 1 < len(key) <= MAX_KEY else add(shard, txn, key, value) is None
        for key, value in pairs
    ]


def delete_many(shard: LmdbEnvironment, txn: Any, keys: list[bytes]) -> int:
    return sum(delete(shard, txn, key) for key in keys)


def change_many(shard: LmdbEnvironment, txn: Any, pairs: list[Pair], keys: list[bytes]) -> None:
    delete_many(shard, txn, keys)  # first: the pages that it empties are used again
    put_many(shard, txn, pairs)


def scan(
    shard: LmdbEnvironment, txn: Any, start: bytes, stop: bytes | None, reverse: bool, values: bool, limit: int
) -> list[Any]:
    block = _scan_short(shard, txn, start, stop, reverse, values, limit)
    long = shard._long
    if long is None or not long.count(txn):
        return block
    others = long.scan(txn, start, stop, reverse, values, limit)
    if not block or not others:
        return block or others
    # Behind the end of a run that was cut by its size there may be more of it. Keys are unique: pairs are compared by
    # them alone.
    ends = [run[-1] for run in (block, others) if not is_last(run, limit, values)]
    block = sorted(block + others, reverse=reverse)
    if ends:
        end = (max if reverse else min)(ends)
        block = block[: block.index(end) + 1]
    return block[:limit]


def _scan_short(
    shard: LmdbEnvironment, txn: Any, start: bytes, stop: bytes | None, reverse: bool, values: bool, limit: int
) -> list[Any]:
    cursor = txn.cursor()
    if reverse:
        if stop is None or not cursor.set_range(stop[:MAX_KEY] or b"\0"):
            found = cursor.last()
        else:
            found = cursor.key() < stop or cursor.prev()
        items = cursor.iterprev(values=values)
        if start:
            items = takewhile((start,).__le__ if values else start.__le__, items)
    else:
        found = cursor.set_range(start[:MAX_KEY] or b"\0")
        if found and cursor.key() < start:
            found = cursor.next()
        items = cursor.iternext(values=values)
        if stop is not None:
            items = takewhile((stop,).__gt__ if values else stop.__gt__, items)
    if not found:
        return []
    limit += 2  # Rack's own two records may be among them
    path = shard._spec.path
    if values and txn.stat()["overflow_pages"]:
        block: list[Any] = _bounded(items, limit, path)
    else:
        block = list(islice(items, limit))  # no value here is larger than about half a page
        if values and max(map(len, map(_VALUE, block)), default=0) > PLAIN:
            block = [(key, unseal(stored, path)) for key, stored in block]
    if not block:
        return block
    first = block[-1] if reverse else block[0]
    if (first[0] if values else first) <= LONG_TABLE:
        block = [item for item in block if (item[0] if values else item) not in _RESERVED]
    return block[: limit - 2]


def _bounded(items: Any, limit: int, path: str) -> list[Pair]:
    block = []
    size = 0
    for key, stored in islice(items, limit):
        value = unseal(stored, path)
        block.append((key, value))
        size += len(value)
        if size >= _VALUES_BYTES:
            break
    return block


def count(shard: LmdbEnvironment, txn: Any) -> int:
    entries: int = txn.stat()["entries"] - 1
    if shard._long is not None:
        entries += shard._long.count(txn) - 1
    if not 0 <= entries < MOST_ENTRIES:
        raise lmdb.CorruptedError(f"it counts {entries} entries")
    return entries


def clear(shard: LmdbEnvironment, txn: Any) -> None:
    # Dropping the main database takes Rack's records with it; LMDB writes that of the table of long keys at commit,
    # because emptying that table has marked it changed.
    if shard._long is not None:
        txn.drop(shard._long.table, delete=False)
    txn.drop(shard._main, delete=False)
    txn.put(IDENTITY, identity(shard._spec))


def only_removes(body: object, args: tuple[Any, ...]) -> bool:
    """Return whether an operation only removes, and cannot be done in parts."""
    return body in (delete, pop, pop_first, clear) or (body is delete_many and len(args[0]) == 1)


def room(shard: LmdbEnvironment, txn: Any) -> int:
    """Return how many bytes of the map have never been used."""
    info = shard._env.info()
    return int(info["map_size"]) - (int(info["last_pgno"]) + 1) * int(txn.stat()["psize"])


def version(shard: LmdbEnvironment, txn: Any) -> int:
    txn_id: int = txn.id()
    return txn_id
