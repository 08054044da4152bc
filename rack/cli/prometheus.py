"""What a store is like, as metrics in the text format of Prometheus, version 0.0.4."""

from __future__ import annotations

from collections.abc import Iterator

from rack.care.stat import Stat

#: A metric's name, type and help.
Metric = tuple[str, str, str]

#: Metrics of the store as a whole: of the fields of a Stat.
_STORE: dict[str, Metric] = {
    "entries": ("rack_entries", "gauge", "How many entries the store has."),
    "shards": ("rack_shards", "gauge", "How many shards the store has."),
    "bytes_allocated": ("rack_allocated_bytes", "gauge", "What all files of the store take on the disk."),
    "bytes_apparent": ("rack_apparent_bytes", "gauge", "The sum of the lengths of all files of the store."),
    "bytes_data": ("rack_data_bytes", "gauge", "The size of the shards' own files."),
    "bytes_free": ("rack_free_bytes", "gauge", "How much of the shards' own files is free."),
    "bytes_journal": ("rack_journal_bytes", "gauge", "The size of journals, or write-ahead logs."),
    "bytes_base": ("rack_base_bytes", "gauge", "The size of the journals' bases."),
    "bytes_unsynced": ("rack_unsynced_bytes", "gauge", "How much of the journals is not known to be on the disk."),
    "clean": ("rack_clean", "gauge", "1 if all is on the disk, and nobody has written since."),
    "last_sync": ("rack_last_sync_timestamp_seconds", "gauge", "When all was known to be on the disk last."),
}
#: Metrics of each shard: of the fields of a ShardStat.
_SHARD: dict[str, Metric] = {
    "entries": ("rack_shard_entries", "gauge", "How many entries the shard has."),
    "bytes": ("rack_shard_bytes", "gauge", "The size of the shard's own file."),
    "bytes_free": ("rack_shard_free_bytes", "gauge", "How much of the shard's own file is free."),
    "commits": ("rack_shard_commits_total", "counter", "How many commits there were to the shard."),
}


def exposition(stat: Stat) -> str:
    """Return the metrics of a store; those that are not known are left out."""
    return "\n".join(_lines(stat))


def _lines(stat: Stat) -> Iterator[str]:
    store = {"store": stat.name}
    names = ("id", "kind", "engine", "layout", "durability", "serdes", "key_serdes")
    info: Metric = ("rack_info", "gauge", "What the store is; always 1.")
    yield from _metric(info, [(store | {name: getattr(stat, name) for name in names}, 1)])
    for field, metric in _STORE.items():
        yield from _metric(metric, [(store, getattr(stat, field))])
    if stat.jobs is not None:
        jobs: Metric = ("rack_jobs", "gauge", "How many jobs of a queue are in each state.")
        counts = {state: getattr(stat.jobs, state) for state in stat.jobs.__slots__}
        yield from _metric(jobs, [(store | {"state": state}, count) for state, count in counts.items()])
    for field, metric in _SHARD.items():
        yield from _metric(
            metric, [(store | {"shard": str(each.number)}, getattr(each, field)) for each in stat.per_shard]
        )
    if stat.processes is not None:
        modes = [user.mode for user in stat.processes]
        users: Metric = ("rack_processes", "gauge", "How many processes have the store open, by what they do.")
        yield from _metric(users, [(store | {"mode": mode}, modes.count(mode)) for mode in ("read", "write", "alone")])
    if stat.dead_readers is not None:
        behind: Metric = ("rack_oldest_snapshot_behind", "gauge", "How much was written since the oldest snapshot.")
        held: Metric = ("rack_oldest_snapshot_held_bytes", "gauge", "What snapshots keep from being used again.")
        age: Metric = ("rack_oldest_snapshot_age_seconds", "gauge", "How old the oldest snapshot is, at most.")
        oldest = stat.oldest_snapshot
        yield from _metric(behind, [(store, 0 if oldest is None else oldest.behind)])
        yield from _metric(held, [(store, 0 if oldest is None else oldest.bytes_held)])
        yield from _metric(age, [(store, 0 if oldest is None else oldest.age_at_most)])
        dead: Metric = ("rack_dead_readers", "gauge", "How many processes died while they read.")
        yield from _metric(dead, [(store, len(stat.dead_readers))])
    if stat.leftovers is not None:
        left: Metric = ("rack_leftovers", "gauge", "How many stores killed processes have left beside this one.")
        yield from _metric(left, [(store, len(stat.leftovers))])
    advices: Metric = ("rack_advices", "gauge", "How many things should be done about the store: see rack stat.")
    yield from _metric(advices, [(store, len(stat.advice))])


def _metric(metric: Metric, samples: list[tuple[dict[str, str], float | None]]) -> Iterator[str]:
    known = [(labels, value) for labels, value in samples if value is not None]
    if not known:
        return
    name, kind, text = metric
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for labels, value in known:
        pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        number = int(value) if value == int(value) else repr(value)
        yield f"{name}{{{pairs}}} {number}"


def _escaped(text: str) -> str:
    """Return a label's value, as it stands between quotation marks; what of a path is no UTF-8 is escaped, too."""
    told = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return told.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
