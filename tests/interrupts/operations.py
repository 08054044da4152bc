"""The operations that are cut off: each public one, of dict, set and queue. ``OPERATIONS[name]`` says what it does.

A function takes the world and does the operation. What it makes or opens beyond that it gives back itself, as a program
would: with a ``with`` block, or a ``finally``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from itertools import islice
from operator import itemgetter
from pickle import dumps, loads
from typing import Any, NamedTuple

from rack import PersistentSet


class Operation(NamedTuple):
    run: Callable[[Any], Any]
    kinds: tuple[str, ...]  # of containers
    is_bulk: bool  # may be done in part, a key or shard at a time
    group: str
    makes: str = ""  # the name of a store that it makes, which is there as a whole or not at all


OPERATIONS: dict[str, Operation] = {}


def operation(*kinds: str, is_bulk: bool = False, group: str = "one", makes: str = "") -> Callable[[Any], Any]:
    def register(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        OPERATIONS[function.__name__] = Operation(function, kinds, is_bulk, group, makes)
        return function

    return register


def simple(name: str, kinds: str, run: Callable[[Any], Any], *, is_bulk: bool = False, group: str = "one") -> None:
    OPERATIONS[name] = Operation(lambda w: run(w.handle), tuple(kinds.split()), is_bulk, group)


def _moved(d: Any, old: str, new: str) -> None:
    """Move a value to another key of the same shard in one transaction."""
    here, there = d._dump_key(old), d._dump_key(new)

    def move(view: Any) -> None:
        view.put(there, view.get(here))
        view.delete(here)
        view.first(b"", None, 1)

    assert d._store.shards.index(d._route(here)) == d._store.shards.index(d._route(there))
    d._route(here).transact(move)


NEW = [f"n{i}" for i in range(5)]
MIXED = ["k1", *NEW, "k2"]
PAIRS = [(key, "new") for key in MIXED]


def put_away(store: Any) -> Any:
    """Have the shards opened anew by the next operation."""
    for shard in store._held.shards:
        shard.put_away()
    return store


simple("get", "dict", lambda d: d.get("k1"))
simple("get_opening", "dict", lambda d: put_away(d).get("k1"), group="opening")
simple("put_opening", "dict", lambda d: put_away(d).__setitem__("k1", "new"), group="opening")
simple("add_opening", "set", lambda s: put_away(s).add("new"), group="opening")
simple("iterate_opening", "dict set", lambda d: list(put_away(d)), group="opening")
simple("getitem", "dict", lambda d: d["k2"])
simple("contains", "dict set", lambda d: "k3" in d)
simple("put", "dict", lambda d: d.__setitem__("k1", "new"))
simple("put_new", "dict", lambda d: d.__setitem__("new", 1))
simple("put_long", "dict", lambda d: d.__setitem__("x" * 700, "y" * 9000))
simple("get_long", "dict", lambda d: d["long" * 200])
simple("del", "dict", lambda d: d.__delitem__("k1"))
simple("dict_add", "dict", lambda d: d.add("new", 1))
simple("setdefault", "dict", lambda d: d.setdefault("new", 1))
simple("dict_pop", "dict", lambda d: d.pop("k1"))
simple("popitem", "dict", lambda d: d.popitem())
simple("incr", "dict", lambda d: d.incr("k1"))
simple("compare_and_set", "dict", lambda d: d.compare_and_set("k1", 1, "new"))
simple("transform", "dict", lambda d: d.transform("k1", lambda value: [value]))
simple("transform_new", "dict", lambda d: d.transform("new", lambda value: [value]))
simple("transact", "dict", lambda d: _moved(d, "k1", "n0"))
simple("set_add", "set", lambda s: s.add("new"))
simple("discard", "set", lambda s: s.discard("k1"))
simple("remove", "set", lambda s: s.remove("k1"))
simple("set_pop", "set", lambda s: s.pop())

simple("get_many", "dict", lambda d: d.get_many(MIXED), group="many")
simple("contains_many", "dict set", lambda d: list(d.contains_many(MIXED)), group="many")
simple("delete_many", "dict", lambda d: d.delete_many(MIXED), is_bulk=True, group="many")
simple("dict_update", "dict", lambda d: d.update(PAIRS, more=1), is_bulk=True, group="many")
simple("merge", "dict", lambda d: d.merge(PAIRS, lambda key, mine, theirs: "both"), is_bulk=True, group="many")
simple("add_many", "set", lambda s: s.add_many(MIXED), is_bulk=True, group="many")
simple("filter_new", "set", lambda s: list(s.filter_new(MIXED)), is_bulk=True, group="many")
simple("discard_many", "set", lambda s: s.discard_many(MIXED), is_bulk=True, group="many")
simple("set_update", "set", lambda s: s.update(MIXED), is_bulk=True, group="many")
simple("clear", "dict set", lambda d: d.clear(), is_bulk=True, group="many")

simple("len", "dict set", lambda d: (len(d), bool(d)), group="reading")
simple("iterate", "dict set", lambda d: list(d), group="reading")
simple("iterate_partly", "dict set", lambda d: list(islice(d, 3)), group="reading")
simple("reversed", "dict set", lambda d: next(reversed(d)), group="reading")
simple("scan", "dict set", lambda d: list(d.scan("k1", "k5", reverse=True, limit=3)), group="reading")
simple("keys_scan", "dict", lambda d: list(d.keys().scan(prefix="k1")), group="reading")
simple("items", "dict", lambda d: list(d.items()), group="reading")
simple("values", "dict", lambda d: list(d.values()), group="reading")
simple("equal", "dict set", lambda d: d == d.copy, group="reading")
simple("shards", "dict set", lambda d: [list(shard) for shard in d.shards()], group="reading")
simple("check", "dict set", lambda d: d.check(), group="store")
simple("sync", "dict set", lambda d: d.sync(), group="store")
simple("stat", "dict set", lambda d: d.stat(leftovers=False).entries, group="store")
simple("repr", "dict set", repr)

simple("q_put", "queue", lambda q: q.put("new"))
simple("q_put_again", "queue", lambda q: q.put("w1"))
simple("q_put_failed", "queue", lambda q: q.put("failed"))
simple("q_put_delayed", "queue", lambda q: q.put("new", delay=1e6))
simple("q_put_in_group", "queue", lambda q: q.put("new", group="group"))
simple("q_put_many", "queue", lambda q: q.put_many([*NEW, "w1"]), is_bulk=True, group="many")
simple("claim", "queue", lambda q: q.claim())
simple("claim_waiting", "queue", lambda q: q.claim(wait=0.1))
simple("claim_many", "queue", lambda q: q.claim_many(3), is_bulk=True, group="many")
simple("claim_all", "queue", lambda q: (q.claim_many(9), q.claim()), is_bulk=True, group="many")
simple("retry_failed", "queue", lambda q: q.retry_failed(), is_bulk=True, group="many")
simple("q_clear", "queue", lambda q: q.clear(), is_bulk=True, group="many")
simple("end_leases", "queue", lambda q: q._sweep(0.0), group="many")
simple("counts", "queue", lambda q: (q.counts(), len(q)), group="reading")
simple("peek", "queue", lambda q: q.peek(9), group="reading")
simple("failed", "queue", lambda q: list(q.failed()), group="reading")
simple("knows", "queue", lambda q: q.knows("w1"), group="reading")
simple("join", "queue", lambda q: q.join(timeout=0.001), group="reading")
simple("q_sync", "queue", lambda q: q.sync(), group="store")
simple("q_stat", "queue", lambda q: q.stat(leftovers=False).jobs, group="store")


@operation("queue")
def done(w: Any) -> None:
    w.job.done()


@operation("queue")
def release(w: Any) -> None:
    w.job.release()


@operation("queue")
def release_later(w: Any) -> None:
    w.job.release(delay=1e6)


@operation("queue")
def fail(w: Any) -> None:
    w.job.fail("no")


@operation("queue")
def extend(w: Any) -> None:
    w.job.extend(500)


@operation("queue", is_bulk=True, group="many")
def work(w: Any) -> None:
    """Claims a job of a group, which is done at the end of the block: the next one takes its turn."""
    with w.handle.claim() as job:
        w.handle.put("new", group="group")
    assert job is not None


@operation("queue", is_bulk=True, group="many")
def batch_of_jobs(w: Any) -> None:
    with w.handle.batch() as held:
        held.put("n0")
        held.put("n1", group="group")
        held.done(w.job)


@operation("dict", "set", group="store")
def copy(w: Any) -> None:
    with w.handle.copy() as made:
        w.compare(made)


@operation("dict", "set", group="store")
def pickle(w: Any) -> None:
    sent = dumps(w.handle)
    received = loads(sent)
    try:
        assert "k1" in received  # which tells what its opening met
    finally:
        received.close()


@operation("dict", "set", "queue", group="store")
def snapshot(w: Any) -> None:
    with w.handle.snapshot() as then:
        w.compare(then)


@operation("dict", "set", "queue", group="store")
def snapshot_while_written_to(w: Any) -> None:
    take_snapshot(w, w.compare)


def take_snapshot(w: Any, check: Callable[[Any], Any]) -> None:
    """Take one, for which writers are held off: some shard seems to be written to."""
    shard: Any = w.handle._store.shards[-1]
    versions = [object()]
    version = shard.version
    shard.version = lambda: versions.pop() if versions else version()
    try:
        with w.handle.snapshot() as then:
            check(then)
    finally:
        vars(shard).pop("version", None)


@operation("dict", "set", group="store")
def snapshot_written_to(w: Any) -> None:
    with w.handle.snapshot() as then:
        try:
            w.put(w.handle, "warm2")
            assert "warm2" not in then
        finally:
            w.delete(w.handle, "warm2")


@operation("dict", "set", "queue", group="store", makes="backup")
def backup(w: Any) -> None:
    w.handle.backup(os.path.join(w.folder, "backup"))


@operation("dict", "set", "queue", group="store", makes="named")
def make_named(w: Any) -> None:
    w.handle.copy(w.place.path("named")).close()


@operation("set", group="store")
def union(w: Any) -> None:
    with w.handle | w.other as made:
        len(made)


@operation("set", group="store")
def difference(w: Any) -> None:
    with w.handle - w.other as made:
        len(made)


@operation("set", group="reading")
def subset(w: Any) -> None:
    assert not w.handle <= w.other
    w.handle.isdisjoint(w.other)


@operation("set", is_bulk=True, group="many")
def union_update(w: Any) -> None:
    w.handle |= w.other


@operation("set", is_bulk=True, group="many")
def difference_update(w: Any) -> None:
    w.handle -= w.other


@operation("set", is_bulk=True, group="many")
def intersection_update(w: Any) -> None:
    w.handle &= w.other


@operation("dict", group="store")
def keys_algebra(w: Any) -> None:
    with w.handle.keys() & w.other.keys() as made:
        assert isinstance(made, PersistentSet)


@operation("dict", "set", is_bulk=True, group="many")
def batch(w: Any) -> None:
    with w.handle.batch() as held:
        if w.kind == "dict":
            held["n0"] = "new"
            held["k2"] = "new"
            del held["k1"]
        else:
            held.add("n0")
            held.discard("k1")


@operation("dict", is_bulk=True, group="many")
def update_of_store(w: Any) -> None:
    w.handle.update(w.other)


@operation("dict", "set", group="life")
def open_again(w: Any) -> None:
    """Another handle on a store that is open."""
    with w.cls(w.path) as again:
        assert "k1" in again


@operation("dict", "set", group="life")
def open_nested(w: Any) -> None:
    with w.handle as again:
        assert "k1" in again


@operation("dict", "set", group="life", makes="alone")
def open_alone(w: Any) -> None:
    """The first and only user of a store of this process."""
    store = w.make("alone")
    w.opened = "alone"
    try:
        store.open()
        w.put(store, "k")
        store.close()
    finally:
        w.opened = None
        _close(store)
        with store:  # the handle can be opened again, whatever happened to it
            w.put(store, "k")
            assert "k" in store
    assert w.is_shut(store.name)


@operation("dict", "set", group="fork")
def fork(w: Any) -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)


@operation("dict", "set", group="fork")
def fork_and_use(w: Any) -> None:
    """The child uses the store; when it is cut off it can go on using it."""
    pid = os.fork()
    if not pid:
        status = 3
        try:
            for again in range(2):
                try:
                    sys.setrecursionlimit(sys.getrecursionlimit() + 1000 * again)
                    if w.handle.closed:  # by a handler
                        w.handle.open()
                    w.put(w.handle, "warm3")
                    status = 0 if "warm3" in w.handle and "k1" in w.handle else 4
                    w.delete(w.handle, "warm3")
                    break
                except BaseException:  # which suppress() could not catch at the recursion limit
                    pass
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0, f"the child ends with {status}"


KEY = itemgetter(0)


def _close(store: Any) -> None:
    while not store.closed:
        store.close()
