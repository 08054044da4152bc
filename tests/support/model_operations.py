"""The operations of :mod:`tests.container.test_model`: each as Rack does it, and as a built-in dict or set would."""

from __future__ import annotations

import operator
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from rack import PersistentDict, PersistentSet

Function = Callable[[Any, Any, Any, list[Any]], Any]


class Operation(NamedTuple):
    """``actual(container, key, value, keys)`` answers as ``expected(built-in, key, value, keys)``."""

    actual: Function
    expected: Function


def _add(model: dict[Any, Any], key: Any, value: Any) -> bool:
    new = key not in model
    model.setdefault(key, value)
    return new


def _incr(model: dict[Any, Any], key: Any, value: Any) -> Any:
    model[key] = result = model.get(key, 0) + value
    return result


def _compare_and_set(model: dict[Any, Any], key: Any, value: Any) -> bool:
    swapped = key in model and model[key] == 1
    if swapped:
        model[key] = value
    return swapped


def _transform(model: dict[Any, Any], key: Any, value: Any) -> Any:
    model[key] = result = str(model.get(key, value))[:20]
    return result


def _delete_many(model: Any, keys: list[Any]) -> int:
    before = len(model)
    for key in keys:
        model.pop(key, None) if isinstance(model, dict) else model.discard(key)
    return before - len(model)


def _filter_new(model: set[Any], keys: list[Any]) -> list[Any]:
    new = [key for at, key in enumerate(keys) if key not in model and key not in keys[:at]]
    model.update(keys)
    return new


def _changed(model: set[Any], change: Callable[[], object]) -> bool:
    before = len(model)
    change()
    return len(model) != before


def _same(function: Function) -> Operation:
    return Operation(function, function)


DICT_OPERATIONS: dict[str, Operation] = {
    "get": _same(lambda d, k, v, ks: d.get(k, v)),
    "getitem": _same(lambda d, k, v, ks: d[k]),
    "in": _same(lambda d, k, v, ks: k in d),
    "setitem": _same(lambda d, k, v, ks: operator.setitem(d, k, v)),
    "delitem": _same(lambda d, k, v, ks: operator.delitem(d, k)),
    "pop": _same(lambda d, k, v, ks: d.pop(k)),
    "pop with default": _same(lambda d, k, v, ks: d.pop(k, v)),
    "setdefault": _same(lambda d, k, v, ks: d.setdefault(k, v)),
    "update": _same(lambda d, k, v, ks: d.update(dict.fromkeys(ks, v))),
    "update from pairs": _same(lambda d, k, v, ks: d.update((key, at) for at, key in enumerate(ks))),
    "ior": _same(lambda d, k, v, ks: len(operator.ior(d, {k: v}))),
    "len": _same(lambda d, k, v, ks: len(d)),
    "equal": _same(lambda d, k, v, ks: d == {k: v}),
    "items": _same(lambda d, k, v, ks: (k, v) in d.items()),
    "add": Operation(lambda d, k, v, ks: d.add(k, v), lambda m, k, v, ks: _add(m, k, v)),
    "incr": Operation(lambda d, k, v, ks: d.incr(k, v), lambda m, k, v, ks: _incr(m, k, v)),
    "compare_and_set": Operation(
        lambda d, k, v, ks: d.compare_and_set(k, 1, v), lambda m, k, v, ks: _compare_and_set(m, k, v)
    ),
    "transform": Operation(
        lambda d, k, v, ks: d.transform(k, lambda value: str(value)[:20], v), lambda m, k, v, ks: _transform(m, k, v)
    ),
    "get_many": Operation(
        lambda d, k, v, ks: d.get_many(ks), lambda m, k, v, ks: {key: m[key] for key in ks if key in m}
    ),
    "contains_many": Operation(
        lambda d, k, v, ks: list(d.contains_many(ks)), lambda m, k, v, ks: [key in m for key in ks]
    ),
    "delete_many": Operation(lambda d, k, v, ks: d.delete_many(ks), lambda m, k, v, ks: _delete_many(m, ks)),
}

SET_OPERATIONS: dict[str, Operation] = {
    "in": _same(lambda s, k, v, ks: k in s),
    "remove": _same(lambda s, k, v, ks: s.remove(k)),
    "update": _same(lambda s, k, v, ks: s.update(ks)),
    "len": _same(lambda s, k, v, ks: len(s)),
    "superset": _same(lambda s, k, v, ks: s >= set(ks)),
    "isdisjoint": _same(lambda s, k, v, ks: s.isdisjoint(ks)),
    "difference_update": _same(lambda s, k, v, ks: s.difference_update(ks)),
    "symmetric_difference_update": _same(lambda s, k, v, ks: s.symmetric_difference_update(ks)),
    "ior": _same(lambda s, k, v, ks: len(operator.ior(s, set(ks)))),
    "isub": _same(lambda s, k, v, ks: len(operator.isub(s, set(ks)))),
    "add": Operation(lambda s, k, v, ks: s.add(k), lambda m, k, v, ks: _changed(m, lambda: m.add(k))),
    "discard": Operation(lambda s, k, v, ks: s.discard(k), lambda m, k, v, ks: _changed(m, lambda: m.discard(k))),
    "add_many": Operation(lambda s, k, v, ks: s.add_many(ks), lambda m, k, v, ks: len(_filter_new(m, ks))),
    "filter_new": Operation(lambda s, k, v, ks: list(s.filter_new(ks)), lambda m, k, v, ks: _filter_new(m, ks)),
    "contains_many": Operation(
        lambda s, k, v, ks: list(s.contains_many(ks)), lambda m, k, v, ks: [key in m for key in ks]
    ),
    "discard_many": Operation(lambda s, k, v, ks: s.discard_many(ks), lambda m, k, v, ks: _delete_many(m, ks)),
}
OPERATIONS = {"dict": DICT_OPERATIONS, "set": SET_OPERATIONS}


def outcome(function: Function, container: Any, arguments: tuple[Any, Any, list[Any]]) -> Any:
    """Return what a call gives, or the name of the built-in exception it raises."""
    try:
        return function(container, *arguments)
    except (KeyError, TypeError) as error:
        return type(error).__name__


def serve(requests: Connection) -> None:
    """Do operations in a process of its own: each a (kind, path, name, arguments); None ends it."""
    while (request := requests.recv()) is not None:
        kind, path, name, arguments = request
        container: Any = PersistentDict(path, flag="w") if kind == "dict" else PersistentSet(path, flag="w")
        with container:
            answer = outcome(OPERATIONS[kind][name].actual, container, arguments)
        requests.send(answer)
