"""An import that fails at a row keeps all rows before it, as ``dict`` and ``set`` do, and says which one was bad."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rack import CorruptShardError, NotOpenError, PersistentDict, PersistentSet, SerializationError, StoreFullError
from tests.support.faulty import Fault
from tests.support.faulty import fault as fault
from tests.support.processes import default_engine
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

pytestmark = pytest.mark.usefixtures("engine")

#: How many rows come before the bad one: none, some; more than a chunk of each kind; more than a small budget holds.
COUNTS = [0, 1, 2, 100, 1023, 1024, 1025, 4096, 4097, 16 * 1024 + 1, 20_000]
SHORT = [0, 1, 1025, 5000]
NO_KEY = object()


class _LimitError(Exception):
    """Stands for a task runner's time limit, and for any other error of the user's."""


class _Row:
    def __repr__(self) -> str:
        raise ZeroDivisionError


def keys(count: int) -> list[Any]:
    return [number if number % 3 else f"{number}" * 200 for number in range(count)]


def failing(rows: Iterable[Any], error: BaseException) -> Iterator[Any]:
    yield from rows
    raise error


class _Failing:
    """A mapping with ``keys()`` alone, whose values cannot all be had."""

    def __init__(self, count: int) -> None:
        self._keys = [*keys(count), "bad"]

    def keys(self) -> list[Any]:
        return self._keys

    def __getitem__(self, key: Any) -> Any:
        if key == "bad":
            raise _LimitError
        return 1


def pairs(count: int) -> list[tuple[Any, int]]:
    return [(key, 1) for key in keys(count)]


LATER = [("later", 1), ("and later", 2)]
#: What is wrong with a dict's rows: rows, and the error that there has to be.
BAD_PAIRS: dict[str, tuple[Callable[[int], Any], type[BaseException]]] = {
    "a value": (lambda n: [*pairs(n), ("k", object()), *LATER], SerializationError),
    "a value in a stream": (lambda n: iter([*pairs(n), ("k", object()), *LATER]), SerializationError),
    "a value in a mapping": (lambda n: dict([*pairs(n), ("k", object()), *LATER]), SerializationError),
    "a key": (lambda n: [*pairs(n), (NO_KEY, 1), *LATER], SerializationError),
    "an unhashable key": (lambda n: [*pairs(n), ([], 1), *LATER], TypeError),
    "no pair": (lambda n: [*pairs(n), 5, *LATER], TypeError),
    "none": (lambda n: [*pairs(n), None, *LATER], TypeError),
    "three": (lambda n: [*pairs(n), ("a", 1, 2), *LATER], ValueError),
    "a long text": (lambda n: [*pairs(n), "x" * 1_000_000, *LATER], ValueError),
    "a row without a repr": (lambda n: [*pairs(n), _Row(), *LATER], TypeError),
    "the iterable": (lambda n: failing(pairs(n), _LimitError()), _LimitError),
    "the memory": (lambda n: failing(pairs(n), MemoryError()), MemoryError),
    "keys() and []": (_Failing, _LimitError),
}
BAD_ELEMENTS: dict[str, tuple[Callable[[int], Any], type[BaseException]]] = {
    "an element": (lambda n: [*keys(n), object(), "later"], SerializationError),
    "an element of a tuple": (lambda n: (*keys(n), object(), "later"), SerializationError),
    "an unhashable one": (lambda n: iter([*keys(n), {}, "later"]), TypeError),
    "the iterable": (lambda n: failing(keys(n), _LimitError()), _LimitError),
    "the file": (lambda n: failing(keys(n), OSError("read error")), OSError),
}


def assert_told(error: BaseException, count: int) -> None:
    (note,) = error.__notes__
    assert note.startswith((f"row {count + 1:,} was bad: ", f"row {count + 1:,} could not be had"))
    assert len(note) < 400
    told = {0: "no row was taken before it", 1: "the row before it was taken"}
    assert note.endswith(told.get(count, f"the {count:,} rows before it were taken"))


def counts(long: bool) -> list[int]:
    return COUNTS if long else SHORT if default_engine() == "lmdb" else [0, 1025]


DICT_IMPORTS: dict[str, Callable[[Any, Any], object]] = {
    "update": lambda d, rows: d.update(rows),
    "|=": lambda d, rows: d.__ior__(rows),
    "merge": lambda d, rows: d.merge(rows, lambda key, mine, theirs: theirs),
}


@pytest.mark.parametrize("bad", BAD_PAIRS)
@pytest.mark.parametrize("name", DICT_IMPORTS)
def test_a_dict_has_the_rows_before_a_bad_one(name: str, bad: str, tmp_path: Path, long: bool) -> None:
    make, kind = BAD_PAIRS[bad]
    with PersistentDict[Any, Any](tmp_path / "d", shards=3, memory=1 << 20) as d:
        for count in counts(long):
            d.clear()
            d["before"] = 0
            with pytest.raises(kind) as caught:
                DICT_IMPORTS[name](d, make(count))
            assert dict(d) == {"before": 0, **dict(pairs(count))}, count
            assert_told(caught.value, count)


SET_IMPORTS: dict[str, Callable[[Any, Any], object]] = {
    "update": lambda s, rows: s.update(rows),
    "update with several": lambda s, rows: s.update(["first"], rows, ["never"]),
    "add_many": lambda s, rows: s.add_many(rows),
    "filter_new": lambda s, rows: list(s.filter_new(rows)),
}


@pytest.mark.parametrize("bad", BAD_ELEMENTS)
@pytest.mark.parametrize("name", SET_IMPORTS)
def test_a_set_has_the_elements_before_a_bad_one(name: str, bad: str, tmp_path: Path, long: bool) -> None:
    make, kind = BAD_ELEMENTS[bad]
    with PersistentSet[Any](tmp_path / "s", shards=3, memory=1 << 20) as s:
        for count in counts(long):
            s.clear()
            s.add("before")
            with pytest.raises(kind) as caught:
                SET_IMPORTS[name](s, make(count))
            first = {"first"} if name == "update with several" else set()
            assert s == {"before", *keys(count)} | first, count
            assert_told(caught.value, count)


@pytest.mark.parametrize("bad", ["an unhashable one", "the iterable", "the file"])
def test_deletions_before_a_bad_row_are_done(bad: str, tmp_path: Path, long: bool) -> None:
    make, kind = BAD_ELEMENTS[bad]
    with PersistentDict[Any, Any](tmp_path / "d", shards=3) as d, PersistentSet[Any](tmp_path / "s", shards=3) as s:
        for count in counts(long):
            d.update({"later": 1, **dict(pairs(count))})
            s.update(d)
            for delete in (d.delete_many, s.discard_many, s.difference_update):
                s.update(["later"])
                with pytest.raises(kind) as caught:
                    delete(make(count))
                assert_told(caught.value, count)
            assert list(d) == list(s) == ["later"]


def test_keys_that_no_store_can_hold_are_rows_too(tmp_path: Path) -> None:
    with PersistentDict[Any, Any](tmp_path / "d", shards=2) as d:
        d.update({"a": 1, "b": 2, "c": 3})
        with pytest.raises(TypeError) as caught:
            d.delete_many(["a", object(), "b", [], "c"])
        assert_told(caught.value, 3)
        assert dict(d) == {"c": 3}


def test_filter_new_yields_what_came_before_the_bad_element(tmp_path: Path) -> None:
    with PersistentSet[Any](tmp_path / "s", shards=3) as s:
        s.update(range(0, 3000, 2))
        for rows in ([*range(3000), [], "later"], failing(range(3000), _LimitError())):
            found: list[Any] = []
            with pytest.raises((TypeError, _LimitError)) as caught:
                found += s.filter_new(rows)  # keeps what it got before the error
            assert found == list(range(1, 3000, 2))
            assert_told(caught.value, 3000)
            assert s == set(range(3000))
            s.discard_many(found)


def test_rows_that_a_resolve_refuses_end_a_merge_there(tmp_path: Path, long: bool) -> None:
    def resolve(key: Any, mine: int, theirs: int) -> int:
        return mine + theirs // (0 if key == "bad" else 1)

    with PersistentDict[Any, Any](tmp_path / "d", shards=3) as d:
        for count in counts(long):
            before = {"bad": 5, **dict.fromkeys(keys(count)[::2], 10)}
            d.clear()
            d.update(before)
            rows = [*pairs(count), *pairs(min(count, 3)), ("new", 1), ("bad", 1), *LATER, ("bad", 2)]
            model = dict(before)
            with pytest.raises(ZeroDivisionError):  # noqa: PT012 - what is to be expected
                for key, value in rows:
                    model[key] = resolve(key, model[key], value) if key in model else value
            with pytest.raises(ZeroDivisionError) as caught:
                d.merge(rows, resolve)
            assert dict(d) == model, count
            assert_told(caught.value, count + min(count, 3) + 1)
            assert "'bad'" in caught.value.__notes__[0]


def test_keywords_and_what_comes_after_a_bad_iterable_are_not_taken(tmp_path: Path) -> None:
    with PersistentDict[Any, Any](tmp_path / "d", shards=2) as d:
        with pytest.raises(SerializationError):
            d.update({"a": 1, "b": object()}, c=3)
        assert dict(d) == {"a": 1}
        with pytest.raises(SerializationError) as caught:
            d.update({"x": 1}, y=2, z=object())
        assert dict(d) == {"a": 1, "x": 1, "y": 2}
        assert_told(caught.value, 1)


def test_a_bad_value_is_named_with_its_row(tmp_path: Path) -> None:
    with PersistentDict[Any, Any](tmp_path / "d", serdes="json") as d:
        with pytest.raises(SerializationError) as caught:
            d.update([("a", 1), ("b", {1, 2}), ("c", 3)])
        assert caught.value.__notes__ == ["row 2 was bad: ('b', {1, 2}); the row before it was taken"]


def test_a_store_as_a_source_that_fails_is_told_with_the_rows_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PersistentDict[Any, Any](tmp_path / "d", shards=1) as d, PersistentDict[Any, Any](tmp_path / "e") as e:
        e.update((number, 1) for number in range(5000))
        blocks = list(e._store.all_pairs())
        monkeypatch.setattr(e._store, "all_pairs", lambda: failing(blocks[:2], CorruptShardError("injected")))
        with pytest.raises(CorruptShardError) as caught:
            d.update(e)
        assert_told(caught.value, len(d))
        assert len(d) == len(blocks[0]) + len(blocks[1])
        e.close()
        with pytest.raises(NotOpenError):
            d.update(e)


def test_an_error_of_the_store_itself_is_not_blamed_on_a_row(tmp_path: Path, fault: Fault) -> None:
    with PersistentDict[Any, Any](tmp_path / "d", shards=2) as d:
        with fault.after(0, lambda: StoreFullError(28, "injected")), pytest.raises(StoreFullError) as caught:
            d.update(pairs(10))
        assert not hasattr(caught.value, "__notes__")
        with fault.after(0, lambda: StoreFullError(28, "injected")), pytest.raises(StoreFullError) as caught:
            d.update(failing(pairs(10), _LimitError()))
    for call in (
        lambda: d.update(pairs(3)),
        lambda: d.delete_many(keys(3)),
        lambda: d.merge(pairs(3), lambda key, mine, theirs: mine),
    ):
        with pytest.raises(NotOpenError) as closed:
            call()
        assert not hasattr(closed.value, "__notes__")


def test_what_is_made_as_a_whole_is_not_made_of_some_rows(tmp_path: Path) -> None:
    with PersistentDict[Any, Any](tmp_path / "d", shards=2) as d:
        d.update({"a": 1})
        for make in (
            lambda: PersistentDict.fromkeys(failing(keys(100), _LimitError()), 1, name=tmp_path / "made"),
            lambda: d | dict([*pairs(10), ("bad", object())]),
            lambda: d.copy(tmp_path / "made", serdes="bytes"),
        ):
            with pytest.raises((_LimitError, TypeError)):
                make()
        assert sorted(path.name for path in tmp_path.glob("*.rack")) == ["d.rack"]
        assert dict(d) == {"a": 1}


def test_an_interrupt_ends_an_import_soon_and_leaves_whole_rows(tmp_path: Path) -> None:
    with PersistentDict[Any, Any](tmp_path / "d", shards=2, memory=1 << 20) as d:
        with pytest.raises(KeyboardInterrupt):
            d.update(failing(pairs(20_000), KeyboardInterrupt()))
        assert set(d.items()) <= set(pairs(20_000))
        assert 0 < len(d) < 20_000
