"""What is told of the recovery of a store after a power failure: how far it is, and what may be lost."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from rack.store import admission
from tests.support.everysec import everysec, fail_power


@pytest.fixture
def failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of three shards after a power failure."""
    monkeypatch.setattr(admission, "TOLD_EVERY", 0)
    with everysec(tmp_path / "store", shards=3) as store:
        store.update((number, number) for number in range(100))
        store.sync()
        return fail_power(tmp_path / "store", monkeypatch)


def test_it_is_logged(failed: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(admission, "tell", None)
    with caplog.at_level(logging.INFO, "rack"), everysec(failed) as store:
        assert len(store) == 100
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    told = f"{failed}.rack: {{}} of 3 shards are recovered, as the system had stopped"
    assert lines[:3] == [("INFO", told.format(number)) for number in (1, 2, 3)]
    assert lines[3][0] == "WARNING"
    assert lines[3][1].startswith(f"{failed}.rack was in use when the system stopped: ")
    assert len(lines) == 4


def test_a_command_says_so_itself(failed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("click")
    from rack.cli import main

    assert main(["count", str(failed)]) == 0
    output, errors = capfd.readouterr()
    assert output == "100\n"
    assert f"rack count: {failed}.rack: 2 of 3 shards are recovered, as the system had stopped\n" in errors
    assert errors.count("may be lost\n") == 1
    assert main(["count", str(failed)]) == 0
    assert capfd.readouterr() == ("100\n", "")
