"""``rack ls``: the stores in a directory."""

from __future__ import annotations

import os
import re

from rack.store.manifest import manifest_path
from rack.store.scratch import ENDING

_ANONYMOUS = re.compile(r"-anonymous-[0-9a-f]{12}$")


def stores(directory: str | os.PathLike[str] = ".") -> list[str]:
    """Return the names of the stores in a directory, sorted: each can be opened by it. O(files in the directory).

    Stores without a name, which an operation has made, are left out. It is not atomic: stores that are made or removed
    meanwhile may be among them.

    :param directory: where to look; not in the directories in it.
    :returns: the names, as the directory was given.
    :raises FileNotFoundError: there is no such directory.

    >>> import rack
    >>> for name in "seen", "titles":
    ...     rack.PersistentSet(tmp / name).open().close()
    >>> [name.rpartition("/")[2] for name in rack.stores(tmp)]
    ['seen', 'titles']
    """
    ending = manifest_path("")
    with os.scandir(directory) as entries:
        stems = [entry.name.removesuffix(ending) for entry in entries if entry.name.endswith(ending)]
    found = (stem for stem in stems if stem and not stem.endswith(ENDING) and not _ANONYMOUS.search(stem))
    place = os.fspath(directory)
    return sorted(name if place == "." else os.path.join(place, name) for name in found)
