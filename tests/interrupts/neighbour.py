"""Another process that has the store open: reads and writes it on request."""

from __future__ import annotations

import ast
import os
import select
import subprocess
import sys
import time
from typing import Any

from rack import PersistentDict, PersistentQueue, PersistentSet
from tests.interrupts import jobs

CLASSES: dict[str, Any] = {"dict": PersistentDict, "set": PersistentSet, "queue": PersistentQueue}
LIMIT = 4.0  # seconds that it may take to answer
START = 40.0  # ... the first time


class Neighbour:
    """In the test's process: what speaks with the other one."""

    def __init__(self, path: str, kind: str) -> None:
        command = [sys.executable, "-m", "tests.interrupts.neighbour", path, kind]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self._rest = b""
        self._limit = START

    def ask(self, question: str, *arguments: Any) -> Any:
        """Return its answer: a string that says what went wrong, or what was asked for."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(repr((question, arguments)).encode() + b"\n")
        end = time.monotonic() + self._limit
        self._limit = LIMIT
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0, end - time.monotonic()))
            if not ready:
                raise TimeoutError(f"another process waits for ever in {question}")
            data = os.read(self._process.stdout.fileno(), 1 << 16)
            if not data:
                raise EOFError("the other process died")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        is_right, answer = ast.literal_eval(line.decode())
        if not is_right:
            raise AssertionError(f"in another process: {answer}")
        return answer

    def end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


# What both processes do with a store


def put(store: Any, kind: str, key: str) -> None:
    if kind == "queue":
        store.put(key, priority=jobs.FIRST)
    else:
        store.__setitem__(key, 1) if kind == "dict" else store.add(key)


def delete(store: Any, kind: str, key: str) -> None:
    if kind == "queue":
        jobs.remove(store, key)
    else:
        store.pop(key, None) if kind == "dict" else store.discard(key)


def has(store: Any, kind: str, key: str) -> bool:
    found: bool = store.knows(key) if kind == "queue" else key in store
    return found


def content(store: Any, kind: str) -> dict[str, Any]:
    if kind == "queue":
        return jobs.content(store)
    return dict(store.items()) if kind == "dict" else dict.fromkeys(store, 0)


def main(path: str, kind: str) -> None:
    store: Any = CLASSES[kind](path).open()
    for line in sys.stdin:
        question, arguments = ast.literal_eval(line)
        answer: Any = None
        try:
            if question == "content":
                answer = content(store, kind)
            elif question == "put":
                put(store, kind, arguments[0])
            elif question == "delete":
                delete(store, kind, arguments[0])
            said = True, answer
        except Exception as error:
            said = False, repr(error)
        print(repr(said), flush=True)
    store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
