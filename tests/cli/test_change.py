"""``rack set``, ``add``, ``del`` and ``incr``: changes of single keys, and what they say about them."""

from __future__ import annotations

import subprocess
from math import nan
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict, PersistentSet
from rack.store.manifest import Manifest
from tests.cli.test_ends import ENVIRONMENT
from tests.support.commands import RACK, Rack
from tests.support.commands import rack as rack
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

pytest.importorskip("click")
pytest.importorskip("rich")

OK = (0, "", "")
NO = (1, "", "")


def content(name: str) -> dict[Any, Any]:
    with PersistentDict[Any, Any](name, flag="r") as store:
        return dict(store)


def elements(name: str) -> set[Any]:
    with PersistentSet[Any](name, flag="r") as store:
        return set(store)


@pytest.mark.usefixtures("engine")
def test_set_reads_keys_and_values_as_the_store_has_them(rack: Rack) -> None:
    assert rack("set", "d", "ann", "31", "--key", "text", "--create", "--shards", "2") == OK
    assert rack("set", "d", "('t', -1)", "{'a': frozenset({1}), 'b': {nan, -inf}}") == OK
    assert rack("set", "d", "-5", '[1, {"$bytes": "/w=="}]', "--value", "json") == OK
    assert rack("set", "d", "ann", "31", "--key", "text", "--value", "text") == OK
    found = content("d")
    assert found.pop(("t", -1)).keys() == {"a", "b"}
    assert found == {"ann": "31", -5: [1, b"\xff"]}


@pytest.mark.parametrize(
    ("serdes", "words", "expected"),
    [
        ("str", ("5", " é\t"), ("5", " é\t")),
        ("bytes", ("5", "é"), (b"5", "é".encode())),
        ("json", ("'5'", '{"$bytes": 1}'), ("5", {"$bytes": 1})),
        ("ordered", ("(5, None)", "{1: (2,)}"), ((5, None), {1: (2,)})),
        ("pickle", ("frozenset({5})", "{1: (2,)}"), (frozenset({5}), {1: (2,)})),
    ],
)
def test_a_new_store_is_made_when_that_is_asked_for(
    rack: Rack, serdes: str, words: tuple[str, str], expected: tuple[Any, Any]
) -> None:
    assert rack("set", "d", *words, "--create", "--serdes", serdes) == OK
    assert content("d") == dict([expected])
    assert rack("get", "d", words[0]).output.strip("\n") == words[1].replace(": ", ":" if serdes == "json" else ": ")
    assert rack("set", "d", *words, "--create", "--serdes", serdes) == OK  # as well where it is there
    manifest = Manifest.read("d")
    assert manifest is not None
    assert manifest.serdes == serdes


def test_many_keys_get_one_value(rack: Rack) -> None:
    assert rack("set", "d", "-", "7", "--create", data="5\n'a'\n") == OK
    assert content("d") == {5: 7, "a": 7}
    done = rack("set", "d", "-", "8", data="5\nnonsense\n'a'\n")
    assert done.errors.startswith("rack set: line 2: 'nonsense' is no Python literal")
    assert content("d") == {5: 8, "a": 7}


def test_add_tells_whether_the_key_is_new(rack: Rack) -> None:
    assert rack("add", "s", "a\tb", "--create", "--serdes", "str") == OK
    assert rack("add", "s", "a\tb") == NO
    assert rack("add", "d", "1", "2", "--create") == OK
    assert rack("add", "d", "1", "3") == NO
    assert rack("add", "d", "-", "4", data="1\n2\n2\n") == (1, "2\n", "")
    assert rack("add", "s", data="x\na\tb\n\nx") == (1, "x\n\n", "")
    assert elements("s") == {"a\tb", "x", ""}
    assert content("d") == {1: 2, 2: 4}


def test_del_tells_whether_the_key_was_there(rack: Rack) -> None:
    with PersistentSet[str]("s", serdes="str", shards=2) as s:
        s.update(["a", "b", "ba", "bb", "c"])
    assert rack("del", "s", "c") == OK
    assert rack("del", "s", "c") == NO
    assert rack("del", "s", "-0", data="a\0x\0a") == (1, "a\0", "")
    assert rack("del", "s", "--prefix", "b") == (0, "3\n", "")
    assert rack("del", "s", "--prefix", "b") == (1, "0\n", "")
    assert elements("s") == set()
    with PersistentDict[Any, Any]("d", key_serdes="ordered", shards=2) as d:
        d.update({("a", 1): 1, ("a", 2): 2, "a": 3, ("b",): 4})
    assert rack("del", "d", "--prefix", "('a',)") == (0, "2\n", "")
    assert content("d") == {"a": 3, ("b",): 4}


