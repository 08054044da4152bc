"""A number that a caller gives and that is none is refused, in words that name it; one of another type is taken."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import rack
from rack import PersistentDict, PersistentQueue, PersistentSet


class Whole:
    """A whole number of another type, as numeric libraries have them."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


def job(queue: PersistentQueue[Any]) -> Any:
    queue.put("job", unique=False)
    return queue.claim()


Calls = dict[str, Callable[[Path, Any], object]]


def using(call: Callable[[PersistentQueue[Any], Any], object]) -> Callable[[Path, Any], object]:
    def use(path: Path, value: Any) -> object:
        with PersistentQueue(path / "queue", shards=1) as queue:
            return call(queue, value)

    return use


def with_batch(queue: PersistentQueue[Any], value: Any) -> None:
    with queue.batch() as batch:
        batch.put("x", priority=value)


def opened(cls: Any, parameter: str) -> Callable[[Path, Any], object]:
    def use(path: Path, value: Any) -> object:
        with cls(path / "new", **{"shards": 1, parameter: value}) as container:
            return container

    return use


def made(call: Callable[[Path, Any], object]) -> Callable[[Path, Any], object]:
    def use(path: Path, value: Any) -> object:
        with PersistentSet(path / "set", flag="n", serdes="str", shards=1) as container:
            container.add("a")
        return call(path / "set", value)

    return use


def scanned(path: Path, value: Any) -> object:
    with PersistentSet(path) as container:
        return list(container.scan(limit=value))


#: Of each class and function, the parameters that are whole numbers, and what is too small, if anything is.
WHOLE: Calls = {
    **{f"{cls.__name__} shards": opened(cls, "shards") for cls in (PersistentDict, PersistentSet, PersistentQueue)},
    **{f"{cls.__name__} memory": opened(cls, "memory") for cls in (PersistentDict, PersistentSet)},
    "PersistentQueue max_claims": opened(PersistentQueue, "max_claims"),
    "put priority": using(lambda queue, value: queue.put("x", priority=value)),
    "put_many priority": using(lambda queue, value: queue.put_many("x", priority=value)),
    "batch priority": using(with_batch),
    "claim_many most": using(lambda queue, value: queue.claim_many(value)),
    "claim_of lanes": using(lambda queue, value: queue.claim_of({"a": value})),
    "peek most": using(lambda queue, value: queue.peek(value)),
    "scan limit": made(scanned),
    "reshard shards": made(lambda path, value: rack.reshard(path, value)),
    "reshard workers": made(lambda path, value: rack.reshard(path, 2, workers=value)),
    "verify workers": made(lambda path, value: rack.verify(path, workers=value)),
    "backup keep": made(lambda path, value: rack.backup(path, path.with_name("backups"), keep=value)),
}
SECONDS: Calls = {
    **{f"{cls.__name__} timeout": opened(cls, "timeout") for cls in (PersistentDict, PersistentSet, PersistentQueue)},
    "PersistentQueue lease": opened(PersistentQueue, "lease"),
    "PersistentQueue pause": opened(PersistentQueue, "pause"),
    "put delay": using(lambda queue, value: queue.put("x", delay=value)),
    "put_many delay": using(lambda queue, value: queue.put_many("x", delay=value)),
    "claim wait": using(lambda queue, value: (queue.put("x", unique=False), queue.claim(wait=value))),
    **{
        f"{name} timeout": made(lambda path, value, name=name: getattr(rack, name)(path, timeout=value))  # type: ignore[misc]
        for name in ("remove", "compact")
    },
    "rename timeout": made(lambda path, value: rack.rename(path, path.with_name("other"), replace=True, timeout=value)),
    "reshard timeout": made(lambda path, value: rack.reshard(path, 2, timeout=value)),
    "join timeout": using(lambda queue, value: queue.join(value)),
    "extend seconds": using(lambda queue, value: job(queue).extend(value)),
    "release delay": using(lambda queue, value: job(queue).release(delay=value)),
}
NO_BOUND = {"put priority", "put_many priority", "batch priority"}  # of 0: they may be negative


