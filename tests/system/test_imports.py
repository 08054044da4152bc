"""Imports that forks wait for: nothing is left of one that an exception has cut off."""

from __future__ import annotations

import os
import threading
import time

from rack.system import imports
from rack.system.imports import importing
from tests.interrupts.inject import Injector, Interrupt, count, raising


def _import() -> None:
    with importing():
        import json

        assert json


def test_an_exception_at_any_instruction_leaves_no_import_under_way() -> None:
    places = count(_import)
    assert places > 20
    kept = []  # tracebacks keep frames alive
    for place in range(places):
        try:
            Injector(place, raising(Interrupt)).run(_import)
        except Interrupt as error:
            kept.append(error)
        assert not imports._under_way, kept[-1].__traceback__
    assert len(kept) == places


def test_a_fork_waits_for_the_import_of_another_thread_and_not_for_its_own() -> None:
    begun, ended = threading.Event(), []

    def slow() -> None:
        with importing():
            begun.set()
            time.sleep(0.3)
            ended.append(True)

    thread = threading.Thread(target=slow)
    thread.start()
    assert begun.wait(10)
    with importing():
        pid = os.fork()
        if not pid:
            os._exit(0 if ended and not imports._forking else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not imports._forking
    thread.join()
