"""Where the stores of an engine are that has no files: what the floor above asks of its servers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

from rack.shard.address import Address
from rack.shard.base import Shard, ShardSpec

#: An operation on a shard: its method, and what it is called with.
Call = tuple[Shard, str, tuple[object, ...]]


class Server(ABC):
    """The servers of one store. It connects when it is first used.

    A store is there if its *mark* is: some bytes that are made at once, by one of all that make them. Its shards are at
    a *place*: a name that no other store's shards have.
    """

    #: What the store is called there.
    name: str
    #: How many shards a new store has if nobody says.
    default_shards: int

    def __init__(self, address: Address, timeout: float | None) -> None:
        """``timeout``: seconds that an operation waits for the servers at most; None: as the engine thinks best."""
        self.address = address

    @abstractmethod
    def read(self, hasty: bool = False) -> bytes | None:
        """Return the mark; None: there is no store. ``hasty``: ask but once, and not for long.

        :raises MismatchError: what is there is none of Rack's.
        """

    @abstractmethod
    def change(self, before: bytes | None, after: bytes | None) -> bool:
        """Put a mark, or remove it (None), if it still is as before; return whether it was."""

    @abstractmethod
    def marks(self, beginning: str) -> Iterator[tuple[str, bytes]]:
        """Yield the names of the stores that begin so, and the marks. Those that are made meanwhile may be left out."""

    @abstractmethod
    def identity(self, place: str, hasty: bool = False) -> bytes | None:
        """Return what the first shard at a place is; None: there is none. ``hasty``: as for :meth:`read`."""

    @abstractmethod
    def own(self, place: str, before: bytes | None, after: bytes | None) -> bool:
        """Change the identity of the first shard, or remove it (None), as :meth:`change` does a mark.

        A space and some words may follow on what :meth:`prepare` has written: the shard stays the same.
        """

    @abstractmethod
    def layout(self, asked: str | None, digests: bool) -> str:
        """Return the layout of a new store. ``asked``: the one that is asked for; ``digests``: its keys are digests.

        :raises UnsupportedOperation: the one that is asked for is not for such keys.
        """

    @abstractmethod
    def is_free(self, place: str, shards: int) -> bool:
        """Return whether nothing is there where the shards of a new store are to be."""

    @abstractmethod
    def prepare(self, place: str, store_id: str, shards: int) -> None:
        """Have the shards of a new store. May be done again, by anybody."""

    @abstractmethod
    def shards(self, place: str, specs: Sequence[ShardSpec]) -> list[Shard]:
        """Return the shards of a store.

        :raises CorruptShardError: one is missing, or is not what its spec says.
        """

    @abstractmethod
    def together(self, calls: Sequence[Call]) -> list[object]:
        """Return what operations on different shards return, which are sent to their servers all at once."""

    @abstractmethod
    def sync(self) -> None:
        """Have what was written so far where the servers keep it safest."""

    @abstractmethod
    def check_durable(self) -> None:
        """Raise UnsupportedOperation if the servers cannot do what durability "always" promises."""

    @abstractmethod
    def clock(self) -> Callable[[], int]:
        """Return a clock, in nanoseconds, that goes alike for all who use the store, and that nobody sets back."""

    @abstractmethod
    def sizes(self, place: str, shards: int) -> list[int]:
        """Return how many bytes of memory each shard takes, about."""

    @abstractmethod
    def remove(self, place: str, store_id: str, shards: int) -> None:
        """Remove the shards, but for the identity of the first one; not those that are of another store by now."""

    @abstractmethod
    def named(self, name: str) -> Address:
        """Return the address of another store on the same servers."""

    def sibling(self, ending: str) -> Address:
        """Return the address of another store on the same servers: its name is this one's and the ending."""
        return self.named(self.name + ending)

    @abstractmethod
    def forget(self) -> None:
        """In a forked child: let go of the parent's connections, and make others when they are needed."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections. May be done again."""
