"""Random sequences of operations on a server and on a cluster answer as a built-in dict and set would."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.served import Folder
from tests.container import test_model
from tests.container.test_model import spawned as spawned
from tests.support.servers import Cluster, Server, take_all_keys
from tests.support.servers import cluster as cluster
from tests.support.servers import server as server

_numbers = itertools.count()


class Model(test_model.Model):
    def __init__(self, where: Server | Cluster, layout: str, spawned: Any) -> None:
        self._where = where
        self._layout = layout
        self.is_ordered = layout != "hash"
        super().__init__("redis", spawned)

    def new_place(self) -> Any:
        self._prefix = f"model{next(_numbers)}:"
        return Folder(f"{self._where.url}?name={self._prefix}&layout={self._layout}")

    def remove_place(self) -> None:
        with self._where.client() as client:
            for key in list(client.scan_iter(f"*{self._prefix}*", count=1000)):
                client.delete(key)


@pytest.mark.timeout(1500)  # for the long form
@pytest.mark.parametrize("layout", ["hash", "ordered", "packed"])
@pytest.mark.parametrize("where", ["server", "cluster"])
def test_any_sequence_of_operations_answers_as_built_in_containers_do(
    where: str,
    layout: str,
    long: bool,
    spawned: Any,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if where == "cluster" and layout != "ordered" and not long:
        pytest.skip("runs with --long")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # for what has no name
    take_all_keys(monkeypatch)
    place = request.getfixturevalue(where)
    test_model.run(lambda: Model(place, layout, spawned), long)
    assert not list(tmp_path.iterdir())
