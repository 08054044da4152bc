"""Waiting for other processes a moment at a time, so that the command says whom it waits for, and can be ended.

A process that is stopped in the middle of a write keeps others from writing to that shard. LMDB waits for it in C,
where no signal is noticed. So the commands open stores with a time limit of a moment: when it is over nothing has
happened, the command looks whether it is to end, says whom it waits for, and tries again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Self, TypeVar

from rack import PersistentDict, PersistentQueue, PersistentSet
from rack.cli.failure import tell
from rack.cli.signals import guard
from rack.container.handle import Handle
from rack.errors import LockTimeoutError
from rack.shard import served_by
from rack.shard.address import Address
from rack.shard.base import Shard
from rack.shard.proxy import Result, ShardProxy
from rack.store import admission
from rack.store.opening import Mode
from rack.store.sharded import Store
from rack.store.stillness import still

Opened = TypeVar("Opened")

#: The time limit of stores' operations, in seconds.
MOMENT = 0.25

# When the command says whom it waits for; and how long a shard may take to be closed after an error. In seconds.
_TELL_AFTER = 1.0
_AT_THE_END = 0.1

guard.still = still
admission.tell = tell


class Patience:
    """How long the command waits for other processes, and how it says that it does."""

    def __init__(self) -> None:
        self.limit: float | None = None  # --timeout, in seconds
        self.say: Callable[[str], object] = tell

    def call(self, function: Callable[[], Opened], shards: Sequence[Shard] = ()) -> Opened:
        """Return ``function()``; call it again as long as it is too late for the lock of another process.

        ``shards`` are those whose writer locks it may be waiting for.

        :raises LockTimeoutError: ``limit`` is over, or the command is to end.
        """
        wait = None
        while True:
            try:
                return function()
            except LockTimeoutError as error:
                wait = wait or Wait(self)
                for shard in shards:
                    if not shard.pause(0):
                        wait.go_on(error, shard)
                        break
                    shard.resume()
                else:
                    wait.go_on(error)


class Wait:
    """One time that the command waits for other processes."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._began = time.monotonic() - MOMENT
        self._has_told = False

    def go_on(self, error: LockTimeoutError, shard: Shard | None = None) -> None:
        """Return when it is time to try again what ended with ``error``, in ``shard``."""
        while True:
            guard.stop_if_still()
            if guard.signum is not None:
                raise error  # the end of what is held raises Stopped
            limit = self._patience.limit
            waited = time.monotonic() - self._began
            if limit is not None and waited >= limit:
                self._give_up(error, shard, limit)
            if waited >= _TELL_AFTER and not self._has_told:
                self._has_told = True
                self._patience.say(f"waiting for {_whom(error, shard)}")
            if shard is None:
                return
            # What was asked for still waits in the shard, although it will not happen: until that has come to an end
            # asking again would be in vain.
            if shard.pause(0.05):
                shard.resume()
                return

    @staticmethod
    def _give_up(error: LockTimeoutError, shard: Shard | None, limit: float) -> NoReturn:
        raise LockTimeoutError(str(error)).in_words(f"gave up after {limit:g} s of waiting for {_whom(error, shard)}")


def _whom(error: LockTimeoutError, shard: Shard | None) -> str:
    if error.waited_for is not None:
        return error.waited_for
    if shard is None:
        return "other processes, which keep writing"
    return shard.holder() or f"another process, which has the writer lock of {shard.path}"


class PatientShard(ShardProxy):
    """Stands before a shard with a time limit and tries again as long as the command is patient.

    But for :meth:`hold`: who waits for that may hold other shards, and must let go of them first.
    """

    def _forward(self, method: Callable[..., Result], *args: Any) -> Result:
        wait = None
        while True:
            try:
                return method(*args)
            except LockTimeoutError as error:
                wait = wait or Wait(patience)
                wait.go_on(error, self._inner)


class _Patient(Handle):
    """A container that waits for other processes, and closes quickly after an error."""

    _is_hasty = False

    def __init__(self, name: Any, *args: Any, **options: Any) -> None:
        # Servers are waited for as long as the command is patient: no process is in the way there.
        timeout = MOMENT if served_by(name) is None else patience.limit or None
        super().__init__(name, *args, **{"timeout": timeout, **options})

    def open(self) -> Self:
        return patience.call(super().open)

    def close(self) -> None:
        if self._is_hasty:
            super().close()
        else:
            patience.call(super().close)

    def __exit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> None:
        # A process that is in the way has the store open and will close it as it should be: we need not.
        if exc is not None and self._held is not None:
            self._is_hasty = True
            self._held.mode.timeout = _AT_THE_END
        super().__exit__(exc_type, exc, traceback)

    def _use(self, store: Store) -> None:
        if self._mode.timeout is None or isinstance(self._path, Address):  # nobody else has it, or is in the way
            super()._use(store)
        elif self._mode.flag == "r":  # reads wait for nobody
            super()._use(self._open_store().store(Mode("r", None, None, self._mode.memory)))
        else:
            super()._use(Store([PatientShard(shard) for shard in store.shards], store.memory, store.digest))


class PatientSet(_Patient, PersistentSet[Any]):
    pass


class PatientDict(_Patient, PersistentDict[Any, Any]):
    pass


class PatientQueue(_Patient, PersistentQueue[Any]):
    pass


class PatientRecords(PatientDict):
    """A queue as the records that it has: bytes that have bytes as their keys."""

    _kind = "queue"


#: That of the command that runs.
patience = Patience()
