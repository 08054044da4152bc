"""What is loaded by ``import rack``, by a plain use of a store, by ``rack --help``; forks and imports that wait."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import rack
from tests.support.processes import engine as engine

ROOT = Path(rack.__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT.parent)}

#: What the containers may import of the standard library. Each module here costs every program that uses Rack.
STANDARD = """
    __future__ abc atexit bisect collections collections.abc contextlib errno fcntl functools gc importlib itertools
    marshal math operator os queue resource struct sys threading time typing weakref
"""
#: The modules of Rack that `import rack` loads; so it is with the command, which sees to Ctrl-C next.
FIRST = "rack rack.system rack.system.imports"
CONTAINERS = "from rack import PersistentDict, PersistentSet"

#: The modules of Rack that the containers load.
RACK = """
    rack rack.dict rack.errors rack.set
    rack.views rack.views.dicts rack.views.shards
    rack.algebra rack.algebra.dicts rack.algebra.joins rack.algebra.operand rack.algebra.sets
    rack.container rack.container.base rack.container.batch rack.container.copying rack.container.described
    rack.container.handle
    rack.container.maker rack.container.notopen rack.container.rows rack.container.scan rack.container.snapshot
    rack.container.same
    rack.store rack.store.admission rack.store.bulk rack.store.files rack.store.gate rack.store.guard rack.store.keeper
    rack.store.lock rack.store.manifest rack.store.record rack.store.writing
    rack.store.merge rack.store.opening rack.store.openstore rack.store.registry rack.store.rotation
    rack.store.router rack.store.scratch rack.store.sharded rack.store.site rack.store.spill rack.store.taking
    rack.store.where
    rack.shard rack.shard.address rack.shard.base rack.shard.holding rack.shard.problem rack.shard.proxy
    rack.shard.spans
    rack.codec rack.codec.canonical rack.codec.digest rack.codec.failure rack.codec.forms rack.codec.keys
    rack.codec.named rack.codec.ordered rack.codec.plain rack.codec.presets rack.codec.serdes
    rack.system rack.system.arguments rack.system.boot rack.system.descriptor rack.system.disk rack.system.fanout
    rack.system.flock rack.system.imports rack.system.place rack.system.threads
"""

#: What opening, reading, writing and closing a store may load besides, of the standard library and of Rack.
TO_USE = {
    "lmdb": (
        "heapq json mmap lmdb._envid",
        """
        rack.shard.descriptors rack.shard.image
        rack.shard.lmdb rack.shard.lmdb.datafile rack.shard.lmdb.environment rack.shard.lmdb.growth
        rack.shard.lmdb.journal rack.shard.lmdb.mutex
        rack.shard.lmdb.journaled rack.shard.lmdb.journalfiles rack.shard.lmdb.longkeys rack.shard.lmdb.opening
        rack.shard.lmdb.operations rack.shard.lmdb.pages rack.shard.lmdb.plain rack.shard.lmdb.reader
        rack.shard.lmdb.recorded rack.shard.lmdb.sealed rack.shard.lmdb.shard
        rack.shard.lmdb.transactions rack.shard.place rack.shard.room rack.shard.snapshot
        """,
    ),
    "sqlite3": (
        "json sqlite3 urllib.parse",
        """
        rack.shard.descriptors rack.shard.image
        rack.shard.place rack.shard.room rack.shard.snapshot rack.shard.sqlite3 rack.shard.sqlite3.connection
        rack.shard.sqlite3.database
        rack.shard.sqlite3.failure rack.shard.sqlite3.header
        rack.shard.sqlite3.operations rack.shard.sqlite3.reader rack.shard.sqlite3.room rack.shard.sqlite3.shard
        rack.shard.sqlite3.transactions
        """,
    ),
}

#: Remembers who imports what, and tells it for each module that `work` has loaded and `before` had not.
_WATCHED = """
import sys

importers = {}

class Watch:
    @staticmethod
    def find_spec(name, path=None, target=None):
        frame = sys._getframe(1)
        while "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        importers[name] = f"{frame.f_globals.get('__name__')}, line {frame.f_lineno}"

exec(sys.argv[1])
there = set(sys.modules)
sys.meta_path.insert(0, Watch)
exec(sys.argv[2])
for name in sorted(set(sys.modules) - there):
    print(name, importers.get(name, "?"), sep="|")
