"""Where a test goes.

======================  ==============================================================================================
the package's folders   What is about a module of that folder: algebra, care, cli (a file a command), codec, container
                        (with the faces: ``rack/dict.py``, ...), shard with lmdb and sqlite3, store, system.
``processes/``          Many processes or threads on one store: fork, kill, stop, pickle, linearizability, exactly once.
``faults/``             What goes wrong around Rack: full disks, no descriptors, bad files and names, bits that flip.
``conformance/``        What every engine and container must do, as classes that ``container/`` and ``shard/`` subclass.
``powerfail/``          The simulator of power failures, and its tests.
``support/``            What tests share: no tests. Processes are started with ``support/processes.py``.
``tests/``              What is about the package or these tests as a whole.
======================  ==============================================================================================

A file is named for what it tests and does not repeat its folder's name. Every folder is a package. At most 400 lines.
"""
