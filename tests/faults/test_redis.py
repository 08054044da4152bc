"""Servers that die, hang, refuse, are full, or lose their data: every error is Rack's, and in time."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rack import (
    CorruptShardError,
    MismatchError,
    PersistentDict,
    PersistentSet,
    ServerError,
    ServerTimeoutError,
    StoreDeletedError,
    StoreFullError,
    StoreNotFoundError,
    UnsupportedOperation,
)
from tests.support.proxy import Proxy
from tests.support.servers import Server, free_port
from tests.support.servers import own_server as own_server
from tests.support.servers import server as server

FORK = multiprocessing.get_context("fork")


def timed(call: Callable[[], object], limit: float) -> BaseException | None:
    """Return what a call raises, which it must within so many seconds."""
    began = time.monotonic()
    error: BaseException | None = None
    try:
        call()
    except Exception as raised:
        error = raised
    assert time.monotonic() - began < limit
    return error


# One server


def test_no_server_is_an_error_at_once() -> None:
    error = timed(PersistentSet(f"redis://127.0.0.1:{free_port()}/0?name=s").open, 3)
    assert isinstance(error, ServerError)
    assert isinstance(error, ConnectionError)
    error = timed(PersistentSet(f"redis+cluster://127.0.0.1:{free_port()}/?name=s").open, 3)
    assert isinstance(error, ServerError)


def test_a_password_is_shown_nowhere(own_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    own_server.client().config_set("requirepass", "hush-hush")
    url = f"redis://:hush-hush@127.0.0.1:{own_server.port}/0?name=s"
    shown = []
    with PersistentSet(url) as s:
        s.add("a")
        shown += [
            repr(s),
            s.name,
            str(s.name),
            s._repr_html_(),
            repr(s.stat()),
            repr(pickle.loads(pickle.dumps(s.name))),
        ]
        with pickle.loads(pickle.dumps(s)) as again:
            assert "a" in again
            shown.append(repr(again))
        for wrong in (lambda: PersistentSet(f"{url}&nonsense=1"), lambda: PersistentDict(url).open(), s.snapshot):
            shown.append(str(timed(wrong, 5)))
    for other in ("wrong-wrong", ""):
        wrong_url = url.replace("hush-hush", other) if other else url.replace(":hush-hush@", "")
        error = timed(PersistentSet(wrong_url).open, 3)
        assert isinstance(error, ServerError)
        shown.append(str(error))
    assert not any("hush" in text or "wrong-wrong" in text for text in [*shown, caplog.text])


def test_a_user_that_may_not_run_a_command_is_told(own_server: Server) -> None:
    client = own_server.client()
    client.acl_setuser("reader", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@read", "+@connection"])
    url = f"redis://reader:pw@127.0.0.1:{own_server.port}/0?name=s"
    with PersistentSet(f"redis://127.0.0.1:{own_server.port}/0?name=s") as s:
        s.add("a")
    with PersistentSet(url, flag="r") as reader:
        assert "a" in reader
    with PersistentSet(url, flag="w") as s:
        error = timed(lambda: s.add("b"), 3)
        assert isinstance(error, ServerError)
        assert "NOPERM" in str(error)
        assert "b" not in s


def test_a_full_server_refuses_what_needs_room_and_gives_it_back(own_server: Server) -> None:
    client = own_server.client()
    with PersistentDict(f"{own_server.url}?name=d", shards=2) as d:
        d["kept"] = b"x"
        client.config_set("maxmemory", client.info("memory")["used_memory"])
        for write in (
            lambda: d.update(dict.fromkeys(range(50), b"y" * 1000)),
            lambda: d.add("new", 1),
            lambda: d.__setitem__("new", 1),
            lambda: d.transform("kept", lambda value: value + b"z"),
        ):
            assert isinstance(timed(write, 3), StoreFullError)
        assert d["kept"] == b"x"
        assert d.pop("kept") == b"x"
        client.config_set("maxmemory", 0)
        d["new"] = 1
        assert d.check() == len(d)


def test_a_server_that_hangs_is_an_error_in_time_and_its_late_writes_are_done_once(own_server: Server) -> None:
    with PersistentDict(f"{own_server.url}?name=d", shards=1, timeout=1.5) as d:
        d["n"] = 0
        own_server.hang()
        try:
            for call in (lambda: d["n"], lambda: d.add("a", 1), lambda: d.update({"u": 1}), lambda: len(d)):
                error = timed(call, 4)
                assert isinstance(error, ServerTimeoutError)
                assert isinstance(error, TimeoutError)
                assert "may have happened" in str(error)
        finally:
            own_server.go_on()
        assert d.get("n") == 0
        worker = threading.Timer(0.8, own_server.go_on)
        own_server.hang()
        worker.start()
        assert d.add("once", 1) is True  # it was sent twice, and both came to be done
        worker.join()
        own_server.client().ping()
        assert d.incr("n") == 1


def test_an_answer_that_is_lost_does_not_have_a_write_done_twice(own_server: Server) -> None:
    """A proxy closes connections behind the answers: all is done, and nobody is told."""
    lose = threading.Event()
    with Proxy(own_server.port, lose) as port, PersistentDict(f"redis://127.0.0.1:{port}/0?name=d", shards=1) as d:
        for number in range(30):
            lose.set()
            assert d.add(("added", number), 1) is True
            lose.set()
            assert d.incr("n") == number + 1
            lose.set()
            assert d.pop(("added", number)) == 1
            d[number] = number
            lose.set()
            del d[number]
            lose.set()
            assert d.delete_many(["absent"]) == 0
        lose.set()
        with PersistentSet(f"redis://127.0.0.1:{port}/0?name=s", shards=1) as s:
            for number in range(30):
                lose.set()
                assert list(s.filter_new([number, "a"])) == ([number, "a"] if not number else [number])


def test_a_write_that_is_sent_again_waits_for_its_replica_too(own_server: Server, tmp_path: Path) -> None:
    """It was done, and is not done again; but nobody knows whether the replica has it."""
    lose = threading.Event()
    replica = own_server.with_replica(tmp_path / "replica")
    try:
        with (
            Proxy(own_server.port, lose) as port,
            PersistentSet(f"redis://127.0.0.1:{port}/0?name=s", shards=1, durability="always", timeout=5) as s,
        ):
            assert s.add("before")
            changes: list[Callable[[], object]] = [
                lambda: s.add("one"),
                lambda: s.discard("before"),
                lambda: list(s.filter_new(["many"])),
                lambda: s.clear(),
            ]
            for change in changes:
                replica.hang()
                lose.set()
                with pytest.raises(ServerTimeoutError, match="no replica"):
                    change()
                replica.go_on()
                assert not lose.is_set()
            assert s.add("after")
    finally:
        replica.kill()


def test_a_server_that_is_started_again_goes_on(own_server: Server) -> None:
    with PersistentDict(f"{own_server.url}?name=d") as d:
        d["a"] = 1
        own_server.client().execute_command("WAIT", 0, 0)
        time.sleep(1.2)  # its file is synced once a second
        own_server.kill()
        got: list[int] = []
        waiting = threading.Thread(target=lambda: got.append(d["a"]))
        waiting.start()  # it waits for the server
        time.sleep(0.3)
        own_server.start()
        waiting.join(10)
        assert got == [1]
        assert d.incr("a") == 2  # scripts are loaded anew
        assert d.check() == 1


def test_a_server_that_is_started_again_empty_is_noticed_before_anything_is_written(own_server: Server) -> None:
    s = PersistentSet(f"{own_server.url}?name=s").open()
    s.add("a")
    own_server.kill()
    own_server.empty()
    own_server.start()
    for call in (lambda: s.add("b"), lambda: "a" in s, lambda: s.update("xyz")):
        assert isinstance(timed(call, 3), StoreDeletedError)
    assert own_server.client().dbsize() == 0
    with pytest.raises(StoreDeletedError):
        s.close()
    with pytest.raises(StoreNotFoundError):
        PersistentSet(f"{own_server.url}?name=s", flag="w").open()


def test_what_is_another_thing_is_told(server: Server) -> None:
    client = server.client()
    with PersistentDict(f"{server.url}?name=f:d", shards=3) as d:
        d["a"] = 1
    with pytest.raises(MismatchError, match="is a dict"):
        PersistentSet(f"{server.url}?name=f:d").open()
    with pytest.raises(MismatchError, match="shards"):
        PersistentDict(f"{server.url}?name=f:d", shards=4).open()
    with pytest.raises(MismatchError, match="layout"):
        PersistentDict(f"{server.url}?name=f:d&layout=ordered").open()
    client.lpush("f:list.rack", 1)
    with pytest.raises(MismatchError, match=r"none of Rack's"):
        PersistentDict(f"{server.url}?name=f:list").open()
    client.set("f:text.rack", "hello")
    with pytest.raises(ValueError, match=r"none of Rack's"):
        PersistentDict(f"{server.url}?name=f:text").open()
    client.hset("{f:way:1}", "somebody's", "data")
    with pytest.raises(CorruptShardError, match="in the way"):
        PersistentDict(f"{server.url}?name=f:way", shards=2).open()
    assert client.hgetall("{f:way:1}") == {b"somebody's": b"data"}
    client.delete("{f:d:2}")
    client.set("{f:d:2}", "a string")
    with pytest.raises(CorruptShardError, match="is a string"):
        PersistentDict(f"{server.url}?name=f:d").open()
    client.delete("{f:d:2}")
    client.set("{f:d:1}:id", "rack 0123456789abcdef 1")
    with pytest.raises(CorruptShardError, match="another store"):
        PersistentDict(f"{server.url}?name=f:d").open()
    client.delete("{f:d:1}:id")
    with pytest.raises(CorruptShardError, match="missing"):
        PersistentDict(f"{server.url}?name=f:d").open()


def test_what_a_server_cannot_do_is_unsupported_and_says_what_can_be_done(server: Server, tmp_path: Path) -> None:
    with PersistentDict(f"{server.url}?name=u", serdes="str", key_serdes="str") as d:
        d["a"] = "1"
        with pytest.raises(UnsupportedOperation, match="copy"):
            d.snapshot()
        with pytest.raises(UnsupportedOperation, match="layout=ordered"):
            list(d.scan())
        d.backup(tmp_path / "backup")
    with PersistentDict(tmp_path / "backup", serdes="str", key_serdes="str") as backup:
        assert dict(backup) == {"a": "1"}
        assert backup.engine == "lmdb"
    with pytest.raises(UnsupportedOperation, match="replica"):
        PersistentDict(f"{server.url}?name=u", serdes="str", key_serdes="str", durability="always").open()


def test_two_hundred_processes_connect_at_once(server: Server) -> None:
    def work(number: int) -> None:
        with PersistentSet(f"{server.url}?name=storm", shards=4) as s:
            for key in range(5):
                if s.add(key):
                    with PersistentDict(f"{server.url}?name=storm:won", shards=1) as won:
                        won.incr(key)
            s.add(("mine", number))

    workers = [FORK.Process(target=work, args=(number,)) for number in range(200)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 200
    with PersistentSet(f"{server.url}?name=storm") as s, PersistentDict(f"{server.url}?name=storm:won") as won:
        assert len(s) == 205
        assert dict(won) == dict.fromkeys(range(5), 1)


def test_handles_survive_fork_spawn_and_threads(server: Server) -> None:
    with PersistentDict(f"{server.url}?name=survive") as d:
        d["n"] = 0

        def child() -> None:
            for _ in range(50):
                d.incr("n")
            os._exit(0)

        threads = [threading.Thread(target=lambda: [d.incr("n") for _ in range(50)]) for _ in range(3)]
        for thread in threads:
            thread.start()
        workers = [FORK.Process(target=child) for _ in range(3)]
        for worker in workers:
            worker.start()
        for each in (*threads, *workers):
            each.join(30)
        assert d["n"] == 300
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(_incremented, (d,)) == 301
        assert d["n"] == 301


def _incremented(d: Any) -> Any:
    return d.incr("n")


def test_a_signal_handler_of_a_child_that_was_just_forked_uses_nothing_of_the_parents(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may run before the child has let go of the parent's connections and sessions."""
    from rack.shard.redis.server import RedisServer

    url = f"{server.url}?name=handlers"
    with PersistentSet(url, shards=1) as s:
        s.update(("parent", number) for number in range(300))
        assert s.add("warm")
        with monkeypatch.context() as patched:
            patched.setattr(RedisServer, "forget", lambda self: None)
            child = os.fork()
        for number in range(300):
            if child:
                assert ("parent", number) in s
                assert s.add(("new of the parent", number))
                assert len(s) >= 300
            elif not (s.add(("new of the child", number)) and ("parent", number) in s and len(s) >= 300):
                os._exit(1)
        if not child:
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert s.check() == len(s) == 901


def test_a_login_over_tls_and_a_socket_of_this_machine_lead_to_the_same_store(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl command to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    tls, socket = free_port(), tmp_path / "s.sock"
    options = ["--tls-port", str(tls), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    options += ["--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "no", "--unixsocket", str(socket)]
    server = Server(tmp_path / "redis", None, *options)
    try:
        server.client().acl_setuser("me", enabled=True, passwords=["+pass@word"], keys=["*"], commands=["+@all"])
        secure = f"rediss://me:pass%40word@localhost:{tls}/0?name=s&ssl_ca_certs={certificate}"
        with PersistentSet(secure) as s:
            s.add("a")
            assert "pass" not in repr(s)
        with PersistentSet(f"unix://{socket}?name=s") as s:
            assert "a" in s
            s.update("bcd")
        with PersistentSet(secure, flag="r") as s:
            assert set(s) == set("abcd")
        error = timed(PersistentSet(f"rediss://localhost:{tls}/0?name=s").open, 5)
        assert isinstance(error, ServerError)
        assert "certificate" in str(error)
    finally:
        server.kill()
