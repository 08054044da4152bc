"""What both containers promise about opening and closing, errors outside of that, and the order of iteration."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, MappingView
from typing import Any

import pytest

from rack import NotOpenError, PersistentDict, PersistentSet
from tests.conformance.container_suite import ContainerSuite, both, opened, put
from tests.conformance.model import KEYS, Place, dumped, outcome


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
            assert f"{place.shards} shard" in repr(container)
            assert place.engine in repr(container)
            assert container.engine == container.stat().engine == place.engine
            assert len(container.shards()) == place.shards
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


def public_operations(cls: type) -> list[str]:
    """Return the names of all methods, public and special, that work on the content of a container."""
    plumbing = {"open", "close", "fromkeys", "__enter__", "__exit__", "__init__", "__new__", "__class_getitem__"}
    plumbing |= {
        "__repr__",
        "__getstate__",
        "__setstate__",
        "__reduce__",
        "__init_subclass__",
        "__subclasshook__",
        "__hash__",
    }
    plumbing |= {
        "__implemented__",
        "__providedBy__",
        "__provides__",
    }  # Scrapy has zope.interface put these into classes
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
    **{("both", name): () for name in ("scan", "shards", "stat")},
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
    ("both", "snapshot"): (),
    ("both", "backup"): ("never-made",),
    ("set", "__ne__"): ({"a"},),
    ("dict", "__ne__"): ({"a": 1},),
    ("set", "update"): (["a"],),
    ("dict", "update"): ({"a": 1},),
    ("dict", "add"): ("a", 1),
    ("dict", "pop"): ("a",),
    ("dict", "compare_and_set"): ("a", 1, 2),
    ("dict", "transform"): ("a", str),
    ("dict", "merge"): ({"a": 1}, max),
}
