"""How stores are called: by their name or their manifest's, in Python and on the command line; and in messages."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rack
from rack import PersistentDict, PersistentSet, StoreExistsError
from rack.cli import main
from rack.cli.failure import as_given, counted, forget, remember
from rack.cli.verify import ranges
from rack.store.manifest import absolute_path
from tests.support.processes import end_sound as end_sound

Elements = PersistentSet[bytes]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def filled(name: str, *elements: bytes) -> None:
    with Elements(name, serdes="bytes", shards=2) as store:
        store.update(elements)


def names() -> set[str]:
    """Return the names of the stores that are here."""
    return {path.name.removesuffix(".rack") for path in Path().glob("*.rack")}


@pytest.mark.parametrize("first", ["s", "s.rack"])
@pytest.mark.parametrize("second", ["s", "s.rack", "s.rack.rack"])
def test_a_store_is_one_by_either_name_in_python_and_on_the_command_line(first: str, second: str) -> None:
    Path("f").write_bytes(b"a\nb\n")
    filled(first, b"a")
    with Elements(Path(second), serdes="bytes") as store:
        assert set(store) == {b"a"}
        assert store.name == second
    assert main(["dedup", second, "f", "-q"]) == 0
    assert names() == {"s"}
    with Elements(first, flag="r") as store:
        assert set(store) == {b"a", b"b"}


#: Whatever makes a store of the store "s".
MAKERS: dict[str, Callable[[Any, str], object]] = {
    "backup": lambda s, name: s.backup(name),
    "copy": lambda s, name: s.copy(name).close(),
    "union": lambda s, name: s.union([b"b"], name=name).close(),
    "intersection": lambda s, name: s.intersection([b"a"], name=name).close(),
    "difference": lambda s, name: s.difference([b"b"], name=name).close(),
    "symmetric_difference": lambda s, name: s.symmetric_difference([b"b"], name=name).close(),
    "rack.repair": lambda s, name: (s.close(), rack.repair("s", name), s.open()),
    "rack copy": lambda s, name: _run("copy", "s.rack", name),
    "rack backup": lambda s, name: _run("backup", "s.rack", name),
    "rack union": lambda s, name: _run("union", "s.rack", "s", "-o", name),
    "rack repair": lambda s, name: (s.close(), _run("repair", "s.rack", "--to", name), s.open()),
}


def _run(*args: str) -> None:
    if main(args) not in (0,):
        raise StoreExistsError(args)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_it_is_so_where_a_store_is_made(make: Callable[[Any, str], object]) -> None:
    filled("s", b"a")
    with Elements("s") as store:
        make(store, "t.rack")
        assert names() == {"s", "t"}
        with pytest.raises(StoreExistsError):
            make(store, "t")
        if store.closed:
            store.open()
    with Elements("t", flag="r") as made:
        assert b"a" in made


def test_it_is_so_where_one_is_looked_at() -> None:
    filled("s", b"a")
    assert rack.verify("s.rack").sound
    assert rack.verify("s.rack").name == "s.rack"
    report = rack.repair("s.rack")
    assert (report.name, report.to) == ("s.rack", "s-repaired")
    assert names() == {"s", "s-repaired"}
    with PersistentDict[str, int]("d.rack") as counts:
        counts["a"] = 1
        assert dict(counts.copy(name="e.rack")) == {"a": 1}
    assert names() == {"s", "s-repaired", "d", "e"}


def test_a_name_means_the_same_however_often_it_is_looked_at(here: Path) -> None:
    for name in ("s", "s.rack", "s.rack.rack", "./s", "x/../s.rack"):
        path = absolute_path(name)
        assert path == absolute_path(path) == str(here / "s")


@pytest.mark.parametrize("name", ["", ".rack", "d/", "d/.rack", ".", "..", "a/..", "/"])
def test_what_is_left_of_a_name_has_to_be_one(name: str) -> None:
    with pytest.raises(ValueError, match="must be the prefix of the files"):
        Elements(name)


# Messages


def test_paths_are_told_as_they_were_given(here: Path) -> None:
    forget()
    remember("data/s")
    assert as_given(f"{here}/data/s-0001.lmdb is cut") == "data/s-0001.lmdb is cut"
    assert as_given(f"`rack repair '{here}/data/s'`") == "`rack repair 'data/s'`"
    assert as_given(f"no directory {here}/data.") == "no directory data."
    assert as_given(f"{here}/database") == f"{here}/database"
    assert as_given(f"/other{here}/data/s") == f"/other{here}/data/s"
    remember("../s")
    assert as_given(f"{here.parent}/s.rack") == "../s.rack"
    remember(f"{here}/t")
    assert as_given(f"{here}/t.rack") == f"{here}/t.rack"
    forget()
    assert as_given(f"{here}/data/s") == f"{here}/data/s"


def test_a_name_of_one_letter_is_replaced_where_it_is_a_path_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    forget()
    remember("s")
    assert as_given("/s.rack of /data/s and /sum") == "s.rack of /data/s and /sum"
    forget()


def test_numbers_are_written_for_people() -> None:
    assert [counted(number, "line") for number in (0, 1, 2, 2345)] == ["0 lines", "1 line", "2 lines", "2,345 lines"]
    assert [counted(number, "entry") for number in (1, 1000)] == ["1 entry", "1,000 entries"]
    assert [counted(number, "process") for number in (1, 2)] == ["1 process", "2 processes"]
    assert ranges([3, 0, 1, 2, 7, 5, 6, 9]) == "0-3, 5-7, 9"


@pytest.mark.parametrize(("count", "words"), [(0, "0 {}"), (1, "1 {}"), (2345, "2,345 {}")])
def test_summaries_count_in_words(count: int, words: str, capfd: pytest.CaptureFixture[str]) -> None:
    lines = [b"%d" % number for number in range(count)]
    Path("f").write_bytes(b"".join(line + b"\n" for line in lines))
    filled("s", *lines)

    def said(*args: str, noun: str) -> None:
        capfd.readouterr()
        assert main(args) == 0
        output, errors = capfd.readouterr()
        plural = noun if count == 1 else f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
        assert words.format(plural) + " " in f"{errors} {output} ".replace("\n", " "), (output, errors)

    said("dedup", "new", "f", noun="line")
    said("union", "s", "s", noun="element")
    said("copy", "s", "copy", noun="entry")
    said("backup", "s", "backup", noun="entry")
    said("verify", "s", noun="entry")
    said("repair", "s", noun="entry")


def test_the_number_of_entries_that_repair_tells_goes_with_its_verb(capfd: pytest.CaptureFixture[str]) -> None:
    filled("one", b"a")
    filled("two", b"a", b"b")
    for name, said in (("one", "1 entry is in one-repaired\n"), ("two", "2 entries are in two-repaired\n")):
        assert main(["repair", name]) == 0
        assert capfd.readouterr().out == said


@pytest.mark.damages
def test_a_relative_name_stays_so_in_what_is_said(capfd: pytest.CaptureFixture[str], here: Path) -> None:
    os.mkdir("data")
    filled("data/s", b"a")
    min(Path("data").glob("s-0001.*")).unlink()
    assert main(["verify", "data/s.rack"]) == 1
    assert main(["repair", "./data/s"]) == 1
    assert main(["scan", "data/s"]) == 1
    output, errors = capfd.readouterr()
    assert "data/s is damaged: `rack repair data/s` saves what can be read\n" in output
    assert "entry is in ./data/s-repaired\n" in output or "entries are in ./data/s-repaired\n" in output
    assert "rack scan: data/s-0001." in errors
    assert str(here) not in output + errors
