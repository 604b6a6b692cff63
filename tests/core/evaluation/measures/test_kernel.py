"""KID and CMMD against an oracle, closed forms and cells whose answer is known."""

from __future__ import annotations

import dataclasses
import math

import numpy
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from sdtune.core.evaluation.intervals import Array, Refused, Value, Weights, interval, resampled, student
from sdtune.core.evaluation.measures import Seen
from sdtune.core.evaluation.measures.kernel import CMMD, KID, Discrepancy, polynomial
from tests.core.evaluation.measures.handmade import cloud, seen, unit

BOTH = pytest.mark.parametrize("measure", [KID(), CMMD()], ids=["kid", "cmmd"])


class Raw(KID):
    """Of features as they are, as the paper and torchmetrics have it."""

    def kernel(self, x: Array, y: Array) -> Array:
        return polynomial(x, y, 1 / x.shape[1])


def once(measure: Discrepancy, cell: Seen) -> float:
    return float(measure.replicates(cell, resampled(cell.prompt.tolist(), len(cell.references), 0))[0])


def told(measure: Discrepancy, cell: Seen, resamples: int = 300) -> Value:
    value = measure.value(cell, resampled(cell.prompt.tolist(), len(cell.references), resamples))
    assert isinstance(value, Value)
    return value


@pytest.mark.parametrize(("measure", "gamma"), [(Raw(), None), (KID(), 1.0)])
def test_kid_is_torchmetrics(measure: KID, gamma: float | None) -> None:
    random = numpy.random.default_rng(0)
    drawn, references = random.normal(size=(25, 12)) + 0.2, random.normal(size=(25, 12))
    oracle = poly_mmd(torch.from_numpy(references), torch.from_numpy(drawn), gamma=gamma)
    assert once(measure, seen(drawn, references)) / 1000 == pytest.approx(float(oracle), rel=1e-6)


def under(measure: Discrepancy, cell: Seen, units: Array, references: Array) -> float:
    """MMD^2 of pictures that count so often, by its definition; of a prompt and its reference there are no pairs."""
    sides = (cell.drawn, units, cell.prompt, cell.of_reference), (cell.references, references)
    (drawn, units, prompt, described), (others, references) = sides

    def mean(kernel: Array, pairs: Array) -> float:
        return float((kernel * pairs).sum() / pairs.sum())

    within = numpy.outer(units, units) * (prompt[:, None] != prompt)
    around = numpy.outer(references, references) * (1 - numpy.eye(len(others)))
    between = numpy.outer(units, references) * (described[:, None] != numpy.arange(len(others)))
    return 1000 * (
        mean(measure.kernel(drawn, drawn), within)
        + mean(measure.kernel(others, others), around)
        - 2 * mean(measure.kernel(drawn, others), between)
    )


@BOTH
def test_it_is_its_definition_and_changes_with_each_picture_as_that_does(measure: Discrepancy) -> None:
    random = numpy.random.default_rng(1)
    cell = seen(cloud(random, 8), cloud(random, 5, shift=0.2), seeds=2, of_reference=numpy.array([-1] * 6 + [2, 2]))
    step = 1e-5
    for place in range(13):
        units, references = numpy.ones(8), numpy.ones(5)
        changed, at = (units, place) if place < 8 else (references, place - 8)
        changed[at] += step
        if place >= 8 and at == 2:
            continue  # comes and goes with its prompt
        if place >= 6 and place < 8:
            units[6:] = references[2] = 1 + step
        row = Weights(numpy.stack([numpy.ones(8), units]), numpy.stack([numpy.ones(5), references]), 4)
        here, there = measure.replicates(cell, row)
        assert here == pytest.approx(under(measure, cell, numpy.ones(8), numpy.ones(5)), rel=1e-6)
        apart = (under(measure, cell, units, references) - here) / step
        assert (there - here) / step == pytest.approx(apart, rel=1e-3, abs=1e-3)


@BOTH
def test_drawing_a_prompt_twice_alike_changes_nothing(measure: Discrepancy) -> None:
    random = numpy.random.default_rng(2)
    drawn, references = cloud(random, 8), cloud(random, 6)
    twice = seen(numpy.repeat(drawn, 2, axis=0), references, seeds=2)
    assert once(measure, twice) == pytest.approx(once(measure, seen(drawn, references)))


