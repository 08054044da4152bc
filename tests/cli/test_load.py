"""``rack load``: what it takes, what it says of what it does not, and what there is when it has failed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict, PersistentSet
from rack.cli import main
from rack.store.manifest import Manifest
from tests.cli.test_ends import ENVIRONMENT, pipe_of, running
from tests.processes.test_kill_steps import Steps
from tests.processes.test_kill_steps import killed_at_each_step as killed_at_each_step
from tests.support.commands import RACK, Rack
from tests.support.commands import rack as rack
from tests.support.processes import assert_sound
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine

pytest.importorskip("click")
pytest.importorskip("rich")

CONTENT = {f"key {number}": [number, (number,)] for number in range(100)}


def dict_of(name: str | Path) -> dict[Any, Any]:
    with PersistentDict[Any, Any](name, flag="r") as store:
        return dict(store)


def set_of(name: str | Path) -> set[Any]:
    with PersistentSet[Any](name, flag="r") as store:
        return set(store)


def manifest_of(name: str) -> Manifest:
    manifest = Manifest.read(os.path.abspath(name))
    assert manifest is not None
    return manifest


@pytest.fixture
def dumped(rack: Rack) -> Rack:
    """A command line where the dump "f" is, of CONTENT."""
    with PersistentDict[str, Any]("source", shards=2) as source:
        source.update(CONTENT)
    assert rack("dump", "source", "f", "-q").code == 0
    return rack


# What a new store is


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ("dict", "lmdb", 2, "marshal", "canonical")),
        (["--engine", "sqlite3", "--shards", "3"], ("dict", "sqlite3", 3, "marshal", "canonical")),
        (["--key-serdes", "str"], ("dict", "lmdb", 2, "marshal", "str")),
        (["--serdes", "pickle"], ("dict", "lmdb", 2, "pickle", "canonical")),
        (["--serdes", "ordered"], ("dict", "lmdb", 2, "ordered", "ordered")),
        (["--serdes", "pickle", "--key-serdes", "ordered"], ("dict", "lmdb", 2, "pickle", "ordered")),
    ],
)
def test_a_new_store_is_as_the_dump_says_or_as_the_options_do(
    dumped: Rack, options: list[str], expected: tuple[Any, ...]
) -> None:
    assert dumped("load", "b", "f", "--durability", "always", *options) == (0, "", "rack load: 100 entries loaded\n")
    manifest = manifest_of("b")
    assert (manifest.kind, manifest.engine, manifest.shards, manifest.serdes, manifest.key_serdes) == expected
    assert dict_of("b") == CONTENT
    with PersistentDict[str, Any]("b") as store:
        assert store._open_store().durability == "always"
        assert store.check() == 100


def test_keys_that_had_a_serdes_of_their_own_keep_it(rack: Rack) -> None:
    with PersistentDict[str, Any]("a", key_serdes="str", shards=1) as a:
        a["a"] = 1
    rack("dump", "a", "f")
    assert rack("load", "b", "f", "--serdes", "json").code == 0
    assert (manifest_of("b").serdes, manifest_of("b").key_serdes) == ("json", "str")


def test_lines_of_other_programs_need_no_header(rack: Rack) -> None:
    assert rack("load", "d", data='{"key": "a", "value": {"b": [1.0, null]}}\n\n{"value":2,"key":3}').code == 0
    assert dict_of("d") == {"a": {"b": [1.0, None]}, 3: 2}
    assert rack("load", "s", "--serdes", "str", data='{"key":"a"}\n').errors == "rack load: 1 entry loaded\n"
    assert set_of("s") == {"a"}
    assert rack("load", "e", "--kind", "set", "-q", data="") == (0, "", "")
    assert set_of("e") == set()


def test_what_was_listed_and_dumps_one_after_another_can_be_loaded(dumped: Rack) -> None:
    lines = dumped("scan", "source", "--json", "--limit", "7").output
    assert dumped("load", "part", data=lines).errors == "rack load: 7 entries loaded\n"
    whole = Path("f").read_text()
    assert dumped("load", "twice", data=whole + whole).errors == "rack load: 200 entries loaded\n"
    assert dict_of("twice") == CONTENT
    reversed_ = "\n".join(reversed(whole.splitlines()[1:-1]))
    assert dumped("load", "any", data=reversed_).code == 0
    assert dict_of("any") == CONTENT


# A store that is there


def test_workers_change_nothing_but_the_time(dumped: Rack) -> None:
    with PersistentDict[str, Any]("source") as source:
        source.update((f"more {number}", "x" * 100) for number in range(30_000))
    assert dumped("dump", "source", "one") == (0, "", "rack dump: 30,100 entries dumped to one\n")
    assert dumped("dump", "source", "two", "--workers", "3").errors == "rack dump: 30,100 entries dumped to two\n"
    assert Path("one").read_bytes() == Path("two").read_bytes()
    assert dumped("load", "b", "two", "--workers", "3").errors == "rack load: 30,100 entries loaded\n"
    assert dumped("load", "b", "two", "--workers", "2").errors == "rack load: 30,100 entries loaded\n"
    assert dumped("dump", "b", "three", "-q").code == 0
    assert Path("one").read_bytes() == Path("three").read_bytes()
    lines = Path("one").read_bytes().splitlines(keepends=True)
    bad = b"".join([*lines[:25_000], b"nonsense\n", *lines[25_000:]])
    done = dumped("load", "c", "--workers", "2", data=bad)
    assert done.errors == "rack load: line 25,001: Expecting value: line 1 column 1 (char 0); c was not made\n"
    assert not Path("c.rack").exists()
    assert dumped("load", "d", "--workers", "2", "--on-error", "skip", data=bad).code == 0
    with source, PersistentDict[str, Any]("d") as d:
        assert d == source


@pytest.mark.usefixtures("engine")
def test_a_store_that_is_there_is_updated(dumped: Rack) -> None:
    with PersistentDict[str, Any]("b", shards=3, serdes="pickle", key_serdes="str") as b:
        b.update({"key 1": "old", "other": 1})
    assert dumped("load", "b", "f") == (0, "", "rack load: 100 entries loaded\n")
    assert dict_of("b") == CONTENT | {"other": 1}
    assert manifest_of("b").serdes == "pickle"
    assert dumped("load", "b", "f", "--new").code == dumped("load", "b", "f", "--shards", "2").code == 1


def test_it_must_be_of_that_kind(dumped: Rack) -> None:
    with PersistentSet[str]("s", serdes="str") as s:
        s.add("a")
    done = dumped("load", "s", "f")
    assert done.errors == (
        "rack load: line 1 of f: the header of a dict, and the store is a set; 0 entries before it were loaded\n"
    )
    assert dumped("load", "new", "f", "--kind", "set").errors == (
        "rack load: line 1 of f: the header of a dict, and not of a set; new was not made\n"
    )
    assert dumped("load", "s", data='{"key":"b","value":1}').errors == (
        "rack load: line 1: has a value, and the store is a set; 0 entries before it were loaded\n"
    )


# Lines that are no entries

BAD = {
    "nonsense": "Expecting value: line 1 column 1 (char 0)",
    "[1]": 'no entry: that is an object with "key" and, in a dict, "value"',
    '{"value":1}': 'no entry: that is an object with "key" and, in a dict, "value"',
    '{"key":1}': "has no value",
    '{"key":1,"value":2,"more":3}': "has 'more', which is not known",
    '{"key":[1],"value":2}': "unhashable type: 'list'",
    '{"key":{"$set":[1]},"value":2}': "unhashable type: 'set'",
    '{"key":{"$bytes":"."},"value":2}': "'$bytes' with a content that it does not have",
    '{"key":1,"value":{"$what":2}}': "the tag '$what' is not known",
    '{"key":{"$key":{"$tuple":["what"]}},"value":2}': "'$key' with a content that is no key",
    '{"key":1,"value":{"$stored":"YQ=="}}': "has stored bytes that only the store's own functions understand: --raw",
    '{"key":1,"value":' + "[" * 100_000: "nested too deeply",
    '{"key":1,"value":"\udcff"}': "'utf-8' codec can't decode",
}


@pytest.mark.parametrize("line", BAD, ids=lambda line: line[:40])
def test_a_bad_line_is_named_and_stops_it_or_is_left_out(rack: Rack, line: str) -> None:
    lines = ['{"key":"a","value":1}', "", line, '{"key":"b","value":2}']
    Path("f").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    for name, left in (("new", "new was not made"), ("old", "1 entry before it was loaded")):
        if name == "old":
            with PersistentDict[str, int]("old", shards=1) as old:
                old["z"] = 0
        done = rack("load", name, "f")
        assert (done.code, done.output) == (1, "")
        assert done.errors.startswith(f"rack load: line 3 of f: {BAD[line]}"), done.errors
        assert done.errors.endswith(f"; {left}\n")
    assert not Path("new.rack").exists()
    assert dict_of("old") == {"z": 0, "a": 1}
    done = rack("load", "new", "f", "--on-error", "skip")
    assert done.code == 0
    assert done.errors.startswith(f"rack load: line 3 is skipped: {BAD[line]}")
    assert done.errors.endswith("rack load: 2 entries loaded, 1 line skipped\n")
    assert dict_of("new") == {"a": 1, "b": 2}


def test_what_the_store_cannot_hold_is_a_bad_line(rack: Rack) -> None:
    done = rack("load", "d", "--serdes", "str", data='{"key":"a","value":"b"}\n{"key":"c","value":1}\n')
    assert done.errors.startswith("rack load: line 2: value of type int cannot be stored")
    assert done.errors.endswith("; d was not made\n")


def test_only_some_skipped_lines_are_told(rack: Rack) -> None:
    done = rack("load", "s", "--kind", "set", "--on-error", "skip", data="x\n" * 5000)
    assert len(done.errors.splitlines()) == 11
    assert done.errors.endswith("0 entries loaded, 5,000 lines skipped\n")


def test_a_dump_that_was_cut_off_is_noticed(dumped: Rack) -> None:
    lines = Path("f").read_text().splitlines(keepends=True)
    cut = {
        "".join(lines[:-1]): "line 101: the end of the file, but not of the dump: it was cut off",
        "".join(lines[:50]): "line 50: the end of the file, but not of the dump: it was cut off",
        "".join(lines[:50] + lines[60:]): "line 92: the end of a dump of 100 entries, and 90 were there",
        "".join(lines)[:-1000]: "line ",
    }
    for data, message in cut.items():
        done = dumped("load", "b", data=data)
        assert done.code == 1
        assert done.errors.startswith(f"rack load: {message}")
        assert not Path("b.rack").exists()
    assert dumped("load", "b", "--on-error", "skip", data="".join(lines[:50])).code == 0
    assert len(dict_of("b")) == 49


def test_a_compressed_dump_that_was_cut_off_is_noticed(dumped: Rack, tmp_path: Path) -> None:
    for suffix in (".gz", ".zst"):
        file = Path(f"cut{suffix}")
        assert dumped("dump", "source", file, "-q").code == 0
        file.write_bytes(file.read_bytes()[:-20])
        done = dumped("load", "b", file, "--on-error", "skip")
        assert (done.code, done.output) == (1, "")
        assert done.errors.startswith(f"rack load: {file}: ")
        assert not [*tmp_path.glob("b[.-]*"), *tmp_path.glob("*anonymous*")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"engine": "bdb"}, "a header whose engine is 'bdb', which is not known"),
        ({"shards": 0}, "a header whose shards is 0, which is not known"),
        ({"serdes": None}, "a header whose serdes is None, which is not known"),
        ({"key_serdes": "x"}, "a header whose key serdes is 'x', which is not known"),
        ({"durability": "some"}, "a header whose durability is 'some', which is not known"),
        ({"kind": "bag"}, "a header with the kind 'bag', which is not known"),
        ({"version": 2}, "the header of a dump of version 2, which this Rack does not know"),
    ],
)
def test_a_header_that_cannot_be_is_an_error(dumped: Rack, change: dict[str, Any], message: str) -> None:
    header, *lines = Path("f").read_text().splitlines()
    data = "\n".join([json.dumps(json.loads(header) | change), *lines])
    for options in ([], ["--on-error", "skip"]):
        assert dumped("load", "b", *options, data=data).errors == f"rack load: line 1: {message}; b was not made\n"


@pytest.mark.parametrize("probes", [5, {"serdes": 5}, {"serdes": ["zz", ""]}, {"serdes": ["", ""]}, {"serdes": ["4e"]}])
def test_probes_that_cannot_be_are_an_error(dumped: Rack, probes: Any) -> None:
    header = json.loads(Path("f").read_text().splitlines()[0]) | {"serdes": "custom:mine", "probes": probes}
    done = dumped("load", "b", "--raw", data=json.dumps(header))
    assert done.code == 1
    assert done.errors.startswith("rack load: line 1: a header whose probes are ")
    end = {"format": "rack-dump", "end": True, "entries": "many"}
    data = f"{json.dumps(header | {'serdes': 'json'})}\n{json.dumps(end)}"
    assert "the end of a dump of many entries, and 0 were there" in dumped("load", "b", data=data).errors


# Tables


def test_columns_are_called_by_their_titles_or_numbers(rack: Rack) -> None:
    table = '\ufeffname,age,"a ""city"""\nann,31,Rome\n\n"b\nob",7,\n'
    assert rack("load", "d", "--format", "csv", data=table).code == 0
    assert dict_of("d") == {"ann": "31", "b\nob": "7"}
    assert (manifest_of("d").serdes, manifest_of("d").key_serdes) == ("str", "str")
    options = ["--key-column", 'a "city"', "--value-column", "1"]
    assert rack("load", "e", "--format", "csv", *options, data=table).code == 0
    assert dict_of("e") == {"Rome": "ann", "": "b\nob"}
    options = ["--value-column", "age", "--value", "literal"]
    assert rack("load", "f", "--format", "csv", *options, data=table).code == 0
    assert dict_of("f") == {"ann": 31, "b\nob": 7}
    options = ["--kind", "set", "--no-header", "--key-column", "2"]
    assert rack("load", "g", "--format", "csv", *options, data=table).code == 0
    assert set_of("g") == {"age", "31", "7"}
    assert rack("load", "h", "--format", "tsv", "-q", data="url\r\na\r\nb\tc\r\n").code == 0
    assert set_of("h") == {"a", "b"}


