"""Objects as JSON: whatever marshal holds comes back as it was, and nothing else is taken for it."""

from __future__ import annotations

import json
import marshal
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rack.codec import tagged
from rack.codec.failure import RefusedError

#: Texts with surrogates, too, of which two may stand for a character where they are encoded.
TEXTS = (
    st.text() | st.text(st.characters(min_codepoint=0xD7FF, max_codepoint=0xE000)) | st.sampled_from(["$", "$tuple"])
)
FLOATS = st.floats(allow_subnormal=True) | st.sampled_from([nan, -nan, inf, -inf, -0.0])
SCALARS = st.none() | st.booleans() | st.integers() | FLOATS | st.complex_numbers() | TEXTS | st.binary() | st.just(...)
HASHABLE = st.recursive(SCALARS, lambda parts: st.lists(parts).map(tuple) | st.frozensets(parts), max_leaves=8)
VALUES = st.recursive(
    HASHABLE | st.sets(HASHABLE),
    lambda parts: st.lists(parts) | st.lists(parts).map(tuple) | st.dictionaries(TEXTS | HASHABLE, parts),
    max_leaves=12,
)


def is_same(one: Any, other: Any) -> bool:
    """Whether two objects are equal and of the same types throughout; bit by bit for floats."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, dict):
        return is_same([*one.items()], [*other.items()])  # in the same order
    if isinstance(one, set | frozenset):
        left = [*other]
        for part in one:
            found = next((at for at, like in enumerate(left) if is_same(part, like)), None)
            if found is None:
                return False
            del left[found]
        return not left
    if isinstance(one, float | complex):
        return marshal.dumps(one, 2) == marshal.dumps(other, 2)
    return bool(one == other)


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_whatever_marshal_holds_comes_back_as_it_was(value: Any) -> None:
    text = tagged.dumps(value)
    assert len(text.encode().splitlines()) <= 1 or "\n" not in text
    assert is_same(tagged.loads(text), value)
    assert is_same(tagged.loads(text.encode()), value)


@settings(max_examples=20, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda parts: st.lists(parts), max_leaves=8))
def test_what_json_has_is_written_as_json(value: Any) -> None:
    assert tagged.dumps(value) == json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    assert tagged.dumps({"a": value, "$b": 1}) == json.dumps(
        {"a": value, "$b": 1}, separators=(",", ":"), ensure_ascii=False
    )


def test_the_tags_are_those_that_are_documented() -> None:
    written = {
        b"\xff": '{"$bytes":"/w=="}',
        (1, "a"): '{"$tuple":[1,"a"]}',
        frozenset([1]): '{"$frozenset":[1]}',
        1.5 - 2j: '{"$complex":[1.5,-2.0]}',
        inf: '{"$float":"inf"}',
        -nan: '{"$float":"fff8000000000000"}',
        ...: '{"$ellipsis":null}',
        "\ud800": '{"$str":"7aCA"}',
        "é\u2028": '"é\u2028"',
        -0.0: "-0.0",
    }
    assert {value: tagged.dumps(value) for value in written} == written
    assert tagged.dumps({*"hgfedcba"}) == '{"$set":["a","b","c","d","e","f","g","h"]}'  # in order, as all equal sets
    assert tagged.dumps({1: 2, (): None}) == '{"$dict":[[1,2],[{"$tuple":[]},null]]}'
    assert tagged.dumps({"$set": 1}) == '{"$dict":[["$set",1]]}'


@pytest.mark.parametrize(
    "value", [object(), bytearray(b"a"), [1, {2: range(3)}], StopIteration, (0).__class__, type("S", (str,), {})("a")]
)
def test_what_has_no_place_is_refused(value: Any) -> None:
    with pytest.raises(RefusedError, match="of type "):
        tagged.dumps(value)


@pytest.mark.parametrize(
    "text",
    [
        *('{"$nonsense": 1}', '{"$bytes": 5}', '{"$bytes": "a"}', '{"$bytes": "YQ==\\n"}', '{"$str": "/w=="}'),
        *('{"$tuple": {}}', '{"$set": [[1]]}', '{"$set": 5}', '{"$complex": [1]}', '{"$complex": ["a", 1]}'),
        *('{"$float": "zz"}', '{"$float": "00"}', '{"$float": 1}', '{"$dict": [[1]]}', '{"$dict": [[[], 1]]}'),
        *('{"$ellipsis": 1}', "{", "", "[" * 100_000, '{"a": {"$x": 1}}', b"\xff"),
    ],
)
def test_what_is_none_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        tagged.loads(text)
