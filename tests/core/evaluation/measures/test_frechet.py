"""FID against an oracle, what is known of it, and what it says of too few pictures."""

from __future__ import annotations

import numpy
import pytest
import torch
from torchmetrics.image.fid import _compute_fid

from sdtune.core.evaluation.intervals import Array, Refused, Value, resampled
from sdtune.core.evaluation.measures.frechet import ENOUGH, FID, frechet
from tests.core.evaluation.measures.handmade import cloud, seen


def oracle(x: Array, y: Array) -> float:
    mean_x, mean_y, c_x, c_y = (torch.from_numpy(one) for one in (x.mean(0), y.mean(0), numpy.cov(x.T), numpy.cov(y.T)))
    return float(_compute_fid(mean_x, c_x, mean_y, c_y))


@pytest.mark.parametrize(("drawings", "references", "width"), [(60, 50, 8), (300, 40, 16), (30, 200, 12)])
def test_it_is_torchmetrics(drawings: int, references: int, width: int) -> None:
    random = numpy.random.default_rng(0)
    x, y = cloud(random, drawings, width), cloud(random, references, width, shift=0.2)
    assert frechet(x, y).squared == pytest.approx(oracle(x, y), rel=1e-6)


def test_a_shift_and_a_stretch_have_a_closed_form() -> None:
    x = numpy.random.default_rng(1).normal(size=(50, 6))
    expected = ((2 * x + 3).mean(0) - x.mean(0)) @ ((2 * x + 3).mean(0) - x.mean(0)) + numpy.cov(x.T).trace()
    assert frechet(2 * x + 3, x).squared == pytest.approx(expected)
    assert frechet(x, x).squared == pytest.approx(0, abs=1e-9)


def test_fewer_pictures_than_features_are_as_good_as_in_the_space_that_they_span() -> None:
    random = numpy.random.default_rng(2)
    x, y = random.normal(size=(20, 5)), random.normal(size=(15, 5)) + 0.3
    into, _ = numpy.linalg.qr(random.normal(size=(64, 5)))
    narrow, wide = frechet(x, y), frechet(x @ into.T, y @ into.T)
    assert wide.squared == pytest.approx(narrow.squared)
    assert wide.of_x == pytest.approx(narrow.of_x)


def test_replicates_vary_as_if_each_were_computed_anew() -> None:
    random = numpy.random.default_rng(3)
    x, y = cloud(random, 300, 8), cloud(random, 260, 8, shift=0.1)
    weights = resampled(list(range(300)), 260, 300)
    anew = [
        frechet(numpy.repeat(x, units.astype(int), axis=0), numpy.repeat(y, others.astype(int), axis=0)).squared
        for units, others in zip(weights.units, weights.references, strict=True)
    ]
    replicates = FID().replicates(seen(x, y), weights)
    assert replicates[0] == pytest.approx(anew[0])
    assert numpy.std(replicates[1:]) == pytest.approx(numpy.std(anew[1:]), rel=0.15)
    assert numpy.corrcoef(replicates[1:], anew[1:])[0, 1] > 0.85


def test_of_few_it_is_refused_and_by_force_printed_with_its_bias() -> None:
    random = numpy.random.default_rng(4)
    cell = seen(cloud(random, 40), cloud(random, 20))
    weights = resampled(cell.prompt.tolist(), 20, 100)
    refused, forced = FID().value(cell, weights), FID().value(cell, weights, force=True)
    assert isinstance(refused, Refused)
    assert refused.reason.startswith("FID of 40 drawings and 20 references would be bias for the most part;")
    assert "--force" in refused.reason
    assert "\n" not in refused.reason
    assert isinstance(forced, Value)
    assert (forced.n, forced.references) == (40, 20)
    assert forced.low < forced.estimate < forced.high
    detail = FID().detail(cell)
    assert (detail["drawings"], detail["references"]) == (40, 20)
    assert detail["bias"] > forced.estimate / 2  # the two sets are of one kind: all that there is, is bias


def test_of_enough_it_is_told_and_its_bias_is_less() -> None:
    random = numpy.random.default_rng(5)
    few, many = (seen(cloud(random, n), cloud(random, n)) for n in (20, 2 * ENOUGH))
    value = FID().value(many, resampled(many.prompt.tolist(), 2 * ENOUGH, 100))
    assert isinstance(value, Value)
    assert FID().detail(many)["bias"] < FID().detail(few)["bias"] / 5
    shifted = seen(cloud(random, 300, shift=0.4), cloud(random, 300))
    far = FID().value(shifted, resampled(shifted.prompt.tolist(), 300, 100))
    assert isinstance(far, Value)
    assert far.low > value.high


def test_without_a_covariance_force_does_not_help() -> None:
    drawn = cloud(numpy.random.default_rng(6), 3)
    refused = FID().value(seen(drawn, drawn[:1]), resampled([0, 1, 2], 1, 100), force=True)
    assert isinstance(refused, Refused)
    assert "--reference" in refused.reason
    assert "bias" not in FID().detail(seen(drawn, drawn))


def test_how_many_fair_drawings_a_resample_has_changes_nothing() -> None:
    random = numpy.random.default_rng(7)
    drawn, references = cloud(random, 30), cloud(random, 20)
    cell = seen(drawn, references, in_distribution=numpy.arange(30) < 15)
    weights = resampled(cell.prompt.tolist(), 20, 50)
    more = weights.units + 1
    once = FID().replicates(cell, weights)
    assert FID().replicates(cell, type(weights)(more, weights.references, 30)) == pytest.approx(once)