def test_rows_that_are_none_are_named(rack: Rack) -> None:
    def errors(data: str | bytes, *options: str) -> str:
        return rack("load", "t", "--format", "csv", *options, data=data).errors

    assert errors("a,b\nc\n") == "rack load: line 2: a row of 1 columns, and column 2 is wanted; t was not made\n"
    assert errors('a,b\n"c",d\n"e"f,g\n').startswith("rack load: line 3: no row of a table: ',' expected after '\"'")
    assert errors(b"a,b\n\xff,d\n").startswith("rack load: line 2: '\\udcff' is no UTF-8")
    assert errors("a,b\n1,x\n", "--value", "literal").startswith("rack load: line 2: 'x' is no Python literal")
    done = errors("a,b\n1,x\n2,3\n", "--value", "literal", "--on-error", "skip")
    assert done.endswith("rack load: 1 entry loaded, 1 line skipped\n")
    assert dict_of("t") == {"2": 3}


# Its end


@pytest.mark.usefixtures("engine")
def test_a_load_that_is_killed_at_any_step_has_made_a_store_or_not(
    killed_at_each_step: Steps, dumped: Rack, tmp_path: Path
) -> None:
    def load() -> None:
        assert main(["load", str(tmp_path / "target"), str(tmp_path / "f"), "--shards", "1", "-q"]) == 0

    for _ in killed_at_each_step(load):
        if not (tmp_path / "target.rack").exists():
            load()
        assert dict_of(tmp_path / "target") == CONTENT
        assert_sound(PersistentDict[Any, Any](tmp_path / "target"))
        for file in tmp_path.iterdir():
            if not file.name.startswith(("source", "f")):
                file.unlink()


