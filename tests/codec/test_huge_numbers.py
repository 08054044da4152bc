"""Numbers far larger than how they are written: refused or held, and soon; equal ones are one key."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentSet, SerializationError
from rack.codec import ordered
from rack.codec.keys import BLIND, CANONICAL, resolve_codec
from rack.codec.serdes import PRESETS
from tests.codec.reference import encode

CODECS = [CANONICAL, BLIND, *(resolve_codec(None, PRESETS[name]) for name in ("str", "bytes", "ordered"))]
HUGE = ["1e1000000000", "-1e1000000000", "1e-1000000000", "1.5e999999999", "9" * 20 + "e100000000", "1e999999999999"]


@contextmanager
def soon(seconds: float = 2) -> Iterator[None]:
    """Fail if the block takes long: the work of these numbers would take minutes, or all memory."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


class Money(Decimal):
    pass


class Odd(Decimal):
    def __eq__(self, other: object) -> bool:
        return Decimal.__eq__(self, other)

    __hash__ = Decimal.__hash__


@pytest.mark.parametrize("kind", [Decimal, Money, Odd])
@pytest.mark.parametrize("text", HUGE)
def test_a_decimal_of_too_many_digits_is_refused_soon(text: str, kind: type[Decimal]) -> None:
    with soon():
        for codec in CODECS:
            for key in (kind(text), (kind(text), 1), frozenset([kind(text)])):
                with pytest.raises(SerializationError):
                    codec.dumps(key)


def test_it_is_in_no_store(tmp_path: Path) -> None:
    with soon(10), PersistentSet[Any](tmp_path / "store", shards=1) as store:
        for text in HUGE:
            assert Decimal(text) not in store
            assert not store.discard(Decimal(text))
            with pytest.raises(SerializationError):
                store.add(Decimal(text))


EQUAL: list[list[Any]] = [
    [0, 0.0, -0.0, Decimal(0), Decimal("-0"), Decimal("0e1000000000"), Decimal("0e-1000000000"), Fraction(0), False],
    [1000, 1e3, Decimal("1E+3"), Decimal("1000.000"), Fraction(1000), Decimal("1000" + "0" * 900) / 10**900],
    [10**2000, Decimal("1e2000"), Decimal(10**2000), Fraction(10**2000)],
    [0.5, Decimal("0.5"), Decimal("5000000e-7"), Fraction(1, 2)],
    [Fraction(1, 3 * 10**50), Fraction(2, 6 * 10**50)],
    [Fraction(1, 10**2000), Decimal("1e-2000")],
    [range(0, 10**30, 7), range(0, 10**30 + 1, 7)],
    [range(10**30, 0, -1), range(10**30, 0, -1)],
    [range(10**30, 10**30 + 5, 10), range(10**30, 10**30 + 1)],
    [range(5, 5), range(10**30, 0), range(0)],
]


@pytest.mark.parametrize("keys", EQUAL, ids=lambda keys: repr(keys[-1])[:30])
def test_equal_numbers_are_one_key(keys: list[Any]) -> None:
    assert len(set(keys)) == 1
    with soon():
        assert len({CANONICAL.dumps(key) for key in keys}) == 1
        assert len({CANONICAL.dumps((1, key)) for key in keys}) == 1
        assert CANONICAL.loads(CANONICAL.dumps(keys[0])) == keys[0]


# The order of keys


def test_large_ints_take_no_more_than_their_share() -> None:
    large = random.Random(1).getrandbits(4_000_000) | 1  # in quadratic time it takes minutes
    with soon(20):
        for number in (large, -large, large << 4_000_000):
            assert ordered.loads(ordered.dumps(number)) == number


def test_the_code_is_what_it_was() -> None:
    rng = random.Random(2)
    for bits in [*range(1, 200), 500, 1000, 5000]:
        for number in (rng.getrandbits(bits), 1 << bits, (1 << bits) - 1, rng.getrandbits(bits) << rng.randrange(300)):
            for signed in (number, -number):
                assert ordered.dumps(signed) == encode(signed)
                assert ordered.loads(ordered.dumps(signed)) == signed


def test_an_int_of_which_a_few_bytes_stand_for_gigabytes_is_neither_made_nor_taken() -> None:
    for size in range(4, 9):
        for negative in (False, True):
            code = bytes([size, *[0xFF] * size, 0x80])
            data = b"\x03" + bytes(255 - byte for byte in code) if negative else b"\x05" + code
            with soon(), pytest.raises(ValueError, match="bits"):
                ordered.loads(data)
    with soon(10), pytest.raises(OverflowError):
        ordered.dumps(1 << (1 << 30))
