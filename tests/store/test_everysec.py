"""A store with durability "everysec": its keeper, what rebuilds it, and what changes its durability."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict, PersistentSet
from rack.errors import CorruptShardError, MismatchError
from rack.set_small import PersistentSet as SmallSet
from rack.shard.lmdb import journalfiles
from tests.support.damage import in_child
from tests.support.everysec import everysec, fail_power
from tests.support.processes import assert_sound, run


def test_a_set_of_small_elements_survives_a_power_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SmallSet[int](tmp_path / "s", durability="everysec", shards=2) as s:
        s.update(range(1000))
        s.discard(5)
        s.sync()
        after = fail_power(tmp_path / "s", monkeypatch)
        expected = set(s)
    with SmallSet[int](after) as s:
        assert set(s) == expected
    assert_sound(SmallSet(after))


def test_the_keeper_has_a_write_on_the_disk_within_about_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with everysec(tmp_path / "d", shards=2) as d:
        d["a"] = 1
        deadline = time.monotonic() + 20
        while True:
            after = fail_power(tmp_path / "d", monkeypatch)
            monkeypatch.undo()
            if any(
                b"rack-journal" in file.read_bytes()[:20] and file.read_bytes()[4096:].strip(b"\0")
                for file in after.parent.glob("*-journal-*")
            ):
                break
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_durability_is_the_stores_and_is_changed_when_nobody_else_has_it_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "d"

    def open_otherwise() -> None:
        with pytest.raises(MismatchError, match="everysec"):
            PersistentDict(path, durability="process").open()
        with PersistentDict(path) as d, PersistentDict(path, durability="everysec") as same:
            d["child"] = same.get("child", 0) + 1

    with everysec(path, shards=2) as d:
        d["a"] = 1
        run(open_otherwise, [()])
    with PersistentDict[Any, Any](path) as d:  # not asked for, and kept
        d["b"] = 2
        d.sync()
        after = fail_power(path, monkeypatch)
    with PersistentDict(after) as d:
        assert dict(d) == {"a": 1, "b": 2, "child": 1}
    with PersistentDict[Any, Any](after, durability="process") as d:
        d["c"] = 3
        assert not list(after.parent.glob("*-journal-*"))
    with PersistentDict[Any, Any](after) as d:
        assert not list(after.parent.glob("*-journal-*"))

        def ask_for_journals() -> None:
            with pytest.raises(MismatchError, match="everysec"):
                everysec(after).open()

        run(ask_for_journals, [()])
    with everysec(after) as d:
        d.sync()
        again = fail_power(after, monkeypatch)
    with PersistentDict(again) as d:
        assert dict(d) == {"a": 1, "b": 2, "child": 1, "c": 3}
    assert_sound(PersistentDict(again))


def test_who_may_only_read_does_not_read_a_store_that_has_to_be_rebuilt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with everysec(tmp_path / "d", shards=2) as d:
        d["a"] = 1
        d.sync()
        after = fail_power(tmp_path / "d", monkeypatch)
    monkeypatch.setattr("rack.store.admission.may_write", lambda path: False)
    with pytest.raises(CorruptShardError, match="writing"):
        PersistentDict(after, flag="r").open()
    monkeypatch.setattr("rack.store.admission.may_write", lambda path: True)
    with PersistentDict(after, flag="r") as d:  # who may write to it has rebuilt it
        assert dict(d) == {"a": 1}


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"boot": "", "durability": "sometimes"}'])
def test_a_store_that_has_lost_its_record_is_still_journalled(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with everysec(tmp_path / "d", shards=2) as d:
        d["a"] = 1
        d.sync()
        after = fail_power(tmp_path / "d", monkeypatch)
    record = after.with_name("d.rack-boot")
    record.unlink()
    if content is not None:
        record.write_bytes(content)
    with PersistentDict[str, int](after) as d:
        assert dict(d) == {"a": 1}
        assert d._held is not None
        assert d._held.durability == "everysec"
        d["b"] = 2
    assert_sound(PersistentDict(after))


@pytest.mark.parametrize("step", ["_copy", "rename", "create", "remove"])
def test_a_power_failure_while_a_shard_is_rebuilt_does_no_harm(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with everysec(tmp_path / "d", shards=2) as d:
        d.update({number: number for number in range(500)})
        d.sync()
        after = fail_power(tmp_path / "d", monkeypatch)
    calls = 0
    owner: Any = {"rename": os}.get(step, journalfiles)
    real: Callable[..., Any] = getattr(owner, step)

    class PowerFailure(BaseException):
        pass

    for nth in range(8):

        def failing(*args: Any, nth: int = nth, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > nth:
                raise PowerFailure
            return real(*args, **options)

        calls = 0
        monkeypatch.setattr(owner, step, failing)
        try:
            with PersistentDict(after) as d:
                d.check()
            break
        except PowerFailure:
            pass
        finally:
            monkeypatch.setattr(owner, step, real)
    with PersistentDict(after) as d:
        assert dict(d) == {number: number for number in range(500)}
    assert_sound(PersistentDict(after))


def test_containers_that_operations_make_are_journalled_once_they_have_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        PersistentSet[int](tmp_path / "a", durability="everysec", shards=2) as a,
        a.union([1, 2], name=tmp_path / "b") as b,
    ):
        b.add(3)
        b.sync()
        after = fail_power(tmp_path / "b", monkeypatch)
    with PersistentSet[int](after) as b:
        assert set(b) == {1, 2, 3}


@pytest.mark.parametrize(
    ("first", "second"), [("everysec", "process"), ("process", "everysec"), ("everysec", "always")]
)
def test_who_is_killed_while_the_durability_changes_does_no_harm(first: str, second: str, tmp_path: Path) -> None:
    """At every step; the next one gives no durability."""
    content = {number: number for number in range(100)}
    ended = step = 0
    while not ended:
        path = tmp_path / str(step)
        with PersistentDict[int, int](path, durability=first, shards=2) as d:
            d.update(content)

        def change(path: Path = path, step: int = step) -> None:
            steps = itertools.count()

            def killed(real: Callable[..., Any]) -> Callable[..., Any]:
                def call(*args: Any, **options: Any) -> Any:
                    if next(steps) == step:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return real(*args, **options)

                return call

            for owner, name in ((os, "unlink"), (os, "rename"), (os, "pwrite"), (journalfiles, "_copy")):
                setattr(owner, name, killed(getattr(owner, name)))
            PersistentDict[int, int](path, durability=second).open()
            os._exit(0)

        ended = in_child(change) == 0
        for durability in (None, second, first):
            with PersistentDict[int, int](path, durability=durability) as d:
                assert dict(d) == content, f"step {step}"
                d[step] = content[step] = -step
        assert_sound(PersistentDict(path))
        content = {number: number for number in range(100)}
        step += 1
    assert step > 5
