"""What commands say when something is wrong: one line, in the words of who called them, whatever it is."""

from __future__ import annotations

import ast
import errno
import json
import os
import pickle
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import rack
from rack import PersistentDict, PersistentSet
from rack.errors import told
from rack.store.boot import Record
from tests.support.processes import Crew, hear, tell

pytest.importorskip("click")
pytest.importorskip("rich")

from rack.cli import main
from rack.cli.app import app

#: What nobody who has typed a command knows: arguments of Python's functions, numbers of errors, tracebacks.
FOREIGN = re.compile(
    r"\b(?:flag|serdes|key_serdes|shards|engine|durability|timeout|memory|hash|name|workers|kind|layout|prefix|start"
    r"|stop|limit|reverse|stray|to)=|PersistentSet\b|PersistentDict\b|\[Errno|Traceback|Error\("
)

#: Each command, with the store that may be wrong in every place in turn.
COMMANDS = [
    ["dedup", "STORE", "in.txt"],
    ["dedup", "STORE", "in.txt", "--workers", "2", "--count"],
    ["scan", "STORE"],
    *(["union", "STORE", "good"], ["union", "good", "STORE"], ["union", "STORE", "good", "-o", "out"]),
    *(["intersect", "STORE", "good"], ["diff", "good", "STORE", "-o", "out"], ["symdiff", "STORE", "good"]),
    *(["compare", "STORE", "good"], ["compare", "good", "STORE", "--workers", "2"]),
    *(["copy", "STORE", "out"], ["copy", "STORE", "out", "--workers", "2", "--shards", "3"]),
    ["copy", "STORE", "out", "--serdes", "str"],
    *(["backup", "STORE", "out"], ["verify", "STORE"], ["repair", "STORE", "--to", "out"]),
]


def names(command: list[str]) -> str:
    return " ".join(command)


def shard(name: str, number: int = 0) -> Path:
    (found,) = [path for path in Path().glob(f"{name}-{number:04d}.*") if path.suffix in (".lmdb", ".sqlite3")]
    return found


# What may be wrong with a store, called "bad"


def nothing() -> None: ...


def directory_missing() -> str:
    return "no/bad"


def file_for_directory() -> str:
    Path("file").touch()
    return "file/bad"


def a_file() -> str:
    Path("bad").write_text("not a store")
    return "bad"


def a_dict() -> None:
    with PersistentDict[str, int]("bad", shards=2) as store:
        store["a"] = 1


def other_serdes() -> None:
    with PersistentSet[Any]("bad", shards=2) as store:
        store.update([("tuple", 1), 2.5, "text"])


def dump(value: Any) -> bytes:
    return repr(value).encode()


def own_serdes() -> None:
    with PersistentSet[Any]("bad", shards=2, serdes=(eval, dump)) as store:
        store.add("a")


def short(data: bytes) -> bytes:
    return data[:8].rjust(8)


def own_hash() -> None:
    with PersistentSet[bytes]("bad", shards=2, serdes="bytes", hash=short) as store:
        store.add(b"a")


def plain(**options: Any) -> None:
    with PersistentSet[bytes]("bad", **{"shards": 2, "serdes": "bytes", **options}) as store:
        store.update(b"%d" % number for number in range(500))


def no_json() -> None:
    plain()
    Path("bad.rack").write_text("{")


def wrong_manifest() -> None:
    plain()
    content = json.loads(Path("bad.rack").read_text())
    Path("bad.rack").write_text(json.dumps(content | {"shards": "many"}))


def newer_manifest() -> None:
    plain()
    content = json.loads(Path("bad.rack").read_text())
    Path("bad.rack").write_text(json.dumps(content | {"format": 99}))


def lost_manifest() -> None:
    plain()
    os.unlink("bad.rack")


def lost_shard() -> None:
    plain()
    shard("bad").unlink()


def swapped_shards() -> None:
    plain()
    first, second = shard("bad", 0), shard("bad", 1)
    first.rename("aside")
    second.rename(first)
    Path("aside").rename(second)


