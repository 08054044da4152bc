"""``rack ls``: the stores in a directory."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import Any

import click

from rack.care.listing import stores
from rack.care.words import size
from rack.cli.failure import Command, remember
from rack.cli.output import say
from rack.errors import RackError, told
from rack.store.manifest import Manifest, absolute_path
from rack.system.disk import bytes_on_disk


@click.command(cls=Command)
@click.argument("directory", metavar="[DIR]", type=click.Path(exists=True, file_okay=False), default=".")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line.")
def ls(directory: str, as_json: bool) -> None:
    """List the stores in the directory DIR.

    By default in this one: what they are, their size, and when they were written to. The JSON objects have "name",
    "kind", "engine", "shards", "serdes", "key_serdes", "bytes" (of disk, all files) and "modified" (in UTC); of a store
    whose manifest is damaged "name" and "problem".

    Example: rack ls data
    """
    remember(directory)
    found = [_described(name) for name in stores(directory)]
    if as_json:
        for store in found:
            say(json.dumps(store))
        return
    rows = [_row(store) for store in found]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _described(name: str) -> dict[str, Any]:
    path = absolute_path(name)
    try:
        manifest = Manifest.read(path)
    except RackError as error:
        return {"name": name, "problem": told(error)}
    if manifest is None:
        return {"name": name, "problem": "it was removed just now"}
    files = manifest.files(path)
    return {
        "name": name,
        "kind": manifest.kind,
        "engine": manifest.engine,
        "shards": manifest.shards,
        "serdes": manifest.serdes,
        "key_serdes": manifest.key_serdes,
        "bytes": sum(map(bytes_on_disk, files)),
        "modified": _moment(max(os.path.getmtime(file) for file in files if os.path.exists(file))),
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _row(store: dict[str, Any]) -> tuple[str, ...]:
    if "problem" in store:
        return store["name"], "?", "", "", "", "", store["problem"]
    shards = "1 shard" if store["shards"] == 1 else f"{store['shards']} shards"
    modified = datetime.fromisoformat(store["modified"]).astimezone().strftime("%Y-%m-%d %H:%M")
    return store["name"], store["kind"], store["engine"], shards, store["serdes"], size(store["bytes"]), modified
