"""The examples in the docstrings of Rack and in README.rst do what they show."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import rack

README = Path(__file__).parent.parent / "README.rst"
MODULES = ["rack", *(found.name for found in pkgutil.walk_packages(rack.__path__, "rack."))]
OPTIONS = doctest.ELLIPSIS


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_the_examples_of_a_module_do_what_they_show(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={"tmp": tmp_path}, optionflags=OPTIONS)
    assert result.failed == 0
    if name in ("rack", "rack.dict", "rack.set"):
        assert result.attempted, f"the docstrings of {name} have no examples"


@pytest.mark.skipif(not README.exists(), reason="README.rst is beside the tests in the repository only")
def test_the_examples_of_the_readme_do_what_they_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testfile(str(README), module_relative=False, globs={"tmp": tmp_path}, optionflags=OPTIONS)
    assert result.attempted
    assert result.failed == 0
