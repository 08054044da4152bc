"""``scan``: ranges and prefixes of keys, in their order."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from rack.codec import ordered
from rack.codec.failure import in_short
from rack.codec.keys import KeyCodec
from rack.errors import SerializationError, UnorderedKeysError, told
from rack.shard.spans import Span
from rack.system.arguments import whole

E = TypeVar("E", covariant=True)


class Scannable(Generic[E]):
    """What has its entries in order of their keys: the containers, the views of a dict, and their shards."""

    @property
    @abstractmethod
    def _key_codec(self) -> KeyCodec: ...

    @abstractmethod
    def _walk(self, span: Span) -> Iterator[E]:
        """Yield the entries whose keys' bytes are in a span."""

    def scan(
        self,
        start: Any = None,
        stop: Any = None,
        *,
        prefix: Any = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[E]:
        """Iterate over the entries whose keys are in a range, in order.

        A set yields elements, a dict pairs, a view of a dict what it is a view of. O(s log n) to begin, for s shards
        and n entries, and O(log s) an entry. Not atomic: blocks are read one after another, each atomically, and the
        loop may change the store. A key that is in the range throughout is seen exactly once.

        :param start: the first key of the range; None: no bound. It need not be in the store.
        :param stop: the first key behind the range; None: no bound.
        :param prefix: only keys that begin with it: a str or bytes, or (in an "ordered" store) a tuple, for all tuples
            that begin with its elements. With ``start`` or ``stop``, keys have to be in the range as well.
        :param reverse: the same keys, from the last to the first.
        :param limit: at most so many; with ``reverse`` the last ones.
        :yields: the entries.
        :raises UnorderedKeysError: the keys' bytes have no order that means anything: a TypeError. The store has to
            be made with ``key_serdes`` (or ``serdes``) "str", "bytes" or "ordered". Digests of keys have no order.
        :raises SerializationError: a bound that cannot be a key of the store, or a prefix of one: a TypeError.
        :raises TypeError: ``limit`` is no whole number, or a bound is unhashable.
        :raises ValueError: ``limit`` is negative.
        :raises DeserializationError: the serdes cannot read a stored key or value.

        >>> from rack import PersistentDict
        >>> with PersistentDict(tmp / "log", serdes="ordered") as log:
        ...     log.update({("ann", 3): "in", ("ann", 8): "out", ("bob", 5): "in"})
        ...     list(log.scan(prefix=("ann",)))
        ...     list(log.keys().scan(("ann", 5), reverse=True, limit=1))
        ...     list(log.values().scan(stop=("ann", 8)))
        [(('ann', 3), 'in'), (('ann', 8), 'out')]
        [('bob', 5)]
        ['in']
        """
        return self._walk(span_of(self._key_codec, start, stop, prefix, reverse, limit))


def span_of(codec: KeyCodec, start: Any, stop: Any, prefix: Any, reverse: bool, limit: int | None) -> Span:
    """Return the bytes that the arguments of ``scan`` mean; raises as that does."""
    if codec.digest is not None:
        raise UnorderedKeysError(f"the store has digests of its keys (key serdes {codec.name}), which have no order")
    if not codec.ordered:
        raise UnorderedKeysError(
            "scan() needs keys whose bytes are in order, and this store's are not: make it with serdes (or, of a dict,"
            " key_serdes) 'ordered', 'str' or 'bytes'; `rack copy NAME NEW --serdes ordered` makes such a copy"
        ).in_words(
            f"the keys have no order, as they are of the serdes {codec.name.partition('+')[2] or 'marshal'}: it takes"
            " ordered, str or bytes. `rack copy STORE NEW --serdes ordered` makes such a copy"
        )
    if limit is not None:
        limit = whole("limit", limit, 0)
    first = b"" if start is None else _bound(codec, "start", start)
    end = None if stop is None else _bound(codec, "stop", stop)
    if prefix is not None:
        low, high = _prefix_range(codec, prefix)
        first = max(first, low)
        end = high if end is None else end if high is None else min(end, high)
    return Span(first, end, bool(reverse), limit, True)


def _bound(codec: KeyCodec, what: str, key: Any) -> bytes:
    try:
        return codec.dumps(key)
    except SerializationError as error:
        raise SerializationError(f"{what}={in_short(key)} cannot be a key of this store: {error}").in_words(
            f"{what} {in_short(key)} cannot be a key of this store: {told(error)}"
        ) from error


def _prefix_range(codec: KeyCodec, prefix: Any) -> tuple[bytes, bytes | None]:
    """Return the range of bytes that the keys with a prefix have; None: to the end."""
    if not isinstance(prefix, str | bytes | tuple):
        problem = "must be a str, bytes or tuple, whatever the keys are"
        raise SerializationError(f"prefix={in_short(prefix)}: {problem}").in_words(
            f"prefix {in_short(prefix)} {problem}"
        )
    low = _bound(codec, "prefix", prefix)
    if isinstance(prefix, tuple):
        return ordered.tuple_range(low)
    stem = low.rstrip(b"\xff")  # the least bytes behind all that begin with it: its last byte that can, one higher
    return low, stem[:-1] + bytes([stem[-1] + 1]) if stem else None
