"""Files of a store that were copied: those of a closed one open, those of one that was in use are not served."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rack import CorruptShardError, PersistentDict
from rack.care.repair import repair
from rack.care.verify import verify
from tests.support.processes import Crew, assert_sound, hear, tell
from tests.support.processes import engine as engine

Dict = PersistentDict[Any, Any]
CONTENT = {number: f"value {number}" for number in range(3000)}


def cp(source: Path, target: Path) -> None:
    shutil.copytree(source, target, copy_function=shutil.copy)


def cp_a(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", source, target], check=True)


def tar(source: Path, target: Path) -> None:
    with tarfile.open(source.with_suffix(".tar"), "w") as archive:
        archive.add(source, arcname=target.name)
    with tarfile.open(source.with_suffix(".tar")) as archive:
        archive.extractall(target.parent, filter="data")


def over_another_copy(source: Path, target: Path) -> None:
    """As rsync without a temporary file, or cp onto an older copy, do it: the copy's inodes stay."""
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(b"older")
        (target / file.name).write_bytes(file.read_bytes())


def renamed_in_place(source: Path, target: Path) -> None:
    """As rsync does it: each file is written under another name first."""
    target.mkdir()
    for file in source.iterdir():
        shutil.copy2(file, target / "temporary")
        (target / "temporary").rename(target / file.name)


def to_another_file_system(source: Path, target: Path) -> None:
    elsewhere = Path("/dev/shm") / f"rack-{os.getpid()}-{source.parent.name}"
    if not elsewhere.parent.is_dir():
        pytest.skip("there is no other file system at hand")
    shutil.move(shutil.copytree(source, target), elsewhere)
    target.symlink_to(elsewhere)


COPIES = [cp, cp_a, tar, over_another_copy, renamed_in_place, to_another_file_system]


