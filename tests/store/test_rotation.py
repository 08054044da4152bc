"""Processes that go over all shards begin at different ones."""

from __future__ import annotations

from rack.store.rotation import rotated
from tests.support.processes import Crew


def test_a_rotation_has_everything_once_in_order() -> None:
    for count in range(20):
        items = list(range(count))
        for _ in range(100):
            found = rotated(items)
            at = found.index(0) if found else 0
            assert found[at:] + found[:at] == items


def test_rotations_begin_everywhere_about_as_often() -> None:
    starts = [rotated(range(16))[0] for _ in range(16 * 400)]
    for start in range(16):
        assert 200 < starts.count(start) < 800


def _starts() -> list[int]:
    return [rotated(range(16))[0] for _ in range(40)]


def test_forked_processes_begin_at_different_items() -> None:
    with Crew() as crew:
        one, other = [child.result() for child in [crew.start(_starts), crew.start(_starts)]]
    same = sum(left == right for left, right in zip(one, other, strict=True))
    assert same < 20, (one, other)
