"""Every snapshot and backup is the store at one instant: an invariant that spans shards holds in each.

A writer moves amounts between accounts, one at a time: it takes an amount off one account and, in the same atomic
operation, notes it there as on its way; then it puts it on another one, and notes there that it has arrived. So at each
instant the accounts, and what is on its way, add up; and an arrival is never seen without its departure.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rack import PersistentDict
from rack.store import instant
from tests.support.processes import Crew, Worker, assert_sound, tell, told
from tests.support.processes import engine as engine

ACCOUNTS = 24
START = 1000
WRITERS = 4

Account = tuple[
    int, dict[int, tuple[int, int]], dict[int, int]
]  # balance; departed (number, amount), arrived by writer
Bank = PersistentDict[str, Account]


def _transfers(path: Path, writer: int, seed: int, pace: float) -> int:
    rng = random.Random(seed + writer)
    number = 0
    with Bank(path) as bank:
        tell()
        until = time.monotonic() + 120
        while time.monotonic() < until and not told():
            number += 1
            amount = rng.randrange(1, 10)
            source, target = rng.sample(range(ACCOUNTS), 2)

            def depart(account: Account, number: int = number, amount: int = amount) -> Account:
                balance, departed, arrived = account
                return balance - amount, {**departed, writer: (number, amount)}, arrived

            def arrive(account: Account, number: int = number, amount: int = amount) -> Account:
                balance, departed, arrived = account
                return balance + amount, departed, {**arrived, writer: number}

            bank.transform(f"account {source}", depart)
            bank.transform(f"account {target}", arrive)
            if pace:
                time.sleep(pace)
    return number


def audit(accounts: dict[str, Account]) -> list[str]:
    """Return what is wrong with a state of the bank."""
    total = sum(balance for balance, _, _ in accounts.values())
    wrong = []
    for writer in range(WRITERS):
        departed = max((account[1].get(writer, (0, 0)) for account in accounts.values()), default=(0, 0))
        arrived = max((account[2].get(writer, 0) for account in accounts.values()), default=0)
        if departed[0] - arrived not in (0, 1):
            wrong.append(f"of writer {writer} transfer {arrived} has arrived, and {departed[0]} departed")
        elif departed[0] > arrived:
            total += departed[1]
    if total != ACCOUNTS * START:
        wrong.append(f"{total} instead of {ACCOUNTS * START}")
    return wrong


class _Busy:
    """A bank, and processes that transfer until the end of the ``with`` block."""

    def __init__(self, path: Path, shards: int, seed: int, pace: float = 0) -> None:
        self._path, self._seed, self._pace = path, seed, pace
        with Bank(path, shards=shards) as bank:
            bank.update({f"account {number}": (START, {}, {}) for number in range(ACCOUNTS)})

    def __enter__(self) -> None:
        self._crew = Crew()
        self._workers: list[Worker] = [
            self._crew.start(_transfers, self._path, writer, self._seed, self._pace) for writer in range(WRITERS)
        ]
        for worker in self._workers:
            worker.hear()

    def __exit__(self, kind: object, *rest: object) -> None:
        with self._crew:
            if kind is None:
                for worker in self._workers:
                    worker.tell()
                assert min(worker.result() for worker in self._workers) > 0
        if kind is None:
            with Bank(self._path) as bank:
                assert audit(dict(bank)) == []
            assert_sound(bank)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("shards", [1, 2, 7])
def test_transfers_between_shards_add_up_in_every_snapshot(tmp_path: Path, shards: int, seed: int, long: bool) -> None:
    path = tmp_path / "store"
    with _Busy(path, shards, seed), Bank(path) as bank, Bank(path, timeout=30) as patient:
        until = time.monotonic() + (60 if long else 1)
        taken = 0
        while taken < 30 or time.monotonic() < until:
            taken += 1
            with (patient if taken % 4 == 0 else bank).snapshot() as snapshot:
                accounts = dict(snapshot)
                assert audit(accounts) == []
                if taken % 10 == 0:
                    time.sleep(0.01)
                    assert dict(snapshot) == accounts
    print(f"{taken} snapshots")


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("shards", [1, 2, 7])
def test_transfers_between_shards_add_up_in_every_backup(tmp_path: Path, shards: int, seed: int, long: bool) -> None:
    path = tmp_path / "store"
    with _Busy(path, shards, seed), Bank(path) as bank:
        for number in range(200 if long else 8):
            bank.backup(tmp_path / f"backup {number}")
            with Bank(tmp_path / f"backup {number}") as backup:
                assert audit(dict(backup)) == []
                assert len(backup.shards()) == shards
            assert_sound(backup)


@pytest.mark.usefixtures("engine")
def test_who_may_only_read_takes_snapshots_in_moments_of_quiet(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "store"

    def read() -> None:
        with Bank(path, flag="r") as bank:
            until = time.monotonic() + 1
            while time.monotonic() < until:
                with bank.snapshot() as snapshot:
                    assert audit(dict(snapshot)) == []

    with _Busy(path, 7, seed, pace=0.01), Crew() as crew:
        crew.start(read).result()


def _one_after_another(shards: Any, timeout: object) -> Any:
    return [shard.snapshot() for shard in shards]


def _unchecked(shards: Any, timeout: object) -> Any:
    """Holds writers off one shard at a time."""
    taken = []
    for shard in shards:
        taken.append(shard.hold())
        shard.let_go()
    return taken


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("take", [_one_after_another, _unchecked])
def test_shards_that_are_taken_one_after_another_do_not_add_up(
    tmp_path: Path, seed: int, take: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the tests above are able to fail."""
    monkeypatch.setattr(instant, "take", take)
    path = tmp_path / "store"
    wrong: list[str] = []
    with _Busy(path, 7, seed), Bank(path) as bank:
        until = time.monotonic() + 30
        while not wrong and time.monotonic() < until:
            with bank.snapshot() as snapshot:
                wrong = audit(dict(snapshot))
    assert wrong
