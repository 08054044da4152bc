"""A store with all who use it, in which an operation is cut off; and the questions that are asked then."""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import threading
from collections.abc import Callable
from typing import Any

from rack.store import registry
from tests.interrupts import jobs, neighbour
from tests.interrupts.neighbour import CLASSES, Neighbour
from tests.interrupts.places import Folder

#: What operations and handlers write, to have something to see: it may be there when one was cut off.
PASSING = ("warm1", "warm2", "warm3")
LIMIT = 2.5  # seconds that another thread may take

BASE = {**{f"k{i}": i for i in range(12)}, "long" * 200: "v" * 5000}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "timeout": {"timeout": 5},
    "everysec": {"durability": "everysec"},
    "always": {"durability": "always"},
}


class Broken(AssertionError):
    """What was found after an operation was cut off."""


class Thread:
    """Another thread of this process that uses the store."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                self._answers.put((True, task()))
            except BaseException as error:
                self._answers.put((False, repr(error)))

    def call(self, function: Callable[[], Any]) -> Any:
        self._tasks.put(function)
        try:
            is_right, answer = self._answers.get(timeout=LIMIT)
        except queue.Empty:
            raise Broken("another thread waits for ever") from None
        if not is_right:
            raise Broken(f"in another thread: {answer}")
        return answer

    def end(self) -> None:
        self._tasks.put(None)


class World:
    """``handle`` is operated on; ``second`` is another handle of this process, ``other`` a store beside it."""

    def __init__(self, place: Folder, kind: str, configuration: str) -> None:
        self.place = place
        self.folder = place.folder
        self.kind = kind
        self.options = CONFIGURATIONS[configuration]
        self.cls: Any = CLASSES[kind]
        self.path = place.path("s")
        self.job: Any = None  # of a queue, the one that is leased
        self.handle = self.make("s")
        self.handle.open()
        self.second = self.make("s").open()
        self.other = self.make("o").open()
        self.fill(self.other, {f"k{i}": 100 + i for i in range(6, 18)})
        self.fill(self.handle, BASE)
        self.thread = Thread()
        self.neighbour = Neighbour(self.path, kind)
        self.neighbour.ask("content")
        self._probe = 0
        self.opened: str | None = None  # the name of a store that an operation opens
        self.thread.call(lambda: None)
        self.warm_up()
        place.begin([self.handle, self.second, self.other])
        self.before = self.content()
        self.descriptors = self.count_descriptors()
        self.threads = self.count_threads()
        self.files = self.list_files()

    def make(self, name: str, **options: Any) -> Any:
        given: dict[str, Any] = {"key_serdes": "str"} if self.kind == "dict" else {"serdes": "str"}
        if self.kind == "queue":
            given |= {"lease": jobs.LEASE, "shards": 1}  # where it is known which job comes next
        given |= self.place.options()
        return self.cls(self.place.path(name), **({"shards": 2} | self.options | given | options))

    def warm_up(self) -> None:
        """Have everything there that comes at the first use and stays: threads, connections."""
        for store in (self.handle, self.second, self.other):
            for i in range(8):
                self.put(store, f"warm{i}")
            for i in range(8):
                self.delete(store, f"warm{i}")

    def fill(self, store: Any, content: dict[str, Any]) -> None:
        if self.kind == "queue":
            leased = jobs.fill(store)
            if store is self.handle:
                self.job = leased
        else:
            store.update(content) if self.kind == "dict" else store.update(content.keys())

    def put(self, store: Any, key: str) -> None:
        neighbour.put(store, self.kind, key)

    def delete(self, store: Any, key: str) -> None:
        neighbour.delete(store, self.kind, key)

    def has(self, store: Any, key: str) -> bool:
        return neighbour.has(store, self.kind, key)

    def content(self, store: Any = None) -> dict[str, Any]:
        return neighbour.content(self.handle if store is None else store, self.kind)

    def restore(self) -> None:
        if self.kind == "queue":
            self.handle.clear()
            self.fill(self.handle, {})
            return
        now = self.content()
        for key in now.keys() - self.before.keys():
            self.delete(self.handle, key)
        missing = {key: value for key, value in self.before.items() if key not in now or now[key] != value}
        if missing:
            self.fill(self.handle, missing)

    def count_descriptors(self) -> int:
        """Return how many there are; SQLite closes those of its database only when it has no lock there any more."""
        names = self.list_descriptors()
        databases = {name for name in names if name.endswith(".sqlite3")}
        return len(databases) + sum(name not in databases for name in names)

    def list_descriptors(self) -> list[str]:
        return self.place.descriptors()

    @staticmethod
    def count_threads() -> int:
        return len(os.listdir("/proc/self/task"))

    def open_stores(self) -> list[str]:
        return self.place.open_stores()

    def is_shut(self, path: str) -> bool:
        return path not in self.open_stores()

    def list_files(self) -> set[str]:
        return self.place.files()

    # The questions

    def ask(self, after: dict[str, Any], is_bulk: bool) -> None:
        """Raise Broken unless all goes on, and the store is as before the operation or as after it."""
        name = self._next_probe()
        with _told("this handle, in this thread"):
            self.put(self.handle, name)
            now = self.content()
            if self.kind == "queue":
                jobs.check(self.handle)
        if name not in now:
            raise Broken("a write of this thread is not seen by itself")
        self.thread.call(lambda: self._use(self.handle, name + "t"))
        with _told("another handle"):
            self._use(self.second, name + "s")
        self.neighbour.ask("put", name + "n")
        there = self.neighbour.ask("content")
        for probe in (name, name + "n"):
            if probe not in there:
                raise Broken(f"another process does not see {probe}")
        with _told("this handle, at the end"):
            if not (self.has(self.handle, name + "n") and self.has(self.handle, name)):
                raise Broken("this handle does not see what another process wrote")
            self.delete(self.handle, name)
            self.delete(self.handle, name + "n")
            del now[name]
            for passing in PASSING:
                now.pop(passing, None)
        if now not in (self.before, after):
            wrong = [
                key
                for key in {*now, *self.before, *after}
                if not any(key in state and key in now and state[key] == now[key] for state in (self.before, after))
                and not (key not in now and (key not in self.before or key not in after))
                and not (self.kind == "queue" and now.get(key) in ("waiting", "leased"))  # on its way
            ]
            if wrong or not is_bulk:
                raise Broken(f"neither done nor not done: {sorted(now.items() ^ self.before.items(), key=str)[:3]}")

    def ask_what_is_left(self, are_descriptors_closed: bool = True) -> None:
        """Raise Broken unless what the operation had is given back; its exception is forgotten already."""
        mine = [self.place.path(name) for name in "os"]
        if self.open_stores() != mine or self.count_descriptors() > self.descriptors:
            gc.collect()
            self.cls(self.path).open().close()  # gives back what was collected
            registry.end_resting()  # which nobody uses: it stays open for a moment
        if self.open_stores() != mine:
            raise Broken(f"stores are open: {self.open_stores()}")
        if self.count_threads() > self.threads and not self._settles(lambda: self.count_threads() <= self.threads):
            raise Broken(f"threads: {self.count_threads()}, not {self.threads}")
        # The thread that syncs may just be making a base.
        if are_descriptors_closed and not self._settles(lambda: self.count_descriptors() <= self.descriptors):
            raise Broken(
                f"descriptors: {self.count_descriptors()}, not {self.descriptors}: {self.list_descriptors()[:40]}"
            )
        if self.list_files() != self.files:
            raise Broken(f"files: {sorted(self.list_files() ^ self.files)}")

    def ask_what_is_made(self, name: str, may_be_left: bool = False) -> None:
        """Raise Broken if a store was made in part; remove it.

        ``may_be_left``: it could not clean up. Then what is left is in nobody's way, as after a process was killed.
        """
        if not name:
            return
        is_made = self.place.is_made(name)
        if (may_be_left or self.place.may_leave_marks) and not is_made and self.list_files() != self.files:
            with _told("another one who makes the store"):
                self.make(name).open().close()
        try:
            if is_made:
                with self.cls(self.place.path(name), flag="w") as made, _told("what was made"):
                    jobs.check(made) if self.kind == "queue" else made.check()
                    content = self.content(made)
                    if "k" not in content and not self.before.items() <= content.items():
                        raise Broken(f"what was made is not whole: {len(content)} entries")
        finally:
            if self.place.is_made(name):
                self.place.remove(name)

    def compare(self, made: Any) -> None:
        """Compare a copy with the store, but for what others write meanwhile."""
        there, here = (
            {key: value for key, value in self.content(store).items() if key not in PASSING}
            for store in (made, self.handle)
        )
        assert there == here

    @staticmethod
    def _settles(condition: Callable[[], bool]) -> bool:
        if condition():
            return True
        gc.collect()
        for _ in range(100):
            if condition():
                return True
            threading.Event().wait(0.01)
        return False

    def _use(self, store: Any, name: str) -> None:
        self.put(store, name)
        if not self.has(store, name):
            raise Broken(f"{name} is not there")
        self.delete(store, name)

    def _next_probe(self) -> str:
        self._probe += 1
        return f"probe{self._probe % 40}"

    def end(self) -> None:
        self.thread.end()
        self.neighbour.end()
        for store in (self.handle, self.second, self.other):
            while not store.closed:
                store.close()
        self.place.end()


@contextlib.contextmanager
def _told(who: str) -> Any:
    try:
        yield
    except Broken:
        raise
    except Exception as error:
        raise Broken(f"{who}: {error!r}") from error
