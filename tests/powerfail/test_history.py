"""What the checker of power failures lets pass: a store as it was at one moment, with what was acknowledged in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.powerfail.history import NEVER, LostError, Past
from tests.powerfail.recorder import Moment
from tests.powerfail.sessions import closed_by
from tests.powerfail.writers import counter, value


class _Story:
    """Writers' logs, made up."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._time = 0.0
        self._numbers: dict[int, int] = {}

    def _write(self, writer: int, *words: Any) -> None:
        self._time += 1
        with open(self._directory / str(writer), "a") as file:
            file.write(json.dumps(words) + "\n")

    def begin(self, writer: int, kind: str, effects: dict[str, Any], *more: Any) -> None:
        self._numbers[writer] = self._numbers.get(writer, 0) + 1
        self._write(writer, "begin", self._numbers[writer], self._time, kind, effects, *more)

    def end(self, writer: int, answer: Any = None) -> float:
        """Return the time by which it was acknowledged."""
        self._write(writer, "end", self._numbers[writer], self._time, answer)
        return self._time

    def open(self, writer: int) -> None:
        self._write(writer, "opened", self._time, "id", "c", "everysec")

    def kill(self, writer: int) -> None:
        self._write(writer, "gone", self._time)

    def set(self, writer: int, **effects: int) -> float:
        """Set keys to values that are told by numbers."""
        self.begin(writer, "set", {key: [writer, number, 0, 20] for key, number in effects.items()})
        return self.end(writer)

    def incr(self, writer: int, count: int) -> None:
        self.begin(writer, "incr", {}, counter(0, 0))
        self.end(writer, count)

    def past(self, shards: int = 1) -> Past:
        logs = {file.name: file.stat().st_size for file in self._directory.iterdir()}
        return Past(self._directory, Moment(self._time, 0, 0, {}, {}, logs), shards)


@pytest.fixture
def story(tmp_path: Path) -> _Story:
    return _Story(tmp_path)


def _content(writer: int = 0, **numbers: int) -> dict[str, Any]:
    return {key: value(writer, number, 0, 20) for key, number in numbers.items()}


def test_all_that_was_acknowledged_is_right_and_a_part_of_it_before_the_bound_only(story: _Story) -> None:
    early = story.set(0, a=1)
    story.set(0, b=2)
    assert story.past().check_prefix(_content(a=1, b=2), NEVER) == 0
    assert story.past().check_prefix(_content(a=1), early) == 1
    with pytest.raises(LostError, match="after operation 1 of 2"):
        story.past().check_prefix(_content(a=1), NEVER)
    with pytest.raises(LostError, match="nothing it ever was"):
        story.past().check_prefix(_content(b=2), early)


def test_what_a_writer_was_noting_when_it_was_killed_was_not_begun_or_not_acknowledged(
    story: _Story, tmp_path: Path
) -> None:
    story.set(0, a=1)
    begun = (tmp_path / "0").stat().st_size
    story.set(0, a=2)
    log = (tmp_path / "0").read_bytes()
    acknowledged = log.index(b"\n", begun)
    for length in range(begun, len(log)):
        (tmp_path / "0").write_bytes(log[:length])
        story.past().check_prefix(_content(a=1), NEVER)
        if length > acknowledged:
            story.past().check_prefix(_content(a=2), NEVER)
        else:
            with pytest.raises(LostError):
                story.past().check_prefix(_content(a=2), NEVER)


def test_what_was_begun_may_be_there_or_not_but_as_a_whole(story: _Story) -> None:
    story.set(0, a=1, b=1)
    story.begin(0, "update", {"a": [0, 2, 0, 20], "b": [0, 2, 0, 20]})
    for good in ({"a": 1, "b": 1}, {"a": 2, "b": 2}):
        story.past().check_prefix(_content(**good), NEVER)
    with pytest.raises(LostError):
        story.past().check_prefix(_content(a=2, b=1), NEVER)


