"""What both containers promise about snapshots and backups."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from rack import (
    MismatchError,
    NotOpenError,
    PersistentDict,
    ReadOnlyError,
    SnapshotLostError,
    StoreExistsError,
    StoreNotFoundError,
)
from tests.conformance.container_suite import ContainerSuite, both, opened, put
from tests.conformance.model import KEYS, Place, dumped

MANY = [f"{number:05d}" for number in range(3_000)] + ["long" * 200 + str(number) for number in range(100)]


def content(container: Any) -> Any:
    return dict(container) if isinstance(container, PersistentDict) else set(container)


def change_everything(container: Any) -> None:
    """Remove all, and write enough to use pages again and to grow every shard."""
    container.clear()
    for number in range(3):
        keys = [f"{number}-{key}" * 9 for key in MANY]
        container.update(keys if not isinstance(container, PersistentDict) else dict.fromkeys(keys, "x" * 300))


class SnapshotSuite(ContainerSuite):
    @both
    def test_a_snapshot_does_not_change(self, place: Place, kind: str) -> None:
        container = opened(place, kind, MANY)
        before = content(container)
        with container.snapshot() as snapshot:
            for _ in range(2):
                change_everything(container)
                assert content(snapshot) == before
                assert list(snapshot) == sorted(before, key=dumped)
                assert list(reversed(snapshot)) == sorted(before, key=dumped, reverse=True)
                assert len(snapshot) == len(before) == snapshot.check()
                assert all(key in snapshot for key in MANY)
                assert "0-00000" * 9 not in snapshot
                assert list(snapshot.contains_many(["00000", "absent", "long" * 200 + "7"])) == [True, False, True]
        assert len(container) == 3 * len(MANY)
        assert leftovers(place) == []

    def test_a_snapshot_of_a_dict_has_its_values(self, place: Place) -> None:
        store = place.filled_dict({"a": 1, "b": [2], "": None, "k" * 600: b"v" * 9000})
        with store.snapshot() as snapshot:
            store["a"], store["c"] = 7, 7
            del store["b"]
            assert snapshot["a"] == 1
            assert snapshot.get("b") == [2]
            assert snapshot.get("c", "none") == "none"
            assert snapshot.get_many(["a", "c", "", "k" * 600]) == {"a": 1, "": None, "k" * 600: b"v" * 9000}
            assert sorted(snapshot.keys()) == ["", "a", "b", "k" * 600]
            assert ("a", 1) in snapshot.items()
            assert list(snapshot.values()).count(7) == 0
            assert snapshot != store
            with pytest.raises(KeyError):
                snapshot["c"]
        assert store == {"a": 7, "c": 7, "": None, "k" * 600: b"v" * 9000}

    @both
    def test_writing_to_a_snapshot_is_an_error(self, place: Place, kind: str) -> None:
        container = opened(place, kind, ["a", "b"])
        with container.snapshot() as snapshot:
            writes: list[Any] = [lambda: put(snapshot, "c"), snapshot.clear, snapshot.pop]
            if kind == "dict":
                writes[-1] = snapshot.popitem
                writes += [lambda: snapshot.pop("a"), lambda: snapshot.incr("a"), lambda: snapshot.update(c=1)]
                writes += [lambda: snapshot.transform("a", str), lambda: snapshot.compare_and_set("a", 1, 2)]
                writes += [lambda: snapshot.setdefault("c", 1), lambda: snapshot.delete_many(["a"])]
            else:
                writes += [lambda: snapshot.discard("a"), lambda: snapshot.update(["c"]), lambda: snapshot.add("a")]
                writes += [lambda: list(snapshot.filter_new(["c"])), lambda: snapshot.discard_many(["a"])]
            for write in writes:
                with pytest.raises(ReadOnlyError, match="a snapshot is read-only"):
                    write()
            assert sorted(snapshot) == ["a", "b"]
        assert sorted(container) == ["a", "b"]

    @both
    def test_containers_are_made_from_a_snapshot(self, place: Place, kind: str) -> None:
        container = opened(place, kind)
        before = content(container)
        with container.snapshot() as snapshot:
            container.clear()
            with snapshot.copy(workers=2) as copy, snapshot.copy(place.directory / "other", shards=3) as other:
                assert copy == other == snapshot == before
                if kind == "set":
                    with snapshot.difference(container, workers=2) as made, copy.union(snapshot, workers=2) as union:
                        assert made == union == before
                put(copy, "more")
                put(other, "more")
            with snapshot - container if kind == "set" else snapshot | container as made:
                assert made == before
            container.update(snapshot)
        assert content(container) == before

    @both
    def test_a_snapshot_is_closed_once_and_for_all(self, place: Place, kind: str) -> None:
        container = opened(place, kind, ["a"])
        snapshot = container.snapshot()
        assert "snapshot" in repr(snapshot)
        with snapshot as entered, snapshot:
            assert entered is snapshot
            with snapshot.snapshot() as again:
                assert list(again) == ["a"]
            assert list(snapshot) == ["a"]
        assert snapshot.closed
        for use in (snapshot.open, snapshot.snapshot, lambda: "a" in snapshot, lambda: list(snapshot)):
            with pytest.raises(NotOpenError):
                use()
        snapshot.close()
        put(container, "b")
        assert len(container) == 2

    @both
    def test_the_store_stays_open_until_its_snapshots_are_closed(self, place: Place, kind: str) -> None:
        container = opened(place, kind, ["a"])
        snapshot = container.snapshot()
        other = container.snapshot()
        container.close()
        assert list(snapshot) == list(other) == ["a"]
        snapshot.close()
        assert list(other) == ["a"]
        del snapshot, other
        gc.collect()
        with type(container)(place.directory / "store", flag="n") as new:  # nobody is in the way
            put(new, "b")

    @both
    def test_a_snapshot_is_not_pickled_and_not_inherited(self, place: Place, kind: str) -> None:
        container = opened(place, kind, MANY)
        before = content(container)
        with container.snapshot() as snapshot:
            with pytest.raises(TypeError, match="belongs to the process"):
                pickle.dumps(snapshot)
            for _ in range(2):
                child = os.fork()
                if not child:
                    status = 1
                    with contextlib.suppress(BaseException):
                        with pytest.raises(SnapshotLostError, match="forked child"):
                            list(snapshot)
                        with container.snapshot() as own:
                            assert content(own) == content(container)
                        put(container, f"child {os.getpid()}")
                        snapshot.close()
                        put(container, "child")
                        status = 0
                    os._exit(status)
                assert os.waitpid(child, 0)[1] == 0
                assert content(snapshot) == before
                change_everything(container)
                assert content(snapshot) == before
        assert leftovers(place) == []

    @both
    def test_a_reader_and_a_handle_with_a_timeout_take_snapshots(self, place: Place, kind: str) -> None:
        container = opened(place, kind, MANY)
        before = content(container)
        for options in ({"flag": "r"}, {"timeout": 5.0}, {"flag": "r", "timeout": 5.0}):
            with type(container)(place.directory / "store", **options) as handle, handle.snapshot() as snapshot:
                put(container, "more")
                assert content(snapshot) == before
                put_back(container)
        container.close()
        with type(container)(place.directory / "store", flag="r") as reader, reader.snapshot() as snapshot:
            assert content(snapshot) == before
            reader.backup(place.directory / "other")
        with type(container)(place.directory / "other") as backup:
            assert content(backup) == before

    # Backups

    @both
    def test_a_backup_is_a_store_like_its_source(self, place: Place, kind: str) -> None:
        container = opened(place, kind, MANY)
        before = content(container)
        container.backup(place.directory / "other")
        change_everything(container)
        with type(container)(place.directory / "other") as backup:
            assert (content(backup), len(backup.shards())) == (before, place.shards)
            assert place.engine in repr(backup)
            assert backup.check() == len(before)
            put(backup, "more")
            change_everything(backup)
            assert backup.check() == 3 * len(MANY)
            assert "more" not in container
            with pytest.raises(MismatchError):
                type(container)(place.directory / "other", shards=place.shards + 1).open()
        assert leftovers(place) == []

    @both
    def test_an_empty_store_is_backed_up(self, place: Place, kind: str) -> None:
        container = opened(place, kind, [])
        container.backup(place.directory / "other")
        with type(container)(place.directory / "other") as backup:
            assert list(backup) == []
            put(backup, "a")
        container.update(["a"] if kind == "set" else {"a": 1})
        container.clear()
        with container.snapshot() as snapshot:
            snapshot.backup(place.directory / "third")
            assert list(snapshot) == []
        with type(container)(place.directory / "third") as backup:
            assert backup.check() == 0

    @both
    def test_a_backup_never_replaces_a_store_and_needs_a_directory(self, place: Place, kind: str) -> None:
        container = opened(place, kind, ["a"])
        opened(place, kind, ["precious"], "other").close()
        assert len(container) == 1  # all shards are open
        files = sorted(os.listdir(place.directory))
        for name in ("other", "store"):
            with pytest.raises(StoreExistsError):
                container.backup(place.directory / name)
        with pytest.raises(StoreNotFoundError, match="directory"):
            container.backup(place.directory / "absent" / "name")
        with pytest.raises(ValueError, match="prefix"):
            container.backup(str(place.directory) + "/")
        assert sorted(os.listdir(place.directory)) == files
        assert list(getattr(place, kind)("other").open()) == ["precious"]

    @both
    @pytest.mark.damages
    def test_shards_of_a_store_and_its_backup_are_told_apart(self, place: Place, kind: str) -> None:
        container = opened(place, kind, KEYS)
        container.backup(place.directory / "other")
        container.close()
        suffix = {"lmdb": ".lmdb", "sqlite3": ".sqlite3"}[place.engine]
        Path(place.directory / f"other-0000{suffix}").rename(place.directory / f"store-0000{suffix}")
        with pytest.raises(OSError, match="belongs to another store"):
            container.open()
        (place.directory / "store.rack").unlink()


def put_back(container: Any) -> None:
    container.discard("more") if not isinstance(container, PersistentDict) else container.pop("more")


def leftovers(place: Place) -> list[str]:
    return [name for name in os.listdir(place.directory) if "-anonymous-" in name or "-snapshot-" in name]
