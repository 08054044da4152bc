"""What both containers promise, on every engine and number of shards: life, order, batches, anonymous stores."""

from __future__ import annotations

import contextlib
import gc
import inspect
import subprocess
import sys
from collections.abc import Iterator, MappingView
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rack import NotOpenError, PersistentDict, PersistentSet
from tests.conformance.model import KEYS, Place, dumped, outcome
from tests.conformance.raw import RawEngine


class ContainerSuite:
    """Supplies ``place``. Subclasses set ``engine`` and ``raw``."""

    engine: ClassVar[str]
    raw: ClassVar[RawEngine]

    @pytest.fixture(params=[1, 2, 7])
    def shards(self, request: pytest.FixtureRequest) -> int:
        return int(request.param)

    @pytest.fixture
    def place(self, tmp_path: Path, shards: int) -> Iterator[Place]:
        place = Place(tmp_path, self.engine, self.raw, shards)
        yield place
        place.finish()


both = pytest.mark.parametrize("kind", ["dict", "set"])


def opened(place: Place, kind: str, keys: list[Any] = KEYS, name: str = "store") -> Any:
    if kind == "set":
        return place.filled_set(set(keys), name)
    return place.filled_dict(dict.fromkeys(keys, 1), name)


def put(container: Any, key: Any) -> None:
    if isinstance(container, PersistentSet):
        container.add(key)
    else:
        container[key] = 1


