"""The rules of the house, held by reading every import of every module, also inside functions and for types alone."""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import rack
from rack import PersistentDict
from rack.shard import ENGINES, SERVED

ROOT = Path(rack.__file__).parent

#: From the top floor down; the rooms of one floor do not know each other. A room is a folder; "" is `rack/` itself.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("cli",),
    ("adapters", "adapters.scrapy"),
    ("",),
    ("views",),
    ("algebra",),
    ("container",),
    ("care",),
    ("jobs",),
    ("store",),
    tuple(f"shard.{engine}" for engine in (*ENGINES, *SERVED)),
    ("shard",),
    ("codec",),
    ("system",),
    ("errors",),
)
ENTRANCE = "rack.__main__"  # above all floors
FACES = 15  # modules directly in `rack/`, at most
LINES = 300  # of a module, at most, without docstrings, comments and blank lines
ENGINES_ARE_NAMED_IN = {"rack.shard", *(f"rack.{face}" for face in ("set_small",))}
FILES = {"fcntl", "glob", "mmap", "os", "shutil", "tempfile"}  # modules that codec does not need


class Module(NamedTuple):
    name: str
    path: Path
    tree: ast.Module

    @property
    def room(self) -> str:
        if self.name == "rack.errors":
            return "errors"
        package = self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]
        return package.removeprefix("rack").removeprefix(".")

    def at(self, node: ast.AST) -> str:
        return f"{self.path.relative_to(ROOT.parent)}:{getattr(node, 'lineno', 1)}"


class Import(NamedTuple):
    node: ast.AST
    target: str  # a module


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Module]:
    paths = sorted(ROOT.rglob("*.py"))
    return {name_of(path): Module(name_of(path), path, ast.parse(path.read_text())) for path in paths}


def imports(module: Module, known: Any = None) -> Iterator[Import]:
    """Yield every import, wherever in the module it stands."""
    known = modules() if known is None else known
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (Import(node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module.at(node)}: a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield Import(node, inner if inner in known else str(node.module))


def inner_imports(module: Module) -> Iterator[Import]:
    return (each for each in imports(module) if each.target.split(".")[0] == "rack")


def docstrings(module: Module) -> list[ast.Constant]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = [node.body for node in ast.walk(module.tree) if isinstance(node, kinds)]
    firsts = [body[0].value for body in bodies if body and isinstance(body[0], ast.Expr)]
    return [value for value in firsts if isinstance(value, ast.Constant)]


def texts(module: Module) -> Iterator[ast.Constant]:
    """Yield the strings that are no docstrings."""
    docs = set(map(id, docstrings(module)))
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node


def floor_of(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def climbing(module: Module, target: Module) -> bool:
    """Whether an import goes up, or aside into another room."""
    if module.name == ENTRANCE:
        return False
    own, other = floor_of(module.room), floor_of(target.room)
    return target.name == ENTRANCE or own > other or (own == other and module.room != target.room)


def test_every_folder_is_a_room_on_a_floor() -> None:
    rooms = {module.room for module in modules().values()}
    assert rooms == {room for floor in FLOORS for room in floor}


def test_no_import_climbs() -> None:
    climbs = [
        f"{module.at(found.node)}: {module.name} imports {found.target}, which is above it"
        for module in modules().values()
        for found in inner_imports(module)
        if climbing(module, modules()[found.target])
    ]
    assert not climbs, "\n".join(climbs)


def test_no_imports_in_a_circle() -> None:
    arrows = {name: {found.target for found in inner_imports(module)} for name, module in modules().items()}
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> None:
        assert name not in trail, "a circle: " + " -> ".join([*trail[trail.index(name) :], name])
        if name not in done:
            for target in sorted(arrows[name]):
                visit(target, [*trail, name])
            done.add(name)

    for name in arrows:
        visit(name, [])


def test_no_engine_is_named_outside_of_its_package() -> None:
    named = []
    for module in modules().values():
        for engine in (*ENGINES, *SERVED):
            if module.room == f"shard.{engine}" or module.name in ENGINES_ARE_NAMED_IN:
                continue
            if module.room == "" and module.name.endswith(f"_{engine}"):  # a face with that engine built in
                continue
            named += [
                f"{module.at(found.node)}: imports {found.target}"
                for found in imports(module)
                if found.target.split(".")[0] == engine or found.target.startswith(f"rack.shard.{engine}")
            ]
            named += [
                f"{module.at(text)}: says {text.value!r}"
                for text in texts(module)
                if text.value in (engine, f"rack.shard.{engine}", f".{engine}")
            ]
    assert not named, "\n".join(named)


def test_codec_knows_no_files() -> None:
    used = []
    for module in modules().values():
        if module.room == "codec":
            used += [
                f"{module.at(found.node)}: imports {found.target}"
                for found in imports(module)
                if found.target.split(".")[0] in FILES
                or (found.target.startswith("rack.system") and found.target != "rack.system.imports")
            ]
            used += [
                f"{module.at(node)}: opens a file"
                for node in ast.walk(module.tree)
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open"
            ]
    assert not used, "\n".join(used)


def test_system_knows_no_stores() -> None:
    said = [
        f"{module.at(text)}: says {text.value!r}"
        for module in modules().values()
        if module.room == "system"
        for text in texts(module)
        if ".rack" in text.value
    ]
    assert not said, "\n".join(said)


def lines_of(module: Module) -> int:
    """Return how many lines have code: no docstring, comment or blank line."""
    left_out = {line for doc in docstrings(module) for line in range(doc.lineno, (doc.end_lineno or 0) + 1)}
    quiet = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(module.path.read_text()).readline):
        if token.type not in quiet:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - left_out)


