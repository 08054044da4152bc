"""``rack verify``: is a store sound?"""

from __future__ import annotations

import json
import sys

import click

from rack.care.verify import Report
from rack.care.verify import verify as verify_store
from rack.cli.arguments import store_argument
from rack.cli.entrybar import entry_bar
from rack.cli.failure import tell
from rack.errors import RackError

SOUND, DAMAGED, NOT_EXAMINED = 0, 1, 2


@click.command(
    epilog="Exit codes: 0 sound, 1 damaged, 2 wrong usage, or the store or a part of it could not be examined."
)
@store_argument
@click.option(
    "--workers", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="Verify with N processes."
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing; the exit code tells.")
@click.pass_context
def verify(context: click.Context, store: str, workers: int, as_json: bool, quiet: bool) -> None:
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
    value and power (in use when the system stopped, so not to be relied on).
    """
    try:
        with entry_bar(quiet or not sys.stderr.isatty(), "shards") as bar:
            report = verify_store(store, workers=workers, progress=bar)
    except (RackError, OSError) as error:
        tell(str(error))
        context.exit(NOT_EXAMINED)
    if as_json and not quiet:
        click.echo(json.dumps(report.as_dict(), indent=2))
    elif not quiet:
        _print(report)
    context.exit(DAMAGED if report.found else SOUND if report.sound else NOT_EXAMINED)


def _print(report: Report) -> None:
    for finding in report.findings:
        click.echo(f"{report.file(finding)} {finding.message}" if finding.shard is not None else finding.message)
    if report.found > len(report.findings):
        click.echo(f"and {report.found - len(report.findings):,} more")
    for reason in report.unexamined:
        click.echo(f"not examined: {reason}")
    for lack in report.not_checked:
        click.echo(f"not checked: {lack}")
    if report.in_use:
        click.echo("in use by other processes: examined as it was at one moment, shard by shard")
    if report.sound:
        click.echo(f"{report.name} is sound: {report.entries:,} entries")
    elif report.found:
        click.echo(f"{report.name} is damaged: `rack repair {report.name}` saves what can be read")
