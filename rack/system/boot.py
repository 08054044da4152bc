"""Which boot of the operating system this is."""

from __future__ import annotations

import functools
import sys
from contextlib import suppress

from rack.system.imports import importing


@functools.cache
def boot_id() -> str:
    """Return what is different after every boot of the system; always the same on one that does not tell."""
    if sys.platform == "linux":
        with suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
        return "untold"
    with importing():
        import ctypes

    value = ctypes.create_string_buffer(64)
    size = ctypes.c_size_t(len(value))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.sysctlbyname(b"kern.bootsessionuuid", value, ctypes.byref(size), None, ctypes.c_size_t(0)):
        raise OSError(ctypes.get_errno(), "cannot find out which boot of the system this is (kern.bootsessionuuid)")
    return value.value.decode()
