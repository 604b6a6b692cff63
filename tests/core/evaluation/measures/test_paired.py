"""Measures of pairs."""

from __future__ import annotations

import numpy
import pytest

from sdtune.core.evaluation.intervals import Refused, Value, resampled
from sdtune.core.evaluation.measures import Seen, measures

NAMES = ("psnr", "ssim", "perceptual")


def seen(*values: float) -> Seen:
    """Two drawings a prompt, which have these values of every measure."""
    n = len(values)
    none, nowhere = numpy.zeros(n, dtype=numpy.bool_), numpy.full(n, -1)
    features = numpy.eye(n)
    return Seen(
        drawn=features,
        base=features,
        references=features[:0],
        trained=features[:0],
        prompt=numpy.arange(n) // 2,
        in_distribution=none,
        new_context=none,
        generic=none,
        has_concept=none,
        of_reference=nowhere,
        of_trained=nowhere,
        values={name: numpy.array(values) for name in NAMES},
    )


@pytest.mark.parametrize("name", NAMES)
def test_mean_of_pairs(name: str) -> None:
    """Of drawings that have one; its interval is of their prompts alone."""
    case = seen(0.1, 0.3, 0.5, 0.7, numpy.nan, numpy.nan, 0.2, numpy.nan)
    value = measures()[name].value(case, resampled(case.prompt.tolist(), 0, 400))
    assert isinstance(value, Value)
    assert (value.estimate, value.n, value.references) == (pytest.approx(0.36), 5, 3)
    assert value.low < 0.2 < 0.5 < value.high  # means of three prompts: 0.2, 0.6 and 0.2


@pytest.mark.parametrize("name", NAMES)
def test_refused_without_pairs(name: str) -> None:
    """With what would help."""
    case = seen(numpy.nan, numpy.nan)
    assert measures()[name].value(case, resampled(case.prompt.tolist(), 0, 100)) == Refused("no pairs; give --pairs")
