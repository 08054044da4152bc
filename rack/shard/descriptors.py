"""Which shards of this process are open: so that their descriptors never are most of what it may have.

A shard is opened when it is first used, and can be put away while nobody uses it. Those that were opened first are put
away first: to know which was used last would cost every operation something.
"""

from __future__ import annotations

import resource
from typing import Any
from weakref import ref

_PART = 2  # half of the descriptors are for the rest of the program
_opened: dict[int, ref[Any]] = {}


def note_opened(shard: Any) -> None:
    """Note that a shard has just been opened, by its own thread, and put away others if they are too many."""
    _opened[id(shard)] = ref(shard)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY or len(_opened) * shard.descriptors * _PART <= limit:
        return
    for other in list(_opened.values()):
        found = other()
        if found is not None and found is not shard:
            found.put_away()
        if len(_opened) * shard.descriptors * _PART <= limit:
            return


def note_closed(shard: Any) -> None:
    _opened.pop(id(shard), None)
