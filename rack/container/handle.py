"""A container's hold on its store: opening, closing, pickling, containers that operations make."""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Callable
from typing import Any, ClassVar, Self

from rack.codec.keys import KeyCodec, resolve_codec
from rack.codec.serdes import MARSHAL, Serdes, SerdesArgument, picklable, resolve
from rack.container.maker import Extra, Maker
from rack.container.notopen import NOT_OPEN, NotOpen
from rack.container.snapshot import Snapshotting
from rack.errors import LockTimeoutError
from rack.shard import DEFAULT_ENGINE, ENGINES, SERVED, served_by, shard_class
from rack.shard.address import Address
from rack.shard.base import Shard
from rack.shard.holding import is_under_way, reentrant
from rack.shard.problem import note_exit
from rack.store import registry
from rack.store.guard import guarded
from rack.store.manifest import MAX_SHARDS, Manifest, Request, absolute_path, digest_of
from rack.store.opening import Mode
from rack.store.openstore import Hold, OpenStore
from rack.store.sharded import Store
from rack.system.arguments import whole
from rack.system.imports import importing


class Handle(Maker, Snapshotting):
    """Base of containers. ``_route(key bytes)`` is the shard of a key; ``_store`` is all of them.

    Both, and the codecs, are set when the container opens; until then and afterwards they raise NotOpenError, so that
    no operation has to ask.
    """

    _store: Store
    _route: Callable[[bytes], Shard]
    _codec: KeyCodec
    _serdes: Serdes
    _dump_key: Callable[[Any], bytes]
    _load_key: Callable[[bytes], Any]
    _dump: Callable[[Any], bytes]
    _dump_scalar: Callable[[Any], bytes]  # does as _dump does, for values whose type is in SCALARS
    _load: Callable[[bytes], Any]
    _hold: Hold | None
    _openings: list[None]  # one for each open() without its close(); a list, as a signal handler may open and close too
    _use_of_it: list[tuple[Hold, bool, int]]  # to be given back: hold, whether it is anonymous, and whose process's
    _finalizer: weakref.finalize[..., Handle] | None

    _kind: ClassVar[str]
    _default_engine: ClassVar[str | None] = None
    _default_layout: ClassVar[str | None] = None

    def __init__(
        self,
        name: str | os.PathLike[str],
        hash: Callable[[bytes], bytes] | None = None,
        serdes: SerdesArgument = None,
        *,
        shards: int | None = None,
        engine: str | None = None,
        key_serdes: SerdesArgument = None,
        durability: str | None = None,
        flag: str = "c",
        timeout: float | None = None,
        memory: int | None = None,
    ) -> None:
        self._path = absolute_path(name)
        self.name = self._path if isinstance(self._path, Address) else os.fspath(name)
        self._arguments: dict[str, Any] = {
            "hash": hash,
            "serdes": serdes,
            "shards": shards,
            "engine": engine,
            "key_serdes": key_serdes,
            "durability": durability,
            "flag": flag,
            "timeout": timeout,
            "memory": memory,
        }
        self._mode = Mode(flag, durability, timeout, memory)
        self._request = self._make_request(hash, serdes, shards, engine, key_serdes)
        self._openings = []
        self._entered_by_maker = False
        self._hold = self._finalizer = None
        self._use_of_it = []
        self._set_closed()

    def _make_request(
        self,
        hash: Callable[[bytes], bytes] | None,
        serdes: SerdesArgument,
        shards: int | None,
        engine: str | None,
        key_serdes: SerdesArgument,
    ) -> Request:
        if shards is not None:
            shards = whole("shards", shards, 1, MAX_SHARDS)
        engine = engine or self._default_engine
        if engine is not None and engine not in ENGINES and engine not in SERVED:
            raise ValueError(f"engine={engine!r}: must be one of {', '.join(map(repr, (*ENGINES, *SERVED)))}")
        served = served_by(self._path)
        if engine is not None and engine != served and (served is not None or engine in SERVED):
            raise ValueError(
                f"engine={engine!r} was given, but the name is that of a store of the engine {served!r}"
                if served is not None
                else f"engine={engine!r}: the name must be a URL, like '{engine}://localhost:6379/0?name=seen'"
            )
        layout = self._default_layout
        if layout is not None and layout not in shard_class(engine or DEFAULT_ENGINE).layouts:
            raise ValueError(f"engine={engine!r} does not have the layout of rack.set_{layout}; use rack.set_{engine}")
        if hash is not None:
            if not callable(hash):
                raise TypeError(f"hash={hash!r}: must be a function from bytes to bytes")
            digest_of(hash)
        values = None if serdes is None else resolve(serdes)
        keys = None if key_serdes is None else resolve_codec(key_serdes, values or MARSHAL)
        return Request(self._kind, engine, shards, values, keys, hash, layout)

    # Life

    def open(self) -> Self:
        """Open the store; make it if there is none and the flag allows it.

        Every ``open`` and ``with`` needs its ``close``. O(shards); O(1) if this process has the store open already.
        After a power failure it can be O(n), as shards are verified or made anew. Atomic: of all processes that open a
        missing store at once one makes it, and none finds half of it.

        :returns: the container itself.
        :raises StoreNotFoundError: there is no store, and the flag is "r" or "w"; or its directory does not exist.
        :raises StorePathError: the files cannot be there: no permission, a directory in the way, too few descriptors.
        :raises MismatchError: an argument contradicts what the store was made with.
        :raises ManifestError: the file ``NAME.rack`` is damaged, or of a newer Rack.
        :raises CorruptShardError: a shard is missing, foreign, swapped, truncated or damaged.
        :raises StoreInUseError: the flag is "n", and the store is open somewhere; or this process has it open with "r".
        :raises StoreFullError: no space.
        :raises LockTimeoutError: with ``timeout=``: another process is opening or closing the store all that time.
        :raises ReadOnlyError: others write to the store, and this process lacks the permission to read beside them.
        :raises NotOpenError: it is a snapshot that was closed.

        >>> from rack import PersistentDict
        >>> ages = PersistentDict(tmp / "opened").open()
        >>> ages["ann"] = 31
        >>> ages.close()
        """
        before = len(self._openings)
        try:
            self._open()
            return self
        except BaseException:
            self._reopened(before)
            raise

    @guarded
    def _open(self) -> None:
        if self._hold is not None and is_under_way(_CLOSING, "self", lambda other: other is self):
            raise reentrant(self._path, "closing it")
        if not self._openings:
            self._check_openable()
            self._attach(registry.acquire(self._path, self._request, self._mode))
        self._openings.append(None)
        if self._hold is None:  # a signal handler has closed it just now
            self._openings.clear()
            self._load(b"")  # tells so

    @guarded
    def _reopened(self, before: int) -> None:
        """Undo an opening that was cut off."""
        if before:
            del self._openings[before:]
        else:
            self._let_go()

    @guarded
    def close(self) -> None:
        """Close the container; the last one in this process that uses the store closes that.

        Closing what is closed does nothing. O(shards), and the last process that closes the store waits until all that
        was written is on the disk. An anonymous store is deleted. Atomic for the threads of this process.

        :raises StoreDeletedError: the store's files were removed while it was open. What was written is lost; it is
            closed.
        :raises LockTimeoutError: with ``timeout=``: an operation that gave up still waits. It is open, and can be
            closed again.

        >>> from rack import PersistentDict
        >>> ages = PersistentDict(tmp / "closed").open()
        >>> ages.close()
        >>> ages.closed
        True
        """
        if len(self._openings) > 1:
            self._openings.pop()
        elif self._openings:
            self._let_go()
        if not self._openings and self._hold is not None:  # a signal handler has closed it too, just now
            self._let_go()

    def _let_go(self) -> None:
        try:
            self._give_back()
            self._forget()
        except LockTimeoutError:
            raise  # it is still open: closing can be tried again
        except BaseException:
            self._give_back()  # again, if an exception has cut it off: nothing of it is done twice
            self._forget()
            raise

    def _give_back(self) -> None:
        for hold, anonymous, pid in self._use_of_it:
            if anonymous and pid == os.getpid():
                registry.remove(hold)
            else:
                registry.release(hold)

    def _forget(self) -> None:
        self._use_of_it.clear()  # which a finalizer that was cut off has too
        if self._finalizer is not None:
            self._finalizer.detach()
        self._finalizer = self._hold = None
        self._openings.clear()
        self._entered_by_maker = False
        self._set_closed()

    def __enter__(self) -> Self:
        """Open the store, as :meth:`open` does: O(shards). A container that an operation has made is open already."""
        if self._entered_by_maker:
            self._entered_by_maker = False  # an operation made and opened it; this `with` is to close it
            return self
        return self.open()

    def __exit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> None:
        """Close the container, as :meth:`close` does: O(shards). An error of the block goes before one of closing."""
        try:
            self.close()
        except Exception:
            if exc is None:
                raise  # never hide the error of the block itself

    def _attach(self, hold: Hold, anonymous: bool = False) -> None:
        held = hold.opened
        self._use_of_it.clear()
        self._use_of_it = [(hold, anonymous, os.getpid())]
        self._hold = hold
        self._finalizer = weakref.finalize(self, _collected, self._use_of_it)
        self._codec, self._serdes = held.manifest.codecs(self._request)
        self._dump_key = self._codec.dumps
        self._load_key = self._codec.loads
        self._dump = self._serdes.dumps
        self._dump_scalar = self._serdes.dump_scalar
        self._load = self._serdes.loads
        self._use(held.store(self._mode))

    def _is_anonymous(self) -> bool:
        return any(anonymous for _, anonymous, _ in self._use_of_it)

    def _use(self, store: Store) -> None:
        self._store = store
        self._route = store.route

    def _set_closed(self, reason: Exception | None = None) -> None:
        closed: Any = NOT_OPEN if reason is None else NotOpen(reason)
        self._store = self._codec = self._serdes = closed
        self._route = self._dump_key = self._load_key = self._dump = self._dump_scalar = self._load = closed

    @property
    def _held(self) -> OpenStore | None:
        hold = self._hold  # once: a signal handler may close it meanwhile
        return None if hold is None else hold.opened

    def _open_store(self) -> Any:
        held = self._held
        if held is None:
            self._load(b"")  # tells why
        return held

    @property
    def _manifest(self) -> Manifest:
        manifest: Manifest = self._open_store().manifest
        return manifest

    @property
    def closed(self) -> bool:
        """Whether the container is not open."""
        return not self._openings

    @property
    def _key_codec(self) -> KeyCodec:
        return self._codec

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Return an anonymous copy, opened. O(n). Not atomic, as ``copy()``."""
        with importing():
            from copy import deepcopy

        made = memo[id(self)] = self.__copy__()  # type: ignore[attr-defined]
        made._put_extra(deepcopy(self._extra(), memo))
        return made

    # Subclasses may have constructors of their own: what is made here of an object is made without them, and has what
    # they have put into it.

    @classmethod
    def _bare(cls, path: str, extra: Extra, **arguments: Any) -> Self:
        """Return a container of this class with what a subclass has put into another one."""
        made = object.__new__(cls)
        made._put_extra(extra)
        Handle.__init__(made, path, **arguments)
        return made

    def _extra(self) -> Extra:
        """Return the attributes that a subclass has put into the object, and the slots."""
        state = object.__getstate__(self)
        attributes, slots = state if isinstance(state, tuple) else (state, {})
        return {name: value for name, value in attributes.items() if name not in _OWN}, slots

    def _put_extra(self, extra: Extra) -> None:
        attributes, slots = extra
        vars(self).update(attributes)
        for name, value in slots.items():
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return object.__new__, (type(self),), self.__getstate__()

    def __getstate__(self) -> dict[str, Any]:
        self._check_sendable()
        return {
            "path": self._path,
            "name": self.name,
            "arguments": {name: picklable(argument) for name, argument in self._arguments.items()}
            | ({"durability": None} if self._is_anonymous() else {}),  # what it has once it has a name
            "open": not self.closed,
            "extra": self._extra(),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A worker must not make the store anew; nor at all, if the handle was open and so the store is there.
        arguments = dict(state["arguments"])
        if arguments["flag"] in "cn":
            arguments["flag"] = "w" if state["open"] else "c"
        self._put_extra(state["extra"])
        Handle.__init__(self, state["path"], **arguments)
        self.name = state["name"]
        if state["open"]:
            try:
                self.open()
                if (hold := self._hold) is not None:
                    hold.is_passing = True
            except Exception as error:
                # What raises while a task's arguments are unpickled ends a worker of multiprocessing.Pool, which then
                # waits for the task for ever. So the first use tells.
                self._set_closed(error)

    def sync(self) -> None:
        """Return when everything written so far, by any process, is on the disk.

        O(shards) calls of fsync, and the time that the disk takes. Not atomic: the shards are synced one after another.
        What is written meanwhile may be on the disk or not.

        :raises NotOpenError: the container is not open.
        :raises StoreFullError: no space. What was written may not be on the disk.

        >>> from rack import PersistentDict
        >>> with PersistentDict(tmp / "synced") as ages:
        ...     ages["ann"] = 31
        ...     ages.sync()
        """
        self._open_store().sync(self._store)


_CLOSING = {Handle._let_go.__code__}

# What is open at exit is given back by weakref's exit function, which comes with the first finalizer there is. So that
# is made here: functions that are registered with atexit from now on run before it, and find their stores open.
weakref.finalize(Handle, int)
atexit.register(note_exit)

#: The attributes of every container, which are the annotated ones; and what `typing` puts into generic objects.
_OWN = frozenset(
    (*Handle.__annotations__, *Maker.__annotations__, *Snapshotting.__annotations__, "_is_snapshot", "__orig_class__")
)


def _collected(use_of_it: list[tuple[Hold, bool, int]]) -> None:
    """Give back the store of a container that was collected or open at exit; its maker deletes an anonymous one."""
    for hold, anonymous, pid in use_of_it:
        registry.orphan(hold, anonymous and pid == os.getpid())
