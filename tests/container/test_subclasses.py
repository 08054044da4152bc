"""Subclasses, with constructors of their own: whatever is made of one is of its class and has its attributes."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import pytest

from rack import PersistentDict, PersistentSet, StoreNotFoundError
from rack.container import handle
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

T = TypeVar("T")
LIMIT = 60


class Seen(PersistentSet[str]):
    """Names its store itself; its methods have not the signatures of their base."""

    def __init__(self, folder: Path, label: str) -> None:
        super().__init__(folder / "seen", serdes="str", shards=3)
        self.folder = folder
        self.label = label
        self.tags = ["x"]

    def update(self, *words: str) -> None:  # type: ignore[override]
        super().update(word.lower() for word in words)

    def see(self, word: str) -> tuple[str, str, bool]:
        with self:
            return self.label, self.shout, self.add(word)

    @cached_property
    def shout(self) -> str:
        return self.label.upper()


class Slotted(PersistentSet[str]):
    __slots__ = ("_private", "label")

    def __init__(self, folder: Path, label: str) -> None:
        super().__init__(folder / "slotted", shards=2)
        self.label = label
        self._private = 1


class New(PersistentSet[str]):
    label: str

    def __new__(cls, folder: Path, label: str) -> New:
        made = super().__new__(cls)
        made.label = label
        return made

    def __init__(self, folder: Path, label: str) -> None:
        super().__init__(folder / "new")


class Registered(PersistentSet[T], Generic[T]):
    """Takes part in its own making; refuses attributes it does not know."""

    kinds: ClassVar[list[str]] = []

    def __init_subclass__(cls, kind: str, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.kinds.append(kind)


class Named(Registered[str], kind="named"):
    def __init__(self, folder: Path, label: str) -> None:
        self.label = label  # before its base is made
        super().__init__(folder / "named", key_serdes="ordered")


class Counts(PersistentDict[str, int]):
    """As ``collections.Counter``: what is not there is 0."""

    def __init__(self, folder: Path, label: str) -> None:
        super().__init__(folder / "counts", shards=3)
        self.label = label

    def __missing__(self, key: str) -> int:
        return 0

    def count(self, key: str) -> tuple[str, int]:
        with self:
            return self.label, self.incr(key)


class Sub(Counts):
    def __init__(self) -> None:
        super().__init__(Path(os.environ["RACK_TEST_FOLDER"]), "from the environment")


SETS: list[Any] = [Seen, Slotted, New, Named]
CLASSES: list[Any] = [*SETS, Counts]


@pytest.fixture(params=CLASSES)
def container(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    with request.param(tmp_path, "mine") as container:
        fill(container, "a", "b")
        yield container


@pytest.fixture(params=SETS)
def s(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    with request.param(tmp_path, "mine") as s:
        fill(s, "a", "b")
        yield s


def fill(container: Any, *keys: str) -> None:
    for key in keys:
        if isinstance(container, PersistentDict):
            container[key] = 1
        else:
            container.add(key)


MADE: dict[str, Callable[[Any], Any]] = {
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "copy": lambda c: c.copy(),
    "copy with a name": lambda c: c.copy(c.name + "-copy"),
    "copy to another shape": lambda c: c.copy(shards=7, serdes="pickle", key_serdes="pickle"),
    "copy by workers": lambda c: c.copy(workers=2),
    "snapshot": lambda c: c.snapshot(),
    "snapshot of a snapshot": lambda c: c.snapshot().snapshot(),
    "copy of a copy": lambda c: copy.copy(copy.copy(c)),
    **{f"pickle {n}": lambda c, n=n: pickle.loads(pickle.dumps(c, n)) for n in range(pickle.HIGHEST_PROTOCOL + 1)},
    "pickle of its method": lambda c: pickle.loads(pickle.dumps(c.check)).__self__,
    "pickle of its shard": lambda c: pickle.loads(pickle.dumps(c.shards()[0])).store,
}


@pytest.mark.parametrize("name", MADE)
def test_what_is_made_of_a_subclass_is_of_its_class_and_has_its_attributes(name: str, container: Any) -> None:
    with MADE[name](container) as made:
        assert type(made) is type(container)
        assert made is not container
        assert made.label == "mine"
        assert set(made) == {"a", "b"}
        if isinstance(container, Seen):
            assert made.folder == container.folder
            assert made.shout == "MINE"
        if isinstance(container, Slotted):
            assert made._private == 1
        made.label = "another"
        assert container.label == "mine"
    container.check()


OPERATORS: dict[str, tuple[Callable[[Any], Any], set[str]]] = {
    "|": (lambda s: s | {"c"}, {"a", "b", "c"}),
    "&": (lambda s: s & {"a", "x"}, {"a"}),
    "-": (lambda s: s - {"a"}, {"b"}),
    "^": (lambda s: s ^ {"a", "c"}, {"b", "c"}),
    "r|": (lambda s: {"c"} | s, {"a", "b", "c"}),
    "r&": (lambda s: {"a", "x"} & s, {"a"}),
    "r-": (lambda s: {"a", "x"} - s, {"x"}),
    "r^": (lambda s: {"a", "c"} ^ s, {"b", "c"}),
    "union": (lambda s: s.union(["c"], iter("d")), {"a", "b", "c", "d"}),
    "intersection": (lambda s: s.intersection(iter("ax"), workers=2), {"a"}),
    "difference": (lambda s: s.difference(s), set()),
    "symmetric_difference": (lambda s: s.symmetric_difference(s.copy()), set()),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_of_a_subclass_make_sets_of_its_class(name: str, s: Any) -> None:
    function, expected = OPERATORS[name]
    with function(s) as made:
        assert (type(made), made.label) == (type(s), "mine")
        assert made == expected
        assert made.check() == len(expected)


def test_operators_and_views_of_a_dict_of_a_subclass(tmp_path: Path) -> None:
    with Counts(tmp_path, "mine") as d:
        d.update(a=1, b=2)
        for made, expected in (
            (d | {"c": 3}, {"a": 1, "b": 2, "c": 3}),
            ({"a": 5, "c": 3} | d, {"a": 1, "b": 2, "c": 3}),
            (d | d.copy(), {"a": 1, "b": 2}),
        ):
            with made:
                assert (type(made), made.label) == (Counts, "mine")
                assert dict(made) == expected
        views = ((d.keys() & {"a"}, {"a"}), (d.keys() - d.copy().keys(), set()), (d.items() | [], {("a", 1), ("b", 2)}))
        for view, expected_set in views:
            with view:
                assert type(view) is PersistentSet
                assert view == expected_set
        with Counts.fromkeys("ab", 0) as made:
            assert type(made) is Counts
            assert dict(made) == {"a": 0, "b": 0}
            assert not hasattr(made, "label"), "no constructor was called"


def test_a_deep_copy_copies_attributes_deeply_and_a_copy_does_not(tmp_path: Path) -> None:
    with Seen(tmp_path, "mine") as s:
        s.tags.append(s)  # type: ignore[arg-type]
        with copy.copy(s) as shallow, copy.deepcopy(s) as deep:
            assert shallow.tags is s.tags
            assert deep.tags == ["x", deep]
            assert deep.tags[1] is deep  # type: ignore[comparison-overlap]


def test_a_closed_handle_is_pickled_with_its_attributes(tmp_path: Path) -> None:
    for cls in CLASSES:
        made = pickle.loads(pickle.dumps(cls(tmp_path, "mine")))
        assert (type(made), made.label, made.closed) == (cls, "mine", True)
        with made:
            assert not made
    os.environ["RACK_TEST_FOLDER"] = str(tmp_path)
    try:
        sub = Sub()
    finally:
        del os.environ["RACK_TEST_FOLDER"]
    with pickle.loads(pickle.dumps(sub)) as made:
        assert (type(made), made.label, made["absent"]) == (Sub, "from the environment", 0)


def test_a_subclass_may_add_to_the_state_that_is_pickled(tmp_path: Path) -> None:
    with Locked(tmp_path) as d:
        d["a"] = 1
        made = pickle.loads(pickle.dumps(d))
        assert (made["a"], made.lock is d.lock, type(made.lock)) == (1, False, type(d.lock))
        made.close()


class Locked(PersistentDict[str, int]):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "locked")
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        state["extra"][0].pop("lock")
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.lock = threading.Lock()


# Processes


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("is_open", [True, False])
def test_a_pool_maps_a_method(method: str, is_open: bool, tmp_path: Path) -> None:
    seen, counts = Seen(tmp_path, "mine"), Counts(tmp_path, "counts")
    if is_open:
        seen.open(), counts.open()
    words = [f"word {number % 20}" for number in range(60)]
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.map_async(seen.see, words).get(LIMIT)
        counted = pool.map_async(counts.count, words).get(LIMIT)
        if is_open:
            assert sorted(pool.map_async(len, seen.shards()).get(LIMIT)) == sorted(map(len, seen.shards()))
    assert {(label, shout) for label, shout, _ in found} == {("mine", "MINE")}
    assert sum(new for _, _, new in found) == 20
    assert sorted(number for _, number in counted) == sorted([1, 2, 3] * 20)
    with seen, counts:
        assert len(seen) == len(counts) == 20
    seen.close()
    counts.close()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_pool_says_that_the_store_of_a_handle_is_gone(method: str, tmp_path: Path) -> None:
    with Seen(tmp_path, "mine") as seen, multiprocessing.get_context(method).Pool(1) as pool:
        files = {file: file.read_bytes() for file in tmp_path.iterdir()}
        for file in files:
            file.unlink()
        for function in (seen.add, seen.see, seen.add_many):
            with pytest.raises(StoreNotFoundError):
                pool.map_async(function, ["a"]).get(LIMIT)
        for file, data in files.items():
            file.write_bytes(data)


def test_a_snapshot_is_refused_where_it_is_sent_and_no_pool_waits_for_it(tmp_path: Path) -> None:
    with Counts(tmp_path, "mine") as d, d.snapshot() as then, multiprocessing.get_context("fork").Pool(1) as pool:
        with pytest.raises(TypeError, match="snapshot"):
            pool.map_async(then.get, ["a"]).get(LIMIT)
        assert pool.map_async(d.get, ["a"]).get(LIMIT) == [None]


def test_what_a_worker_makes_comes_back_as_what_it_is(tmp_path: Path) -> None:
    with Counts(tmp_path, "mine") as d:
        d["a"] = 1
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
            made = executor.submit(d.copy, tmp_path / "made").result(LIMIT)
        with made:
            assert (type(made), made.label, dict(made)) == (Counts, "mine", {"a": 1})
        made.close()


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("engine", "is_threaded"), [("lmdb", False), ("sqlite3", False), ("lmdb", True)], indirect=["engine"]
)
def test_workers_take_a_subclass(is_threaded: bool, s: Any) -> None:
    other = threading.Event()
    thread = threading.Thread(target=other.wait, daemon=True)
    if is_threaded:  # then workers are new interpreters, to which it is pickled
        thread.start()
    try:
        assert s.check(workers=2) == 2
        with s.copy(workers=2) as copied, s.union(copied, workers=2) as union:
            assert (type(copied), type(union), union.label) == (type(s), type(s), "mine")
            assert union == {"a", "b"}
            s.intersection_update(copied, workers=2)
    finally:
        other.set()
    assert s == {"a", "b"}


def test_generic_aliases_of_subclasses_and_of_classes_that_cannot_be_pickled(tmp_path: Path) -> None:
    class Local: ...

    alias: Any = PersistentDict[str, Local]
    with alias(tmp_path / "d") as d, pickle.loads(pickle.dumps(d)) as made, copy.copy(d) as copied:
        assert type(made) is type(copied) is PersistentDict
    assert Registered.kinds == ["named"]
    with Registered[int](tmp_path / "plain") as plain, plain | {1} as union:
        assert type(union) is Registered


def test_the_attributes_of_containers_themselves_are_all_known(container: Any) -> None:
    """What is not, would be taken for a subclass's, and be copied to other containers."""
    with container.snapshot() as then, container.copy() as copied:
        for each in (container, then, copied, type(container).__base__(container.name)):
            extra, slots = each._extra()
            assert set(extra) <= {"folder", "label", "tags", "shout"}
            assert set(slots) <= {"_private", "label"}
            assert vars(each).keys() - extra.keys() <= handle._OWN
