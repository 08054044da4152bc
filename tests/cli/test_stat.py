"""``rack stat``: a table for people, JSON and metrics for programs."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import rack
from rack import PersistentDict, PersistentSet
from rack.care.stat import OldestSnapshot, Stat, User
from rack.cli import main
from rack.cli.overview import lines
from rack.cli.prometheus import exposition
from tests.cli.test_ends import ENVIRONMENT
from tests.support.processes import end_sound as end_sound
from tests.support.processes import engine as engine


@pytest.fixture
def here(tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    with PersistentDict[str, int]("data", shards=4) as d:
        d.update({str(number): number for number in range(1000)})
    return tmp_path


def run(capfd: pytest.CaptureFixture[str], *args: str, code: int = 0) -> tuple[str, str]:
    assert main(["stat", *args]) == code
    output, errors = capfd.readouterr()
    return output, errors


def in_use(stat: Stat) -> Stat:
    """Return figures of a store of which everything is told."""
    return dataclasses.replace(
        stat,
        processes=(
            User(4711, "python crawl.py --with " + "many-arguments " * 20, "write", 1e9),
            *(User(number, None, "read", None) for number in range(30)),
        ),
        oldest_snapshot=OldestSnapshot(3, (4711,), 12_345, 2_100_000_000, 3 * 3600),
        dead_readers=(4712,),
        leftovers=("/somewhere/data-anonymous-0123456789ab",),
        bytes_data=100 << 20,
        bytes_free=60 << 20,
        bytes_unsynced=1234,
        bytes_base=99,
        clean=False,
        last_sync=None,
        advice=("60 % of the files is free space: rack compact data", "another sentence " * 9),
    )


def test_the_table_is_readable_in_80_columns(here: Path, engine: str, capfd: pytest.CaptureFixture[str]) -> None:
    output, errors = run(capfd, "data")
    assert errors == ""
    rows = dict(line.split("  ", 1) for line in output.splitlines() if not line.startswith(" "))
    assert rows["store"].strip() == f"data: a dict on {engine}, 4 shards"
    assert rows["entries"].strip().startswith("1,000, ")
    assert rows["open in"].strip() == "no process" or sys.platform != "linux"
    assert rows["last sync"].strip().endswith("ago; clean")
    for text in (output, lines(in_use(rack.stat("data")))):
        assert max(map(len, text.splitlines())) <= 80
    assert "and 11 more" in text
    assert "process 4711 in shard 3, 12,345 behind, which holds 2.1 GB; for 3 h at most" in " ".join(text.split())
    assert "advice         - 60 % of the files is free space: rack compact data" in text


def test_json_has_the_fields_that_the_help_lists(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    output, errors = run(capfd, "data", "--json")
    found = json.loads(output)
    expected = json.loads(json.dumps(rack.stat("data").as_dict()))
    assert (found, errors) == (expected, "")
    assert found["entries"] == 1000
    assert (found["shards"], len(found["per_shard"])) == (4, 4)
    documented = run(capfd, "--help")[0].split("The JSON object has")[1].split("Example:")[0]
    parts = [found, found["per_shard"][0], dataclasses.asdict(in_use(rack.stat("data")))]
    parts += [parts[2]["processes"][0], parts[2]["oldest_snapshot"]]
    names = {name for part in parts for name in part}
    assert {name for name in names if not re.search(rf"\b{name}\b", documented)} == set()
    listed = {word for line in documented.splitlines() for word in re.findall(r"^    (\w+)(?:,|$|  )", line)}
    assert listed - names == set()
    assert len(listed) > 15


SAMPLE = re.compile(r'([a-z_]+)\{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)+)\} (-?[0-9.e+]+)')


def samples(text: str) -> dict[str, list[tuple[str, float]]]:
    """Read metrics as a scraper does; return labels and values by name."""
    found: dict[str, list[tuple[str, float]]] = {}
    heads: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("# "):
            _, kind, name, rest = line.split(" ", 3)
            heads.setdefault(name, []).append(kind)
            assert rest
            assert name not in found, "what is told of a metric comes before its values"
        else:
            match = SAMPLE.fullmatch(line)
            assert match, line
            found.setdefault(match[1], []).append((match[2], float(match[3])))
    assert heads == {name: ["HELP", "TYPE"] for name in found}, "once each"
    return found


def test_prometheus_reads_it(here: Path, engine: str, capfd: pytest.CaptureFixture[str]) -> None:
    output, errors = run(capfd, "data", "--prometheus")
    found = samples(output)
    assert errors == ""
    assert found["rack_entries"] == [('store="data"', 1000)]
    assert found["rack_clean"] == [('store="data"', 1)]
    assert f'engine="{engine}"' in found["rack_info"][0][0]
    assert [labels for labels, _ in found["rack_shard_entries"]] == [f'store="data",shard="{n}"' for n in range(4)]
    assert sum(value for _, value in found["rack_shard_entries"]) == 1000
    told = samples(exposition(in_use(rack.stat("data"))))
    assert told["rack_processes"][1] == ('store="data",mode="write"', 1)
    assert told["rack_oldest_snapshot_held_bytes"] == [('store="data"', 2.1e9)]
    assert told["rack_oldest_snapshot_age_seconds"] == [('store="data"', 3 * 3600)]
    assert set(found) - set(told) == {"rack_last_sync_timestamp_seconds"}, "what is not known is left out"


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "a\x1b[31mb", "[bold]a", os.fsdecode(b"a\xffb")])
def test_names_harm_neither_a_scraper_nor_a_terminal(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with PersistentSet[int](name, shards=1) as s:
        s.add(1)
        table, _ = run(capfd, name)
    assert "\x1b" not in table
    assert table.startswith("store          " + ("[bold]a" if "[" in name and "\x1b" not in name else "a"))
    output, _ = run(capfd, name, "--prometheus")
    escaped = name.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n").replace("\udcff", r"\\xff")
    assert samples(output)["rack_entries"] == [(f'store="{escaped}"', 1)]
    assert json.loads(run(capfd, name, "--json")[0])["name"] == name


def test_it_takes_one_form_and_a_store_that_is_there(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "give one of them" in run(capfd, "data", "--json", "--prometheus", code=2)[1]
    assert run(capfd, "nothing", code=1) == ("", "rack stat: there is no store nothing: no nothing.rack\n")
    assert json.loads(run(capfd, "data.rack", "--json", "--no-leftovers")[0])["leftovers"] is None


@pytest.mark.parametrize("option", ["--json", "--prometheus"])
def test_what_programs_read_takes_no_import_of_what_draws_tables(here: Path, option: str) -> None:
    script = (
        "import sys; from rack.cli import main; code = main(sys.argv[1:]);"
        " slow = {'rich', 'rack.set', 'rack.dict', 'multiprocessing'} & {*sys.modules}; assert not slow, slow"
    )
    command = [sys.executable, "-c", script, "stat", "data", option]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_it_is_readable_by_others_than_writers(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """...while a writer has the store open, whose commands may be anything."""
    with PersistentDict[str, Any]("data") as d:
        d["a"] = 1
        found = json.loads(run(capfd, "data", "--json")[0])
    assert found["entries"] == 1001
    assert not found["clean"]
