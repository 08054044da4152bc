"""Digests of keys: one for equal keys, another one for others; and the names that there are for them."""

from __future__ import annotations

import hashlib
import pickle
from decimal import Decimal
from typing import Any

import numpy
import pytest
import xxhash

from rack import Digest, DigestKeysError, SerializationError
from rack.codec.keys import CANONICAL, resolve_codec
from rack.codec.serdes import MARSHAL, PRESETS

NAMES = ("digest", "digest:sha256", "digest:sha256:20", "digest:blake2b:32")


class Word(str):
    __slots__ = ()


def dump(key: Any, name: str = "digest") -> bytes:
    return resolve_codec(name, MARSHAL).dumps(key)


def test_bytes_and_str_are_digested_as_they_are_and_all_else_in_its_canonical_form() -> None:
    long = "é" * 600
    for key, data, tag in [
        *((b"a", b"a", 0), (b"", b"", 0), ("a", b"a", 1), (long, long.encode(), 1), ("\ud800", b"\xed\xa0\x80", 1)),
        *((key, CANONICAL.dumps(key), 2) for key in (5, None, 0.5, ("a", 1), Decimal("0.1"))),
    ]:
        assert dump(key) == xxhash.xxh3_128_digest(data, tag)
        assert dump(key, "digest:sha256") == hashlib.sha256(bytes([tag]) + data).digest()[:16]
        assert dump(key, "digest:blake2b:32") == hashlib.blake2b(bytes([tag]) + data).digest()[:32]


@pytest.mark.parametrize("name", NAMES)
def test_equal_keys_have_one_digest_and_others_another(name: str) -> None:
    groups: list[list[Any]] = [
        ["a", Word("a"), numpy.str_("a")],
        [b"a", memoryview(b"a"), numpy.bytes_(b"a")],
        [1, 1.0, True, Decimal(1), numpy.int64(1)],
        *([""], [b""], [()], [("a",)], [(b"a",)], [frozenset()], [None]),
        # What is the canonical form of another key is itself one.
        *([CANONICAL.dumps("a")], [CANONICAL.dumps(1)], [dump("a", name)], [Digest(dump("a", name))]),
    ]
    found = [{dump(key, name) for key in group} for group in groups]
    assert [len(each) for each in found] == [1] * len(groups)
    assert found[-1] == found[0]
    assert len(set().union(*found)) == len(groups) - 1


@pytest.mark.parametrize("name", NAMES)
def test_a_digest_stands_for_its_key_in_stores_that_have_such(name: str) -> None:
    codec = resolve_codec(name, MARSHAL)
    data = codec.dumps("a")
    digest = codec.loads(data)
    assert type(digest) is Digest
    assert codec.dumps(digest) == data
    assert type(codec.dumps(digest)) is bytes
    for wrong in (Digest(data[1:]), Digest(data + b"x"), Digest()):
        with pytest.raises(SerializationError, match=f"a digest of {len(wrong)} bytes"):
            codec.dumps(wrong)


@pytest.mark.parametrize("name", ["marshal", "str", "bytes", "ordered"])
def test_stores_of_whole_keys_refuse_digests(name: str) -> None:
    for codec in (resolve_codec(name, MARSHAL), resolve_codec(pickle, MARSHAL), resolve_codec(None, own(), True)):
        with pytest.raises(DigestKeysError, match="whole keys"):
            codec.dumps(Digest(b"a" * 16))


def own() -> Any:
    from rack.codec.serdes import resolve

    return resolve((lambda data: data.decode(), lambda text: str(text).encode()))


def test_a_digest_is_bytes_that_equal_no_bytes() -> None:
    digest = Digest(b"a" * 16)
    assert digest != b"a" * 16
    assert digest != b"a" * 16
    assert not digest == b"a" * 16  # noqa: SIM201 - it has both
    assert digest == Digest(b"a" * 16)
    assert not digest != Digest(b"a" * 16)  # noqa: SIM202
    assert {digest, Digest(b"a" * 16), b"a" * 16} == {b"a" * 16, digest}
    assert eval(repr(digest)) == digest
    assert str(digest) == repr(digest)
    assert pickle.loads(pickle.dumps(digest)) == digest
    part = CANONICAL.loads(CANONICAL.dumps((digest, b"a" * 16)))  # in a pair, say, of the items of a dict
    assert part == (digest, b"a" * 16)
    assert list(map(type, part)) == [Digest, bytes]


def test_one_thing_has_one_name() -> None:
    assert resolve_codec("digest:sha256:16", MARSHAL).name == "digest:sha256"
    assert resolve_codec("digest:sha256:16", MARSHAL) is resolve_codec("digest:sha256", PRESETS["json"])
    for wrong in ("digest:", "digest:md5", "digest:sha256:", "digest:sha256:15", "digest:sha256:33", "digest:16"):
        with pytest.raises(ValueError, match="is no digest"):
            resolve_codec(wrong, MARSHAL)
    for wrong in ("digest:sha256:16:1", "digest:sha256:016", "digest:sha256:+20", "digest:sha256:²0"):
        with pytest.raises(ValueError, match="is no digest"):
            resolve_codec(wrong, MARSHAL)
    with pytest.raises(ValueError, match="'digest'"):
        resolve_codec("digests", MARSHAL)
