"""What every record of a queue has to be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from xxhash import xxh3_64_digest

from rack.codec.failure import is_damage
from rack.codec.keys import KeyCodec
from rack.errors import told
from rack.jobs.records import NO_KEY, problem_of
from rack.shard.problem import Problem


def job_problems(
    key: bytes, value: bytes, codec: KeyCodec | None, load: Callable[[bytes], Any] | None
) -> Iterator[Problem]:
    """Yield what is wrong with a record; codec and serdes are those of the jobs' keys and items, if they are known."""
    job = problem_of(key, value)
    if isinstance(job, str):
        yield Problem("record", f"has the record {key[:60]!r}, which {job}")
        return
    if job is None:
        return
    hashed = job.group if job.is_grouped else job.key
    if (job.is_grouped or job.memory != NO_KEY) and xxh3_64_digest(hashed) != job.tail:
        yield Problem("record", f"has a job that is in another's place: {key[:60]!r}")
    for what, data, reader in (
        ("key", job.key, None if codec is None or job.memory == NO_KEY else codec.loads),
        ("value", job.item, load),
    ):
        if reader is None:
            continue
        try:
            reader(data)
        except Exception as error:
            if not is_damage(error):
                raise
            name = "a key" if what == "key" else "an item"
            yield Problem(what, f"has a job with {name} that cannot be read ({told(error)}): {data[:60]!r}")
