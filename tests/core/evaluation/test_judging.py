"""Every measure of every cell under the same resamples, and what sets two cells apart."""

from __future__ import annotations

import dataclasses
import math

import numpy
import pytest

from sdtune.core.evaluation.intervals import Array, Refused, Value, resampled, wilson
from sdtune.core.evaluation.judging import Marks, difference, floor_of, is_better, marks_of
from sdtune.core.evaluation.measures import Seen, measures
from sdtune.core.evaluation.measures.base import Told
from sdtune.core.evaluation.subject import BASE, Cell
from sdtune.core.reports import Progress
from tests.core.evaluation.measures.handmade import cloud, seen
from tests.core.evaluation.runs import heard

FIRST, SECOND, THIRD = Cell(0, 0.5), Cell(0, 1.0), Cell(1, 1.0)
RESAMPLES = 100
NOISE = numpy.random.default_rng(1).normal(0, 1, RESAMPLES)


def cells(drawings: int = 12) -> dict[Cell, Seen]:
    """The base model and two LoRAs; a third of the prompts describe references, the last third is without trigger."""
    random = numpy.random.default_rng(4)
    references = cloud(random, 8, shift=0.6)
    base = cloud(random, drawings)
    place = numpy.arange(drawings)
    generic = place >= drawings * 2 // 3
    same = {
        "base": base,
        "in_distribution": place < drawings // 3,
        "new_context": ~generic & (place >= drawings // 3),
        "generic": generic,
        "has_concept": ~generic,
        "of_reference": numpy.where(place < drawings // 3, place, -1),
        "texts": cloud(random, drawings),
    }
    moved = cloud(random, drawings, shift=0.5)
    losses = random.uniform(0.5, 1, (8, 2))
    return {
        BASE: seen(base, references, **same, is_base=True, losses=losses[:, [1, 1]]),
        FIRST: seen(moved, references, **same, losses=losses),
        SECOND: seen(cloud(random, drawings, shift=0.6), references, **same, losses=losses * [0.9, 1]),
    }


@pytest.fixture(scope="module")
def marks() -> dict[Cell, Marks]:
    return heard(marks_of(cells(), RESAMPLES, force=False))[0]


def told(estimate: float, spread: float = 0.0, groups: int = 10, ends: tuple[float, float] = (0.0, 1.0)) -> Told:
    rows = numpy.concatenate([[estimate], estimate + spread * NOISE])
    return Told(Value(estimate, *ends, 10, 5), rows, groups)


def only(name: str, found: Told | Refused) -> Marks:
    return Marks({name: found}, {})


def test_all_measures_are_told_of_all_cells_in_one_order(marks):
    assert list(marks) == [BASE, FIRST, SECOND]
    assert {tuple(one.told) for one in marks.values()} == {tuple(measures())}
    assert isinstance(marks[FIRST].told["fid"], Refused)
    assert {"closeness", "drift", "text_alignment", "concept_f1", "loss", "kid"} <= {
        name for name, one in marks[FIRST].told.items() if isinstance(one, Told)
    }


def test_the_figures_are_what_each_measure_tells_by_itself(marks):
    made = cells()
    weights = resampled([int(one) for one in made[BASE].prompt], 8, RESAMPLES)
    for cell, one in marks.items():
        for name, value in one.values.items():
            alone = measures()[name].value(made[cell], weights)
            assert dataclasses.asdict(alone) == pytest.approx(dataclasses.asdict(value), nan_ok=True)
            assert math.isnan(one[name]) or one[name] == alone.estimate


def test_details_are_of_measures_that_are_told(marks):
    assert marks[FIRST].details
    for one in marks.values():
        assert all(isinstance(one.told[name], Told) for name in one.details)


def test_cells_that_are_the_same_are_the_same_in_every_resample():
    made = cells()
    twice, told_while = heard(marks_of({BASE: made[BASE], FIRST: made[FIRST], SECOND: made[FIRST]}, 100, force=False))
    for name in measures():
        apart = difference(twice[FIRST], twice[SECOND], name)
        if apart is not None:
            assert apart.estimate == 0
            assert not apart.low > 0
            assert not apart.high < 0
            assert is_better(name, apart) is None
    assert told_while == []


def test_it_tells_how_far_it_has_come():
    told_while = [(one.number, one.of) for one in marks_of(cells(), 100, force=False) if isinstance(one, Progress)]
    assert told_while == [(1, 3), (2, 3), (3, 3)]


def test_what_is_refused_can_be_forced():
    forced = heard(marks_of(cells(), 100, force=True))[0]
    assert isinstance(forced[FIRST].told["fid"], Told)


def test_a_difference_has_the_other_sign_the_other_way_round(marks):
    for name in measures():
        one, other = difference(marks[FIRST], marks[SECOND], name), difference(marks[SECOND], marks[FIRST], name)
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert one.estimate == -other.estimate
            assert (one.low, one.high) == pytest.approx((-other.high, -other.low), nan_ok=True)


def test_a_difference_is_paired():
    """What both have in common comes and goes together, so that little is left of it."""
    common = told(0.5, 0.2)
    shifted = Told(common.value, common.replicates + 0.01, 10)
    apart = difference(only("closeness", shifted), only("closeness", common), "closeness")
    assert apart is not None
    assert (apart.estimate, apart.low, apart.high) == pytest.approx((0.01, 0.01, 0.01))
    assert is_better("closeness", apart)


def test_the_interval_is_that_of_the_fewer_groups():
    other = told(0.0)
    few = difference(only("drift", told(0.5, 0.1, groups=3)), only("drift", other), "drift")
    many = difference(only("drift", told(0.5, 0.1, groups=10)), only("drift", other), "drift")
    assert few is not None
    assert many is not None
    assert few.high - few.low > 2 * (many.high - many.low)


def test_what_one_of_both_cannot_tell_is_no_difference():
    for pair in ((Refused("too few"), told(1)), (told(1), Refused("too few"))):
        assert difference(only("kid", pair[0]), only("kid", pair[1]), "kid") is None
    assert difference(Marks({}, {}), only("kid", told(1)), "kid") is None


def test_all_of_one_and_none_of_the_other_is_not_certain():
    """Of three prompts each: Wilson's intervals are 0.44 to 1 and 0 to 0.56, so theirs is of 0.21 to 1 by Newcombe."""
    low, high = wilson(1.0, 3)[0], wilson(0.0, 3)[1]
    every, none = told(1.0, groups=3, ends=(low, 1.0)), told(0.0, groups=3, ends=(0.0, high))
    apart = difference(only("concept_recall", every), only("concept_recall", none), "concept_recall")
    assert apart is not None
    assert apart.low == pytest.approx(1 - math.hypot(1 - low, high))
    assert 0.2 < apart.low < 0.21 < apart.high == 1
    nothing = difference(only("copies", none), only("copies", none), "copies")
    assert nothing is not None
    assert nothing.low < 0 == nothing.estimate < nothing.high


def test_without_groups_no_interval_is_known():
    apart = difference(only("copies", told(1.0, groups=1)), only("copies", told(0.0, groups=1)), "copies")
    assert apart is not None
    assert math.isnan(apart.low)
    assert is_better("copies", apart) is None


@pytest.mark.parametrize(
    ("name", "ends", "floor", "better"),
    [
        ("closeness", (0.1, 0.3), 0.0, True),
        ("closeness", (-0.3, -0.1), 0.0, False),
        ("drift", (0.1, 0.3), 0.0, False),
        ("drift", (-0.3, -0.1), 0.0, True),
        ("closeness", (-0.1, 0.3), 0.0, None),
        ("closeness", (0.0, 0.3), 0.0, None),
        ("closeness", (math.nan, math.nan), 0.0, None),
        ("closeness", (0.1, 0.3), 0.2, None),  # as large as the noise
        ("closeness", (0.1, 0.3), 0.19, True),
        ("drift", (-0.3, -0.1), 0.2, None),
    ],
)
def test_a_difference_says_something_where_its_interval_leaves_out_nothing(name, ends, floor, better):
    estimate = 0.2 if math.isnan(ends[0]) else sum(ends) / 2
    assert is_better(name, Value(estimate, *ends, 10, 5), floor) is better


def test_of_measures_without_a_better_side_none_is_better():
    neutral = [name for name, one in measures().items() if one.better == "none"]
    assert neutral
    assert all(is_better(name, Value(0.2, 0.1, 0.3, 10, 5)) is None for name in neutral)
    assert is_better("closeness", None) is None


def test_the_noise_floor_is_half_of_the_usual_interval_between_neighbours():
    def marks_with(noise: Array, groups: int = 10) -> Marks:
        return only("drift", Told(Value(0, 0, 1, 10, 5), numpy.concatenate([[0.0], noise]), groups))

    found = {BASE: marks_with(0 * NOISE), FIRST: marks_with(NOISE), SECOND: marks_with(4 * NOISE)}
    found[THIRD] = marks_with(4.5 * NOISE)
    reaches = []
    for one, other in ((BASE, FIRST), (FIRST, SECOND), (SECOND, THIRD)):  # spreads of 1, 3 and 0.5
        apart = difference(found[one], found[other], "drift")
        assert apart is not None
        reaches.append((apart.high - apart.low) / 2)
    assert floor_of(found, list(found)) == {"drift": pytest.approx(reaches[0])}
    assert floor_of(found, [FIRST, SECOND]) == {"drift": pytest.approx(reaches[1])}


def test_without_neighbours_or_intervals_there_is_no_floor(marks):
    assert floor_of(marks, [FIRST]) == {}
    assert floor_of(marks, []) == {}
    unknown = {cell: only("drift", told(0.5, 0.1, groups=1)) for cell in (FIRST, SECOND)}
    assert floor_of(unknown, [FIRST, SECOND]) == {}
