"""Processes beside the writers: those that stay, leave, fork, replace, copy, and change what others rely on.

Each is in a pair with others in a plan. Pauses are where a power failure would show that something was not synced.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from functools import partial
from pathlib import Path

import rack
from rack.errors import RackError, StoreDeletedError, StoreInUseError, StoreNotFoundError
from tests.powerfail.queues import Working
from tests.powerfail.writers import Log, Writer


class _Role(Writer):
    def _write_some(self, most: int) -> None:
        for _ in range(self._rng.randrange(1, most)):
            with self._alone(fcntl.LOCK_SH):
                self._rng.choice(self._kinds)()

    def _pause(self, seconds: float) -> None:
        time.sleep(self._rng.uniform(0, seconds))


class Pausing(_Role):
    """Does nothing for a while after ``sync()`` and after closing."""

    def run(self) -> None:
        while True:
            self._open()
            self._write_some(30)
            if self._rng.random() < 0.7:
                self._sync()
                self._pause(0.4)
                if self._rng.random() < 0.5:
                    self._write_some(5)
            self._close()
            self._pause(0.5)


class Quiet(_Role):
    """Never calls ``sync()``, and never closes."""

    def run(self) -> None:
        self._open()
        while True:
            self._write_some(5)
            time.sleep(0.02)


class Reading(_Role):
    """Stays while writers come and go, and may leave last. It has the store open to read alone."""

    def run(self) -> None:
        while True:
            with contextlib.suppress(StoreNotFoundError):
                self._open("r")
                for name in self._store:
                    if self._rng.random() < 0.1 or name not in self._store:
                        break
                self._pause(1.2)
                self._close()
            self._pause(0.2)


class Forking(_Role):
    """Forks children that use the store at once, later, or never; the parent closes it before or after them."""

    def run(self) -> None:
        children = 0
        while True:
            self._open()
            self._write_some(10)
            children += 1
            number = (self._number + 1) * 1000 + children
            child = os.fork()
            if not child:
                self._be_child(number)
            is_early = self._rng.random() < 0.6
            if is_early:
                self._close()
            self._pause(0.3)
            os.waitpid(child, 0)
            with contextlib.suppress(FileNotFoundError):
                Log(Path(self._plan.logs, str(number))).write_end()
            if not is_early:
                self._close()
            self._pause(0.3)

    def _be_child(self, number: int) -> None:
        try:
            self._be(number)
            self._pause(0.4)
            if self._rng.random() < 0.6:
                self._note_opening("c", self._plan.durability)
                self._write_some(10)
                self._pause(0.3)
                if self._rng.random() < 0.5:
                    self._close()
                    self._pause(0.3)
        except BaseException as error:
            self._log.write("failed", repr(error))
        finally:
            os._exit(0)


class Replacing(_Role):
    """Removes the store, which others have open, and makes another one in its place. It is not killed."""

    def run(self) -> None:
        while True:
            self._open()
            self._write_some(20)
            self._sync()
            self._write_some(20)
            self._pause(1)
            with self._alone(fcntl.LOCK_EX):
                self._log.write("replacing", time.monotonic())
                place = Path(self._plan.name).parent
                for file in sorted(place.glob("store*"), key=lambda file: file.suffix != ".rack"):
                    file.unlink(missing_ok=True)
                with contextlib.suppress(StoreDeletedError):
                    self._store.close()


class Holding(_Role):
    """Goes on with a store that may not be there any more, until it is told."""

    def run(self) -> None:
        while True:
            self._open()
            end = time.monotonic() + self._rng.uniform(0.3, 2)
            with contextlib.suppress(StoreDeletedError):
                while time.monotonic() < end:
                    self._write_some(20)
                    time.sleep(0.01)
                self._close()
            with contextlib.suppress(RackError):
                self._store.close()


class Switching(_Role):
    """Opens the store with one durability after the other; some users end without closing it."""

    def run(self) -> None:
        for _ in range(self._rng.randrange(1, 5)):
            self._open(durability=self._rng.choice(["process", "everysec", "everysec", "always"]))
            self._write_some(20)
            if self._rng.random() < 0.3:
                self._sync()
            self._pause(self._rng.choice([0.2, 3]))
            if self._rng.random() < 0.4:
                break
            self._close()
            self._pause(0.2)
        os._exit(1)


class Making(_Role):
    """Makes backups, copies and repaired stores of the store."""

    def run(self) -> None:
        made = 0
        while True:
            self._open()
            self._write_some(30)
            made += 1
            target = f"{self._plan.name}-made-{self._number}-{made}"
            make = self._rng.choice([self._backup, self._copy, self._repair])
            self._do("make", {}, partial(make, target), target)
            self._pause(0.3)
            self._close()

    def _backup(self, target: str) -> None:
        self._store.backup(target)

    def _copy(self, target: str) -> None:
        with self._store.snapshot() as snapshot:
            snapshot.copy(target, durability=self._plan.durability).close()

    def _repair(self, target: str) -> None:
        self._store.close()
        is_free = True
        try:
            rack.repair(self._plan.name, target)
        except StoreInUseError:
            is_free = False
        self._store.open()
        if not is_free:
            self._backup(target)


ROLES: dict[str, type[Writer]] = {
    "writing": Writer,
    "pausing": Pausing,
    "quiet": Quiet,
    "reading": Reading,
    "forking": Forking,
    "replacing": Replacing,
    "holding": Holding,
    "switching": Switching,
    "making": Making,
    "working": Working,
}