def foreign_shard() -> None:
    plain()
    shard("bad").write_bytes(b"what is this" * 1000)


def cut_shard() -> None:
    plain()
    os.truncate(shard("bad"), 5000)


def directory_for_shard() -> None:
    plain()
    file = shard("bad")
    file.unlink()
    file.mkdir()


def directory_for_manifest() -> None:
    Path("bad.rack").mkdir()


def unclean(durability: str = "process") -> None:
    plain()
    path = os.path.abspath("bad")
    Record("another boot", durability).write(path, [1, 1])


def unclean_everysec() -> None:
    with PersistentSet[bytes]("bad", shards=2, serdes="bytes", durability="everysec") as store:
        store.add(b"a")
    path = os.path.abspath("bad")
    Record("another boot", "everysec").write(path, [0, 0])
    for base in Path().glob("bad-*-base-*"):
        base.unlink()


def no_descriptors() -> Iterator[None]:
    plain(shards=200)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (60, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


SITUATIONS: dict[str, Callable[[], Any]] = {
    each.__name__: each
    for each in (
        *(nothing, directory_missing, file_for_directory, a_file, a_dict, other_serdes, own_serdes, own_hash, no_json),
        *(wrong_manifest, newer_manifest, lost_manifest, lost_shard, swapped_shards, foreign_shard, cut_shard),
        *(directory_for_shard, directory_for_manifest, unclean, unclean_everysec, no_descriptors),
    )
}


@contextmanager
def situation(make: Callable[[], Any]) -> Iterator[str]:
    with PersistentSet[bytes]("good", shards=2, serdes="bytes") as good:
        good.add(b"good")
    Path("in.txt").write_text("a line\n")
    made = make()
    if made is None or isinstance(made, str):
        yield made or "bad"
    else:
        next(made)
        try:
            yield "bad"
        finally:
            list(made)


@pytest.mark.damages
@pytest.mark.parametrize("engine", ["lmdb", "sqlite3"])
@pytest.mark.parametrize("make", SITUATIONS.values(), ids=SITUATIONS)
def test_every_command_says_in_one_line_and_in_its_callers_words_what_is_wrong(
    engine: str,
    make: Callable[[], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("rack.store.manifest.DEFAULT_ENGINE", engine)
    failed = 0
    for number, command in enumerate(COMMANDS):
        directory = tmp_path / str(number)
        directory.mkdir()
        monkeypatch.chdir(directory)
        with situation(make) as name:
            code = main([name if word == "STORE" else word for word in command])
        output, errors = capfd.readouterr()
        what = f"{names(command)}: {make.__name__}: {output!r} {errors!r}"
        for text in (output, errors):
            assert not FOREIGN.search(text), what
            assert str(directory) not in text, what  # the name was relative
        verdict = command[0] in ("compare", "verify", "repair")
        lines = errors.splitlines()
        assert len(lines) <= 1 or make is a_file, what
        if code == 0 or (verdict and code == 1):  # it has done its work, or this is its answer
            assert output or command[0] not in ("compare", "verify", "repair", "scan"), what
            continue
        failed += 1
        if make is a_file:
            assert code == 2, what
            assert "'bad' is a file, and not a store" in lines[-1], what
        elif errors:
            assert code == (2 if verdict else 1), what
            assert lines[0].startswith(f"rack {command[0]}: "), what
        else:
            assert (command[0], code) == ("verify", 2), what
            assert "not examined: " in output, what
        # Nothing was made, and nothing is left.
        assert not [*Path().glob("out*"), *Path().glob("*anonymous*")], what
        shutil.rmtree(directory)
    assert failed


# Arguments that are wrong


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
        assert main(["dedup", "bad", os.devnull, "--durability", "everysec"]) == 1
        assert main(["repair", "bad"]) == 2
        worker.tell()
        worker.result()
    first, second = capfd.readouterr().err.splitlines()
    assert first == (
        f"rack dedup: process {worker.pid} has bad.rack open with the durability process, and not everysec: while it is"
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
