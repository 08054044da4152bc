"""What commands say when something is wrong: one line, in the words of who called them, whatever it is."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict, PersistentSet
from rack.store.record import Record

pytest.importorskip("click")
pytest.importorskip("rich")

from rack.cli import main

LOST = "what was written in about the last second before that may be lost"
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
    *(["compact", "STORE"], ["reshard", "STORE", "3"], ["mv", "STORE", "out"], ["rm", "--yes", "STORE"]),
    *(["backup", "STORE", "out"], ["verify", "STORE"], ["repair", "STORE", "--to", "out"]),
    *(
        ["keys", "STORE", "--json"],
        ["items", "STORE"],
        ["get", "STORE", "1"],
        ["has", "STORE", "1"],
        ["count", "STORE"],
    ),
    *(["set", "STORE", "1", "2"], ["add", "STORE", "1"], ["incr", "STORE", "1"], ["del", "STORE", "1"]),
    *(["dump", "STORE", "out.jsonl"], ["load", "STORE", "in.jsonl", "--serdes", "bytes"]),
    *(["stat", "STORE"], ["stat", "STORE", "--json"]),
]

#: Those whose exit code 1 is an answer.
VERDICTS = ("add", "compare", "del", "get", "has", "repair", "verify")


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
    plain(shards=80)
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
    Path("in.jsonl").write_text('{"key": {"$bytes": "YQ=="}}\n')
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
        verdict = command[0] in VERDICTS
        lines = [line for line in errors.splitlines() if not line.endswith(LOST)]  # no error: the store was opened
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