def test_each_shard_is_at_a_moment_of_its_own(story: _Story) -> None:
    numbers = {f"key{n}": 1 for n in range(20)}
    story.set(0, **numbers)
    past = story.past(shards=2)
    for part in past._split(_content(**numbers)):
        there = dict.fromkeys(part[0], 1)
        assert 0 < len(there) < 20
        assert past.check_prefix(_content(**there), 0) == 1
        del there[min(there)]
        with pytest.raises(LostError):
            past.check_prefix(_content(**there), 0)


def test_what_began_after_something_else_had_ended_is_not_there_without_it(story: _Story) -> None:
    story.set(0, a=1)
    story.set(1, b=1)
    with pytest.raises(LostError, match="lacks what writer 0"):
        story.past().check_prefix(_content(1, b=1), 0)
    assert story.past().check_prefix(_content(a=1), 0) == 1


def test_counters_order_what_writers_did_at_once(story: _Story) -> None:
    story.begin(0, "incr", {}, counter(0, 0))
    story.begin(1, "incr", {}, counter(0, 0))
    story.end(0, 2)
    story.end(1, 1)
    story.begin(0, "set", {"a": [0, 1, 0, 20]})
    story.end(0)
    past = story.past()
    past.check_prefix({counter(0, 0): 1}, 0)
    past.check_prefix({counter(0, 0): 2, **_content(a=1)}, 0)
    with pytest.raises(LostError):
        past.check_prefix({counter(0, 0): 1, **_content(a=1)}, 0)
    with pytest.raises(LostError, match="incremented 2 times"):
        past.check_prefix({counter(0, 0): 3}, 0)


def test_a_clear_is_of_all_writers(story: _Story) -> None:
    story.set(0, a=1)
    story.set(1, b=1)
    story.begin(0, "clear", {})
    cleared = story.end(0)
    story.set(1, c=2)
    past = story.past()
    past.check_prefix({}, cleared)
    past.check_prefix(_content(1, c=2), NEVER)
    for bad in (_content(0, a=1), _content(1, b=1, c=2)):
        with pytest.raises(LostError):
            past.check_prefix(bad, cleared)


def test_what_was_answered_with_false_has_no_effect(story: _Story) -> None:
    story.set(0, a=1)
    story.begin(0, "add", {"a": [0, 2, 0, 20]})
    story.end(0, False)
    story.past().check_prefix(_content(a=1), NEVER)
    with pytest.raises(LostError):
        story.past().check_prefix(_content(a=2), 0)


def test_a_key_nobody_wrote_and_a_value_torn_are_found(story: _Story) -> None:
    story.set(0, a=1)
    torn = {"a": value(0, 1, 0, 20)[:10] + value(0, 2, 0, 20)[10:]}
    for check in (story.past().check_prefix, story.past().check_values):
        with pytest.raises(LostError, match="nobody wrote"):
            check({"z": b""}, 0)
        with pytest.raises(LostError):
            check(torn, 0)


def test_each_value_is_one_since_the_last_sync(story: _Story) -> None:
    story.set(0, a=1, b=1)
    synced = story.set(0, a=2)
    story.set(0, a=3)
    story.set(0, b=4)
    past = story.past()
    for good in ({"a": 2, "b": 1}, {"a": 3, "b": 1}, {"a": 2, "b": 4}):
        past.check_values(_content(**good), synced)
    for bad in ({"a": 1, "b": 1}, {"a": 3}):
        with pytest.raises(LostError, match="last sync"):
            past.check_values(_content(**bad), synced)


def test_a_sync_counts_when_it_was_acknowledged(story: _Story) -> None:
    acknowledged = story.set(0, a=1)
    story.begin(1, "sync", {})
    assert story.past().synced == -NEVER
    story.end(1)
    assert acknowledged <= story.past().synced < NEVER


def test_a_store_is_closed_when_that_was_acknowledged_and_not_when_its_process_was_killed_in_it(story: _Story) -> None:
    for writer in range(2):
        story.open(writer)
    by = story.set(0, a=1)
    story.begin(0, "close", {})
    story.kill(0)
    assert closed_by(story.past().sessions, "lmdb") == -NEVER
    story.begin(1, "close", {})
    story.end(1)
    assert closed_by(story.past().sessions, "lmdb") > by