def refused(call: Callable[[Path, Any], object], path: Path, value: Any, name: str, error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        call(path, value)
    parameter = name.split()[1]
    assert str(raised.value).startswith(f"{parameter}={value!r}: must be "), raised.value


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_no_whole_number_is_refused(name: str, tmp_path: Path) -> None:
    for value in ["1", b"1", 1.5, [], 1j, True, Decimal(1)]:
        refused(WHOLE[name], tmp_path, value, name, TypeError)


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_number_out_of_its_range_is_refused(name: str, tmp_path: Path) -> None:
    refused(WHOLE[name], tmp_path, -1 << 40, name, ValueError)
    if name not in NO_BOUND:
        refused(WHOLE[name], tmp_path, -1, name, ValueError)


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_number_of_another_type_is_one(name: str, tmp_path: Path) -> None:
    WHOLE[name](tmp_path, Whole(1 << 20 if name.endswith("memory") else 2))


@pytest.mark.parametrize("name", SECONDS)
def test_what_is_no_number_of_seconds_is_refused(name: str, tmp_path: Path) -> None:
    for value in ["1", b"1", [], 1j, ()]:
        refused(SECONDS[name], tmp_path, value, name, TypeError)


@pytest.mark.parametrize("name", SECONDS)
def test_a_negative_number_of_seconds_is_refused(name: str, tmp_path: Path) -> None:
    for value in [-1, -0.5, float("nan"), -float("inf"), Decimal(-1)]:
        refused(SECONDS[name], tmp_path, value, name, ValueError)


@pytest.mark.parametrize("name", SECONDS)
def test_a_number_of_seconds_is_of_any_type(name: str, tmp_path: Path) -> None:
    for value in [1, 0.5, Decimal("0.5"), Fraction(1, 2), float("inf"), 1e300]:
        SECONDS[name](tmp_path, value)


def test_no_number_was_forgotten() -> None:
    """What is annotated as a number in a signature is in one of the tables."""
    known = {name.split()[1] for name in (*WHOLE, *SECONDS)} | {"amount", "errors"}  # incr adds any number
    for cls in (PersistentDict, PersistentSet, PersistentQueue):
        for name, method in inspect.getmembers(cls, inspect.isfunction):
            if name.startswith("_") and name != "__init__":
                continue
            for parameter in inspect.signature(method).parameters.values():
                if str(parameter.annotation) in ("int", "float", "int | None", "float | None"):
                    assert parameter.name in known, (cls.__name__, name, parameter.name)


@pytest.mark.parametrize("wrong", [0, 1, b"a", [], ["a"], ("a",)])
def test_a_name_that_is_none_is_refused(wrong: Any, tmp_path: Path) -> None:
    with PersistentQueue(tmp_path / "queue", shards=1) as queue:
        for parameter in ("group", "lane"):
            with pytest.raises(TypeError, match=f"^{parameter}=.*: must be a str"):
                queue.put("x", **{parameter: wrong})
        assert len(queue) == 0


@pytest.mark.parametrize("item", [{"page": 1}, ["page 1"], {1}])
def test_an_item_that_is_no_key_is_refused_with_what_to_do(item: Any, tmp_path: Path) -> None:
    with PersistentQueue(tmp_path / "queue", shards=1) as queue:
        for put in (queue.put, lambda item: queue.put_many([item])):
            with pytest.raises(TypeError, match=r"unhashable type: .*put\(\) it with key=, or have unique=None"):
                put(item)
        assert queue.put(item, key=1)
        assert queue.claim().item == item  # type: ignore[union-attr]
        with pytest.raises(TypeError, match=r"^unhashable type: 'list'$"):
            queue.put("x", key=[])
    with PersistentQueue(tmp_path / "any", unique=None, shards=1) as queue:
        assert queue.put(item)
