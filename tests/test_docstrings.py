"""Every public class, method and function says what a caller needs to know, in the same form.

That is: a summary; ``:param NAME:`` for each parameter; ``:returns:`` where something is returned; ``:raises ERROR:``;
how long it takes (``O(...)``); what is atomic; and an example that runs (tests/test_doctests.py runs them). Of an
operator a summary is enough, and how long it takes; of a property a summary.
"""

from __future__ import annotations

import builtins
import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

import rack
from rack.care import outcome, stat, verify
from rack.container.batch import DictBatch, SetBatch
from rack.jobs.batch import QueueBatch
from rack.jobs.job import Counts, FailedJob, Job
from rack.views.dicts import PersistentItems, PersistentKeys, PersistentValues
from rack.views.shards import DictShard, SetShard

#: Classes whose methods a user calls.
CLASSES = [
    *(rack.PersistentDict, rack.PersistentSet, rack.PersistentQueue, Job, QueueBatch, DictBatch, SetBatch),
    *(PersistentKeys, PersistentValues, PersistentItems, DictShard, SetShard),
]
REPORTS = [verify.Report, verify.Finding, outcome.Report, outcome.ShardReport]
REPORTS += [stat.Stat, stat.ShardStat, stat.User, stat.OldestSnapshot, Counts, FailedJob]
PUBLIC = [getattr(rack, name) for name in rack.__all__]  # which is imported only when it is asked for
ERRORS = [each for each in PUBLIC if isinstance(each, type) and issubclass(each, Exception)]
FUNCTIONS = [each for each in PUBLIC if inspect.isfunction(each)]


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield the public members that Rack defines, also those of its bases."""
    for name in dir(cls):
        if name.startswith("_") and not (name.startswith("__") and name.endswith("__")):
            continue
        member = inspect.getattr_static(cls, name)
        if isinstance(member, classmethod | staticmethod):
            member = member.__func__
        function = member.fget if isinstance(member, property) else member
        if str(getattr(function, "__module__", "")).startswith("rack."):
            yield name, member


def lacks_of_function(function: Any, text: str) -> Iterator[str]:
    signature = inspect.signature(function)
    for parameter in list(signature.parameters.values()):
        if parameter.name in ("self", "cls"):
            continue
        if f":param {parameter.name}:" not in text:
            yield f":param {parameter.name}:"
        if parameter.annotation is inspect.Parameter.empty:
            yield f"the type of {parameter.name}"
    if signature.return_annotation not in (None, "None") and not re.search(r":(returns|yields):", text):
        yield ":returns: (or :yields:)"
    if ":raises " not in text:
        yield ":raises ERROR:"


def mistakes(text: str, names: Iterable[str] | None = None) -> Iterator[str]:
    """Yield the fields that are of no parameter (one of ``names``, if they are given) or of no error."""
    for field, name in re.findall(r":(param|raises) ([^:]+):", text):
        if field == "raises":
            for each in name.split(", "):
                error = getattr(rack, each, None) if each in rack.__all__ else getattr(builtins, each, None)
                if not (isinstance(error, type) and issubclass(error, Exception)):
                    yield f"an error {each}, which there is not"
        elif names is not None and name not in names:
            yield f"a parameter {name}, which there is not"
    for line in text.splitlines():
        if re.search(r"\s:(param|raises|returns|yields)\b[^:`]*: ", line.strip()):
            yield f"a field inside of a line: {line}"


def lacks(name: str, member: Any) -> Iterator[str]:
    """Yield what a docstring does not say."""
    text = inspect.getdoc(member.fget if isinstance(member, property) else member) or ""
    if not re.match(r"\S[^\n]*(\n[^\n]+)*[.:]", text):
        yield "a summary that is a sentence"
    if isinstance(member, property):
        return
    yield from mistakes(text, inspect.signature(member).parameters)
    if "O(" not in text:
        yield "how long it takes: O(...)"
    if name.startswith("__"):
        return
    yield from lacks_of_function(member, text)
    if not re.search(r"\b[Aa]tomic", text):
        yield "what is atomic"
    if ">>> " not in text:
        yield "an example"


CASES = [(cls, name, member) for cls in CLASSES for name, member in members(cls)]


@pytest.mark.parametrize(("cls", "name", "member"), CASES, ids=[f"{cls.__name__}.{name}" for cls, name, _ in CASES])
def test_a_method_says_what_its_caller_needs_to_know(cls: type, name: str, member: Any) -> None:
    if not (inspect.isfunction(member) or isinstance(member, property)):
        assert not callable(member), f"{name} is something that this test does not know"
        return
    if name in IMPLEMENTATION:
        return
    assert list(lacks(name, member)) == []


#: Protocols of Python, which nobody calls by name and whose meaning is not Rack's.
IMPLEMENTATION = {
    "__init__",  # of the class's docstring
    "__repr__",
    "__getstate__",
    "__setstate__",
    "__reduce__",
    "__reduce_ex__",
    "__init_subclass__",
    "__class_getitem__",
    "__exit__",
    "__ror__",
    "__rand__",
    "__rxor__",
    "__rsub__",
}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_function_says_what_its_caller_needs_to_know(function: Any) -> None:
    assert list(lacks(function.__name__, function)) == []


@pytest.mark.parametrize("cls", [*CLASSES, *REPORTS, *ERRORS], ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_a_class_says_what_it_is(cls: type) -> None:
    text = cls.__dict__.get("__doc__") or ""
    assert re.match(r"\S[^\n]*(\n[^\n]+)*[.:]", text), "no summary"
    assert list(mistakes(text)) == []
    if cls in CLASSES:
        assert ">>> " in text, "no example"


@pytest.mark.parametrize("cls", [rack.PersistentDict, rack.PersistentSet, rack.PersistentQueue])
def test_a_constructor_explains_every_parameter(cls: type) -> None:
    text = cls.__doc__ or ""
    names = [name for name in inspect.signature(cls.__init__).parameters if name != "self"]
    assert [name for name in names if f":param {name}:" not in text] == []
    assert list(mistakes(text, names)) == []
    for engine in ("lmdb", "sqlite3"):
        assert f'"{engine}"' in text
    for durability in ("process", "everysec", "always"):
        assert f'"{durability}"' in text


def test_something_is_looked_at() -> None:
    assert len(CASES) > 100
    assert len(ERRORS) > 15


def test_a_field_that_is_wrong_is_seen() -> None:
    right = ":param key: hashable.\n:raises KeyError, LockTimeoutError: sometimes."
    assert list(mistakes(right, ["key"])) == []
    wrong = ":param kay: hashable.\n:raises KeyEror: never. :returns: the value."
    assert len(list(mistakes(wrong, ["key"]))) == 3