"""


def loaded(before: str, work: str) -> dict[str, str]:
    """Return the modules that ``work`` loads in a new interpreter behind what ``before`` does; who imports each."""
    command = [sys.executable, "-c", _WATCHED, before, work]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return dict(line.split("|") for line in done.stdout.splitlines())


def imports_of(names: str) -> str:
    return "import " + ", ".join(names.split())


def check(found: dict[str, str], listed: str) -> None:
    """Assert that the modules that were loaded are those that are listed."""
    too_many, stale = set(found) - set(listed.split()), set(listed.split()) - set(found)
    assert not too_many, "\n".join(f"{name} is loaded, imported by {found[name]}" for name in sorted(too_many))
    assert not stale, f"listed, and not loaded: {sorted(stale)}"


def test_import_rack_loads_what_is_listed_here() -> None:
    check(loaded("import __future__, os", "import rack"), FIRST)
    check(loaded("import __future__, os", "import rack.cli"), f"{FIRST} rack.cli")
    check(loaded(imports_of(f"lmdb xxhash {STANDARD}"), CONTAINERS), RACK)


def test_what_is_listed_of_the_standard_library_is_needed() -> None:
    loaded(
        "import lmdb, xxhash",
        f"{CONTAINERS}; import sys; stale = {set(STANDARD.split())} - sys.modules.keys(); assert not stale, stale",
    )


def test_a_plain_use_of_a_store_loads_what_is_listed_here(tmp_path: Path, engine: str) -> None:
    path = str(tmp_path / "store")
    with rack.PersistentDict(path):
        pass
    standard, own = TO_USE[engine]
    work = f"store = rack.PersistentDict({path!r}).open(); store['a'] = 1; assert store['a'] == 1; store.close()"
    check(loaded(imports_of(f"rack rack.dict rack.set {standard}"), work), own)


#: Everything that a thread may do at any moment without a thought.
_PLAIN = """
d["a"] = 1; d["a"]; d.get("b"); "a" in d; d.add("q", 1); d.setdefault("z", 2); d.incr("a"); d.pop("q"); d.popitem()
d.compare_and_set("a", 2, 3); d.transform("a", lambda value: 4); d["long" * 200] = "long" * 1000; d["long" * 200]
d.update({str(number): number for number in range(3000)}); d.get_many(["1"]); list(d.contains_many(["1", "x"]))
d.merge({"a": 2}, lambda key, mine, theirs: mine + theirs); d.delete_many(["1", "2"]); list(reversed(d))
list(d), list(d.keys()), list(d.values()), list(d.items()), list(d.scan("1", "2")), len(d), bool(d), repr(d)
d.keys() - ["1"], d.items() & d.items(), d == d, d | {"r": 1}, [len(shard) for shard in d.shards()]
with d.batch():
    d["b"] = 1
s.add(1); s.discard(1); s.update(range(100)); list(s.filter_new(range(90, 110))); s.add_many([4]); s.discard_many([4])
s - {1}, s | {2}, s ^ {3}, s & {4}, s <= s, s.isdisjoint({1}), s.pop(), s.copy(), s == s
d.sync(); d.copy(); d.clear(); s.clear()
for each in (d, s):
    try:
        each.get(object()) if each is d else each.add(object())
    except rack.SerializationError:
        pass
"""


def test_once_a_store_is_open_plain_operations_load_nothing(tmp_path: Path, engine: str) -> None:
    """They are as fast the first time; and nothing is imported where a fork would not wait for it."""
    before = "import rack" + "".join(
        f"; {name} = rack.{kind}({str(tmp_path / name)!r}, serdes={serdes!r}, engine={engine!r}).open()"
        for name, kind, serdes in (("d", "PersistentDict", "ordered"), ("s", "PersistentSet", "marshal"))
    )
    check(loaded(before, _PLAIN), "")


# Imports that wait


def _late_imports(tree: ast.Module) -> list[ast.AST]:
    """Return the imports inside functions that do not stand in ``with importing():``."""
    late: list[ast.AST] = []

    def visit(node: ast.AST, in_function: bool) -> None:
        if isinstance(node, ast.With) and any(ast.unparse(item.context_expr) == "importing()" for item in node.items):
            return
        call = node.func if isinstance(node, ast.Call) else None
        is_call = isinstance(call, ast.Name) and call.id in ("import_module", "__import__")
        if in_function and (is_call or isinstance(node, ast.Import | ast.ImportFrom)):
            late.append(node)
        in_function = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, in_function)

    visit(tree, False)
    return late


def test_imports_inside_functions_are_waited_for_by_forks() -> None:
    found = [
        f"{path.relative_to(ROOT.parent)}:{getattr(node, 'lineno', 0)}: not in `with importing():`"
        for path in sorted(ROOT.rglob("*.py"))
        if ROOT / "cli" not in path.parents  # a process of its own
        for node in _late_imports(ast.parse(path.read_text()))
    ]
    assert not found, "\n".join(found)


def test_the_search_for_imports_inside_functions_finds_them() -> None:
    text = """
