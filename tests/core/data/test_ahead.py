"""What is made ahead comes in order, a bounded number of things early, and its threads end with it."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from sdtune.core.data.ahead import ahead


def threads() -> int:
    return sum(thread.name.startswith("ahead") for thread in threading.enumerate())


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 3, 50])
def test_everything_comes_once_and_in_order(count: int, number: int) -> None:
    assert list(ahead(lambda one: one * one, range(count), threads=number)) == [one * one for one in range(count)]
    assert threads() == 0


def test_no_more_is_made_early_than_the_depth() -> None:
    made: list[int] = []
    with closing(ahead(lambda one: made.append(one) or one, range(1000), depth=3)) as things:
        for place in range(10):
            assert next(things) == place
            assert len(made) <= place + 4
    assert threads() == 0
    assert len(made) <= 13


def test_a_failure_comes_in_its_place() -> None:
    def make(one: int) -> int:
        if one == 2:
            raise ValueError("two")
        return one

    things = ahead(make, range(5))
    assert (next(things), next(things)) == (0, 1)
    with pytest.raises(ValueError, match="two"):
        next(things)
    assert threads() == 0