def test_a_prefix_of_many_keys_is_removed_as_a_whole(rack: Rack) -> None:
    with PersistentSet[str]("s", serdes="str", shards=3) as s:
        s.update(f"{number:05}" for number in range(30_000))
    assert rack("del", "s", "--prefix", "1") == (0, "10000\n", "")
    assert elements("s") == {f"{number:05}" for number in range(30_000) if not 10_000 <= number < 20_000}


def test_incr_adds_to_a_number_and_writes_it(rack: Rack) -> None:
    assert rack("incr", "d", "1", "--create") == (0, "1\n", "")
    assert rack("incr", "d", "1", "41") == (0, "42\n", "")
    assert rack("incr", "d", "1", "-0.5") == (0, "41.5\n", "")
    assert rack("incr", "d", "--key", "text", data="a\nb\na\n") == (0, "a\t1\nb\t1\na\t2\n", "")
    assert rack("incr", "d", "-", "10", data="'a'\n'c'\n") == (0, "'a'\t12\n'c'\t10\n", "")
    assert content("d") == {1: 41.5, "a": 12, "b": 1, "c": 10}
    done = rack("set", "d", "2", "'text'")
    assert done == OK
    done = rack("incr", "d", data="1\n2\n1\n")
    assert done.errors.startswith("rack incr: the value of 2 is no number (can only concatenate str")
    assert content("d")[1] == 42.5
    assert rack("incr", "j", "'a'", "--create", "--serdes", "json") == (0, "1\n", "")


def test_what_is_wrong_makes_no_store(rack: Rack, tmp_path: Path) -> None:
    for command in (["set", "d", "a", "1"], ["set", "d", "1", "a"], ["add", "d", "a"], ["incr", "d", "1", "a"]):
        assert rack(*command, "--create").code == 2
        assert rack(*command).code in (1, 2)
    assert not [*tmp_path.iterdir()]


def test_keys_that_are_added_or_counted_by_many_processes_at_once_are_counted_once(tmp_path: Path) -> None:
    keys = b"".join(b"%d\n" % number for number in range(500))
    with PersistentDict[Any, Any](tmp_path / "hits", key_serdes="str", shards=2):
        pass
    with PersistentSet[Any](tmp_path / "seen", serdes="str", shards=2):
        pass
    commands = [[*RACK, "add", "seen"], [*RACK, "incr", "hits"], [*RACK, "add", "seen"], [*RACK, "incr", "hits"]]
    started = [
        subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for command in commands
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write(keys)
        process.stdin.close()
    outputs = []
    for process in started:
        assert process.stdout is not None
        outputs.append(process.stdout.read())
        process.stdout.close()
        process.wait()
    assert sorted((outputs[0] + outputs[2]).split()) == sorted(keys.split())
    counts = [line.split(b"\t") for line in (outputs[1] + outputs[3]).splitlines()]
    assert sorted(counts) == sorted([key, count] for key in keys.split() for count in (b"1", b"2"))


def test_keys_that_come_slowly_are_answered_as_they_come(tmp_path: Path) -> None:
    with (
        PersistentSet[str](tmp_path / "s", serdes="str", shards=1),
        subprocess.Popen(
            [*RACK, "add", "s"], cwd=tmp_path, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        for line in (b"a\n", b"b\n"):
            process.stdin.write(line)
            assert process.stdout.read(2) == line
        process.stdin.close()
        assert process.wait(20) == 0


def test_literals_are_all_that_repr_writes(rack: Rack) -> None:
    value = [frozenset(), {frozenset({1, (2,)})}, nan, -nan, complex(nan, 1), ..., 1e400, -1e400, 10**5000, set()]
    zeros = -0.0, complex(-0.0, 1), complex(0, -1), complex(1, -0.0), complex(-0.0, -0.0), complex(-1.5, -1e400), 1j
    with PersistentDict[int, Any]("d", shards=1) as d:
        d[1] = value
        d[3] = zeros
    shown = rack("get", "d", "1").output
    # set() is how Python writes the empty set
    assert rack("set", "d", "2", shown) == OK
    assert rack("get", "d", "2").output == shown
    shown = rack("get", "d", "3").output
    assert shown == f"{zeros!r}\n"
    assert rack("set", "d", "4", shown) == OK
    assert rack("get", "d", "4").output == shown
    assert rack("set", "d", "5", f"1{'0' * 400}+1j").code == 2
