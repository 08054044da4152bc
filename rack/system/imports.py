"""Imports that wait until something is needed, and are safe from forks.

A child that is forked while another thread imports a module has half of that module, and waits for ever when it imports
it too. So every import inside a function stands in ``with importing:``, which a fork waits for. Nothing in there waits
for any other lock, so whoever holds one may import.
"""

from __future__ import annotations

import os
from _thread import RLock  # that of threading, which takes some milliseconds to import

importing = RLock()
# The thread that forks has the lock in the child too.
os.register_at_fork(before=importing.acquire, after_in_parent=importing.release, after_in_child=importing.release)
