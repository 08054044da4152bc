"""The interface every engine has: a persistent map from bytes to bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from rack.shard.holding import operation, settle
from rack.shard.problem import Problem, corrupt

if TYPE_CHECKING:
    from rack.shard.figures import Access, Figures

Pair = tuple[bytes, bytes]

#: How sure it is that a salvaged entry is in the shard, as it is: found in its place in the tree; found in a page that
#: is in use, and whose place in the tree is lost; found in a page that may be old, or is damaged itself.
IN_PLACE, IN_USE, STRAY = range(3)

#: How many entries the shard counts; what is wrong with it; entries, with how sure they are, the surest first.
Salvaged = Iterator[int | Problem | tuple[int, list[Pair]]]

# What a block of a scan has at most, unless its only item is larger.
BLOCK_ITEMS = 1024
BLOCK_BYTES = 1 << 20
MOST_ENTRIES = 1 << 48  # that a shard can have: more are damage, and too many for len()

#: What examining a shard gives: how many entries it counts, what is wrong with it, and its entries in blocks.
Examined = Iterator[int | Problem | list[Pair]]


def unknown_hash(data: bytes) -> bytes:
    """Stands for the ``hash`` of a spec where a function of the user's is not at hand."""
    raise TypeError("the store has a hash of its own, which was not given")


class ShardSpec(NamedTuple):
    """Where a shard is and what it has to be."""

    path: str
    store_id: str
    number: int
    layout: str  # "direct", or "small": no long keys
    hash: Callable[[bytes], bytes]  # digest for long keys
    durability: str  # "process", "everysec" or "always"
    readonly: bool
    timeout: float | None = None  # seconds to wait for other processes where opening must wait; None: for ever
    find: Callable[[], str] | None = None  # where the file is now; None: always at ``path``


def is_last(block: list[Any], limit: int, values: bool) -> bool:
    """Whether nothing is behind a block that ``Shard.scan`` gave when it was asked for ``limit`` items."""
    if len(block) >= limit:
        return False
    return sum(map(len, chain.from_iterable(block) if values else block)) < BLOCK_BYTES


class Home(Protocol):
    """What an open shard needs of the store that it belongs to."""

    def rejoin(self) -> None:
        """Called before a shard is opened at its first use: in a forked child it comes into the store anew then."""

    def begin_writing(self) -> bool:
        """Called, with the shard's lock held, before the first write of this process, and after each ``rest``.

        Return whether another process is known to write, too.
        """

    def give_room(self) -> bool:
        """Give up some of the room that is kept for removing entries when the disk is full; False: there is none."""

    def at_home(self, body: Callable[[], object]) -> None:
        """Call ``body``, which does something to files by their paths, while nobody replaces the store.

        :raises StoreDeletedError: the store is not there any more.
        """


class View(NamedTuple):
    """What a function sees that runs inside a write transaction of a shard (``Shard.transact``)."""

    get: Callable[[bytes], bytes | None]
    put: Callable[[bytes, bytes], object]
    #: ``delete(key)``: whether the key was there.
    delete: Callable[[bytes], bool]
    #: ``first(start, stop, limit)``: the first pairs of a range, as ``Shard.scan`` has them; quicker for a few.
    first: Callable[[bytes, bytes | None, int], list[Pair]]


