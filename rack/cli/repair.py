"""``rack repair``: what is readable of a damaged store, in a new one."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click

from rack.care.outcome import Report
from rack.care.repair import repair as repair_store
from rack.cli.arguments import KeySerdes, store_argument, store_name
from rack.cli.display import Counter, Wish, with_wish
from rack.cli.failure import Verdict, counted
from rack.cli.output import say
from rack.codec.serdes import PRESETS

WHOLE, DAMAGED = 0, 1
_presets = click.Choice(sorted(PRESETS))


@click.command(
    cls=Verdict,
    epilog="Exit codes: 0 nothing was damaged and nothing is lost, 1 something was (the new store is there, with what"
    " could be kept), 2 wrong usage or any error: it could not be done (there is no new store), or the report not be"
    " written.",
)
@store_argument
@click.option(
    "--to", metavar="NEW", callback=store_name, help='Name of the new store (default: that of STORE and "-repaired").'
)
@click.option("--stray", is_flag=True, help="Also keep entries that may be old, deleted or wrong.")
@click.option("--kind", type=click.Choice(["dict", "queue", "set"]), help="What a store is whose manifest is lost.")
@click.option("--serdes", type=_presets, help="Serdes of a store whose manifest is lost.")
@click.option("--key-serdes", type=KeySerdes(), help="Serdes of the keys of a store whose manifest is lost.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@with_wish("Print nothing; the exit code tells.")
@click.pass_context
def repair(
    context: click.Context,
    store: str,
    to: str | None,
    stray: bool,
    kind: str | None,
    serdes: str | None,
    key_serdes: str | None,
    as_json: bool,
    wish: Wish,
) -> None:
    """Make a new store of what can be read of the damaged STORE, which is left as it is.

    Reads the pages of the files itself, so that damage anywhere costs only what was in that place. Missing shards are
    made empty. An existing NEW is an error, and so is a STORE that a process has open. NEW is there as a whole when the
    command has ended, or not at all.

    An entry is kept if it is in a page that is whole and in use, and is what the store can have stored there. Other
    pages may be old: what they hold may have been changed or deleted since. That is counted, and kept only with
    --stray, where nothing better was found.

    If the manifest is lost, --kind, --serdes and --key-serdes say what the store is; what is not given is guessed from
    what the shards hold, and told.

    The JSON object has "name", "to", "sound" (nothing damaged or lost), "kept" (entries in the new store), "problems"
    and "not_checked" (in words, of the store as a whole), and "shards": objects with "shard", "file", "counted" (how
    many entries the shard says it has, or null), "kept", "lost" (or null), "refused" (read, and not what the store can
    have stored), "strays" (may be old), "strays_kept", "found" (how many things are wrong) and "problems" (the first 20
    of them).

    Example: rack repair data/seen --to data/saved
    """
    with Counter(wish, "entry", "kept", "no store was made") as progress:
        report = repair_store(
            store, to, kind=kind, serdes=serdes, key_serdes=key_serdes, stray=stray, progress=progress
        )
    if not wish.quiet:
        say(json.dumps(report.as_dict(), indent=2) if as_json else "\n".join(_lines(report)))
    context.exit(WHOLE if report.sound else DAMAGED)


def _lines(report: Report) -> Iterator[str]:
    """Yield what the report says."""
    yield from report.problems
    for shard in report.shards:
        for problem in shard.problems:
            yield f"{shard.path} {problem}"
        if shard.found > len(shard.problems):
            yield f"{shard.path}: and {shard.found - len(shard.problems):,} more"
        if shard.found or shard.lost or shard.strays:
            lost = "how many are lost is not known" if shard.lost is None else f"{shard.lost:,} lost"
            strays = f", {shard.strays_kept:,} of them may be old" if shard.strays_kept else ""
            left = shard.strays - shard.strays_kept
            yield f"shard {shard.number}: {counted(shard.kept, 'entry')} kept{strays}, {lost}"
            if left:
                yield f"shard {shard.number}: {left:,} more may be old, deleted or wrong; --stray keeps them"
    for lack in report.not_checked:
        yield f"not checked: {lack}"
    yield f"{counted(report.kept, 'entry')} {'is' if report.kept == 1 else 'are'} in {report.to}"
