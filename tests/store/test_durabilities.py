"""One store used with several durabilities: at once, or one after a user that was killed; what the record then says."""

from __future__ import annotations

import os
import signal
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict
from rack.errors import CorruptShardError, MismatchError
from rack.store.record import DURABILITIES, Record
from rack.system import boot
from tests.store.test_boot import after_reboot
from tests.support.damage import in_child
from tests.support.everysec import fail_power
from tests.support.processes import Crew, assert_sound, hear, tell
from tests.support.processes import engine as engine

Dict = PersistentDict[Any, Any]
PAIRS = list(permutations(DURABILITIES, 2))


def _served(path: Path, engine: str, monkeypatch: pytest.MonkeyPatch) -> dict[Any, Any] | None:
    """Return what a store in use serves after a power failure now; None: it is refused."""
    record = Record.read(str(path))
    with monkeypatch.context() as patch:
        fails = fail_power if engine == "lmdb" and record.durability == "everysec" else after_reboot
        after = fails(path, patch)
        try:
            with Dict(after) as d:
                return dict(d)
        except CorruptShardError:
            return None


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_the_durability_changes_after_a_user_was_killed(
    first: str, second: str, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "d"
    content = dict.fromkeys(range(100), "first")

    def use() -> None:
        d = Dict(path, durability=first, shards=2).open()
        d.update(content)
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(use) == signal.SIGKILL
    assert Record.read(str(path))[:2] == (boot.boot_id(), first)
    # A change to or from "everysec" has on the disk what the killed one wrote.
    least = second if "everysec" in (first, second) else "process"
    with Dict(path, durability=second) as d:
        is_refused = engine == "lmdb" and (first, second) == ("process", "always")
        assert _served(path, engine, monkeypatch) == (None if is_refused else content)
        d["second"] = 1
        assert Record.read(str(path))[:2] == (boot.boot_id(), least)
        found = _served(path, engine, monkeypatch)
        if engine == "lmdb" and least == "process":
            assert found is None
        else:
            assert found in (content, content | {"second": 1})
    assert _served(path, engine, monkeypatch) == content | {"second": 1}
    assert_sound(Dict(path))


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_of_two_that_have_a_store_open_the_record_says_the_least_durability(
    first: str, second: str, engine: str, tmp_path: Path
) -> None:
    path = tmp_path / "d"

    def use() -> None:
        d = Dict(path, durability=second)
        if "everysec" in (first, second):
            with pytest.raises(MismatchError, match=first):
                d.open()
            return
        with d:
            tell()  # it has not written yet
            hear()
            d["second"] = 1
            tell()
            hear()

    with Crew() as crew:
        other = crew.prepare(use)
        with Dict(path, durability=first, shards=1) as d:
            d["first"] = 1
            assert Record.read(str(path))[:2] == (boot.boot_id(), first)
            other.ready()
            other.go()
            if "everysec" in (first, second):
                other.result()
                assert Record.read(str(path))[:2] == (boot.boot_id(), first)
                return
            other.hear()
            assert Record.read(str(path)).durability == first
            other.tell()
            other.hear()
            assert Record.read(str(path))[:2] == (boot.boot_id(), "process")
            d["more"] = 1  # with the greater one, after that
        assert Record.read(str(path))[:2] == (boot.boot_id(), "process")
        other.tell()
        other.result()
    assert Record.read(str(path)).boot == ""
    assert_sound(Dict(path))
