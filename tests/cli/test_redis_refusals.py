"""What every command says to the URL of a store that is wrong, or of servers that are not as they should be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from rack import PersistentSet
from rack.cli.app import COMMANDS as ALL
from tests.cli.test_messages import COMMANDS, VERDICTS, names
from tests.support.commands import Rack
from tests.support.commands import rack as rack
from tests.support.servers import Server, free_port

EACH = [
    *COMMANDS,
    *(["ls", "STORE"], ["queue", "STORE"], ["watch", "STORE"]),
    *(["restore", "STORE", "out"], ["restore", "good", "STORE"], ["copy", "good", "STORE"]),
    *(["mv", "good", "STORE"], ["mv", "STORE", "SAME"], ["backup", "STORE", "out", "--incremental"]),
]
#: What makes a store that is not there, or tells nothing of one store.
MAKERS = ("dedup", "load", "ls")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a password, and what there can be under the name of a store."""
    server = Server(tmp_path_factory.mktemp("guarded"))
    client = server.client()
    client.rpush("list.rack", "a")
    client.set("text.rack", "a")
    client.set("newer.rack", '{"format": 99}')
    with PersistentSet[str](f"{server.url}?name=hurt", shards=2) as store:
        store.update("abc")
    client.delete("{hurt:0}:id", "{hurt:1}:id")
    client.config_set("requirepass", "hush-hush")
    yield server
    server.kill()


def told(run: Rack, command: list[str], url: str, code: int) -> str:
    """Run a command; return what it says, which is one line and no secret."""
    with PersistentSet[bytes]("good", shards=2, serdes="bytes") as good:
        good.add(b"a")
    Path("in.txt").write_text("a\n")
    Path("in.jsonl").write_text('{"key": "a"}\n')
    words = [{"STORE": url, "SAME": url.replace("name=", "name=same-")}.get(word, word) for word in command]
    done = run(*words)
    assert done.code == code, (done, words)
    assert "hush" not in done.output + done.errors
    assert not re.search(r"Traceback|\[Errno|Error\(", done.errors), done.errors
    said = done.errors.splitlines()
    assert said, "it says nothing"
    if code == 2 and said[0].startswith("Usage:"):
        assert sum(line.startswith("Error: ") for line in said) == 1
    else:
        assert len(said) == 1, said
        assert said[0].startswith(f"rack {command[0]}: ")
    return done.errors


def trouble(command: list[str]) -> int:
    return 2 if command[0] in VERDICTS else 1


def test_every_command_is_asked() -> None:
    assert {command[0] for command in EACH} == set(ALL) - {"demo"}


@pytest.mark.parametrize("command", EACH, ids=names)
def test_there_is_no_server(rack: Rack, command: list[str]) -> None:
    said = told(rack, command, f"redis://:hush-hush@127.0.0.1:{free_port()}/0?name=s", code_of(command))
    assert "cannot be reached" in said or is_refused(command, said)
    cluster = f"redis+cluster://:hush-hush@127.0.0.1:{free_port()},127.0.0.1:{free_port()}/?name=s"
    told(rack, command, cluster, code_of(command))


@pytest.mark.parametrize("command", EACH, ids=names)
def test_the_password_is_wrong(rack: Rack, command: list[str], guarded: Server) -> None:
    for login in ("", ":hush@", "user:hush@"):
        said = told(rack, command, f"redis://{login}127.0.0.1:{guarded.port}/0?name=s", code_of(command))
        assert "does not let this user" in said or is_refused(command, said)


@pytest.mark.parametrize("name", ["list", "text", "newer", "hurt"])
@pytest.mark.parametrize("command", EACH, ids=names)
def test_something_else_has_the_name(rack: Rack, command: list[str], name: str, guarded: Server) -> None:
    if command[0] in ("ls", "verify") or (name == "hurt" and command[0] in ("rm", "mv", "restore", "copy", "backup")):
        return
    told(rack, command, f"redis://:hush-hush@127.0.0.1:{guarded.port}/0?name={name}", code_of(command))


@pytest.mark.parametrize("command", EACH, ids=names)
def test_there_is_no_such_store(rack: Rack, command: list[str], guarded: Server) -> None:
    if command[0] in MAKERS or command[:2] in (["restore", "good"], ["copy", "good"]):
        return
    said = told(rack, command, f"redis://:hush-hush@127.0.0.1:{guarded.port}/0?name=nowhere", code_of(command))
    assert "no such store" in said or "there is no store" in said or is_refused(command, said)


@pytest.mark.parametrize(
    ("ending", "what"),
    [
        ("", "name= is missing"),
        ("?name=", "name= is missing"),
        ("?name=s&wrong=1", "wrong"),
        ("?name=s&layout=heap", "layout="),
        ("?name={s}", "brace"),
        ("?name=s&name=t", "twice"),
        ("x?name=s", "no database"),
    ],
)
@pytest.mark.parametrize("command", EACH, ids=names)
def test_the_url_is_wrong(rack: Rack, command: list[str], ending: str, what: str) -> None:
    if command[0] == "ls" and what == "name= is missing":
        return
    said = told(rack, command, f"redis://user:hush-hush@127.0.0.1:{free_port()}/{ending}", 2)
    assert what in said or is_refused(command, said)


def code_of(command: list[str]) -> int:
    return 2 if is_usage(command) else trouble(command)


def is_usage(command: list[str]) -> bool:
    return command[-1] == "--incremental"


def is_refused(command: list[str], said: str) -> bool:
    """Whether the command is not for stores on servers, or is not from there to here, and says so."""
    return "on a server" in said or "for files" in said


def test_one_of_two_is_here(rack: Rack, guarded: Server) -> None:
    url = f"redis://:hush-hush@127.0.0.1:{guarded.port}/0?name=s"
    for words in (["mv", "good", "STORE"], ["mv", "STORE", "good"]):
        assert "rack copy" in told(rack, words, url, 1)
    for words in (["backup", "good", "STORE"], ["backup", "good", "STORE", "--incremental"]):
        assert "rack copy" in told(rack, words, url, 2)


def test_a_directory_is_no_new_name(rack: Rack, tmp_path: Path) -> None:
    Path("empty").mkdir()
    said = told(rack, ["mv", "good", "STORE"], "empty", 2)
    assert "empty/good" in said
    assert not [*Path("empty").iterdir()]
    rack("mv", "good", "empty/good")
    assert Path("empty/good.rack").exists()
