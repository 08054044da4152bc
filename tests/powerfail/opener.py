"""The first process after a power failure: opens the store, which may have to be mended. Run under the shim."""

from __future__ import annotations

import sys

from rack import PersistentDict
from rack.errors import CorruptShardError, StoreNotFoundError
from rack.store import admission
from tests.powerfail.cases import boot_again

if __name__ == "__main__":
    name, durability = sys.argv[1:]
    boot_again("second")
    admission.tell = lambda message: None  # what may be lost: standard error is for what goes wrong
    try:
        with PersistentDict(name, flag="w", durability=durability) as store:
            store.sync()
    except (CorruptShardError, StoreNotFoundError):
        pass  # it is the test's matter whether it may be
