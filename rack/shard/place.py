"""Where the file of an open shard is: its folder may be renamed, and a link to that be switched, at any time."""

from __future__ import annotations

import os

from rack.shard.base import ShardSpec
from rack.system.place import file_id


def located(spec: ShardSpec, inode: tuple[int, int] | None) -> ShardSpec:
    """Return the spec with the path at which the file with that (device, inode) is now, if that can be found out."""
    if spec.find is None or inode is None:
        return spec
    try:
        if file_id(os.stat(spec.path)) == inode:
            return spec
    except OSError:
        pass
    path = spec.find()
    if path == spec.path:
        return spec
    return spec._replace(path=path)