@BOTH
def test_drawings_that_are_the_very_references_they_describe_are_at_no_distance(measure: Discrepancy) -> None:
    """Rather than below 0, as they would be with the pairs of a drawing and its own picture."""
    references = cloud(numpy.random.default_rng(3), 8)
    cell = seen(references.copy(), references, of_reference=numpy.arange(8))
    assert once(measure, cell) == pytest.approx(0, abs=1e-9)
    assert once(measure, dataclasses.replace(cell, of_reference=numpy.full(8, -1))) < 0


@BOTH
def test_sets_of_one_kind_are_no_distance_apart_and_shifted_ones_more_and_more(measure: Discrepancy) -> None:
    random = numpy.random.default_rng(4)
    references = cloud(random, 30)
    same, *shifted = (told(measure, seen(cloud(random, 40, shift=shift), references)) for shift in (0.0, 0.2, 0.4, 0.8))
    assert same.low < 0
    assert same.estimate < shifted[0].estimate < shifted[1].estimate < shifted[2].estimate
    assert shifted[2].low > 0
    assert (same.n, same.references) == (40, 30)


@BOTH
def test_a_collapsed_set_is_far_and_a_copied_one_is_not(measure: Discrepancy) -> None:
    """Copies of trained pictures are as the references are: to find them is not what these are for."""
    random = numpy.random.default_rng(5)
    references, trained = cloud(random, 30), cloud(random, 20)
    collapsed = told(measure, seen(numpy.repeat(trained[:1], 20, axis=0), references))
    copied = told(measure, seen(trained, references, trained=trained))
    assert collapsed.low > 0
    assert copied.low < 0 < copied.high


@BOTH
def test_it_is_of_fair_drawings_alone(measure: Discrepancy) -> None:
    random = numpy.random.default_rng(6)
    drawn, references = cloud(random, 12), cloud(random, 9)
    fair = numpy.arange(12) < 7
    part = seen(drawn, references, in_distribution=fair)
    assert once(measure, part) == pytest.approx(once(measure, seen(drawn[fair], references)))
    assert measure.counts(part) == (7, 9)
    value = told(measure, part)
    assert value.low < value.estimate < value.high


@BOTH
def test_the_fewer_of_prompts_and_references_are_its_freedom(measure: Discrepancy) -> None:
    cell = seen(cloud(numpy.random.default_rng(7), 20), cloud(numpy.random.default_rng(8), 6), seeds=2)
    assert measure.groups(cell) == 6
    more = dataclasses.replace(cell, references=cloud(numpy.random.default_rng(8), 40))
    assert measure.groups(more) == 10


@BOTH
def test_too_few_are_refused_with_what_helps(measure: Discrepancy) -> None:
    drawn, weights = cloud(numpy.random.default_rng(9), 4), resampled([0, 0, 0, 0], 1, 100)
    one_prompt = measure.value(seen(drawn, drawn, seeds=4), weights)
    one_reference = measure.value(seen(drawn, drawn[:1]), weights, force=True)
    assert isinstance(one_prompt, Refused)
    assert isinstance(one_reference, Refused)
    assert "--prompts-each" in one_prompt.reason
    assert "--reference" in one_reference.reason
    fewest = measure.value(seen(drawn[:2], drawn[2:]), resampled([0, 1], 2, 100))
    assert isinstance(fewest, Value)
    assert math.isfinite(fewest.estimate)


@BOTH
def test_pictures_that_are_all_one_are_at_no_distance(measure: Discrepancy) -> None:
    same = numpy.repeat(cloud(numpy.random.default_rng(10), 1), 6, axis=0)
    value = told(measure, seen(same, same))
    assert (value.estimate, value.low, value.high) == pytest.approx((0, 0, 0), abs=1e-6)


@BOTH
def test_sets_of_one_kind_are_hardly_ever_told_apart(measure: Discrepancy) -> None:
    """Where their means happen to be closer than usual, too."""
    random = numpy.random.default_rng(12)
    values = [told(measure, seen(cloud(random, 20), cloud(random, 12)), 100) for _ in range(100)]
    assert sum(value.low > 0 or value.high < 0 for value in values) <= 5