@pytest.mark.usefixtures("engine")
def test_a_load_that_is_killed_at_any_step_leaves_a_store_that_was_there_whole(
    killed_at_each_step: Steps, dumped: Rack, tmp_path: Path
) -> None:
    def load() -> None:
        assert main(["load", str(tmp_path / "target"), str(tmp_path / "f"), "-q"]) == 0

    def make() -> None:
        with PersistentDict[Any, Any](tmp_path / "target", shards=1) as target:
            target.update({"old": 1, "key 1": "old"})

    make()
    for _ in killed_at_each_step(load):
        found = dict_of(tmp_path / "target")
        assert found.pop("old") == 1
        assert {key: value for key, value in found.items() if value != "old"}.items() <= CONTENT.items()
        assert_sound(PersistentDict[Any, Any](tmp_path / "target"))
        for file in tmp_path.glob("target*"):
            file.unlink()
        make()


@pytest.mark.parametrize("options", [[], ["--workers", "2"]], ids=" ".join)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_load_that_is_interrupted_makes_no_store(tmp_path: Path, signum: signal.Signals, options: list[str]) -> None:
    # A file that is just being opened may be closed by the collector, which only warns.
    environment = {**ENVIRONMENT, "PYTHONWARNINGS": "ignore"}
    with running("load", "s", "-q", *options, cwd=tmp_path, stdin=subprocess.PIPE, env=environment) as process:
        for number in range(50_000):
            pipe_of(process.stdin).write(b'{"key":%d}\n' % number)
        while not [*tmp_path.glob("*anonymous*.lmdb")]:
            time.sleep(0.01)
        os.kill(process.pid, signum)
        assert process.wait(10) == -signum
        assert pipe_of(process.stderr).read() == b""
    assert not [path for path in tmp_path.iterdir() if not path.name.endswith("-lock")]


def test_a_load_does_not_wait_for_the_end_of_a_pipe_to_fail(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*RACK, "load", "s"], cwd=tmp_path, env=ENVIRONMENT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        pipe_of(process.stdin).write(b'{"key":1}\nnonsense\n')
        assert process.wait(20) == 1
        assert b"line 2: " in pipe_of(process.stderr).read()


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="finds the workers in /proc")
def test_a_killed_worker_is_one_clear_error_and_no_store(tmp_path: Path) -> None:
    with running("load", "s", "--workers", "2", cwd=tmp_path, stdin=subprocess.PIPE) as process:
        pipe_of(process.stdin).write(b'{"key":1}\n')
        children: list[str] = []
        while len(children) < 2:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        for number in range(10):
            pipe_of(process.stdin).write(b'{"key":%d}\n' % number)
        pipe_of(process.stdin).close()
        assert process.wait(10) == 1
        error = pipe_of(process.stderr).read()
    assert error.startswith(b"rack load: a worker process was killed by signal 9")
    assert error.count(b"\n") == 1
    assert not [path for path in tmp_path.iterdir() if not path.name.endswith("-lock")]
