"""Side by side: work on several things at once, each in a thread of its own, told as one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event
from typing import Any, Generic, TypeVar

Told = TypeVar("Told")
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Ended(Generic[Result]):
    """What one piece of work came to."""

    result: Result | None = None
    problem: BaseException | None = None


def side_by_side(
    works: Sequence[Callable[[], Generator[Told, None, Result]]],
) -> Generator[tuple[int, Told], None, list[Result]]:
    """Does all of these at once, telling what each tells with its place; returns their results in order.

    Where one fails, or the caller closes this, the others end at their next report.
    """
    told: SimpleQueue[tuple[int, Told | _Ended[Result]]] = SimpleQueue()
    stopped = Event()

    def follow(place: int) -> None:
        try:
            work = works[place]()
            for report in _until(stopped, work, ended := _Kept[Result]()):
                told.put((place, report))
            told.put((place, _Ended(ended.value)))
        except BaseException as problem:  # told to the one who waits
            told.put((place, _Ended(problem=problem)))

    results: dict[int, Any] = {}
    with ThreadPoolExecutor(len(works)) as pool:
        for place in range(len(works)):
            pool.submit(follow, place)
        try:
            while len(results) < len(works):
                place, one = told.get()
                if not isinstance(one, _Ended):
                    yield place, one
                    continue
                if one.problem is not None:
                    raise one.problem
                results[place] = one.result
        finally:
            stopped.set()
    return [results[place] for place in range(len(works))]


class _Kept(Generic[Result]):
    """A generator's result."""

    value: Result | None = None


def _until(stopped: Event, work: Generator[Told, None, Result], kept: _Kept[Result]) -> Iterator[Told]:
    """What work tells, until it ends or others ask for its end."""
    try:
        while not stopped.is_set():
            yield next(work)
    except StopIteration as end:
        kept.value = end.value
    finally:
        work.close()
