"""The examples in the docstrings of Rack, in README.rst and in docs/ do what they show."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rack

ROOT = Path(__file__).parent.parent
PAGES = [page for page in (ROOT / "README.rst", *sorted((ROOT / "docs").rglob("*.rst"))) if page.exists()]
MODULES = ["rack", *(found.name for found in pkgutil.walk_packages(rack.__path__, "rack."))]
OPTIONS = doctest.ELLIPSIS
_PUBLIC = ("addon", "dupefilter", "httpcache", "items", "origins", "scheduler")
SCRAPYS = ["rack.adapters.scrapy", *(f"rack.adapters.scrapy.{name}" for name in _PUBLIC)]
SHELL_PRELUDE = f'rack() {{ "{sys.executable}" -m rack "$@"; }}; export -f rack; '


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_the_examples_of_a_module_do_what_they_show(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={"tmp": tmp_path}, optionflags=OPTIONS)
    assert result.failed == 0
    if name in ("rack", "rack.dict", "rack.set", "rack.queue", *SCRAPYS):
        assert result.attempted, f"the docstrings of {name} have no examples"


@pytest.mark.skipif(not PAGES, reason="README.rst and docs/ are beside the tests in the repository only")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_examples_of_a_page_do_what_they_show(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "\n".join(_with_commands_as_python(page.read_text().splitlines()))
    if "flock " in text and not shutil.which("flock"):
        pytest.skip("this system has no flock command")
    test = doctest.DocTestParser().get_doctest(text, {"shell": _shell}, page.name, str(page), 0)
    result = doctest.DocTestRunner(optionflags=OPTIONS).run(test)
    assert result.failed == 0
    if page.stem in ("README", "guide", "howto", "parameters", "cli"):
        assert result.attempted, f"{page.name} has no examples"


def _with_commands_as_python(lines: list[str]) -> Iterator[str]:
    """Turn the commands (``$ ...``) of each ``code-block:: console`` into Python examples that run them.

    So all examples of a page are one test, in their order; and what follows a command is its output.
    """
    in_console = False
    for line in lines:
        if line.strip() == ".. code-block:: console":
            in_console = True
        elif line and not line.startswith(" "):
            in_console = False
        if in_console and (found := re.fullmatch(r"( +)\$ (.*)", line)):
            yield f"{found[1]}>>> shell({found[2]!r})  # doctest: +NORMALIZE_WHITESPACE"
        else:
            yield line


def _shell(command: str) -> None:
    """Run a command in bash, in the current directory, which it calls /data, and print what it writes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    done = subprocess.run(
        ["bash", "-c", SHELL_PRELUDE + command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    print(done.stdout.replace(os.getcwd(), "/data"), end="")
