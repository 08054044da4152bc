"""Equal keys are one key or are refused, with every preset, as in a dict; in processes with other hash seeds, too."""

from __future__ import annotations

import datetime
import os
import pickle
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rack import SerializationError
from rack.codec.keys import resolve_codec
from rack.codec.serdes import PRESETS

CODECS = {name: resolve_codec(name, PRESETS[name]) for name in ("marshal", "str", "bytes", "ordered")}
CODECS |= {name: resolve_codec(name, PRESETS["marshal"]) for name in ("digest", "digest:sha256")}


class Word(str):
    __slots__ = ()


class Count(int):
    pass


class Colour(Enum):
    RED = 1


class Number(IntEnum):
    ONE = 1


class Name(StrEnum):
    A = "a"


Point = namedtuple("Point", "x y")


@dataclass(frozen=True)
class Record:
    name: Any


UTC = datetime.UTC
EAST = datetime.timezone(datetime.timedelta(hours=2))
noon = datetime.datetime(2024, 1, 2, 12)
# Few enough that equal ones of different types meet often.
leaves = st.sampled_from(
    [
        *(0, 1, -1, 2**53, 2**70, True, False, 0.0, -0.0, 1.0, 0.5, 0.1, 2.0**70, float("inf")),
        *(Fraction(1), Fraction(1, 2), Fraction(1, 3), Decimal(1), Decimal("0.5"), Decimal("0.50"), Decimal("0.1")),
        *(Decimal("Infinity"), 1 + 0j, 0.5 + 0j, 1j, complex(0.0, -0.0), complex(-0.0, 1), Count(1)),
        *("", "a", Word("a"), Name.A, "\ud800", b"", b"a", None, ..., Colour.RED, Number.ONE),
        *(noon, noon.replace(tzinfo=UTC), noon.replace(hour=14, tzinfo=EAST), noon.date()),
        *(datetime.time(12), datetime.time(12, tzinfo=UTC), datetime.time(14, tzinfo=EAST)),
        *(datetime.timedelta(1), datetime.timedelta(hours=24), range(0), range(3, 3), range(0, 3, 2), range(0, 4, 2)),
    ]
)
keys = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.builds(Point, inner, inner),
        st.builds(Record, inner),
        st.frozensets(inner, max_size=3),
    ),
    max_leaves=4,
)


def dumped(codec: str, key: Any) -> bytes | None:
    try:
        return CODECS[codec].dumps(key)
    except SerializationError:
        return None


@pytest.mark.parametrize("codec", CODECS)
@settings(deadline=None, max_examples=100)
@given(batch=st.lists(keys, min_size=20, max_size=60))
def test_equal_keys_are_one_key_or_are_refused(codec: str, batch: list[Any]) -> None:
    like: dict[Any, bytes] = {}
    found: dict[bytes, Any] = {}
    for key in batch:
        data = dumped(codec, key)
        if data is not None:
            assert like.setdefault(key, data) == data
            assert found.setdefault(data, key) == key
            back = CODECS[codec].loads(data)
            if CODECS[codec].digest is not None:
                assert CODECS[codec].dumps(back) == data
                continue
            assert back == key
            assert hash(back) == hash(key)


_CHILD = """
import pickle, sys
from tests.codec.test_equal_keys import CODECS, dumped
while True:
    batch = pickle.load(sys.stdin.buffer)
    pickle.dump([[dumped(codec, key) for key in batch] for codec in CODECS], sys.stdout.buffer)
    sys.stdout.buffer.flush()
"""


@pytest.fixture(scope="module")
def others() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two processes with other hash seeds, that dump batches of keys."""
    made = [
        subprocess.Popen(
            [sys.executable, "-c", _CHILD],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # the end of the input
        )
        for seed in ("1", "2")
    ]
    yield made
    for child in made:
        child.communicate(timeout=20)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(keys, min_size=20, max_size=60))
def test_keys_have_the_same_bytes_in_processes_with_other_hash_seeds(
    others: list[subprocess.Popen[bytes]], batch: list[Any]
) -> None:
    expected = [[dumped(codec, key) for key in batch] for codec in CODECS]
    for child in others:
        assert child.stdin is not None
        assert child.stdout is not None
        pickle.dump(batch, child.stdin)
        child.stdin.flush()
        assert pickle.load(child.stdout) == expected
