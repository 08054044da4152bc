"""What commands say to arguments that are wrong, and to who asks for what a store, a disk or its owner refuses."""

from __future__ import annotations

import ast
import errno
import os
import pickle
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rack
from rack import PersistentDict, PersistentSet
from rack.errors import told
from tests.support.processes import Crew, hear, tell

pytest.importorskip("click")
pytest.importorskip("rich")

from rack.cli import main
from rack.cli.app import app
from tests.cli.test_messages import COMMANDS, FOREIGN, VERDICTS, names, plain


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    plain(shards=3)
    return tmp_path


@pytest.mark.parametrize("name", ["", "s/", ".", "..", "d/..", ".rack", "d/.rack", "a\0b"])
@pytest.mark.parametrize("command", COMMANDS, ids=names)
def test_what_is_no_name_of_a_store_is_wrong_usage(
    command: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([name if word == "STORE" else word for word in command]) == 2
    output, errors = capfd.readouterr()
    assert output == ""
    assert not FOREIGN.search(errors), errors
    assert errors.splitlines()[-1].startswith("Error: Invalid value for '"), errors
    assert [*tmp_path.iterdir()] == []


#: Commands that are refused by the store "bad" of three shards and serdes "bytes", which holds numbers; what is said.
REFUSED = [
    (["dedup", "bad", "--shards", "5"], 1, "bad.rack has 3 shards, and not 5; `rack copy bad NEW --shards 5` makes"),
    (["dedup", "bad", "--shards", "10000"], 2, "10000"),
    (["copy", "bad", "out", "--shards", "10000"], 2, "10000"),
    (["copy", "numbers", "out", "--serdes", "str"], 1, "key of type int cannot be stored"),
    (["copy", "bad", "bad"], 1, "bad.rack: "),
    (["union", "bad", "bad", "-o", "bad"], 1, "bad.rack: "),
    (["union", "bad", "bad", "--workers", "2"], 2, "--workers is for -o OUT"),
    (["union", "bad", "bad", "--durability", "always"], 2, "--durability is for -o OUT"),
    (["backup", "bad", "bad.rack"], 1, "bad.rack: "),
    (["repair", "bad", "--to", "bad"], 2, "bad.rack: "),
    (["dedup", "bad-0000.lmdb"], 2, "it belongs to the store 'bad'"),
    (["verify", "bad.rack-boot"], 2, "it belongs to the store 'bad'"),
    (["dedup", "in.txt", "in.txt"], 2, "to read its lines, name a store first: rack dedup STORE in.txt"),
    (["union", "bad", "bad", "-o", "in.txt"], 2, "'in.txt' is a file, and not a store"),
    (["copy", "bad", "in.txt"], 2, "'in.txt' is a file, and not a store"),
    (["backup", "bad", "in.txt"], 2, "'in.txt' is a file, and not a store"),
    (["repair", "bad", "--to", "in.txt"], 2, "'in.txt' is a file, and not a store"),
    (["copy", "old.lmdb", "out"], 1, "old.lmdb"),
    (["scan", "numbers", "--prefix", "1"], 1, "`rack copy STORE NEW --serdes ordered`"),
    (["del", "numbers", "--prefix", "1"], 2, "`rack copy STORE NEW --serdes ordered`"),
    (["count", "numbers", "--start", "1"], 2, "No such option"),
    (["items", "numbers"], 1, "numbers is a set, which has no values: `rack keys` lists its elements"),
    (["get", "numbers", "1"], 2, "numbers is a set, which has no values: `rack has` tells what is in it"),
    (["get", "dict", "a"], 2, "Invalid value for KEY: 'a' is no Python literal"),
    (["get", "dict", "[1]"], 2, "Invalid value for KEY: '[1]' is no key: unhashable type"),
    (["has", "dict", "{", "--key", "json"], 2, "Invalid value for KEY: '{' is no JSON"),
    (["get", "absent", "1"], 2, "there is no store 'absent'"),
    (["set", "numbers", "1", "2"], 1, "numbers is a set, which has no values: `rack add` adds to it"),
    (["set", "dict", "1", "x"], 2, "Invalid value for VALUE: 'x' is no Python literal"),
    (["set", "absent", "1", "2"], 1, "there is no store 'absent': no absent.rack; --create makes one"),
    (["set", "absent", "a", "2", "--create"], 2, "Invalid value for KEY"),
    (["set", "dict", "1", "2", "--serdes", "json"], 2, "--serdes is for --create"),
    (["set", "dict", "1", "2", "--create", "--shards", "3"], 1, "dict.rack has 2 shards, and not 3"),
    (["set", "dict", "1"], 2, "Missing argument 'VALUE'"),
    (["set", "text", "1", "2", "--value", "literal"], 1, "value of type int cannot be stored"),
    (["add", "dict", "1"], 2, "dict is a dict, whose keys have values: rack add dict KEY VALUE"),
    (["add", "numbers", "1", "2"], 2, "numbers is a set, which has no values: rack add numbers KEY"),
    (["add", "absent", "1"], 2, "there is no store 'absent': no absent.rack; --create makes one"),
    (["del", "bad", "1", "--prefix", "1"], 2, "KEY and --prefix are two ways to say what to remove"),
    (["incr", "numbers", "1"], 1, "numbers is a set, which has no values"),
    (["incr", "dict", "'s'"], 1, "the value of 's' is no number"),
    (["incr", "dict", "1", "x"], 2, "Invalid value for N: 'x' is no number"),
    (["incr", "text", "x"], 1, "value of type int cannot be stored"),
    (["load", "bad", "in.txt"], 1, "line 1 of in.txt: Expecting value: line 1 column 1 (char 0); 0 entries before it"),
    (
        ["load", "absent", "in.txt"],
        1,
        "line 1 of in.txt: neither a header nor an entry; --kind says what to make; absent",
    ),
    (["load", "bad", "absent"], 1, "absent: No such file or directory"),
    (["load", "bad", "in.txt", "--new"], 1, "bad.rack: there is such a store, and --new was given"),
    (["load", "bad", "in.txt", "--serdes", "json"], 1, "bad.rack has the serdes bytes, and not json"),
    (["load", "bad", "in.txt", "--key", "text"], 2, "--key is for csv and tsv"),
    (["load", "absent", "in.txt", "--format", "csv", "--raw"], 2, "--raw is for JSON Lines"),
    (
        ["load", "absent", "in.txt", "--format", "csv", "--key-column", "x"],
        1,
        "there is no column 'x'; there are 'a line'",
    ),
    (["dump", "bad", "absent/out"], 1, "rack dump: absent/out: "),
    (["dump", "bad", "--key", "text"], 2, "--key and --value are for csv and tsv"),
    (["dump", "lists", "out.csv"], 1, "list has no text, as str, bytes and numbers have"),
    (["scan", "tuples", "--prefix", "5"], 2, "prefix 5 must be a str, bytes or tuple"),
    (["scan", "tuples", "--start", "5j"], 2, "start 5j cannot be a key of this store"),
    (["scan", "tuples", "--start", "nonsense"], 2, "no Python literal"),
    (["compare", "bad", "dict"], 2, "bad is a set and dict a dict"),
    (["union", "dict", "bad"], 1, "dict is a dict, and this is for sets"),
    (["dedup", "dict"], 1, "dict.rack is a dict, and not a set"),
    (["dedup", "numbers"], 1, "numbers.rack has the serdes marshal, and not bytes"),
    (["dedup", "digests"], 1, "digests.rack has the serdes marshal, and not bytes"),
    (["dedup", "bad", "--digest"], 1, "whole lines, and not digests of them; `rack copy bad NEW --key-serdes digest`"),
    (["scan", "digests", "--prefix", "1"], 1, "digests of its keys (key serdes digest), which have no order"),
    (["del", "digests", "--prefix", "1"], 2, "digests of its keys (key serdes digest), which have no order"),
    (["copy", "digests", "out", "--key-serdes", "str"], 1, "digests has only digests of its keys (key serdes digest)"),
    (["union", "numbers", "digests"], 1, "digests has only digests of its keys (key serdes digest)"),
    (["copy", "bad", "out", "--key-serdes", "digest:md5"], 2, "'digest:md5' is no digest"),
    (["copy", "bad", "out", "--serdes", "digest"], 2, "'digest' is not one of"),
    (["add", "digests", '{"$digest": "00"}', "--key", "json"], 2, "a digest of 1 bytes is no key here"),
    (["has", "digests", '{"$digest": "x"}', "--key", "json"], 2, "a content that is no digest in hex"),
]


@pytest.mark.parametrize(("command", "code", "text"), REFUSED, ids=[names(command) for command, _, _ in REFUSED])
def test_what_a_store_cannot_do_is_said_in_the_callers_words(
    command: list[str], code: int, text: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "in.txt").write_text("a line\n")
    (here / "old.lmdb").write_text("no store of Rack 0.1")
    with PersistentSet[Any]("numbers", shards=2) as store:
        store.update(range(10))
    with PersistentSet[Any]("digests", shards=2, key_serdes="digest") as store:
        store.update(range(10))
    with PersistentSet[Any]("tuples", shards=2, serdes="ordered") as store:
        store.update([("a", 1), ("b", 2)])
    with PersistentDict[Any, Any]("dict", shards=2) as other:
        other.update({"a": 1, "s": "text"})
    with PersistentDict[Any, Any]("text", shards=2, serdes="str") as other:
        other["a"] = "b"
    with PersistentDict[Any, Any]("lists", shards=2) as other:
        other["a"] = [1]
    before = {*here.iterdir()}
    assert main(command) == code
    output, errors = capfd.readouterr()
    assert output == ""
    assert text in errors
    assert not FOREIGN.search(errors), errors
    assert str(here) not in errors, errors
    assert len(errors.splitlines()) == 1 or code == 2, errors
    assert {*here.iterdir()} == before


def test_a_durability_that_others_do_not_have_is_said_in_the_callers_words(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with Crew() as crew:
        worker = crew.start(_keep_open)
        worker.hear()
        assert main(["dedup", "bad", os.devnull, "--durability", "process"]) == 1
        assert main(["repair", "bad"]) == 2
        worker.tell()
        worker.result()
    first, second = capfd.readouterr().err.splitlines()
    assert first == (
        f"rack dedup: process {worker.pid} has bad.rack open with the durability everysec, and not process: while it is"
        " so, others can only have the same"
    )
    assert second.startswith("rack repair: bad.rack-lock: cannot repair the store: the store is open in process ")


def _keep_open() -> None:
    with PersistentSet[bytes]("bad", serdes="bytes"):
        tell()
        hear()


@pytest.mark.parametrize(
    "command",
    [
        *(["copy", "bad", "out"], ["backup", "bad", "out"], ["dedup", "bad", "in.txt"]),
        ["load", "out", "in.txt", "--format", "tsv", "--no-header"],
        ["dump", "large", "out"],
    ],
    ids=names,
)
def test_a_full_disk_is_said_in_the_callers_words(
    command: list[str], here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "in.txt").write_bytes(b"".join(b"%d %s\n" % (number, b"x" * 300) for number in range(3000)))
    with PersistentSet[str]("large", shards=2, serdes="str") as large:
        large.update(f"{number:050}" for number in range(1000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = {*here.iterdir()}
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        assert main(command) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (line,) = capfd.readouterr().err.splitlines()
    assert "File too large" in line or "no space" in line
    assert not FOREIGN.search(line), line
    assert str(here) not in line
    assert {*here.iterdir()} == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not write")
@pytest.mark.parametrize("command", COMMANDS, ids=names)
def test_who_may_not_is_told_so_in_his_own_words(command: list[str], here: Path) -> None:
    with PersistentSet[bytes]("good", shards=2, serdes="bytes") as good:
        good.add(b"good")
    (here / "in.txt").write_text("a line\n")
    (here / "in.jsonl").write_text('{"key": 1}\n')
    for path in here.iterdir():
        path.chmod(0o600)
    for directory in (here, *here.parents):
        directory.chmod(directory.stat().st_mode | 0o055)
    with Crew() as crew:
        code, output, errors = crew.start(_as_nobody, ["bad" if word == "STORE" else word for word in command]).result()
    assert code == (2 if command[0] in VERDICTS else 1), (output, errors)
    assert output == ""
    (line,) = errors.splitlines()
    assert "Permission denied" in line
    assert not FOREIGN.search(line), line
    assert str(here) not in line


def _as_nobody(command: list[str]) -> tuple[int, str, str]:
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        os.dup2(output.fileno(), 1)
        os.dup2(errors.fileno(), 2)
        app.commands[command[0]]  # imported before it may not be
        os.setuid(65534)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        code = main(command)
        output.seek(0)
        errors.seek(0)
        return code, output.read().decode(), errors.read().decode()


# The kind: an error whose message speaks of arguments has words for who gave none


def test_every_error_that_names_an_argument_has_words_as_well() -> None:
    errors = {name for name in rack.__all__ if name.endswith("Error")} | {"ElementTooLongError"}
    seen = 0
    for path in Path(rack.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text())
        worded = {
            node.func.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "in_words"
        }
        called = {node.id for node in worded if isinstance(node, ast.Name)}  # error = ...; return error.in_words(...)
        assigned = {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in called
        }
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in errors):
                continue
            if any(FOREIGN.search(text) for argument in node.args for text in texts(argument)):
                seen += 1
                assert node in worded or node in assigned, f"{path}:{node.lineno}"
    assert seen > 10


def texts(argument: ast.AST) -> Iterator[str]:
    """Yield the texts in an expression; whatever is put into one may be the name of an argument."""
    for node in ast.walk(argument):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "flag" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_words_come_through_pickling_and_stand_for_the_message() -> None:
    error = rack.StoreNotFoundError(errno.ENOENT, 'flag="c" makes one', "a.rack").in_words("there is no such store")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), told(again)) == (str(error), "a.rack: there is no such store")
    assert told(rack.MismatchError("plain")) == "plain"
    assert told(OSError(errno.ENOENT, "none", b"a")) == "a: none"
    assert told(MemoryError()) == "MemoryError"