class Shard(ABC):
    """One shard. Each method is atomic across processes and threads; bulk methods are one transaction.

    A method that writes has happened when it returns and has not when it raises. Keys and values are bytes of any
    content; the empty key is one. Between ``fork`` and its first use in the child, a shard holds nothing that the
    parent holds (see ``before_fork``).
    """

    suffix: ClassVar[str]
    #: The layouts that it may have (see ShardSpec).
    layouts: ClassVar[tuple[str, ...]] = ("direct",)
    #: Files beside the shard's own that belong to it, by suffix.
    companions: ClassVar[tuple[str, ...]]
    #: How many bytes a path has at most.
    longest_path: ClassVar[int] = 4095
    #: How many descriptors an open shard has.
    descriptors: ClassVar[int] = 4
    #: How many bytes of the disk a store keeps for each shard, for removing entries when the disk is full.
    room: ClassVar[int] = 0
    #: Whether it is read without protection from writers, which takes the permission to write some of its files.
    unprotected = False
    #: Whether that may come to be so: it is read by somebody who may not write.
    mere_reader = False
    #: Whether its stamp may be taken, and tells something, while this process has it open.
    stamped_when_open: ClassVar[bool] = True
    #: Whether ``scan`` is in order of the keys' bytes.
    ordered: bool
    #: An RLock that is held around each use of the file.
    _lock: Any
    # See rack.shard.holding.
    _busy: bool
    _held: Any
    _at_fork: bool

    @classmethod
    def opened(cls, spec: ShardSpec, home: Home, among: list[Shard] | None = None) -> Shard:
        """Open a shard that is there; it joins ``among`` before it opens anything."""
        return cls(spec, home, among)  # type: ignore[arg-type]

    # One key

    @abstractmethod
    def get(self, key: bytes) -> bytes | None: ...

    @abstractmethod
    def contains(self, key: bytes) -> bool: ...

    @abstractmethod
    def put(self, key: bytes, value: bytes) -> None: ...

    @abstractmethod
    def add(self, key: bytes, value: bytes) -> bytes | None:
        """Store the pair unless the key is there. Return None if it was stored, else the value that is there."""

    @abstractmethod
    def delete(self, key: bytes) -> bool:
        """Return whether the key was there."""

    @abstractmethod
    def pop(self, key: bytes) -> bytes | None: ...

    @abstractmethod
    def pop_first(self) -> Pair | None:
        """Remove and return the pair with the least key, or None if the shard is empty."""

    @abstractmethod
    def modify(self, key: bytes, change: Callable[[bytes | None], bytes | None]) -> None:
        """Replace the value (None: absent) by ``change(value)`` in one transaction; None leaves it as it is.

        ``change`` may be called again when the transaction has to be repeated, and must not use the store.
        """

    def increase(
        self, key: bytes, change: Callable[[bytes | None], bytes], delta: Any, first: Any, form: bytes | None
    ) -> int | None:
        """Do what ``modify(key, change)`` does, where ``change`` adds ``delta`` to a value.

        Return the sum if the shard has added by itself; None if ``change`` did, as always where that is as quick. The
        shard adds nothing but ints.

        :param first: what a key that is not there counts as.
        :param form: how ints are stored, if that is simple. ``int32``: marshal's code "i" (or that with the highest
            bit), and four bytes, the least first; ``decimal``: as JSON has them. What does not fit is stored otherwise.
        """
        self.modify(key, change)
        return None

    @abstractmethod
    def transact(self, body: Callable[..., Any], *args: Any) -> Any:
        """Return ``body(view, *args)``, run inside one write transaction; ``view`` is a :class:`View` of the shard.

        If it raises, nothing of what it did has happened. It may be called again when the transaction has to be
        repeated, and must not use the store. ``view`` is of no use afterwards.
        """

    # Many keys, one transaction

    @property
    def transaction(self) -> int:
        """How many entries a bulk write is to put in a transaction."""
        return 20_000

    @abstractmethod
    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]: ...

    @abstractmethod
    def put_many(self, pairs: list[Pair]) -> None:
        """Store pairs that are in order of their keys; of equal keys the last pair counts."""

    @abstractmethod
    def add_many(self, pairs: list[Pair]) -> list[bool]:
        """For each pair, whether it was stored: its key was not there, nor earlier in ``pairs``."""

    @abstractmethod
    def delete_many(self, keys: list[bytes]) -> int:
        """Return how many of the keys were there."""

    @abstractmethod
    def change_many(self, pairs: list[Pair], keys: list[bytes]) -> None:
        """Store ``pairs`` and delete ``keys``, both in order; no key is in both, nor twice in one of them."""

    # The whole shard

    @abstractmethod
    def scan(
        self, start: bytes, stop: bytes | None, reverse: bool, values: bool, limit: int = BLOCK_ITEMS
    ) -> list[Any]:
        """Return the first keys (``values``: pairs) of the range from ``start`` up to but not ``stop`` (None: the end).

        With ``reverse`` the last ones, from the last on. At most ``limit``; fewer only if there are no more, or if
        they have BLOCK_BYTES, as :func:`is_last` tells.
        """

    def scanning(self) -> Callable[..., list[Any]]:
        """Return what does as ``scan`` does, for one pass over a range, block by block.

        It is in order also where ``scan`` is not there, as the shard has no order: then O(n) of memory is taken.
        """
        return self.scan

    @abstractmethod
    def count(self) -> int: ...

    @operation
    def count_at_once(self) -> int | None:
        """Return how many entries there are; None if that had to wait, or is asked in the middle of an operation."""
        try:
            if self._lock._is_owned() or not self._lock.acquire(blocking=False):
                return None
            count = self.count()
            self._lock.release()
            return count
        except BaseException:
            settle(self)
            raise

    @abstractmethod
    def clear(self) -> None: ...

    @abstractmethod
    def version(self) -> object:
        """Return something that differs after every commit to the shard, over forks and reopenings in this process."""

    @abstractmethod
    def examine(self, timeout: float | None = None) -> Examined:
        """Go over all of the shard, in one state of it; other threads of the process wait for the shard meanwhile.

        :raises LockTimeoutError: another thread has been in an operation for ``timeout`` seconds.
        """

    @classmethod
    @abstractmethod
    def examine_file(cls, spec: ShardSpec, alone: bool) -> Examined:
        """Go over all of a shard that this process has not open, and that may be damaged in any way.

        Changes no file. ``alone``: nobody has the store open, nor will anybody open it until this ends.

        :raises RackError: it cannot be examined, because of a lack of permissions, say.
        """

    @classmethod
    @abstractmethod
    def salvage(cls, spec: ShardSpec) -> Salvaged:
        """Read what can be read of a shard that nobody has open; changes no file."""

    @classmethod
    def remake(cls, spec: ShardSpec, path: str) -> bool | None:
        """Make a file of what is known of a shard, open nowhere, from elsewhere than its own file: a journal.

        Return whether that is all that was in the shard; None if there is nothing of the kind.

        :raises CorruptShardError: there is, and it is damaged too.
        """
        return None

    @classmethod
    def figures(cls, spec: ShardSpec, access: Access) -> Figures:
        """Look at a shard from outside, whoever has it open: O(1). Changes no file, and waits for no writer.

        :raises CorruptShardError: it is missing, is not what its spec says, or is damaged where it is looked at.
        """
        raise NotImplementedError

    def check(self) -> None:
        """Raise CorruptShardError if the shard is not what its spec says or contradicts itself."""
        for found in self.examine():
            if isinstance(found, Problem):
                raise corrupt(self.path, found.message)

    @property
    @abstractmethod
    def path(self) -> str: ...

    def refresh(self) -> None:  # noqa: B027
        """Called before each read while ``unprotected``: the file may have changed since the last one."""

    @abstractmethod
    def sync(self) -> None:
        """Have every commit so far on the disk."""

    # Power failure. The files of a shard that is open nowhere; an engine that it cannot damage has nothing to do.

    @classmethod  # noqa: B027
    def shrink(cls, path: str) -> None:
        """Cut off what is not in use at the end of the file of a shard that is open nowhere."""

    @classmethod
    def mark(cls, path: str) -> str | None:
        """Return what is another text after every commit to the shard, whoever has it open; None: that is not known."""
        return None

    @classmethod
    def stamp(cls, path: str) -> int:
        """Return what is different after each commit to the shard, or after each time that it was open."""
        return 0

    @classmethod
    def unsynced_files(cls, path: str) -> list[str]:
        """Return the files of a shard that is closed which may not be on the disk as they are."""
        return []

    @classmethod
    def log_files(cls, path: str) -> list[str]:
        """Return the files that say, with "everysec", what was written last. Not all of them are there."""
        return []

    @classmethod  # noqa: B027
    def begin_journals(cls, specs: Sequence[ShardSpec]) -> None:
        """With "everysec", of a store that is on the disk, before it is written to: have a journal for each shard."""

    @classmethod  # noqa: B027
    def end_journal(cls, spec: ShardSpec) -> None:
        """Remove the journal of a shard that is on the disk."""

    @classmethod
    def has_journal(cls, path: str) -> bool:
        """Return whether a shard has one."""
        return False

    @classmethod  # noqa: B027
    def recover(cls, spec: ShardSpec, durability: str | None) -> None:
        """After a power failure, while in use with ``durability``: repair the shard, or make sure that it is sound.

        :param durability: None if nothing is known.
        :raises CorruptShardError: it is damaged, or may be.
        """

    @abstractmethod
    def keep(self, has_company: bool) -> None:
        """Called every second with durability "everysec": have everything written so far on the disk.

        ``has_company``: other processes may have written to it, too.
        """

    def shorten(self) -> None:  # noqa: B027
        """Called every second with durability "everysec": see that the log does not become too long."""

    def rest(self) -> None:  # noqa: B027
        """Have ``begin_writing`` called before the next write."""

    def put_away(self) -> bool:
        """Close the file until it is used again, unless it is in use just now; return whether it is closed."""
        return False

    # Snapshots

    @abstractmethod
    def snapshot(self) -> Snapshot:
        """Return the shard as it is now, read-only; the caller closes it."""

    @abstractmethod
    def hold(self) -> Snapshot:
        """Let nobody write to the shard until :meth:`let_go`, in this thread; return a snapshot to be closed.

        Whoever holds several shards takes them in the order of their numbers, and uses none with a lower number than
        one that it holds.

        :raises ReadOnlyError: the shard was opened for reading alone, and its engine's writers cannot be held off.
        """

    # Who is in the way

    def holder(self) -> str | None:
        """Return the process that keeps others from writing to the shard just now, in words; None: no other one."""
        return None

    def pause(self, timeout: float) -> bool:
        """Wait until no operation is under way in this process, and hold off new ones until :meth:`resume`.

        False: one still was after ``timeout`` seconds, or is in this very thread.
        """
        return not self._lock._is_owned() and self._lock.acquire(timeout=timeout)

    def resume(self) -> None:
        self._lock.release()

    @abstractmethod
    def let_go(self) -> None:
        """End what :meth:`hold` began, in this thread, if it did."""

    # Waiting with a limit

    @abstractmethod
    def timed(self, timeout: float, method: Callable[..., Any], *args: Any) -> Any:
        """Call one of the shard's own methods, which gives up when it has waited ``timeout`` seconds.

        :raises LockTimeoutError: it has; the operation has not happened and will not.
        """

    @abstractmethod
    def queue(self) -> None:
        """Wait for one's turn as a writer, and do nothing."""

    # Life

    @classmethod
    def files(cls, path: str) -> list[str]:
        """Return the files that the shard at ``path`` may have."""
        return [path + suffix for suffix in ("", *cls.companions)]

    @classmethod  # noqa: B027
    def check_usable(cls) -> None:
        """Raise RackError if the engine does not work in this process."""

    @classmethod
    @abstractmethod
    def create(cls, spec: ShardSpec) -> None:
        """Make the shard's files, which are not there. The caller holds the store's lock exclusively.

        They are not on the disk then.
        """

    @abstractmethod
    def __init__(self, spec: ShardSpec, rejoin: Callable[[], None], among: list[Any] | None = None) -> None:
        """Look whether it is there, and have it opened when it is used for the first time.

        It adds itself to ``among`` before it opens anything: whoever is cut off meanwhile can close it.
        """

    @abstractmethod
    def on_write(self, check: Callable[[bool], None] | None) -> None:
        """From now on call ``check(True)`` in each write transaction, once it has the writer lock; it may raise.

        None ends that.

        And ``check(False)`` when that has been undone and the operation waits for something before it is tried again.
        """

    @abstractmethod
    def close(self, timeout: float | None = None) -> None:
        """Close the shard; any later operation is NotOpenError.

        :raises LockTimeoutError: another thread has been in an operation for ``timeout`` seconds; it is not closed.
        """

    @abstractmethod
    def before_fork(self) -> None:
        """Wait for operations of other threads and hold off new ones."""

    @abstractmethod
    def after_fork_in_parent(self) -> None: ...

    @abstractmethod
    def after_fork_in_child(self) -> None:
        """Let go of everything inherited without disturbing the parent; reopen at first use."""


class Snapshot(Shard):
    """A shard as it was at one moment: a shard that never changes."""

    @abstractmethod
    def copy_to(self, spec: ShardSpec) -> None:
        """Make the shard ``spec``, of another store, with what this one shows. It is on the disk afterwards."""
