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
from tests.cli.test_messages import COMMANDS, FOREIGN, names, plain


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
    (["scan", "numbers"], 1, "`rack copy STORE NEW --serdes ordered`"),
    (["scan", "tuples", "--prefix", "5"], 2, "prefix 5 must be a str, bytes or tuple"),
    (["scan", "tuples", "--start", "5j"], 2, "start 5j cannot be a key of this store"),
    (["scan", "tuples", "--start", "nonsense"], 2, "no Python literal"),
    (["compare", "bad", "dict"], 2, "bad is a set and dict a dict"),
    (["union", "dict", "bad"], 1, "dict is a dict, and this is for sets"),
    (["dedup", "dict"], 1, "dict.rack is a dict, and not a set"),
    (["dedup", "numbers"], 1, "numbers.rack has the serdes marshal, and not bytes"),
]


@pytest.mark.parametrize(("command", "code", "text"), REFUSED, ids=[names(command) for command, _, _ in REFUSED])
def test_what_a_store_cannot_do_is_said_in_the_callers_words(
    command: list[str], code: int, text: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "in.txt").write_text("a line\n")
    (here / "old.lmdb").write_text("no store of Rack 0.1")
    with PersistentSet[Any]("numbers", shards=2) as store:
        store.update(range(10))
    with PersistentSet[Any]("tuples", shards=2, serdes="ordered") as store:
        store.update([("a", 1), ("b", 2)])
    with PersistentDict[Any, Any]("dict", shards=2) as other:
        other["a"] = 1
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


@pytest.mark.parametrize("command", [["copy", "bad", "out"], ["backup", "bad", "out"], ["dedup", "bad", "in.txt"]])
def test_a_full_disk_is_said_in_the_callers_words(
    command: list[str], here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (here / "in.txt").write_bytes(b"".join(b"%d %s\n" % (number, b"x" * 300) for number in range(3000)))
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
    for path in here.iterdir():
        path.chmod(0o600)
    for directory in (here, *here.parents):
        directory.chmod(directory.stat().st_mode | 0o055)
    with Crew() as crew:
        code, output, errors = crew.start(_as_nobody, ["bad" if word == "STORE" else word for word in command]).result()
    assert code == (2 if command[0] in ("compare", "verify", "repair") else 1), (output, errors)
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
