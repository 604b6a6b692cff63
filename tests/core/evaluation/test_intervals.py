"""Intervals cover what is true, as often as they say."""

from __future__ import annotations

import math

import numpy
import pytest

from sdtune.core.evaluation.intervals import NORMAL, interval, resampled, student, wilson

SIMULATIONS = 200
COVERED = (0.91, 0.985)
"""95 % of 200 is told by simulation to +- 3 %"""


def test_weights_are_the_same_again_and_the_first_row_counts_each_once() -> None:
    one, again, other = (resampled([3, 3, 8], 4, 50, seed) for seed in (1, 1, 2))
    assert one.units.shape == (51, 3)
    assert one.references.shape == (51, 4)
    assert (one.units[0] == 1).all()
    assert (one.references[0] == 1).all()
    assert (one.units == again.units).all()
    assert (one.references == again.references).all()
    assert (one.references != other.references).any()


def test_drawings_of_a_prompt_come_and_go_together() -> None:
    prompts = [5, 0, 5, 2, 0]
    weights = resampled(prompts, 7, 300)
    assert weights.groups == 3
    assert (weights.units[:, 0] == weights.units[:, 2]).all()
    assert (weights.units[:, 1] == weights.units[:, 4]).all()
    assert (weights.units[:, [0, 1, 3]].sum(1) == 3).all()
    assert (weights.references.sum(1) == 7).all()
    assert numpy.allclose(weights.units[1:].mean(0), 1, atol=0.2)


def test_without_references_or_drawings_there_are_no_weights_of_them() -> None:
    assert resampled([0, 1], 0, 10).references.shape == (11, 0)
    nothing = resampled([], 3, 10)
    assert nothing.units.shape == (11, 0)
    assert nothing.groups == 0


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262), (11, 2.201), (19, 2.093), (120, 1.980)],
)
def test_student_is_as_in_printed_tables(freedom: int, quantile: float) -> None:
    assert student(freedom) == pytest.approx(quantile, abs=1e-3)


@pytest.mark.parametrize(("share", "trials"), [(0.0, 5), (0.1, 20), (0.5, 10), (0.97, 300), (1.0, 3)])
def test_wilson_ends_where_the_share_would_just_be_rejected(share: float, trials: int) -> None:
    for end in wilson(share, trials):
        assert (share - end) ** 2 == pytest.approx(NORMAL**2 * end * (1 - end) / trials, abs=1e-9)
    assert wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)


def test_where_nothing_can_be_said_there_is_no_interval() -> None:
    nothing = pytest.approx((math.nan, math.nan), nan_ok=True)
    some = numpy.array([1.0, 0.9, 1.2, 1.1])
    assert interval(some, 1) == nothing
    assert interval(numpy.array([math.nan, 1.0, 1.1]), 9) == nothing
    assert interval(numpy.array([1.0, 1.1, math.nan, math.nan, math.nan]), 9) == nothing
    assert interval(some[:1], 9) == nothing
    assert all(map(math.isfinite, interval(numpy.array([1.0, 0.9, 1.2, math.nan]), 9)))


def test_what_is_the_same_in_all_resamples_is_certain_unless_it_is_a_share() -> None:
    same = numpy.ones(50)
    assert interval(same, 5) == (1.0, 1.0)
    assert interval(same, 5, share=True) == wilson(1.0, 5)
    assert interval(same * 0, 5, share=True)[1] > 0.4


def test_repeats_in_resamples_do_not_shift_an_interval() -> None:
    spread = numpy.linspace(-1, 1, 101)
    low, high = interval(numpy.concatenate([[5.0], 3 + spread]), 10)
    assert (low + high) / 2 == pytest.approx(5)


def test_a_mean_of_prompts_with_two_drawings_is_covered() -> None:
    random = numpy.random.default_rng(1)
    hits = []
    for seed in range(SIMULATIONS):
        drawings = random.normal(size=(20, 1)) + 0.5 * random.normal(size=(20, 2))
        weights = resampled(numpy.repeat(numpy.arange(20), 2), 0, 200, seed)
        low, high = interval(weights.units @ drawings.ravel() / weights.units.sum(1), weights.groups)
        hits.append(low <= 0 <= high)
    assert COVERED[0] <= numpy.mean(hits) <= COVERED[1]


@pytest.mark.parametrize("truth", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("alike", [0.0, 0.7])
def test_a_share_is_covered(truth: float, alike: float) -> None:
    """Of 20 prompts with two drawings each, which are as their prompt is with a probability, else by themselves."""
    random = numpy.random.default_rng(2)
    hits = []
    for seed in range(SIMULATIONS):
        of_prompt, own = random.random((20, 1)) < truth, random.random((20, 2)) < truth
        drawings = numpy.where(random.random((20, 2)) < alike, of_prompt, own).astype(float).ravel()
        weights = resampled(numpy.repeat(numpy.arange(20), 2), 0, 200, seed)
        low, high = interval(weights.units @ drawings / weights.units.sum(1), weights.groups, share=True)
        assert 0 <= low <= drawings.mean() <= high <= 1
        hits.append(low <= truth <= high)
    assert COVERED[0] <= numpy.mean(hits) <= COVERED[1]