@pytest.fixture(params=COPIES, ids=lambda copy: copy.__name__)
def copied(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    yield request.param
    for link in tmp_path.iterdir():
        if link.is_symlink():
            shutil.rmtree(link.resolve())


def killed(write: Callable[[], object]) -> None:
    with Crew() as crew:
        worker = crew.start(write)
        worker.hear()
        worker.kill()


@pytest.mark.one_in(2)
@pytest.mark.parametrize("durability", ["process", "everysec", "always"])
def test_a_copy_of_a_closed_store_opens(
    durability: str, copied: Callable[[Path, Path], None], engine: str, tmp_path: Path
) -> None:
    (tmp_path / "live").mkdir()
    with Dict(tmp_path / "live" / "d", shards=3, durability=durability) as d:
        d.update(CONTENT)
    copied(tmp_path / "live", tmp_path / "copy")
    assert verify(tmp_path / "copy" / "d").sound
    with Dict(tmp_path / "copy" / "d", flag="r") as d:
        assert dict(d) == CONTENT
    for turn in range(3):
        with Dict(tmp_path / "copy" / "d") as d:
            assert dict(d) == CONTENT | dict.fromkeys(map(str, range(turn)), 1)
            d[str(turn)] = 1
    assert_sound(d)


@pytest.mark.parametrize("durability", ["process", "everysec", "always"])
def test_a_moved_and_a_renamed_store_open_closed_or_killed(durability: str, engine: str, tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()

    def write() -> None:
        d = Dict(tmp_path / "live" / "d", shards=3, durability=durability).open()
        d.update(CONTENT)
        tell()
        hear()

    killed(write)
    (tmp_path / "live").rename(tmp_path / "moved")
    for file in (tmp_path / "moved").iterdir():
        file.rename(file.with_name("e" + file.name[1:]))
    with Dict(tmp_path / "moved" / "e") as d:
        assert dict(d) == CONTENT
    assert_sound(d)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("durability", ["process", "everysec", "always"])
@pytest.mark.parametrize("flag", ["r", "w"])
def test_a_copy_of_a_store_in_use_is_refused_with_the_ways_out(
    flag: str, durability: str, copied: Callable[[Path, Path], None], engine: str, tmp_path: Path
) -> None:
    (tmp_path / "live").mkdir()
    with Dict(tmp_path / "live" / "d", shards=3, durability=durability) as d:
        d.update(CONTENT)
        copied(tmp_path / "live", tmp_path / "copy")
        d["more"] = 1
        path = tmp_path / "copy" / "d"
        for _ in range(2):
            with pytest.raises(CorruptShardError, match=r"copy that was made while.*rack backup.*rack repair"):
                Dict(path, flag=flag).open()
        report = verify(path)
        assert "copied" in {finding.kind for finding in report.findings}
        assert not verify(tmp_path / "live" / "d").found
        repaired = repair(path)
        assert "copy that was made while" in " ".join(repaired.problems)
    with Dict(f"{path}-repaired") as d:
        assert dict(d) == CONTENT  # it was copied at a moment of quiet
    assert_sound(d)
    assert_sound(Dict(tmp_path / "live" / "d"))


def test_a_store_after_a_crash_of_its_process_is_copied_once_it_was_opened_and_closed(
    engine: str, tmp_path: Path
) -> None:
    (tmp_path / "live").mkdir()

    def write() -> None:
        d = Dict(tmp_path / "live" / "d", shards=2).open()
        d.update(CONTENT)
        tell()
        hear()

    killed(write)
    cp(tmp_path / "live", tmp_path / "refused")
    with pytest.raises(CorruptShardError, match="was killed"):
        Dict(tmp_path / "refused" / "d").open()
    with Dict(tmp_path / "live" / "d"):
        pass
    cp(tmp_path / "live", tmp_path / "copy")
    with Dict(tmp_path / "copy" / "d") as d:
        assert dict(d) == CONTENT


@pytest.mark.one_in(2)
@pytest.mark.parametrize("order", ["as they are", "reversed", "record first", "record last"])
@pytest.mark.parametrize("durability", ["process", "everysec", "always"])
@pytest.mark.parametrize("held", [True, False])
def test_no_copy_in_pieces_is_served_that_is_not_the_store_at_one_moment(
    held: bool, durability: str, order: str, engine: str, tmp_path: Path, seed: int, long: bool
) -> None:
    """Others write between pieces of files, through a handle that stays open; or open and close it between files."""
    rng = random.Random(f"{seed} {order} {durability} {held}")
    live = tmp_path / "live"
    live.mkdir()
    path = live / "d"
    d = Dict(path, shards=2, durability=durability)
    states = [dict.fromkeys(range(400), 0)]

    def write() -> None:
        if rng.random() < 0.5:
            return
        if not held:
            d.open()
        for _ in range(rng.choice([1, 3, 30])):
            key = rng.randrange(400)
            d[key] = len(states)
            states.append(states[-1] | {key: len(states)})
        if not held:
            d.close()

    with d:
        d.update(states[0])
    if held:
        d.open()
        d[0] = 0  # from its first write on what is copied is known to be of a store in use
    served = 0
    for turn in range(60 if long else 8):
        copy = tmp_path / f"copy{turn}"
        copy.mkdir()
        names = sorted(file.name for file in live.iterdir())
        if order == "reversed":
            names.reverse()
        elif order.startswith("record"):
            names.sort(key=lambda name: (name == "d.rack-boot") == (order == "record last"))
        parts: dict[str, list[bytes]] = {name: [] for name in names}
        for piece in range(3 if held else 1):
            for name in names:
                if (live / name).exists():
                    with open(live / name, "rb") as file:
                        file.seek(sum(map(len, parts[name])))
                        size = os.fstat(file.fileno()).st_size
                        parts[name].append(file.read(-1 if piece == 2 or not held else rng.randrange(size // 2 + 1)))
                write()
        for name, data in parts.items():
            (copy / name).write_bytes(b"".join(data))
        try:
            with Dict(copy / "d") as opened:
                found = dict(opened)
                assert found in states
                served += 1
        except CorruptShardError:
            pass
        assert not held or not served
    if held:
        d.close()
    assert_sound(d)


def test_a_shard_of_another_moment_in_a_copy_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    with Dict(tmp_path / "live" / "d", shards=2) as d:
        d.update(CONTENT)
    cp(tmp_path / "live", tmp_path / "older")
    with d:
        d.update(dict.fromkeys(CONTENT, 1))
    cp(tmp_path / "live", tmp_path / "copy")
    shutil.copy(tmp_path / "older" / "d-0000.lmdb", tmp_path / "copy" / "d-0000.lmdb")
    with pytest.raises(CorruptShardError, match="different moments"):
        Dict(tmp_path / "copy" / "d").open()


def test_the_record_fits_into_its_block(tmp_path: Path) -> None:
    with Dict(tmp_path / "d", shards=1, durability="everysec"):
        block = (tmp_path / "d.rack-boot").read_bytes()[:128]
    content = json.loads(block)
    assert content["inode"] == (tmp_path / "d.rack-boot").stat().st_ino
    assert len(json.dumps(content | {"inode": 2**64 - 1, "boot": "b" * 36})) <= 128


def test_a_backup_of_a_store_in_use_opens(engine: str, tmp_path: Path) -> None:
    def write() -> None:
        with Dict(tmp_path / "d", shards=2) as d:
            d.update(CONTENT)
            tell()
            hear()

    with Crew() as crew:
        writer = crew.start(write)
        writer.hear()
        with Dict(tmp_path / "d") as d:
            d.backup(tmp_path / "b")
        with Dict(tmp_path / "b") as b:
            assert dict(b) == CONTENT
        writer.tell()
        writer.result()
