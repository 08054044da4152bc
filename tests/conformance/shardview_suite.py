"""What ``d.shards()`` promises: each shard read on its own, everything exactly once, also by other processes."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from multiprocessing import get_context
from typing import Any

import pytest

from rack import NotOpenError
from tests.conformance.container_suite import ContainerSuite, both, opened, put
from tests.conformance.model import KEYS, Place, dumped


class ShardViewSuite(ContainerSuite):
    @both
    def test_the_views_of_all_shards_have_everything_once(self, place: Place, kind: str) -> None:
        container = opened(place, kind)
        parts = container.shards()
        assert len(parts) == place.shards
        assert [part.number for part in parts] == list(range(place.shards))
        found = [key for part in parts for key in part]
        assert sorted(found, key=dumped) == sorted(KEYS, key=dumped)
        assert sum(map(len, parts)) == len(KEYS)
        for part in parts:
            keys = list(part)
            assert {place.raw.shard_of(dumped(key), place.shards) for key in keys} <= {part.number}
            assert keys == sorted(keys, key=dumped)
            assert list(reversed(part)) == keys[::-1]
            assert len(part) == len(keys)
            assert [key in part for key in KEYS] == [key in keys for key in KEYS]
            assert "absent" not in part
            assert bool(part) == bool(keys)
            with pytest.raises(TypeError, match="unhashable"):
                assert [] in part

    def test_a_view_of_a_dicts_shard_has_the_views_of_a_dict(self, place: Place) -> None:
        model = {key: (number, "v") for number, key in enumerate(KEYS)}
        d = place.filled_dict(model)
        found: dict[Any, Any] = {}
        for part in d.shards():
            assert isinstance(part, Mapping)
            items = list(part.items())
            assert list(part.keys()) == list(part)
            assert items == list(zip(part.keys(), part.values(), strict=True))
            assert list(reversed(part.items())) == items[::-1]
            assert dict(part) == dict(items)
            assert d.shards()[part.number].keys() & d.keys() == set(part)
            for key in KEYS:
                if key in part:
                    assert part[key] == part.get(key) == model[key]
                else:
                    assert part.get(key, "default") == "default"
                    with pytest.raises(KeyError):
                        part[key]
            found |= items
        assert found == model
        assert len({part.get("absent") for part in d.shards()}) == 1

    @both
    def test_a_view_is_live(self, place: Place, kind: str) -> None:
        container = opened(place, kind, [1, 2])
        parts = container.shards()
        put(container, 3)
        assert sum(map(len, parts)) == 3
        assert sorted(key for part in parts for key in part) == [1, 2, 3]
        container.clear()
        assert sum(map(len, parts)) == 0

    @both
    def test_a_pool_that_maps_the_shards_covers_the_store_once(self, place: Place, kind: str) -> None:
        container = opened(place, kind)
        method = "spawn" if place.shards == 2 else "fork"
        with get_context(method).Pool(2) as pool:
            found = pool.map(read_and_write, container.shards(), chunksize=1)
        assert sorted((key for keys in found for key in keys), key=dumped) == sorted(KEYS, key=dumped)
        assert len(container) == len(KEYS) + place.shards

    @both
    def test_a_view_that_comes_back_from_a_pickle_opens_the_store_and_with_closes_it(
        self, place: Place, kind: str
    ) -> None:
        container = opened(place, kind)
        part = pickle.loads(pickle.dumps(container.shards()[-1]))
        assert not part.store.closed
        assert list(part) == list(container.shards()[-1])
        part.store.close()
        with pytest.raises(NotOpenError):
            len(part)
        with part:
            assert part.number == place.shards - 1
            assert len(part) == len(container.shards()[-1])
        assert part.store.closed

    @both
    def test_a_view_tells_what_it_is(self, place: Place, kind: str) -> None:
        container = opened(place, kind)
        parts = container.shards()
        assert repr(parts[0]) == f"<shard 0 of {container!r}>"
        container.close()
        for use in (len, list, bool, lambda part: "a" in part, lambda part: part.scan()):
            with pytest.raises(NotOpenError):
                use(parts[0])
        with pytest.raises(NotOpenError):
            container.shards()


def read_and_write(part: Any) -> list[Any]:
    """In a worker: read a shard, and write through its container."""
    found = list(part)
    put(part.store, f"from {part.number}")
    return [key for key in found if not str(key).startswith("from")]
