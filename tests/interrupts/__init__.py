"""An exception, or another use of the store, at every instruction of every operation: see :mod:`.run`."""
