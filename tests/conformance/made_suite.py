"""What both containers promise about copies and anonymous stores, and many keys at once."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from tests.conformance.container_suite import ContainerSuite, both, counted, opened, put
from tests.conformance.model import KEYS, Place


class MadeSuite(ContainerSuite):
    # Containers that operations make

    @both
    def test_a_copy_without_a_name_goes_when_closed(self, place: Place, kind: str) -> None:
        container = opened(place, kind)
        copy = container.copy()
        assert copy == container
        assert len(place.anonymous()) > place.shards
        put(copy, "only here")
        assert "only here" not in container
        copy.close()
        assert place.anonymous() == []
        with container.copy() as copy:
            assert len(copy) == len(KEYS)
        assert place.anonymous() == []

    @both
    def test_a_copy_without_a_name_goes_when_collected(self, place: Place, kind: str) -> None:
        container = opened(place, kind)
        copy = container.copy()
        assert copy.check() == len(KEYS)
        del copy
        gc.collect()
        assert place.anonymous() == []

    @both
    def test_a_copy_without_a_name_goes_at_exit(self, place: Place, kind: str) -> None:
        opened(place, kind, ["a", "b"]).close()
        program = (
            "import sys, rack\n"
            f"original = rack.Persistent{kind.title()}(sys.argv[1]).open()\n"
            "copy = original.copy()\n"
            "assert copy == original and len(copy) == 2\n"
            "print(copy.name)\n"
        )
        command = [sys.executable, "-c", program, str(place.directory / "store")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "anonymous" in done.stdout
        assert done.stderr == ""
        assert place.anonymous() == []

    @both
    def test_a_copy_with_a_name_stays_and_is_the_same(self, place: Place, kind: str) -> None:
        container = opened(place, kind)
        for number, options in enumerate([{}, {"shards": 3}]):
            with container.copy(place.directory / f"copy{number}", **options) as copy:
                assert len(copy.shards()) == options.get("shards", place.shards)
                assert copy == container
                put(copy, "more")
                assert copy.check() == len(KEYS) + 1
            with type(container)(place.directory / f"copy{number}") as again:
                assert again.check() == len(KEYS) + 1
                assert set(again) - set(container) == {"more"}
        assert "more" not in container

    @both
    def test_a_copy_never_replaces_a_store(self, place: Place, kind: str) -> None:
        container = opened(place, kind, ["a"])
        opened(place, kind, ["precious"], "other").close()
        for name in ("other", "store"):
            with pytest.raises(FileExistsError):
                container.copy(place.directory / name)
        other = getattr(place, kind)("other").open()
        assert list(other) == ["precious"]
        assert list(container) == ["a"]

    # Many at once

    @both
    def test_contains_many_answers_in_order_and_lazily(self, place: Place, kind: str) -> None:
        container = opened(place, kind)
        wanted = [*KEYS, "absent", ("also", "absent"), "a", "a", 1.0, True]
        assert list(container.contains_many(wanted)) == [True] * len(KEYS) + [False, False] + [True] * 4
        taken: list[int] = []
        answers = container.contains_many(counted(taken))
        assert taken == []
        assert next(answers) is True
        assert len(taken) < 5_000, "the stream was not read in bounded chunks"
        with pytest.raises(TypeError, match="unhashable"):
            list(container.contains_many([[]]))

    @both
    def test_deleting_many_counts_what_this_call_removed(self, place: Place, kind: str) -> None:
        container = opened(place, kind)
        delete = container.discard_many if kind == "set" else container.delete_many
        assert delete([]) == 0
        assert delete(["a", "a", 1, 1.0, "absent", b"\xff" * 600]) == 3
        assert delete(["a", 1]) == 0
        with pytest.raises(TypeError, match="unhashable"):
            delete([[]])
        assert delete(iter(KEYS)) == len(KEYS) - 3
        assert len(place.stored(container)) == 0
