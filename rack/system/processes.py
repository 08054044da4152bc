"""What the system tells of other processes: Linux does, in ``/proc``."""

from __future__ import annotations

import os
import sys
import time
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from rack.system.boot import boot_id


class Identity(NamedTuple):
    """What tells a process from all others that are, or were, on this machine since it booted. 0: not known.

    Of :func:`myself_worldwide` it tells it from those of other machines and boots, too.
    """

    pid: int
    start: int  # in ticks of the clock
    namespace: int  # in which the pid means something


_myself: Identity | None = None


def myself() -> Identity:
    global _myself
    if _myself is None or _myself.pid != os.getpid():
        _myself = Identity(os.getpid(), _start(os.getpid()), _namespace())
    return _myself


def myself_worldwide() -> Identity:
    return myself()._replace(namespace=_worldwide())


def is_dead(process: Identity) -> bool:
    """Return whether a process is known to have ended, if it was of this boot; of another machine's, it is not."""
    if process.namespace not in (_namespace(), _worldwide()):
        return False
    if process.start and (fields := _stat(process.pid)) is not None:
        return fields[0] in (b"Z", b"X") or int(fields[19]) != process.start
    try:  # those of other users may be hidden in /proc
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _start(pid: int) -> int:
    fields = _stat(pid)
    return 0 if fields is None else int(fields[19])


def _stat(pid: int) -> list[bytes] | None:
    if sys.platform != "linux":
        return None
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return None


def _namespace() -> int:
    if sys.platform != "linux":
        return 0
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _worldwide() -> int:
    """Return what tells the pids of this namespace from those of others, of other boots and of other machines."""
    return xxh3_64_intdigest(f"{boot_id()} {_namespace()}".encode())


def command_of(pid: int) -> str | None:
    """Return the command line of a process; None if it is not known."""
    if sys.platform != "linux":
        return None
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().rstrip(b"\0").split(b"\0")
    except OSError:
        return None
    return os.fsdecode(b" ".join(words)) or None


def started_at(pid: int) -> float | None:
    """Return when a process was started, in seconds since the epoch; None if it is not known."""
    fields = _stat(pid)
    if fields is None:
        return None
    try:
        ticks = int(fields[19])
        with open("/proc/uptime") as file:
            uptime = float(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")
