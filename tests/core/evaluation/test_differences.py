"""What sets two LoRAs apart, of made-up marks, and how it is said."""

from __future__ import annotations

import numpy
import pytest

from sdtune.core.evaluation.differences import DECISIVE, differences_of, sentence_of
from sdtune.core.evaluation.intervals import Refused, Value
from sdtune.core.evaluation.judging import Marks
from sdtune.core.evaluation.measures import measures
from sdtune.core.evaluation.measures.base import Told
from sdtune.core.evaluation.subject import Cell

A, B, TWIN, OTHER = (Cell(place, 1.0) for place in range(4))
COMMON = numpy.random.default_rng(1).normal(0, 0.1, 100)


def marks(place: int = 0, **figures: float | str) -> Marks:
    """Figures whose resamples are spread alike; words are why one is refused."""
    own = numpy.random.default_rng(10 + place).normal(0, 0.002, 100)
    told = {
        name: Refused(value)
        if isinstance(value, str)
        else Told(Value(value, value - 0.2, value + 0.2, 9, 4), numpy.concatenate([[value], value + COMMON + own]), 20)
        for name, value in figures.items()
    }
    return Marks(told, {})


def of(first: Marks, second: Marks, *twins: Marks):
    places = (TWIN, OTHER)[: len(twins)]
    made = {A: first, B: second} | dict(zip(places, twins, strict=True))
    return differences_of(made, A, B, places)


def test_what_decides_is_measured_and_has_a_better_side():
    assert all(measures()[name].better != "none" for name in DECISIVE)


def test_who_is_better_is_told_by_the_side_that_is():
    found = of(
        marks(0, closeness=0.6, drift=0.3, vendi=5.0, copies=0.1),
        marks(1, closeness=0.5, drift=0.2, vendi=4.0, copies=0.1),
    )
    assert {one.name: one.winner for one in found} == {"closeness": "A", "drift": "B", "vendi": "", "copies": ""}
    assert [one.name for one in found] == [
        name for name in measures() if name in ("closeness", "drift", "vendi", "copies")
    ]
    (closeness,) = [one for one in found if one.name == "closeness"]
    first = closeness.first
    assert (first.estimate, first.low, first.high) == pytest.approx((0.6, 0.4, 0.8))
    assert closeness.second.estimate == 0.5
    assert closeness.difference.estimate == pytest.approx(0.1)
    assert 0.09 < closeness.difference.low < 0.1 < closeness.difference.high < 0.11
    assert (closeness.title, closeness.digits, closeness.better) == (
        measures()["closeness"].title, measures()["closeness"].digits, "higher",
    )  # fmt: skip
    assert closeness.floor is None


def test_the_other_way_round_the_other_one_wins():
    first, second = marks(0, closeness=0.6, drift=0.3), marks(1, closeness=0.5, drift=0.2)
    for one, other in zip(of(first, second), of(second, first), strict=True):
        assert one.difference.estimate == -other.difference.estimate
        assert {one.winner, other.winner} == {"A", "B"}


def test_what_one_of_both_cannot_tell_is_left_out():
    found = of(marks(0, closeness=0.6, kid="too few"), marks(1, closeness=0.5, kid=3.0))
    assert [one.name for one in found] == ["closeness"]


def test_differences_no_larger_than_to_a_twin_are_noise():
    first, second = marks(0, closeness=0.6, drift=0.3), marks(1, closeness=0.5, drift=0.2)
    near, far = marks(2, closeness=0.62, drift=0.3), marks(3, closeness=0.75, drift=0.31)
    (one, other) = of(first, second, near)
    assert (one.name, one.winner, one.floor) == ("closeness", "A", pytest.approx(0.02))
    (one, other) = of(first, second, near, far)  # the farther one counts
    assert (one.winner, one.floor) == ("", pytest.approx(0.15))
    assert (other.winner, other.floor) == ("B", pytest.approx(0.01))


def test_a_twin_that_cannot_tell_sets_no_floor():
    first, second = marks(0, closeness=0.6), marks(1, closeness=0.5)
    (one,) = of(first, second, marks(2, closeness="too few"))
    assert (one.winner, one.floor) == ("A", None)


def test_the_sentence_names_the_first_of_what_decides():
    found = of(
        marks(0, copies=0.1, closeness=0.6, loss=0.5, drift=0.2, vendi=3.0, psnr=20.0),
        marks(1, copies=0.1, closeness=0.5, loss=0.4, drift=0.2, vendi=4.0, psnr=20.0),
    )
    told = sentence_of(found, "cats", "dogs")
    assert told == (
        f"cats is better ({measures()['closeness'].title} +0.10): cats is better in 1 measure, dogs in 1 measure, and "
        "3 do not tell them apart"  # vendi has no better side
    )
    assert sentence_of(found[::-1], "cats", "dogs") == told
    copying = of(marks(0, copies=0.3, closeness=0.6), marks(1, copies=0.1, closeness=0.5))
    assert sentence_of(copying, "cats", "dogs").startswith("dogs is better (")
    assert "-0.20)" in sentence_of(copying, "cats", "dogs")


def test_where_nothing_decides_it_is_said():
    none = of(marks(0, closeness=0.5, drift=0.2), marks(1, closeness=0.5, drift=0.2))
    assert sentence_of(none, "cats", "dogs") == (
        "no difference that counts: cats is better in 0 measures, dogs in 0 measures, and 2 do not tell them apart"
    )
    little = of(marks(0, closeness=0.5, drift=0.1), marks(1, closeness=0.5, drift=0.2))
    assert sentence_of(little, "cats", "dogs").startswith("no difference in what counts most: cats is better in 1 mea")


def test_counts_are_those_of_the_table():
    found = of(
        marks(0, closeness=0.6, drift=0.3, vendi=5.0, copies=0.1),
        marks(1, closeness=0.5, drift=0.2, vendi=4.0, copies=0.1),
    )
    winners = [one.winner for one in found if one.better != "none"]
    told = sentence_of(found, "cats", "dogs")
    assert f"{winners.count('')} do not tell" in told
    assert (winners.count("A"), winners.count("B")) == (1, 1)