class LifeSuite(ContainerSuite):
    @both
    def test_opens_nest_and_the_last_close_closes(self, place: Place, kind: str) -> None:
        container = getattr(place, kind)()
        assert container.closed
        with container as entered:
            assert entered is container
            with container:
                put(container, 1)
            assert container.open() is container
            container.close()
            assert not container.closed
            assert 1 in container
        assert container.closed
        container.close()
        with pytest.raises(NotOpenError):
            assert 1 in container
        with container:
            assert 1 in container
        assert place.stored(container.open()) in ({1}, {1: 1})

    @both
    def test_two_handles_see_each_others_writes_and_close_separately(self, place: Place, kind: str) -> None:
        one, two = getattr(place, kind)().open(), getattr(place, kind)().open()
        put(one, "a")
        assert "a" in two
        one.close()
        put(two, "b")
        assert sorted(two) == ["a", "b"]

    @both
    def test_every_public_operation_is_an_error_before_open_and_after_close(self, place: Place, kind: str) -> None:
        container = getattr(place, kind)()
        cls = type(container)
        operations = public_operations(cls)
        assert len(operations) > 30, "introspection went wrong"
        for state in ("before", "after"):
            for name in operations:
                arguments = ARGUMENTS.get((kind, name), ARGUMENTS.get(("both", name)))
                assert arguments is not None, f"{cls.__name__}.{name} is new: say in ARGUMENTS how to call it"
                found = outcome(lambda name=name, arguments=arguments: used(getattr(container, name)(*arguments)))
                assert isinstance(found, NotOpenError), f"{name} {state} open/close: {found!r}"
                assert "open" in str(found), name
            with container:
                put(container, "a")

    @both
    def test_a_container_tells_what_it_is(self, place: Place, kind: str) -> None:
        container = getattr(place, kind)()
        assert "closed" in repr(container)
        with container:
            assert f"{place.shards} shards" in repr(container)
            assert place.engine in repr(container)
            assert container.shards == place.shards
            assert container.name == str(place.directory / "store")
            assert not container
            put(container, 1)
            assert container
            with pytest.raises(TypeError, match="unhashable"):
                hash(container)

    @both
    def test_generic_aliases_make_containers(self, place: Place, kind: str) -> None:
        alias: Any = PersistentDict[str, int] if kind == "dict" else PersistentSet[str]
        with alias(place.directory / "store", shards=place.shards, engine=place.engine) as container:
            put(container, "a")
            assert list(container) == ["a"]
            assert container.check() == 1

    # Order

    @both
    def test_iteration_is_in_order_of_the_keys_bytes_for_any_number_of_shards(self, place: Place, kind: str) -> None:
        container = opened(place, kind)
        expected = sorted(KEYS, key=dumped)
        assert list(container) == expected
        assert list(reversed(container)) == expected[::-1]
        assert container.check() == len(container) == len(KEYS)

    @both
    def test_iteration_streams_over_many_blocks_in_order(self, place: Place, kind: str) -> None:
        keys = [f"{number:05d}" for number in range(6_000)] + ["long" * 200 + str(number) for number in range(300)]
        container = opened(place, kind, keys)
        assert list(container) == sorted(keys, key=dumped)
        assert list(reversed(container)) == sorted(keys, key=dumped, reverse=True)

    @both
    def test_the_loop_may_change_the_container_and_sees_what_stays_exactly_once(self, place: Place, kind: str) -> None:
        stays = [f"{number:05d}" for number in range(3_000)]
        container = opened(place, kind, [*stays, *(f"{number:05d}-gone" for number in range(3_000))])
        seen = []
        for key in container:
            seen.append(key)
            if key in ("00000", "01000", "02500"):
                container.discard_many(goners(key)) if kind == "set" else container.delete_many(goners(key))
                put(container, f"{key}+")
        assert [key for key in seen if len(key) == 5] == stays
        assert seen == sorted(set(seen), key=dumped)
        assert "02999-gone" not in container
        assert len(container) == 3_003

    @both
    def test_an_iterator_ends_with_an_error_when_the_container_is_closed(self, place: Place, kind: str) -> None:
        container = opened(place, kind, list(range(5_000)))
        iterator = iter(container)
        assert next(iterator) in range(5_000)
        container.close()
        with pytest.raises(NotOpenError):
            list(iterator)

    @both
    def test_a_cleared_container_is_empty_and_usable(self, place: Place, kind: str) -> None:
        container = opened(place, kind)
        container.clear()
        assert (len(container), list(container), bool(container)) == (0, [], False)
        put(container, 1)
        assert place.stored(container) in ({1}, {1: 1})

    # Containers that operations make

    @both
    def test_a_copy_without_a_name_goes_when_closed(self, place: Place, kind: str) -> None:
        container = opened(place, kind)
        copy = container.copy()
        assert copy == container
        assert len(place.anonymous()) > place.shards
        put(copy, "only here")
        assert "only here" not in container
        copy.close()
        assert place.anonymous() == []
        with container.copy() as copy:
            assert len(copy) == len(KEYS)
        assert place.anonymous() == []

    @both
    def test_a_copy_without_a_name_goes_when_collected(self, place: Place, kind: str) -> None:
        container = opened(place, kind)
        copy = container.copy()
        assert copy.check() == len(KEYS)
        del copy
        gc.collect()
        assert place.anonymous() == []

    @both
    def test_a_copy_without_a_name_goes_at_exit(self, place: Place, kind: str) -> None:
        opened(place, kind, ["a", "b"]).close()
        program = (
            "import sys, rack\n"
            f"original = rack.Persistent{kind.title()}(sys.argv[1]).open()\n"
            "copy = original.copy()\n"
            "assert copy == original and len(copy) == 2\n"
            "print(copy.name)\n"
        )
        command = [sys.executable, "-c", program, str(place.directory / "store")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "anonymous" in done.stdout
        assert done.stderr == ""
        assert place.anonymous() == []

    @both
    def test_a_copy_with_a_name_stays_and_is_the_same(self, place: Place, kind: str) -> None:
        container = opened(place, kind)
        for number, options in enumerate([{}, {"shards": 3}]):
            with container.copy(place.directory / f"copy{number}", **options) as copy:
                assert copy.shards == options.get("shards", place.shards)
                assert copy == container
                put(copy, "more")
                assert copy.check() == len(KEYS) + 1
            with type(container)(place.directory / f"copy{number}") as again:
                assert again.check() == len(KEYS) + 1
                assert set(again) - set(container) == {"more"}
        assert "more" not in container

    @both
    def test_a_copy_never_replaces_a_store(self, place: Place, kind: str) -> None:
        container = opened(place, kind, ["a"])
        opened(place, kind, ["precious"], "other").close()
        for name in ("other", "store"):
            with pytest.raises(FileExistsError):
                container.copy(place.directory / name)
        other = getattr(place, kind)("other").open()
        assert list(other) == ["precious"]
        assert list(container) == ["a"]

    # Batches

    @both
    def test_batches_nest_and_are_read_by_their_own_thread_only(self, place: Place, kind: str) -> None:
        container, witness = opened(place, kind, ["a"]), getattr(place, kind)().open()
        with container.batch() as entered:
            assert entered is container
            with container.batch():
                put(container, "b")
            assert "b" in container
            assert sorted(container) == ["a", "b"]
            assert len(container) == 2
        assert sorted(witness) == ["a", "b"]

    @both
    def test_an_exception_in_a_batch_keeps_what_was_written(self, place: Place, kind: str) -> None:
        container = opened(place, kind, ["a"])
        with contextlib.suppress(ZeroDivisionError), container.batch():
            put(container, "b")
            put(container, 1 // 0)
        assert sorted(place.stored(container)) == ["a", "b"]

    # Many at once

    @both
    def test_contains_many_answers_in_order_and_lazily(self, place: Place, kind: str) -> None:
        container = opened(place, kind)
        wanted = [*KEYS, "absent", ("also", "absent"), "a", "a", 1.0, True]
        assert list(container.contains_many(wanted)) == [True] * len(KEYS) + [False, False] + [True] * 4
        taken: list[int] = []
        answers = container.contains_many(counted(taken))
        assert taken == []
        assert next(answers) is True
        assert len(taken) < 5_000, "the stream was not read in bounded chunks"
        with pytest.raises(TypeError, match="unhashable"):
            list(container.contains_many([[]]))

    @both
    def test_deleting_many_counts_what_this_call_removed(self, place: Place, kind: str) -> None:
        container = opened(place, kind)
        delete = container.discard_many if kind == "set" else container.delete_many
        assert delete([]) == 0
        assert delete(["a", "a", 1, 1.0, "absent", b"\xff" * 600]) == 3
        assert delete(["a", 1]) == 0
        with pytest.raises(TypeError, match="unhashable"):
            delete([[]])
        assert delete(iter(KEYS)) == len(KEYS) - 3
        assert len(place.stored(container)) == 0


def used(result: Any) -> Any:
    """Use what an operation gave: some find out only then."""
    if isinstance(result, Iterator):
        return next(result, None)
    if hasattr(result, "__enter__"):
        with result:
            return None
    return len(result) if isinstance(result, MappingView) else result


def goners(key: str) -> list[str]:
    start = int(key)
    return [f"{number:05d}-gone" for number in range(start, 3_000)]


def counted(taken: list[int]) -> Iterator[int]:
    for number in range(100_000):
        taken.append(number)
        yield number % 2


def public_operations(cls: type) -> list[str]:
    """Return the names of all methods, public and special, that work on the content of a container."""
    plumbing = {"open", "close", "fromkeys", "__enter__", "__exit__", "__init__", "__new__", "__class_getitem__"}
    plumbing |= {"__repr__", "__getstate__", "__setstate__", "__init_subclass__", "__subclasshook__", "__hash__"}
    return sorted(
        name
        for name, member in inspect.getmembers(cls, callable)
        if (not name.startswith("_") or name.startswith("__"))
        and name not in plumbing
        and not (hasattr(object, name) and getattr(object, name) is member)
        and name != "__class__"
    )


ARGUMENTS: dict[tuple[str, str], tuple[Any, ...]] = {
    **{("both", name): () for name in ("keys", "values", "items", "clear", "pop", "popitem", "copy", "batch", "sync")},
    **{("both", name): () for name in ("check", "__len__", "__bool__", "__iter__", "__reversed__", "__copy__")},
    **{("both", name): ("a",) for name in ("__contains__", "__getitem__", "__delitem__", "get", "setdefault", "incr")},
    **{("both", name): ("a",) for name in ("add", "discard", "remove")},
    **{("both", name): ("a", 1) for name in ("__setitem__",)},
    **{("both", name): (["a"],) for name in ("contains_many", "get_many", "delete_many", "discard_many", "add_many")},
    **{("both", name): (["a"],) for name in ("filter_new", "isdisjoint", "issubset", "issuperset", "union")},
    **{("both", name): (["a"],) for name in ("difference", "difference_update", "intersection", "intersection_update")},
    **{("both", name): (["a"],) for name in ("symmetric_difference", "symmetric_difference_update")},
    **{("set", f"__{name}__"): ({"a"},) for name in ("or", "and", "sub", "xor", "ror", "rand", "rsub", "rxor")},
    **{("set", f"__{name}__"): ({"a"},) for name in ("ior", "iand", "isub", "ixor", "lt", "le", "gt", "ge", "eq")},
    **{("dict", f"__{name}__"): ({"a": 1},) for name in ("or", "ror", "ior", "eq")},
    ("both", "__deepcopy__"): ({},),
    ("set", "__ne__"): ({"a"},),
    ("dict", "__ne__"): ({"a": 1},),
    ("set", "update"): (["a"],),
    ("dict", "update"): ({"a": 1},),
    ("dict", "add"): ("a", 1),
    ("dict", "pop"): ("a",),
    ("dict", "compare_and_set"): ("a", 1, 2),
    ("dict", "transform"): ("a", str),
}
