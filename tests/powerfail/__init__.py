"""A simulator of power failures: real processes write, and what a disk may hold of their files at a moment is made.

===============  ======================================================================================================
``shim.c``       Preloaded into the writers: notes what was synced, and what was done to names and lengths since.
``recorder.py``  Stops the writers at moments of a run and keeps what is in their files then.
``disk.py``      Makes, from a recording, contents that the directory may have after a power failure at a moment.
``writers.py``   The processes that write to a store, each with a log of what it did.
``roles.py``     Those that are paired with others: readers, forked children, who replaces the store, ...
``program.py``   Keeps the processes of a plan alive.
``sessions.py``  Tells from who had the store open when what must be on the disk.
``history.py``   Tells from the logs whether what a store serves is something it may serve.
``cases.py``     Opens the store of a case in a process of its own, which may crash, and tells what came of it.
===============  ======================================================================================================
"""
