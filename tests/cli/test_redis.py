"""The commands on stores that are on a server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict, PersistentQueue, PersistentSet
from tests.support.commands import Rack
from tests.support.commands import rack as rack
from tests.support.servers import Cluster, Server
from tests.support.servers import cluster as cluster
from tests.support.servers import own_server as own_server

Run = Callable[..., str]


@pytest.fixture
def url(own_server: Server) -> str:
    """The beginning of the URL of a store, on a server that has a password."""
    own_server.client().config_set("requirepass", "hush-hush")
    return f"redis://:hush-hush@127.0.0.1:{own_server.port}/0?name="


@pytest.fixture
def run(rack: Rack) -> Run:
    """Run a command; return what it writes, which tells no password."""

    def run(*words: object, data: str = "", code: int = 0) -> str:
        done = rack(*words, data=data)
        assert done.code == code, done.errors
        assert "hush" not in done.output + done.errors
        return done.output + done.errors if code else done.output

    return run


def test_a_store_is_looked_at_verified_and_removed(url: str, run: Run) -> None:
    for layout in ("hash", "ordered"):
        name = f"{url}{layout}&layout={layout}"
        with PersistentDict(name, shards=3) as d:
            d.update({number: number for number in range(500)})
        found = json.loads(run("stat", "--json", name))
        assert (found["engine"], found["entries"], found["shards"]) == ("redis", 500, 3)
        assert found["bytes_data"] > 500 * 5
        table = run("stat", name)
        assert "500" in table
        assert "durability as the server's appendfsync says" in " ".join(table.split())
        assert "disk" not in table
        report = json.loads(run("verify", "--json", name))
        assert (report["sound"], report["entries"]) == (True, 500)
        assert json.loads(run("verify", "--json", "--workers", "2", name))["entries"] == 500
        run("rm", "--yes", name)
        assert "no such store" in run("stat", name, code=1) + run("rm", "--yes", name, code=1)


def test_what_is_wrong_is_found(url: str, run: Run, own_server: Server) -> None:
    client = own_server.client(password="hush-hush")
    with PersistentDict(f"{url}d&layout=ordered", shards=1) as d:
        d.update({number: number for number in range(50)})
    client.zrem("{d:0}:o", client.zrange("{d:0}:o", 0, 0)[0])
    client.hset("{d:0}", b"\x80", b"\x80")
    report = json.loads(run("verify", "--json", f"{url}d", code=1))
    assert {finding["kind"] for finding in report["findings"]} >= {"count"}
    client.delete("{d:0}:id")
    report = json.loads(run("verify", "--json", f"{url}d", code=2))
    assert "missing" in report["unexamined"][0]


@pytest.mark.parametrize("workers", [1, 2])
def test_copies_go_both_ways(url: str, run: Run, workers: int, tmp_path: Path) -> None:
    content = {f"key {number}": [number] for number in range(2000)}
    with PersistentDict("local", shards=4) as d:
        d.update(content)
    run("copy", "local", f"{url}there", "--workers", workers)
    run("copy", f"{url}there", f"{url}other&layout=ordered", "--workers", workers, "--shards", 7)
    run("copy", f"{url}other", "back", "--workers", workers, "--engine", "sqlite3")
    run("backup", f"{url}other", "backup", "--workers", workers)
    for name, shards in (("back", 16), ("backup", 16), (f"{url}there", 16), (f"{url}other", 7)):
        with PersistentDict[str, Any](name) as d:
            assert d == content
            assert len(d.shards()) == shards
    run("compare", "local", f"{url}there")
    run("copy", "local", f"{url}there", code=1)
    assert "Got unexpected extra argument" in run("stat", f"{url}there", f"{url}there", code=2)
    with PersistentDict[str, Any](f"{url}there") as d:
        d["one more"] = 1
    run("compare", "local", f"{url}there", code=1)


def test_lines_are_new_once(url: str, run: Run, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("".join(f"{number % 700}\n" for number in range(2000)))
    assert run("dedup", f"{url}seen", "lines") == "".join(f"{number}\n" for number in range(700))
    assert run("dedup", f"{url}seen", "lines", data="") == ""
    assert run("dedup", f"{url}seen", data="1\nnew\n1\n") == "new\n"
    assert len(run("dedup", f"{url}digests", "lines", "--digest", "--workers", 2).split()) == 700
    with PersistentSet(f"{url}seen", flag="r") as seen:
        assert len(seen) == 701


def test_dumps_are_loaded_here_and_there(url: str, run: Run, tmp_path: Path) -> None:
    with PersistentDict("local", shards=2) as d:
        d.update({number: str(number) for number in range(300)})
    run("dump", "local", "dump.jsonl")
    run("load", f"{url}there", "dump.jsonl")
    run("load", f"{url}there", "dump.jsonl")
    assert "there is such a store" in run("load", "--new", f"{url}there", "dump.jsonl", code=1)
    run("dump", f"{url}there", "again.jsonl")
    run("load", "back", "again.jsonl")
    with PersistentDict("local") as d, PersistentDict("back") as back, PersistentDict(f"{url}there") as there:
        assert d == back == there


def test_a_queue_is_copied_both_ways(url: str, run: Run) -> None:
    with PersistentQueue[int]("jobs", shards=2) as jobs:
        jobs.put_many(range(50))
    run("copy", "jobs", f"{url}jobs")
    run("copy", f"{url}jobs", "back")
    run("backup", f"{url}jobs", "backup")
    assert "50" in run("queue", f"{url}jobs")
    for name in (f"{url}jobs", "back", "backup"):
        with PersistentQueue[int](name) as jobs:
            assert sorted(job.item for job in jobs.claim_many(99)) == list(range(50))


def test_stores_are_listed_renamed_cut_anew_and_restored(url: str, run: Run, own_server: Server) -> None:
    for name in ("crawl:seen", "crawl:titles", "other*", "othe"):
        with PersistentSet(url + name, shards=3) as s:
            s.update("abc")
    client = own_server.client(password="hush-hush")
    client.set("foreign.rack", "text")
    client.rpush("list.rack", "text")
    client.set("{braces}.rack", "text")
    shown = url.replace(":hush-hush@", "")
    everywhere = url.removesuffix("?name=")
    found = [json.loads(line) for line in run("ls", "--json", everywhere).splitlines()]
    assert [each["name"].removeprefix(shown) for each in found] == [
        "crawl:seen",
        "crawl:titles",
        "foreign",
        "othe",
        "other%2A",
    ]
    assert found[0]["kind"] == "set"
    assert (found[0]["engine"], found[0]["shards"], found[0]["modified"]) == ("redis", 3, None)
    assert found[0]["bytes"] > 0
    assert "none of Rack's" in found[2]["problem"]
    assert run("ls", f"{url}crawl:").splitlines()[0].split()[:5] == [
        f"{shown}crawl:seen",
        "set",
        "redis",
        "3",
        "shards",
    ]
    assert len(run("ls", f"{url}other*").splitlines()) == 1
    run("mv", f"{url}crawl:seen", f"{url}seen-2024")
    assert "there is a store of that name" in run("mv", f"{url}othe", f"{url}seen-2024", code=1)
    run("mv", "--replace", f"{url}othe", f"{url}seen-2024")
    run("reshard", f"{url}seen-2024", 5, "--workers", 2)
    assert json.loads(run("stat", "--json", f"{url}seen-2024"))["shards"] == 5
    run("backup", f"{url}seen-2024", "kept")
    run("restore", "kept", f"{url}back")
    run("restore", "kept", f"{url}back", code=1)
    run("restore", "kept", f"{url}back", "--replace")
    run("compare", "kept", f"{url}back")
    names = [line.split()[0].removeprefix(shown) for line in run("ls", everywhere).splitlines()]
    assert names == ["back", "back-old", "crawl:titles", "foreign", "other%2A", "seen-2024", "seen-2024-old"]


def test_what_a_killed_operation_left_is_listed_and_removed(url: str, run: Run, own_server: Server) -> None:
    left = f"{url}seen~0123456789ab"
    with PersistentSet(left, shards=3) as s:
        s.update("abc")
    assert "rack rm" in run("ls", url.removesuffix("?name="))
    run("rm", "--yes", left)
    assert run("ls", url.removesuffix("?name=")) == ""


def test_one_key_is_asked_and_changed(url: str, run: Run) -> None:
    with PersistentDict[str, int](f"{url}d", serdes="json") as d:
        d["a"] = 1
    run("set", f"{url}d", "b", "5", "--key", "text")
    assert run("get", f"{url}d", "b", "--key", "text") == "5\n"
    assert run("incr", f"{url}d", "b", "-2", "--key", "text") == "3\n"
    run("has", f"{url}d", "a", "--key", "text")
    run("del", f"{url}d", "a", "--key", "text")
    assert run("count", f"{url}d") == "1\n"


def test_what_is_for_files_says_what_to_do(url: str, run: Run) -> None:
    with PersistentSet(f"{url}s") as s:
        s.add("a")
    for words in (
        ("compact", f"{url}s"),
        ("repair", f"{url}s"),
        ("backup", "--incremental", f"{url}s", "folder"),
    ):
        told = run(*words, code=2 if {"--incremental", "repair"} & {*words} else 1)
        assert "on a server" in told
    assert "name= is missing" in run("stat", url[:-6], code=2)
    assert "ServerError" not in run("stat", url.replace("hush-hush", "hush") + "s", code=1)


def test_a_cluster_is_named_by_some_of_its_nodes(cluster: Cluster, run: Run) -> None:
    name = f"{cluster.url}?name=commands"
    assert run("dedup", name, data="a\nb\na\n") == "a\nb\n"
    assert json.loads(run("stat", "--json", name))["shards"] == 256
    run("copy", name, "local", "--shards", 4)
    run("rm", "--yes", name)
    with PersistentSet("local") as s:
        assert len(s) == 2
