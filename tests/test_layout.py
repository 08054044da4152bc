"""The tests themselves are where one looks for them: see the docstring of ``tests``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import rack

ROOT = Path(__file__).parents[1]
# These have no counterpart in the package.
FOLDERS = {"processes", "faults", "interrupts", "conformance", "powerfail", "support"}
MODULES = sorted((ROOT / "tests").rglob("*.py"))


def test_folders_are_those_of_the_package() -> None:
    package = Path(rack.__file__).parent
    counterparts = {file.parent.relative_to(package) for file in package.rglob("__init__.py")}
    for module in MODULES:
        folder = module.parent.relative_to(ROOT / "tests")
        assert (module.parent / "__init__.py").exists(), f"{folder} is no package"
        assert folder in counterparts or str(folder) in FOLDERS, f"{folder}: the package has no such folder"
        assert folder.name == "" or not re.match(rf"test_{folder.name}_", module.name), f"{module} repeats its folder"
        assert not (module.name.startswith("test_") and folder.name == "support"), f"{module} is a test"


def test_files_are_one_noun_each() -> None:
    sizes = {str(module.relative_to(ROOT)): len(module.read_text().splitlines()) for module in MODULES}
    assert {name: size for name, size in sizes.items() if size > 400} == {}


DOCUMENTS = [ROOT / "README.rst", ROOT / "DESIGN.rst", *sorted((ROOT / "docs").rglob("*.rst")), *MODULES]


@pytest.mark.skipif(not (ROOT / "README.rst").exists(), reason="the documents are beside the tests in the repository")
def test_the_files_of_tests_that_documents_and_docstrings_name_are_there() -> None:
    named = 0
    for document in DOCUMENTS:
        for path in re.findall(r"(?<![\w/])(?:\w+/)+[\w*]+\.py(?!\w)", document.read_text()):
            if path.startswith(("rack/", "bench/", "recipes/")):  # the last are beside the document
                continue
            named += 1
            pattern = path.removeprefix("tests/")
            assert any((ROOT / "tests").glob(pattern)), f"{document.relative_to(ROOT)} names {path}"
    assert named > 10
