"""Containers on a Redis server and on a cluster keep the promises of the conformance suite, in all layouts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict
from tests.conformance.atomic_suite import AtomicSuite
from tests.conformance.container_suite import ContainerSuite
from tests.conformance.dict_suite import DictSuite
from tests.conformance.life_suite import LifeSuite
from tests.conformance.made_suite import MadeSuite
from tests.conformance.range_suite import RangeSuite
from tests.conformance.served import ServedPlace
from tests.conformance.set_suite import SetSuite
from tests.conformance.shardview_suite import ShardViewSuite
from tests.conformance.views_suite import ViewsSuite
from tests.support.servers import Cluster, Server, take_all_keys
from tests.support.servers import cluster as cluster
from tests.support.servers import server as server


class OnServer(ContainerSuite):
    """On one server, in the ordered layout."""

    layout = "ordered"
    quick: tuple[type[ContainerSuite], ...] = ()  # suites that are run without --long; (): all

    @pytest.fixture(autouse=True)
    def _own_temporary_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        monkeypatch.setenv("TMPDIR", str(tmp_path))

    @pytest.fixture(autouse=True)
    def _not_too_long(self, long: bool) -> None:
        if self.quick and not (long or isinstance(self, self.quick)):
            pytest.skip("runs with --long")

    @pytest.fixture(params=[3])
    def shards(self, request: pytest.FixtureRequest) -> int:
        return int(request.param)

    @pytest.fixture
    def place(self, server: Server, shards: int) -> Iterator[Any]:
        with server.client() as client:
            place = ServedPlace(server.url, client, shards, self.layout)
            yield place
            place.finish()


class AsHashes(OnServer):
    """On one server, in the layout of plain hashes, which have no order."""

    layout = "hash"
    quick = (SetSuite, AtomicSuite)


class Packed(OnServer):
    """On one server, in the layout for digests. It takes all keys here, which are spread as badly as can be."""

    layout = "packed"
    quick = (SetSuite, AtomicSuite)

    @pytest.fixture(autouse=True)
    def _for_all_keys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        take_all_keys(monkeypatch)


class OnCluster(OnServer):
    quick = (AtomicSuite, DictSuite)

    @pytest.fixture
    def place(self, cluster: Cluster, shards: int) -> Iterator[Any]:
        with cluster.client() as client:
            place = ServedPlace(cluster.url, client, shards, self.layout)
            yield place
            place.finish()


class OtherwiseSuite(ContainerSuite):
    """What is otherwise on a server."""

    def test_fromkeys_makes_a_dict(self, place: Any) -> None:
        options = {"shards": place.shards}
        with PersistentDict.fromkeys(["a", "b", "a"], 1, place.directory / "made", **options) as made:
            assert made == {"a": 1, "b": 1}
        with pytest.raises(TypeError):
            PersistentDict.fromkeys(5, name=place.directory / "wrong", **options)
        assert not place.anonymous()
        with pytest.raises(ValueError, match="must be a URL"):
            PersistentDict.fromkeys("ab", engine="redis")


class PackedOnCluster(Packed, OnCluster):
    quick = (SetSuite,)


SUITES = [LifeSuite, MadeSuite, SetSuite, DictSuite, AtomicSuite, ViewsSuite, RangeSuite, ShardViewSuite]

IN_ORDER = [LifeSuite, ViewsSuite, RangeSuite]

for where in (OnServer, AsHashes, Packed, OnCluster, PackedOnCluster):
    for suite in SUITES if where.layout != "hash" else [each for each in SUITES if each not in IN_ORDER]:
        name = f"Test{suite.__name__.removesuffix('Suite')}{where.__name__}"
        globals()[name] = type(name, (where, OtherwiseSuite, suite), {"__module__": __name__})
del where, suite, name
del OnServer, AsHashes, Packed, OnCluster, PackedOnCluster, OtherwiseSuite
