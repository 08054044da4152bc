"""An exception, or another use of the store, at every instruction of every operation.

``python -m tests.interrupts.run --engine lmdb --configuration plain``: runs each operation again and again, does
something at its k-th instruction, for every k (``--sample N``: for N of them), and then asks the questions of
:mod:`.world`. Prints what was found, and the number of cases; exit code 1 if something was. A hang ends the process
with the stacks of its threads.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import faulthandler
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rack import NotOpenError, RackError, ReentrantWriteError
from rack.store import rotation
from tests.interrupts import inject
from tests.interrupts.inject import Injector, Interrupt, TimeLimit
from tests.interrupts.operations import OPERATIONS, Operation, take_snapshot
from tests.interrupts.places import SERVED, Folder
from tests.interrupts.world import CONFIGURATIONS, Broken, World

HANG = 25.0  # seconds after which a case is a hang
ACTIONS = ("interrupt", "limit", "depth", "memory", "write", "read", "close", "open", "snapshot", "exit")
_MOST = 10  # places to tell of
_FOR_EVER = 1e9  # seconds


class Cut(Exception):
    """The action was done, and its exception came out."""


class Runner:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._random = random.Random(arguments.seed)
        self._world: World | None = None
        self._folder = ""
        self.cases = 0
        self.found: dict[str, dict[str, list[str]]] = collections.defaultdict(lambda: collections.defaultdict(list))
        self._action = ""
        self._end = 0.0
        self._ignored: list[str] = []
        sys.unraisablehook = self._ignore

    def run(self) -> None:
        arguments = self._arguments
        kinds = arguments.kind or SERVED.get(arguments.engine, Folder).kinds
        for left, kind in zip(range(len(kinds), 0, -1), kinds, strict=True):
            now = time.monotonic()
            self._end = now + (arguments.end - now) / left
            for name, operation in self._operations():
                if kind not in operation.kinds or (arguments.operations and name not in arguments.operations):
                    continue
                if arguments.group and operation.group not in arguments.group:
                    continue
                if time.monotonic() > self._end:
                    break
                try:
                    self._each(name, kind, operation)
                except Broken as error:
                    self._note(name, kind, "as it is", str(error))
                    self._new_world(kind)
            self._drop_world()
        faulthandler.cancel_dump_traceback_later()

    def _operations(self) -> list[tuple[str, Operation]]:
        """Return what there is to be cut off; in an order of chance where the time may be over before all were."""
        operations = list(OPERATIONS.items())
        if self._arguments.seconds < _FOR_EVER:
            self._random.shuffle(operations)
        return operations

    # A world, which is made anew when it is broken

    def _new_world(self, kind: str) -> World:
        self._drop_world()
        self._folder = tempfile.mkdtemp(prefix="interrupts-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self._world = World(self._arguments.place(self._folder), kind, self._arguments.configuration)
        return self._world

    def _drop_world(self) -> None:
        world, self._world = self._world, None
        if world is not None:
            with contextlib.suppress(Exception):
                world.end()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _each(self, name: str, kind: str, operation: Operation) -> None:
        faulthandler.dump_traceback_later(HANG, exit=True)  # it has a thread, which the world counts
        world = self._world if self._world is not None and self._world.kind == kind else self._new_world(kind)
        if reason := world.place.lacking.get(name):
            print(f"{name} ({kind}) is left out: {reason}")
            return
        operation.run(world)  # the first time more may be done than the next times
        world.ask_what_is_made(operation.makes)
        world.restore()
        length = inject.count(lambda: operation.run(world))
        after = world.content()
        world.restore()
        world.ask_what_is_made(operation.makes)
        world.ask_what_is_left()
        for action in self._arguments.action:
            self._action = action
            self._all_places(name, kind, operation, length, after)

    def _all_places(self, name: str, kind: str, operation: Operation, length: int, after: dict[str, Any]) -> None:
        if self._action == "memory" and operation.group in ("fork", "opening", "life"):
            return  # Python itself forgets the hooks of a fork then, and py-lmdb to close a file
        if self._action == "depth":
            places = list(range(1, 70))
        elif self._action == "memory":
            places = list(range(length // 4 + 50))
        else:
            places = list(range(length))
        if self._arguments.at is not None:
            places = [self._arguments.at]
        elif self._arguments.sample is not None:
            few = int(self._arguments.sample + self._random.random())
            places = sorted(self._random.sample(places, min(few, len(places))))
        for place in places:
            if time.monotonic() > self._end:
                break
            faulthandler.dump_traceback_later(HANG, exit=True)
            self._now = f"{name} ({kind}) at {place}"
            world = self._world or self._new_world(kind)
            print(f"{self._now}\r", end="", file=self._arguments.log, flush=True)
            self.cases += 1
            where, wrong = self._case(world, operation, place, after)
            if wrong:
                self._note(name, kind, where, wrong)
                self._drop_world()

    def _ignore(self, unraisable: Any) -> None:
        """Take note of an exception that nobody gets, unless it is the one that was raised, where none can come out."""
        if self._action == "depth":  # nor can anything be said here then
            return
        hooks = ("_before_fork", "_after_fork_in_parent", "_after_fork_in_child")
        injected = isinstance(unraisable.exc_value, Interrupt | TimeLimit | SystemExit | MemoryError)
        if not injected or getattr(unraisable.object, "__name__", "") not in hooks:
            self._ignored.append(f"ignored in {unraisable.object}: {unraisable.exc_value!r}")

    def _note(self, name: str, kind: str, where: str, wrong: str) -> None:
        self.found[f"{self._action}: {name} ({kind})"][wrong].append(where)
        if self._arguments.verbose:
            print(f"{self._action}: {name} ({kind}) {where}: {wrong}", flush=True)

    def _case(self, world: World, operation: Operation, place: int, after: dict[str, Any]) -> tuple[str, str]:
        where, wrong = "", ""
        self._ignored.clear()
        try:
            where = self._do(world, operation, place)
            world.ask(after, operation.is_bulk)
            world.restore()
        except Broken as error:
            where, wrong = getattr(error, "where", where), str(error)
        except Cut as cut:
            # Its exception, and what its frames refer to, is alive meanwhile, as sys.last_value is.
            where = str(cut)
            try:
                world.ask(after, operation.is_bulk)
                world.restore()
            except Exception as error:
                wrong = self._text(error)
        except Exception as error:
            wrong = self._text(error)
        if not wrong:
            try:
                if self._ignored and self._action != "memory":
                    raise Broken(self._ignored[0])
                world.ask_what_is_made(operation.makes, self._action in ("depth", "memory"))
                world.ask_what_is_left(are_descriptors_closed=self._action != "memory")  # lmdb.open() leaves some then
            except Exception as error:
                wrong = self._text(error)
        return where, wrong

    @staticmethod
    def _text(error: BaseException) -> str:
        if isinstance(error, Broken | AssertionError) and not isinstance(error.__cause__, Exception):
            return str(error)
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/rack/" in frame.filename]
        last = f" in {frames[-1].name}:{frames[-1].lineno}" if frames else ""
        return f"{type(error).__name__}: {str(error)[:300]}{last}"

    def _do(self, world: World, operation: Operation, place: int) -> str:
        """Do the operation and cut it off; return the place, or raise Cut with it."""
        return getattr(self, "_do_" + self._action)(world, operation, place)  # type: ignore[no-any-return]

    # What is done to it

    def _do_interrupt(
        self, world: World, operation: Operation, place: int, kind: type[BaseException] = Interrupt
    ) -> str:
        injector = Injector(place, inject.raising(kind))
        try:
            injector.run(lambda: operation.run(world))
        except kind as error:
            raise Cut(injector.where) from error
        except Exception as error:
            raise _broken(injector.where, f"in place of the exception: {self._text(error)}", error) from error
        if injector.where and operation.group != "fork":  # hooks of a fork cannot raise
            raise _broken(injector.where, "the exception was swallowed")
        return injector.where or "at the end"

    def _do_limit(self, world: World, operation: Operation, place: int) -> str:
        return self._do_interrupt(world, operation, place, TimeLimit)

    def _do_depth(self, world: World, operation: Operation, place: int) -> str:
        try:
            inject.at_depth(place, lambda: operation.run(world))
        except RecursionError as error:
            raise Cut(f"{place} calls before the limit") from error
        except Exception as error:
            raise _broken(
                f"{place} calls before the limit", f"in place of RecursionError: {self._text(error)}"
            ) from error
        return f"{place} calls before the limit"

    def _do_memory(self, world: World, operation: Operation, place: int) -> str:
        import _testcapi

        where = f"at allocation {place}"
        try:
            _testcapi.set_nomemory(place, place + 1)
            try:
                operation.run(world)
            finally:
                _testcapi.remove_mem_hooks()
        except MemoryError as error:
            raise Cut(where) from error
        except Exception as error:
            if not any(map(_is_of_memory, (error, error.__cause__, error.__context__))):
                raise _broken(where, f"in place of MemoryError: {self._text(error)}") from error
            raise Cut(where) from error
        return where

    # As a signal handler or a finalizer would: what the store itself does inside is served, or told why not

    def _do_write(self, world: World, operation: Operation, place: int) -> str:
        return self._nested(world, operation, place, lambda: world.put(world.handle, "warm1"))

    def _do_read(self, world: World, operation: Operation, place: int) -> str:
        return self._nested(world, operation, place, lambda: world.has(world.handle, "k11") and len(world.handle))

    def _do_close(self, world: World, operation: Operation, place: int) -> str:
        def close() -> None:
            world.handle.close()

        try:
            return self._nested(world, operation, place, close)
        finally:
            if world.handle.closed:
                world.handle.open()

    def _do_open(self, world: World, operation: Operation, place: int) -> str:
        """Opens the store that is being opened or closed, or is open, once more."""

        def use() -> None:
            with world.make(world.opened or "s") as again:
                world.put(again, "warm1")

        return self._nested(world, operation, place, use)

    def _do_snapshot(self, world: World, operation: Operation, place: int) -> str:
        return self._nested(world, operation, place, lambda: take_snapshot(world, world.content))

    def _do_exit(self, world: World, operation: Operation, place: int) -> str:
        return self._do_interrupt(world, operation, place, SystemExit)

    def _nested(self, world: World, operation: Operation, place: int, use: Callable[[], Any]) -> str:
        refused: list[Exception] = []

        def action() -> None:
            try:
                use()
            except Exception as error:
                refused.append(error)

        injector = Injector(place, action)
        try:
            injector.run(lambda: operation.run(world))
        except NotOpenError as error:
            if self._action != "close":
                raise _broken(injector.where, f"the operation fails: {self._text(error)}") from error
        except (AssertionError, RackError, KeyError) as error:
            raise _broken(injector.where, f"the operation fails: {self._text(error)}") from error
        except Exception as error:
            raise _broken(injector.where, f"the operation fails: {self._text(error)}") from error
        for error in refused:
            if not isinstance(error, ReentrantWriteError) or "handler" not in str(error):
                raise _broken(injector.where, f"is refused with {self._text(error)}") from error
        if self._action == "write":
            is_written = injector.where is not None and not refused
            if (
                is_written
                and not world.has(world.handle, "warm1")
                and operation.group not in ("many", "one", "opening")
            ):
                raise _broken(injector.where, "what it wrote is lost")
        if self._action in ("write", "open"):
            world.delete(world.handle, "warm1")
        return injector.where or "at the end"


def _broken(where: str | None, text: str, error: Exception | None = None) -> Broken:
    broken = Broken(text)
    broken.where = where  # type: ignore[attr-defined]
    return broken


def _is_of_memory(error: BaseException | None) -> bool:
    """Return whether an error is one that Python raises when there is no memory: it is not always MemoryError."""
    texts = (
        "emory",
        "can't allocate",
        "unmarshallable object",
        "error return without exception set",
        "import of module",
        "I/O operation on closed file",  # in redis-py, which closes its buffer, and then uses it
    )
    # Python takes what fails in looking for an attribute for its absence.
    is_there = isinstance(error, AttributeError) and error.name is not None and hasattr(error.obj, error.name)
    return is_there or any(text in repr(error) for text in texts)


def _lines(found: dict[str, dict[str, list[str]]]) -> Iterator[str]:
    for name, kinds in found.items():
        for wrong, places in kinds.items():
            more = f" and {len(places) - _MOST} more" if len(places) > _MOST else ""
            yield f"{name}: {wrong}\n    " + "\n    ".join(map(str, places[:_MOST])) + more


@contextlib.contextmanager
def _places(engine: str, configuration: str) -> Iterator[Callable[[str], Folder]]:
    """Yield what makes a place of a folder. Where it is a server, that runs meanwhile, with a replica for "always"."""
    if engine not in SERVED:
        yield lambda folder: Folder(folder, engine)
        return
    from tests.support.servers import Server, redis

    Injector.count_also(redis)
    with tempfile.TemporaryDirectory(prefix="interrupts-server-") as folder, contextlib.ExitStack() as stack:
        server = Server(Path(folder, "server"))
        stack.callback(server.kill)
        if configuration == "always":
            stack.callback(server.with_replica(Path(folder, "replica")).kill)
        yield lambda folder: SERVED[engine](folder, server)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="lmdb")
    parser.add_argument("--configuration", default="plain", choices=list(CONFIGURATIONS))
    parser.add_argument("--action", nargs="+", default=["interrupt"], choices=ACTIONS)
    parser.add_argument("--kind", nargs="*")
    parser.add_argument("--operations", nargs="*")
    parser.add_argument("--group", nargs="*")
    parser.add_argument("--sample", type=float, help="how many instructions of each operation, on average")
    parser.add_argument("--at", type=int)
    parser.add_argument("--seconds", type=float, default=_FOR_EVER)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    arguments.end = time.monotonic() + arguments.seconds
    arguments.log = open(os.environ.get("INTERRUPTS_LOG", os.devnull), "w")  # noqa: SIM115
    print(f"--seed {arguments.seed}", flush=True)
    rotation.perf_counter_ns = int  # 0: popitem() looks at the shards in the same order each time
    runner = Runner(arguments)
    with _places(arguments.engine, arguments.configuration) as arguments.place:
        runner.run()
    for line in _lines(runner.found):
        print(line)
    print(f"{runner.cases} cases")
    return 1 if runner.found else 0


if __name__ == "__main__":
    sys.exit(main())
