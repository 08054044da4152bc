"""``rack verify``: is a store sound?"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator

import click

from rack.care.verify import Finding, Report
from rack.care.verify import verify as verify_store
from rack.cli.arguments import store_argument, workers_option
from rack.cli.display import Counter, Wish, with_wish
from rack.cli.failure import Verdict, counted
from rack.cli.output import say
from rack.shard import served_by

SOUND, DAMAGED, NOT_EXAMINED = 0, 1, 2


@click.command(
    cls=Verdict,
    epilog="Exit codes: 0 sound, 1 damaged, 2 wrong usage or any error: the store or a part of it could not be"
    " examined, or the report not be written.",
)
@store_argument
@workers_option("Verify with N processes.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@with_wish("Print nothing; the exit code tells.")
@click.pass_context
def verify(context: click.Context, store: str, workers: int, as_json: bool, wish: Wish) -> None:
    """Verify the STORE: report everything that is wrong with it.

    Looks at the manifest, at every page of every shard (or has SQLite do that), and at every entry: whether it can be
    read, is in the shard it belongs to, and is what was stored. Changes no file. Other processes may go on using the
    store; who opens it while it is at rest waits until the shard that is just being verified is done, or, if there are
    several workers, all of it.

    The JSON object has "name", "sound" (true or false), "entries" (how many were seen), "found" (how many things are
    wrong), "findings" (the first 20 of each kind in each shard: objects with "shard", null for the store as a whole,
    "file", "kind" and "message"), "in_use" (numbers of shards that others had open), "not_checked" (what was left
    out, in words, for lack of functions that the store was made with) and "unexamined" (why parts could not be
    examined). Kinds are manifest, missing, foreign, swapped, structure, count, order, record, checksum, shard, key,
    value, copied (a copy that was made while the store was in use) and power (in use when the system stopped). What is
    in a store of the last two kinds may be of different moments.

    Example: rack verify data/seen --workers 2
    """
    with Counter(wish, "shard", "verified") as progress:
        report = verify_store(store, workers=workers, progress=progress)
    if not wish.quiet:
        say(json.dumps(report.as_dict(), indent=2) if as_json else "\n".join(_lines(report)))
    context.exit(DAMAGED if report.found else SOUND if report.sound else NOT_EXAMINED)


def _lines(report: Report) -> Iterator[str]:
    """Yield what the report says. What is found in several shards alike is one line."""
    alike: dict[tuple[str, str], list[Finding]] = {}
    for finding in report.findings:
        alike.setdefault((finding.kind, finding.message), []).append(finding)
    for (_, message), (first, *others) in alike.items():
        if first.shard is None:
            yield message
        elif others:
            numbers = [finding.shard for finding in (first, *others) if finding.shard is not None]
            yield f"{report.name}, shards {ranges(numbers)}: {message}"
        else:
            yield f"{report.file(first)} {message}"
    if report.found > len(report.findings):
        yield f"and {report.found - len(report.findings):,} more"
    for reason in dict.fromkeys(report.unexamined):
        yield f"not examined: {reason}"
    for lack in report.not_checked:
        yield f"not checked: {lack}"
    if report.in_use:
        yield "in use by other processes: examined as it was at one moment, shard by shard"
    name = shlex.quote(report.name)
    if report.sound:
        yield f"{report.name} is sound: {counted(report.entries, 'entry')}"
    elif report.found and all(finding.kind == "power" for finding in report.findings):
        yield (
            f"{report.name} was in use when the system stopped. Normally only what was written in the last half minute"
            f" is lost: `rack repair {name}` makes a new store of the rest"
        )
    elif report.found and served_by(report.name) is not None:
        yield f"{report.name} is damaged: `rack copy {name} NEW` may copy what can be read, or restore a backup"
    elif report.found:
        yield f"{report.name} is damaged: `rack repair {name}` saves what can be read"


def ranges(numbers: Iterable[int]) -> str:
    """Numbers for people: "0-3, 7"."""
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in found)