def gaussian_mmd(far: float, width: int, spread: float) -> float:
    """MMD^2 of CMMD's kernel between N(a, s^2) and N(b, s^2) with |a - b| = far."""
    wide = 10.0**2 + 2 * spread**2
    return 2 * (10.0**2 / wide) ** (width / 2) * (1 - math.exp(-(far**2) / (2 * wide)))


def polynomial_mmd(a: Array, b: Array, spread: float) -> float:
    """MMD^2 of KID's kernel between N(a, s^2) and N(b, s^2), by the moments of x.y up to the third."""

    def mean(p: Array, q: Array) -> float:
        pq, pp, qq, s2, d = p @ q, p @ p, q @ q, spread**2, len(p)
        second = pq**2 + s2 * (pp + qq + d * s2)
        third = pq**3 + 3 * pq * s2 * pp + 3 * s2 * (pq * (qq + d * s2) + 2 * s2 * pq)
        return float(1 + 3 * pq + 3 * second + third)

    return mean(a, a) + mean(b, b) - 2 * mean(a, b)


@BOTH
@pytest.mark.parametrize(("prompts", "references"), [(10, 7), (10, 20), (20, 7)])
@pytest.mark.parametrize("apart", [0.0, 0.5])
def test_a_few_fair_prompts_have_intervals_that_are_not_too_wide(
    measure: Discrepancy, prompts: int, references: int, apart: float
) -> None:
    """A third of all prompts is fair, and most describe references, which show the same as their drawings."""
    random = numpy.random.default_rng(13)
    described = numpy.full(3 * prompts, -1)
    pairs = min(references, 7 * prompts // 10)
    described[:pairs] = numpy.arange(pairs)
    values = []
    for _ in range(100):
        shows, others = cloud(random, 3 * prompts), cloud(random, references)
        shows[:pairs] = others[:pairs]
        cell = seen(
            unit(shows + 0.5 * cloud(random, 3 * prompts, shift=apart)),
            unit(others + 0.5 * cloud(random, references)),
            in_distribution=numpy.arange(3 * prompts) < prompts,
            of_reference=described,
        )
        values.append(told(measure, cell, 200))
    found = numpy.array([[value.low, value.estimate, value.high] for value in values])
    true = found[:, 1].mean()
    assert ((found[:, 0] <= true) & (true <= found[:, 2])).mean() >= 0.9
    reach = numpy.median(found[:, 2] - found[:, 0]) / 2
    assert 0.75 <= reach / (student(min(pairs, references) - 1) * found[:, 1].std()) <= 1.5


@BOTH
@pytest.mark.parametrize(("shift", "most"), [(0.0, 1.0), (0.6, 0.985)])
def test_intervals_cover_the_distance_of_gaussians(measure: Discrepancy, shift: float, most: float) -> None:
    """20 drawings of 20 prompts, 12 references; and the paired difference of two cells beside the same references."""
    width, spread, simulations = 16, 0.3, 200
    home, away = numpy.eye(width)[0], numpy.eye(width)[0] + shift * numpy.eye(width)[1]
    truth = 1000 * (
        gaussian_mmd(shift, width, spread) if isinstance(measure, CMMD) else polynomial_mmd(away, home, spread)
    )
    random = numpy.random.default_rng(11)
    single, paired, estimates = [], [], []
    for seed in range(simulations):
        noise, more = random.normal(size=(2, 20, width)) * spread
        references = home + random.normal(size=(12, width)) * spread
        weights = resampled(list(range(20)), 12, 200, seed)
        moved = measure.replicates(seen(away + noise, references), weights)
        stayed = measure.replicates(seen(home + 0.8 * noise + 0.6 * more, references), weights)
        estimates.append(moved[0])
        for hits, replicates, true in ((single, moved, truth), (paired, moved - stayed, truth)):
            low, high = interval(replicates, 12)
            hits.append(low <= true <= high)
    assert 0.91 <= numpy.mean(single) <= most
    assert 0.91 <= numpy.mean(paired) <= most
    assert numpy.mean(estimates) == pytest.approx(truth, abs=3 * numpy.std(estimates) / math.sqrt(simulations))


@BOTH
def test_without_resamples_there_is_the_figure_alone(measure: Discrepancy) -> None:
    cell = seen(unit(numpy.eye(4)), unit(1 - numpy.eye(4)))
    assert measure.replicates(cell, Weights(numpy.ones((1, 4)), numpy.ones((1, 4)), 4)).shape == (1,)
