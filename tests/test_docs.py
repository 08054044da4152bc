"""The documentation leaves out nothing that is public, and names no file that is not there."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rack

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
TEXTS = [ROOT / "README.rst", ROOT / "DESIGN.rst", *sorted(DOCS.rglob("*.rst"))]

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="docs/ is beside the tests in the repository only")


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: str(text.relative_to(ROOT)))
def test_every_file_that_a_text_names_is_there(text: Path) -> None:
    content = text.read_text()
    named = set(re.findall(r"``((?:rack|tests|docs|bench|\.ci)/[\w/.]*)``", content))
    missing = {name for name in named if not (ROOT / name).exists()} - {"docs/_build/html"}
    tests = set(re.findall(r"``((?!tests/)(?:\w+/)*test_[\w*]+\.py)``", content))  # as they are called in tests/
    missing |= {name for name in tests if not any((ROOT / "tests").glob(name))}
    assert not missing


def test_the_reference_has_all_that_is_public() -> None:
    reference = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.rst"))
    assert not {name for name in rack.__all__ if not re.search(rf"\brack\.{name}\b", reference)}


def test_every_parameter_has_a_section() -> None:
    sections = re.findall(r"^(\w+)\n-+$", (DOCS / "parameters.rst").read_text(), re.MULTILINE)
    parameters = inspect.signature(rack.PersistentDict).parameters
    assert not set(parameters) - set(sections)


def test_it_says_what_to_do_about_every_error() -> None:
    howto = (DOCS / "howto.rst").read_text()
    errors = {name for name in rack.__all__ if name.endswith("Error") and name != "RackError"}
    assert not {name for name in errors if f":exc:`rack.{name}`" not in howto}


def test_what_the_readme_has_recorded_is_what_is_printed() -> None:
    pytest.importorskip("rich")
    done = subprocess.run([sys.executable, DOCS / "record.py", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
