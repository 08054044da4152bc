"""What can be wrong with a shard, and how it is told."""

from __future__ import annotations

from errno import EACCES, ENOENT

from rack.errors import CorruptShardError, LockTimeoutError, NotOpenError, ReadOnlyError
from rack.system.imports import importing

#: Every kind of problem, as ``rack verify --json`` names it.
KINDS = {
    "manifest": "NAME.rack is missing, damaged, or names other shards than there are",
    "missing": "a shard's file is not there",
    "foreign": "a file belongs to another store, or is no shard at all",
    "swapped": "a file is another shard of the store",
    "structure": "the engine's own structure is damaged: pages, trees, lists of free pages, a file cut short",
    "count": "a shard counts another number of entries than it has",
    "order": "keys are out of order, or twice there",
    "record": "a record is not what Rack stores",
    "checksum": "a value is not what was stored",
    "shard": "a key belongs to another shard",
    "key": "a key cannot be read, or is not in its canonical form",
    "value": "a value cannot be read",
    "copied": "the files are a copy that was made while the store was in use",
    "power": "the store was in use when the system stopped, and what the shard holds cannot be relied on",
}


class Problem:
    """Something that is wrong with a shard. ``message`` goes on from the shard's name.

    No tuple: where shards are examined, tuples are entries.
    """

    __slots__ = ("kind", "message")

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        self.message = message

    def __repr__(self) -> str:
        return f"Problem({self.kind!r}, {self.message!r})"


def identity_problem(expected: str, found: object) -> Problem | None:
    """Return what is wrong with the identity that a shard's file carries; None if it is the expected one."""
    if found == expected:
        return None
    if found is None:
        return Problem("foreign", "is not a Rack shard: it carries no identity")
    try:
        _, store_id, number, *_ = str(found).split()
    except ValueError:
        return Problem("foreign", f"has a damaged identity: {found!r}")
    _, own_id, own_number, *_ = expected.split()
    if store_id != own_id:
        return Problem("foreign", f"belongs to another store ({store_id}, not {own_id})")
    if number != own_number:
        return Problem("swapped", f"is shard {number} of its store: shard files were swapped or renamed")
    return Problem("foreign", f"has the identity {found!r}, and not {expected!r}")


class UncleanError(CorruptShardError):
    """The shard may be damaged, because its store was in use when the system stopped.

    ``problem`` goes on from the shard's name.
    """

    def __init__(self, path: str, problem: str) -> None:
        store, name = _store_of(path)
        super().__init__(
            f"{store} was in use when the system stopped, and {path} {problem}. Normally only what was written in the"
            f" last half minute is lost: `rack repair {name}` makes a new store of the rest"
        )
        self.path = path
        self.problem = problem

    def __reduce__(self) -> tuple[type[UncleanError], tuple[str, str]]:
        return UncleanError, (self.path, self.problem)


def unrebuilt(path: str) -> CorruptShardError:
    """Return the error for the shard at ``path``, which has to be rebuilt by who may write to it."""
    problem = f"{path} was in use when the system stopped, and has to be rebuilt from its journal"
    return CorruptShardError(f'{problem}: open the store once for writing (flag="w")').in_words(
        f"{problem}: a command that may write to the store does so, such as `rack backup {_store_of(path)[1]} COPY`"
    )


def _store_of(path: str) -> tuple[str, str]:
    """Return the name of the store of the shard at ``path``, and how it is written in a shell."""
    with importing():
        import shlex

    store = path.rpartition("-")[0]
    return store, shlex.quote(store)


def read_only(path: str) -> ReadOnlyError:
    """Return the error for a write to the shard at ``path``, which was opened for reading alone."""
    error = ReadOnlyError(EACCES, 'the store was opened with flag="r"', path)
    return error.in_words("the store was opened for reading alone")


def corrupt(path: str, message: str, errno: int | None = None) -> CorruptShardError:
    """Return the error for the shard at ``path``; says what to do. ``message`` goes on from the shard's name."""
    name = _store_of(path)[1]
    advice = f"`rack verify {name}` tells all that is wrong, `rack repair {name}` saves what can be read"
    if errno is None:
        return CorruptShardError(f"{path} {message}. {advice}")
    return CorruptShardError(errno, f"{message}. {advice}", path)


def missing(path: str) -> CorruptShardError:
    """Return the error for the shard at ``path``, of which there is no file."""
    return corrupt(path, "a shard of the store is missing", ENOENT)


_is_exiting = False


def note_exit() -> None:
    """From now on, what is closed has been closed because the interpreter exits."""
    global _is_exiting
    _is_exiting = True


def is_exiting() -> bool:
    """Return whether the interpreter exits."""
    return _is_exiting


def closed() -> NotOpenError:
    if _is_exiting:
        return NotOpenError(
            "the interpreter is exiting, and the store was closed: import rack before atexit.register() is called, so"
            " that the function runs while stores are open; and do not leave writes to a finalizer (__del__) that runs"
            " at exit"
        )
    return NotOpenError("the container is closed; open it with `with` or open()")


def too_late(timeout: float) -> LockTimeoutError:
    return LockTimeoutError(f"the shard's writer lock was not free for {timeout} s; nothing was changed")
