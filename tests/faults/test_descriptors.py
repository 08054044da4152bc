"""No descriptor is left at any step of anything: a clear error, nothing leaked; all goes on once there are some."""

from __future__ import annotations

import errno
import os
import pickle
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict, RackError
from rack.store import registry
from tests.support.processes import assert_sound, run
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

Dict = PersistentDict[str, Any]
CONTENT = {f"key {number}": number for number in range(50)} | {"long" * 200: 1}


def _descriptors() -> list[str]:
    found = []
    for fd in os.listdir("/dev/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}") if os.path.isdir("/proc/self/fd") else fd)
        except OSError:
            continue
    return sorted(found)


@contextmanager
def all_taken_but(spare: int) -> Iterator[None]:
    """Leave this process so many descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/dev/fd"))) + 40, hard))
    taken = []
    with suppress(OSError):
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    for _ in range(spare):
        os.close(taken.pop())
    try:
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _open(path: Path) -> None:
    with Dict(path) as store:
        assert dict(store) == CONTENT


def _read_only(path: Path) -> None:
    with Dict(path, flag="r") as store:
        assert dict(store) == CONTENT


def _make(path: Path) -> None:
    with Dict(path.with_name("made"), shards=2) as store:
        store["a"] = 1


def _replace(path: Path) -> None:
    with Dict(path.with_name("made"), flag="n", shards=2) as store:
        store["a"] = 1


def _copy(path: Path) -> None:
    with Dict(path) as store, store.copy(name=path.with_name("made")) as made:
        assert dict(made) == CONTENT


def _merge(path: Path) -> None:
    with Dict(path) as store, store | {"more": 1} as made:
        assert len(made) == len(CONTENT) + 1


def _grow(path: Path) -> None:
    with Dict(path) as store:
        store["large"] = bytes(200_000)
        del store["large"]


def _pickle(path: Path) -> None:
    with Dict(path) as store:
        copy = pickle.loads(pickle.dumps(store))
        assert dict(copy) == CONTENT
        copy.close()


ACTIONS = [_open, _read_only, _make, _replace, _copy, _merge, _grow, _pickle]


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.__name__.strip("_"))
def test_without_descriptors_an_operation_fails_and_leaks_nothing(
    action: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "store"
    with Dict(path, shards=3) as store:
        store.update(CONTENT)

    def work() -> int:
        action(path)  # imports what it needs
        files = {file.name for file in tmp_path.iterdir() if not file.name.startswith("made")}
        for spare in range(40):
            for file in tmp_path.glob("made*"):
                file.unlink()
            before = _descriptors()
            failure: OSError | None = None
            with all_taken_but(spare):
                try:
                    action(path)
                except OSError as error:
                    failure = error.with_traceback(None)  # which has the handle that failed
                    failure.__cause__ = failure.__context__ = None
            registry.end_resting()
            assert _descriptors() == before
            assert not registry._all
            if failure is None:
                return spare
            assert (isinstance(failure, RackError), failure.errno) == (True, errno.EMFILE), repr(failure)
            left = {file.name for file in tmp_path.iterdir() if not file.name.endswith(("-wal", "-shm"))} - files
            assert left <= {"made.rack-lock"} or "made.rack" in left, left  # nothing, or a whole store
            for file in tmp_path.glob("made*"):
                file.unlink()
            action(path)
        raise AssertionError("never enough")

    (failures,) = run(work, [()])
    assert failures > 3
    assert_sound(Dict(path))


def test_an_open_store_goes_on_without_descriptors(tmp_path: Path) -> None:
    path = tmp_path / "store"

    def work() -> None:
        with Dict(path, shards=3) as store:
            store.update(CONTENT)
            assert dict(store) == CONTENT
            with all_taken_but(0):
                for turn in range(100):
                    store["a"] = turn
                    assert store.incr("n") == turn + 1
                    assert store["a"] == turn
                assert dict(store) == CONTENT | {"a": 99, "n": 100}
                failure: OSError | None = None
                try:
                    store["large"] = bytes(400_000)  # LMDB's file is opened once more, to lock and grow it
                except OSError as error:
                    failure = error
                assert ("large" in store) == (failure is None)
            if failure is not None:
                assert (isinstance(failure, RackError), failure.errno) == (True, errno.EMFILE), repr(failure)
            store["large"] = bytes(400_000)
            assert len(store) == len(CONTENT) + 3

    run(work, [()])
    assert_sound(Dict(path))
