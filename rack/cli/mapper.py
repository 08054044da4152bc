"""A function of many tasks, done by worker processes; what it gives comes in the order of the tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Self, TypeVar

from rack.cli.crew import Crew

Task = TypeVar("Task")
Result = TypeVar("Result")

_AHEAD = 4  # tasks for each worker that may be given out, or done, before their turn


class Mapper(Generic[Task, Result]):
    """``workers`` processes that call ``function``. Use it with ``with``, and begin before a store is opened: they are
    forked, see :mod:`rack.cli.crew`.
    """

    def __init__(self, workers: int, function: Callable[[Task], Result]) -> None:
        self._function = function
        self._most = _AHEAD * workers
        self._done: dict[int, Result] = {}
        self._crew: Crew[tuple[int, Task], tuple[int, Result]] = Crew(workers, self._work, self._receive)

    def __enter__(self) -> Self:
        self._crew.__enter__()
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *exc_info: object) -> None:
        self._crew.__exit__(exc_type, *exc_info)

    def results(self, tasks: Iterable[Task], tick: Callable[[], None] = lambda: None) -> Iterator[Result]:
        """Yield the result of each task, in order. ``tick`` is called now and then."""
        given = taken = 0
        for task in tasks:
            self._crew.submit((given, task), tick)
            given += 1
            while taken in self._done or given - taken >= self._most:
                yield self._next(taken, tick)
                taken += 1
        for number in range(taken, given):
            yield self._next(number, tick)
        self._crew.finish(tick)

    def _next(self, number: int, tick: Callable[[], None]) -> Result:
        while number not in self._done:
            self._crew.poll(0.2)
            tick()
        return self._done.pop(number)

    def _receive(self, report: tuple[int, Result]) -> None:
        number, result = report
        self._done[number] = result

    def _work(self, tasks: Iterator[tuple[int, Task]], report: Callable[[tuple[int, Result]], None]) -> None:
        """In a worker."""
        for number, task in tasks:
            report((number, self._function(task)))
