"""What ``scan`` promises: the keys of a range or with a prefix, in order, over any number of shards."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rack import NotOpenError, PersistentDict, PersistentSet, RackError, SerializationError, UnorderedKeysError
from rack.shard import spans
from rack.store import merge
from tests.codec.test_ordered import begins, binary, keys, place_of, text
from tests.conformance.container_suite import ContainerSuite, both, put
from tests.conformance.model import Place

# Few letters, so that keys are near each other and begin alike; some keys are too long for an LMDB key.
letters = st.text(st.sampled_from("ab\0\u00ff\ud800\uffff\U0010ffff"), max_size=4)
ended = st.sampled_from(["", "", "", "k" * 600, "k" * 600 + "b", "k" * 505])
strings = st.one_of(text, st.builds(lambda start, end: start + end, letters, ended))
blobs = st.one_of(binary, st.builds(lambda start, end: start + end.encode(), st.binary(max_size=2), ended))
tuples = st.lists(st.one_of(strings, blobs, st.integers(-2, 2), st.none()), max_size=3).map(tuple)
ANY_KEY = {"str": strings, "bytes": blobs, "ordered": st.one_of(keys, tuples, strings, blobs)}
PREFIX = {"str": letters, "bytes": blobs, "ordered": st.one_of(letters, blobs, tuples)}

every_codec = pytest.mark.parametrize("codec", ["str", "bytes", "ordered"])


def expected_of(content: list[Any], start: Any, stop: Any, prefix: Any, reverse: bool, limit: int | None) -> list[Any]:
    found = [
        key
        for key in sorted(content, key=place_of)
        if (start is None or place_of(start) <= place_of(key))
        and (stop is None or place_of(key) < place_of(stop))
        and (prefix is None or begins(key, prefix))
    ]
    return (found[::-1] if reverse else found)[:limit]


class RangeSuite(ContainerSuite):
    @both
    @every_codec
    def test_a_scan_gives_what_a_sorted_list_would(
        self, place: Place, kind: str, codec: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        container = getattr(place, kind)(key_serdes=codec).open()

        @settings(deadline=None, max_examples=25, suppress_health_check=list(HealthCheck))
        @given(st.data())
        def holds(data: st.DataObject) -> None:
            content = data.draw(st.lists(ANY_KEY[codec], max_size=25, unique_by=place_of))
            monkeypatch.setattr(merge, "FIRST_ITEMS", data.draw(st.sampled_from([1, 2, 3, 128])))
            monkeypatch.setattr(spans, "_GROWTH", data.draw(st.sampled_from([1, 2])))
            container.clear()
            container.update(dict.fromkeys(content, 1) if kind == "dict" else content)
            bounds = st.one_of(st.none(), ANY_KEY[codec], *([st.sampled_from(content)] if content else []))
            for _ in range(6):
                start, stop = data.draw(bounds), data.draw(bounds)
                prefix = data.draw(st.one_of(st.none(), PREFIX[codec]))
                reverse = data.draw(st.booleans())
                limit = data.draw(st.sampled_from([None, None, 0, 1, 2, 5, 100]))
                found = list(container.scan(start, stop, prefix=prefix, reverse=reverse, limit=limit))
                if kind == "dict":
                    assert all(value == 1 for _, value in found)
                    found = [key for key, _ in found]
                # Lists compare 1 and 1.0 as keys do.
                assert found == expected_of(content, start, stop, prefix, reverse, limit)

        holds()

    @both
    def test_a_scan_goes_over_many_blocks(self, place: Place, kind: str) -> None:
        container = getattr(place, kind)(key_serdes="str").open()
        content = sorted(
            [f"{number:05d}" for number in range(6_000)] + [f"03{number}" + "x" * 600 for number in range(9)]
        )
        container.update(dict.fromkeys(content, 1) if kind == "dict" else content)
        view = container.keys() if kind == "dict" else container
        assert list(view.scan()) == content
        assert list(view.scan("00500", "04000")) == [key for key in content if "00500" <= key < "04000"]
        assert list(view.scan("00500", reverse=True)) == [key for key in content if key >= "00500"][::-1]
        for limit in (1, 10, 500, 5_000, 50_000):
            assert list(view.scan("0050", limit=limit)) == [key for key in content if key >= "0050"][:limit]
            assert list(view.scan(reverse=True, limit=limit)) == content[::-1][:limit]
        assert list(view.scan(prefix="03")) == [key for key in content if key.startswith("03")]
        assert list(view.scan("039", prefix="03")) == [key for key in content if key.startswith("039")]
        assert list(view.scan(prefix="9")) == []
        assert list(view.scan("5", "4")) == list(view.scan("4", "4")) == []

    def test_the_views_of_a_dict_take_part(self, place: Place) -> None:
        d = place.dict(key_serdes="str").open()
        d.update({letter: number for number, letter in enumerate("abcdefg")})
        assert list(d.scan("b", "e")) == list(d.items().scan("b", "e")) == [("b", 1), ("c", 2), ("d", 3)]
        assert list(d.keys().scan("b", reverse=True, limit=2)) == ["g", "f"]
        assert list(d.values().scan(stop="c")) == [0, 1]
        shards = d.shards()
        assert sorted(key for part in shards for key in part.keys().scan("b", "e")) == ["b", "c", "d"]
        assert sorted(value for part in shards for value in part.values().scan("b", "e")) == [1, 2, 3]
        assert sorted(pair for part in shards for pair in part.scan(prefix="c")) == [("c", 2)]

    def test_the_shards_of_a_set_can_be_scanned(self, place: Place) -> None:
        s = place.set(serdes="ordered").open()
        s.update([(1, "a"), (1, "b"), (2, "a"), "x"])
        assert sorted(key for part in s.shards() for key in part.scan(prefix=(1,))) == [(1, "a"), (1, "b")]

    @both
    def test_a_scan_is_lazy_and_the_loop_may_change_the_store(self, place: Place, kind: str) -> None:
        container = getattr(place, kind)(key_serdes="str").open()
        stays = [f"{number:05d}" for number in range(3_000)]
        put_all(container, stays + [f"{number:05d}-gone" for number in range(3_000)])
        view = container.keys() if kind == "dict" else container
        seen = []
        for key in view.scan("00100", "02900"):
            seen.append(key)
            if key in ("00100", "01000", "02500"):
                goners = [f"{number:05d}-gone" for number in range(int(key), 3_000)]
                container.discard_many(goners) if kind == "set" else container.delete_many(goners)
                put(container, f"{key}+")
        assert [key for key in seen if len(key) == 5] == stays[100:2900]
        assert seen == sorted(set(seen))

    @both
    def test_a_scan_sees_a_batch_of_its_thread(self, place: Place, kind: str) -> None:
        container = getattr(place, kind)(key_serdes="str").open()
        put(container, "b")
        with container.batch():
            put(container, "a")
            put(container, "c")
            assert [key[0] for key in container.scan("a", "c")] == ["a", "b"]
            assert [key[0] for key in container.scan(reverse=True, limit=2)] == ["c", "b"]

    @both
    @pytest.mark.parametrize("serdes", [None, "pickle", "json"])
    def test_a_store_whose_bytes_are_in_no_order_says_how_to_get_one(
        self, place: Place, kind: str, serdes: str | None
    ) -> None:
        container = getattr(place, kind)(serdes=serdes).open()
        for arguments in ({}, {"limit": 1}, {"prefix": "a"}):
            with pytest.raises(UnorderedKeysError, match=r"ordered.*rack copy") as caught:
                container.scan(**arguments)
            assert isinstance(caught.value, RackError)
            assert isinstance(caught.value, TypeError)

    @both
    def test_wrong_arguments_are_errors_at_once(self, place: Place, kind: str) -> None:
        container = getattr(place, kind)(key_serdes="str").open()
        for arguments, message in [
            ({"start": 5}, "start=5 cannot be a key"),
            ({"stop": b"x"}, "stop=b'x' cannot be a key"),
            ({"prefix": b"x"}, "prefix=b'x' cannot be a key"),
            ({"prefix": 5}, "prefix=5: must be"),
            ({"prefix": ("a",)}, "prefix=.*cannot be a key"),
            ({"start": ["a"]}, "unhashable"),
            ({"limit": 1.5}, "limit=1.5"),
            ({"limit": True}, "limit=True"),
            ({"limit": "5"}, "limit='5'"),
        ]:
            with pytest.raises(TypeError, match=message):
                container.scan(**arguments)
        with pytest.raises(SerializationError, match="start=5"):
            container.scan(5)
        with pytest.raises(ValueError, match="limit=-1"):
            container.scan(limit=-1)
        with pytest.raises(TypeError):
            container.scan("a", "b", "c")
        container.close()
        with pytest.raises(NotOpenError):
            container.scan("a")


def put_all(container: PersistentDict[Any, Any] | PersistentSet[Any], keys: list[Any]) -> None:
    if isinstance(container, PersistentSet):
        container.update(keys)
    else:
        container.update(dict.fromkeys(keys, 1))
