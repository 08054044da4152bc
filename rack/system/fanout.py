"""``workers=N``: the parts of one operation, a shard each say, done here or shared by processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, TypeVar

from rack.system.arguments import whole
from rack.system.imports import importing

Result = TypeVar("Result")


def fan_out(
    function: Callable[..., Result],
    shared: tuple[Any, ...],
    tasks: Iterable[Any],
    workers: int,
    progress: Callable[[Any], object] | None = None,
) -> list[Result]:
    """Return ``function(*shared, task, report)`` for each task, in their order; done by ``workers`` processes.

    With one worker, in a process that may not have children (a worker of ``multiprocessing.Pool``), or where something
    takes part that only this process can use, it is done here. ``function`` belongs to a module; ``shared`` is handed
    to each worker once. What has a method ``_is_shareable`` in it, or in a list in it, is asked first whether other
    processes can use it. ``report(n)`` tells that ``n`` more entries,
    say, are done; that is passed on to ``progress``, here.

    When it raises, no worker is left, and what they have written until then is written.

    :raises WorkerError: a worker was killed.
    """
    workers = whole("workers", workers, 1)
    tasks = list(tasks)
    shareable = _are_shareable(shared)
    count = min(workers, len(tasks))
    if count > 1 and shareable:
        with importing():
            from rack.system.workers import Crew, may_have_children  # with multiprocessing, which takes 10 ms to import

        if may_have_children():
            with Crew(count, function, shared) as crew:
                return crew.run(tasks, progress)
    report = progress or (lambda done: None)
    return [function(*shared, task, report) for task in tasks]


def _are_shareable(shared: tuple[Any, ...]) -> bool:
    parts = chain.from_iterable(each if isinstance(each, list) else [each] for each in shared)
    return all(part._is_shareable() for part in parts if hasattr(part, "_is_shareable"))