def test_a_module_is_one_noun() -> None:
    sizes = {str(module.path.relative_to(ROOT)): lines_of(module) for module in modules().values()}
    assert not {path: size for path, size in sizes.items() if size > LINES}


def test_few_modules_stand_in_the_entrance() -> None:
    there = sorted(ROOT.glob("*.py"))
    assert len(there) <= FACES, there


def test_a_set_passes_four_rooms(tmp_path: Path) -> None:
    called: list[str] = []

    def note(frame: Any, event: str, arg: object) -> None:
        if event == "call":
            called.append(frame.f_globals["__name__"])

    with PersistentDict(tmp_path / "d", shards=4) as d:
        d["key"] = 1
        sys.setprofile(note)
        try:
            d["key"] = 2
        finally:
            sys.setprofile(None)
    rooms = [name.rpartition(".")[0] for name in dict.fromkeys(called)]
    assert rooms[:3] == ["rack", "rack.codec", "rack.store"]
    assert set(rooms[3:]) == {f"rack.shard.{next(iter(ENGINES))}"}
    assert len(called) <= 5  # with a record in the journal


# The rules themselves: each is broken on purpose.


def module_of(source: str, name: str) -> Module:
    return Module(name, ROOT.joinpath(*name.split(".")[1:]).with_suffix(".py"), ast.parse(source))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("rack.algebra.sets", "from rack.set import PersistentSet"),
        ("rack.algebra.sets", "def f():\n    from rack.set import PersistentSet"),
        ("rack.store.files", "if TYPE_CHECKING:\n    import rack.container.base"),
        ("rack.system.disk", "from rack.codec import keys"),
        ("rack.shard.lmdb.shard", "from rack.shard.sqlite3.shard import SqliteShard"),
        ("rack.shard.base", "from rack.shard.lmdb import operations"),
        ("rack.errors", "import rack.codec.serdes"),
    ],
)
def test_an_import_that_climbs_is_seen(name: str, source: str) -> None:
    module = module_of(source, name)
    assert [found for found in inner_imports(module) if climbing(module, modules()[found.target])]