import a
with importing():
    import b
def f():
    with importing():
        import c
    import d
    def g(): from e import f
    return import_module("h")
"""
    assert [getattr(node, "lineno", 0) for node in _late_imports(ast.parse(text))] == [8, 9, 10]


_FORKED = """
import os, signal, sys, threading, time
import rack

_, path, engine, operation = sys.argv
store = rack.PersistentDict(path, engine=engine).open()
store["a"] = 1
begun = threading.Semaphore(0)

class Slow:
    @staticmethod
    def find_spec(name, path=None, target=None):
        begun.release()
        time.sleep(0.05)

def work():
    exec(operation, {"store": store, "rack": rack, "name": f"{path}-{os.getpid()}"})

sys.meta_path.insert(0, Slow)
thread = threading.Thread(target=work)
thread.start()
forks = 0
while thread.is_alive() or begun.acquire(blocking=False):
    if not begun.acquire(timeout=0.01):
        continue
    child = os.fork()
    if not child:
        sys.meta_path.remove(Slow)
        signal.alarm(20)
        work()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status == 0, f"fork {forks}: {status}"
    forks += 1
thread.join()
assert forks
os._exit(0)
"""


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    "operation",
    [
        "store.snapshot().close()",
        "store.check()",
        "store.backup(name)",
        "rack.verify(store.name)",
        "rack.PersistentDict.fromkeys('ab').close()",
    ],
)
def test_a_child_forked_while_another_thread_imports_can_do_the_same(
    tmp_path: Path, engine: str, operation: str
) -> None:
    command = [sys.executable, "-W", "ignore", "-c", _FORKED, str(tmp_path / "store"), engine, operation]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


# The public functions


def test_verify_and_repair_are_there_when_they_are_asked_for(tmp_path: Path) -> None:
    check(loaded("import rack", "assert {'verify', 'repair'} <= {*dir(rack)} and not hasattr(rack, 'nonsense')"), "")
    assert "rack.care.verify" in loaded("import rack", "from rack import verify")
    with rack.PersistentDict[str, int](tmp_path / "store") as store:
        store["a"] = 1
    assert rack.verify(tmp_path / "store").sound
    assert rack.repair(tmp_path / "store", tmp_path / "new").kept == 1
    for name in rack.__all__:
        assert getattr(rack, name) is not None
    assert [*inspect.signature(rack.verify).parameters][:1] == ["name"]


# The command


def test_help_of_the_command_loads_no_command() -> None:
    pytest.importorskip("click")
    pytest.importorskip("rich")
    before = "import contextlib, io, click, rack, rack.cli, rack.errors"
    work = "with contextlib.redirect_stdout(io.StringIO()): assert rack.cli.main(['--help']) == 0"
    found = loaded(before, work)
    ours = {name: importer for name, importer in found.items() if name.startswith(("rack", "rich"))}
    check(ours, "rack.cli.app rack.cli.failure rack.cli.ready rack.cli.signals")


def test_the_table_of_commands_is_right() -> None:
    click = pytest.importorskip("click")
    pytest.importorskip("rich")
    from rack.cli.app import COMMANDS, app

    there = {}
    for module in pkgutil.iter_modules([str(ROOT / "cli")], "rack.cli."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, click.Command) and not isinstance(value, click.Group):
                assert value.callback is not None
                there[value.name] = (value.callback.__module__, value.get_short_help_str(1000))
    assert there == COMMANDS
    with click.Context(app) as context:
        assert app.list_commands(context) == sorted(COMMANDS)
        for name in COMMANDS:
            command = app.get_command(context, name)
            assert command is not None
            assert command.name == name
        assert app.get_command(context, "nonsense") is None
