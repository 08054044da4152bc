"""The program that is run under the shim: keeps the processes of a plan alive, until it is killed itself."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from rack.errors import StoreFullError
from rack.store import admission, keeper
from tests.powerfail.cases import boot_again
from tests.powerfail.roles import ROLES
from tests.powerfail.writers import Log, Plan


def _prepare(plan: Plan) -> None:
    keeper._INTERVAL = plan.keeper
    if plan.boot:
        boot_again(plan.boot)
        admission.tell = lambda message: None  # what may be lost
    if plan.engine == "sqlite3":
        from rack.shard.sqlite3 import database

        database._CHECKPOINT_PAGES = plan.checkpoint_pages
        if plan.unsynced:
            database._SYNCHRONOUS = dict.fromkeys(database._SYNCHRONOUS, "OFF")
        return
    from rack.shard.lmdb import journaled

    journaled._ROTATE_AT = plan.rotate_at
    if plan.bases:
        trouble_bases(plan.bases)
    if plan.unsynced:
        import lmdb

        open_env = lmdb.open
        lmdb.open = lambda *args, **options: open_env(*args, **{**options, "sync": False, "metasync": False})


def trouble_bases(trouble: str) -> None:
    """Have bases take long, or find no space half of the time: then a part of one is there for a moment."""
    from rack.shard.lmdb import compact, journaled

    write = compact.write_compact
    journaled._REST = 0.2

    def write_in_trouble(shard: Any, path: str, proceed: Any) -> None:
        write(shard, path, proceed)
        if trouble == "slow":
            for _ in range(100):
                proceed()
                time.sleep(0.02)
        elif time.monotonic_ns() // 1000 % 2:
            os.truncate(path, os.path.getsize(path) // 2)
            raise StoreFullError(28, "no space for this base", path)

    compact.write_compact = write_in_trouble


def _main(plan: Plan) -> None:
    _prepare(plan)
    missing = [*plan.roles, *["writing"] * plan.writers]
    alive: dict[int, tuple[str, int]] = {}
    number = plan.first
    while True:
        for role in missing:
            pid = os.fork()
            if not pid:
                try:
                    ROLES[role](plan, number).run()
                except BaseException:
                    Log(Path(plan.logs, str(number))).write("failed", traceback.format_exc())
                finally:
                    os._exit(1)
            alive[pid] = role, number
            number += 1
        role, gone = alive.pop(os.wait()[0])
        Log(Path(plan.logs, str(gone))).write_end()
        missing = [role]


if __name__ == "__main__":
    content = json.loads(sys.argv[1])
    _main(Plan(**content | {"roles": tuple(content["roles"])}))
