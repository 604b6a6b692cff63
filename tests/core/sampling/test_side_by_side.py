"""Several works at once are told as they go, end together, and come back in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from sdtune.core.sampling.side_by_side import side_by_side


def counting(
    number: int,
    steps: int,
    ended: list[int],
    meeting: threading.Barrier | None = None,
    problem: Exception | None = None,
) -> Iterator[int]:
    """Tells its steps, and then its number times ten; all meet before the first."""
    try:
        if meeting:
            meeting.wait()
        for step in range(steps):
            if problem and step == 2:
                raise problem
            yield step
            time.sleep(0.001)
        return number * 10
    finally:
        ended.append(number)


def test_all_is_told_and_results_are_in_order() -> None:
    ended: list[int] = []
    work = side_by_side([partial(counting, number, 5 - number, ended) for number in range(3)])
    told: list[tuple[int, int]] = []
    while True:
        try:
            told.append(next(work))
        except StopIteration as end:
            results = end.value
            break
    assert results == [0, 10, 20]
    assert sorted(told) == [(number, step) for number in range(3) for step in range(5 - number)]
    assert [step for number, step in told if number == 0] == list(range(5))


def test_they_are_at_work_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=20)

    def meet() -> Iterator[int]:
        meeting.wait()
        yield 1

    assert len(list(side_by_side([meet, meet]))) == 2


@pytest.mark.parametrize("how", ["fails", "closed"])
def test_the_end_of_one_is_the_end_of_all(how: str) -> None:
    ended: list[int] = []
    meeting = threading.Barrier(3, timeout=20)
    problems = [ValueError("of the first") if how == "fails" else None, None, None]
    work = side_by_side(
        [partial(counting, number, 10**6, ended, meeting, problem) for number, problem in enumerate(problems)]
    )
    if problems[0]:
        with pytest.raises(ValueError, match="of the first"):
            list(work)
    else:
        next(work)
        work.close()
    assert sorted(ended) == [0, 1, 2]
