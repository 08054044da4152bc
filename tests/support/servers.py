"""Redis servers of the tests' own: on loopback, in a temporary folder, ended for sure."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

redis: Any = pytest.importorskip("redis")
#: RACK_REDIS_SERVER is the path of another one that takes the same options: Valkey's, say.
SERVER = os.environ.get("RACK_REDIS_SERVER") or shutil.which("redis-server")
CLIENT = shutil.which("redis-cli")
if SERVER is None or CLIENT is None:
    pytest.skip("there is no redis-server here (Debian: apt-get install redis-server)", allow_module_level=True)

from rack.shard.redis.server import RedisServer  # noqa: E402 - it needs the library

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
NODE_TIMEOUT = 1500  # milliseconds until a node is taken for dead, where some are to die
_CALM = 15_000  # ... where none is: on a busy machine a node that lives may not answer for long


class Server:
    """One redis-server, with an append-only file."""

    def __init__(self, folder: Path, port: int | None = None, *options: str, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = free_port() if port is None else port
        self.folder = folder
        self.options = options
        folder.mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        command = [str(SERVER), "--port", str(self.port), "--bind", self.host, "--dir", str(self.folder)]
        command += [
            "--protected-mode",
            "no",
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            "everysec",
            "--daemonize",
            "no",
        ]
        command += ["--logfile", str(self.folder / "log"), "--repl-diskless-sync-delay", "0", *self.options]
        self._process = subprocess.Popen(command, preexec_fn=_end_with_parent if sys.platform == "linux" else None)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 1):
                return
            time.sleep(0.01)
        raise AssertionError(f"redis-server did not start: {(self.folder / 'log').read_text()[-2000:]}")

    def client(self, **options: Any) -> Any:
        return redis.Redis(host=self.host, port=self.port, **options)

    def with_replica(self, folder: Path) -> Server:
        """Start a replica, and return it when it has all that this server has."""
        replica = Server(folder, None, "--replicaof", f"{self.host} {self.port}", host=self.host)
        deadline = time.monotonic() + 30
        with self.client() as client:
            while not (client.incr("in step") and client.wait(1, 1000)):
                assert time.monotonic() < deadline, "the replica does not come up"
            client.delete("in step")
        return replica

    def kill(self) -> None:
        """End it at once, as kill -9 does."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def hang(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def empty(self) -> None:
        """Remove its files, as it is not running."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()


class Cluster:
    """Three masters, each with a replica."""

    def __init__(self, folder: Path, node_timeout: int = NODE_TIMEOUT, host: str = "127.0.0.1") -> None:
        self.host = host
        self.servers: dict[int, Server] = {}
        try:
            for _ in range(6):
                port = free_port(bus=True)
                options = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(node_timeout))
                options += ("--cluster-replica-validity-factor", "0")
                self.servers[port] = Server(folder / str(port), port, *options, host=host)
            command = [str(CLIENT), "--cluster", "create", *(f"{host}:{port}" for port in self.servers)]
            done = subprocess.run(
                [*command, "--cluster-replicas", "1", "--cluster-yes"], capture_output=True, text=True, timeout=60
            )
            assert done.returncode == 0, done.stdout + done.stderr
            self.wait()
        except BaseException:
            self.kill()
            raise

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'{self.host}:{port}' for port in list(self.servers)[:3])}/"

    def wait(self) -> None:
        """Wait until every slot has a master, and every running node knows it; and each master a replica."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(redis.RedisError):
                infos = [server.client(socket_timeout=1).execute_command("CLUSTER", "INFO") for server in self.running]
                roles = [server.client(socket_timeout=1).execute_command("ROLE") for server in self.running]
                masters = [role for role in roles if role[0] in (b"master", "master")]
                have_replicas = len(self.running) < len(self.servers) or all(role[2] for role in masters)
                are_ready = all(_fields(info)["cluster_state"] == "ok" for info in infos)
                if are_ready and len(masters) == 3 and have_replicas:
                    return
            time.sleep(0.05)
        raise AssertionError("the cluster does not come up")

    def client(self) -> Any:
        return redis.RedisCluster(host=self.host, port=self.running[0].port)

    @property
    def running(self) -> list[Server]:
        return [server for server in self.servers.values() if server._process is not None]

    def master_of(self, slot: int) -> Server:
        for first, last, (_, port, *_), *_ in self.running[0].client().execute_command("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return self.servers[port]
        raise AssertionError(f"nobody has slot {slot}")

    def kill(self) -> None:
        for server in self.servers.values():
            server.kill()


def _fields(info: Any) -> dict[str, str]:
    if isinstance(info, dict):
        return info
    text = info.decode() if isinstance(info, bytes) else info
    return dict(line.split(":", 1) for line in text.split() if ":" in line)


def take_all_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the packed layout for keys that are no digests, too: it is no good for them, and holds them."""
    monkeypatch.setattr(RedisServer, "layout", lambda server, asked, digests: asked or "direct")


def free_port(bus: bool = False) -> int:
    """Return a port that nobody has; ``bus``: nor the one ten thousand above it, on which nodes talk to each other."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            try:
                if bus:
                    other.bind(("127.0.0.1", port + 10_000))
                return port
            except (OSError, OverflowError):
                continue


def _end_with_parent() -> None:
    """Have the server end when this process does, however that ends."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server, for all tests that leave it as it was."""
    made = Server(tmp_path_factory.mktemp("redis"))
    yield made
    made.kill()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server for this test alone."""
    made = Server(tmp_path / "redis")
    yield made
    made.kill()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"), _CALM)
    yield made
    made.kill()
