"""Machines for tests: network namespaces of this one, each joined by a cable of its own to a switch.

Nothing of the machine's own network is touched. A namespace ends with the process that holds it, and with the last
process in it; its devices end with it. So nothing is left behind, however the tests end.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

_CLONE_NEWNET = 0x40000000
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_libc: Any = ctypes.CDLL(None, use_errno=True)


class Machine:
    """A namespace, held by a process that sleeps. ``address`` is its own on the switch."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._holder = subprocess.Popen(["unshare", "-n", "sleep", "infinity"], preexec_fn=_end_with_parent)

    def joins(self) -> None:
        """Wait until its process is in a namespace of its own."""
        own = os.readlink("/proc/self/ns/net")
        while self._holder.poll() is None and os.readlink(f"/proc/{self.pid}/ns/net") == own:
            pass
        self.ip("link set lo up")

    @property
    def pid(self) -> int:
        return self._holder.pid

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Have this thread be on that machine: what it opens and starts meanwhile stays there."""
        here = os.open("/proc/self/ns/net", os.O_RDONLY)
        try:
            _enter(f"/proc/{self.pid}/ns/net")
            yield
        finally:
            _enter(f"/proc/self/fd/{here}")
            os.close(here)

    def ip(self, command: str) -> None:
        """Run ``ip`` there.

        :raises CalledProcessError: it fails.
        """
        with self.entered():
            subprocess.run(["ip", *command.split()], check=True, capture_output=True, text=True)

    def cut(self) -> None:
        """Pull the cable out."""
        self.ip("link set eth0 down")

    def mend(self) -> None:
        self.ip("link set eth0 up")

    def end(self) -> None:
        self._holder.kill()
        self._holder.wait()


class Network:
    """A machine that is the switch, and runs the servers; and others."""

    def __init__(self, others: int) -> None:
        self.hub = Machine("10.77.0.1")
        self.others = [Machine(f"10.77.0.{number + 2}") for number in range(others)]

    def connect(self) -> None:
        for machine in (self.hub, *self.others):
            machine.joins()
        self.hub.ip("link add switch type bridge")
        self.hub.ip(f"address add {self.hub.address}/24 dev switch")
        self.hub.ip("link set switch up")
        for number, machine in enumerate(self.others):
            self.hub.ip(f"link add port{number} type veth peer name eth0 netns {machine.pid}")
            self.hub.ip(f"link set port{number} master switch up")
            machine.ip(f"address add {machine.address}/24 dev eth0")
            machine.mend()

    def end(self) -> None:
        for machine in (*self.others, self.hub):
            machine.end()


@pytest.fixture
def network() -> Iterator[Network]:
    """Two machines, and the one between them; the test is skipped where they cannot be made."""
    if os.name != "posix" or not os.path.exists("/proc/self/ns/net"):
        pytest.skip("there are no network namespaces here")
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        pytest.skip("there is no ip or unshare command (Debian: apt-get install iproute2 util-linux)")
    if os.geteuid():
        pytest.skip("only root can make network namespaces")
    made = Network(2)
    try:
        try:
            made.connect()
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"network namespaces cannot be made here: {getattr(error, 'stderr', error)}")
        yield made
    finally:
        made.end()


def _enter(path: str) -> None:
    namespace = os.open(path, os.O_RDONLY)
    try:
        if _libc.setns(namespace, _CLONE_NEWNET):
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
    finally:
        os.close(namespace)


def _end_with_parent() -> None:
    _libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL)
