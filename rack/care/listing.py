"""``rack ls``: the stores in a directory."""

from __future__ import annotations

import os
import re

from rack.care import served
from rack.shard import address_of, served_by
from rack.store.manifest import manifest_path
from rack.store.scratch import ENDING

_ANONYMOUS = re.compile(r"-anonymous-[0-9a-f]{12}$")


def stores(directory: str | os.PathLike[str] = ".") -> list[str]:
    """Return the names of the stores in a directory, sorted: each can be opened by it. O(files in the directory).

    Stores without a name, which an operation has made, are left out. It is not atomic: stores that are made or removed
    meanwhile may be among them.

    :param directory: where to look; not in the directories in it. Or the URL of servers, without a ``name=``, or with
        what the names begin with. O(keys on the servers).
    :returns: the names, as the directory was given. On servers they are URLs, which do not show a password.
    :raises FileNotFoundError: there is no such directory.
    :raises ServerError: the servers cannot be reached.

    >>> import rack
    >>> for name in "seen", "titles":
    ...     rack.PersistentSet(tmp / name).open().close()
    >>> [name.rpartition("/")[2] for name in rack.stores(tmp)]
    ['seen', 'titles']
    """
    if served_by(place := os.fspath(directory)) is not None:
        found_there = served.listed(address_of(place, nameless=True))
        return [each.address for each in found_there if each.mark is not None and each.problem is None]
    ending = manifest_path("")
    with os.scandir(directory) as entries:
        stems = [entry.name.removesuffix(ending) for entry in entries if entry.name.endswith(ending)]
    found = (stem for stem in stems if stem and not stem.endswith(ENDING) and not _ANONYMOUS.search(stem))
    return sorted(name if place == "." else os.path.join(place, name) for name in found)
