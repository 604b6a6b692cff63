"""Intervals by the bootstrap (Efron 1979): prompts and references are drawn anew, with all that belongs to them.

Every statistic is computed under weights: how often each drawing and each reference counts in a resample. The same
weights serve all cells, so that differences between cells are paired. Pictures of one prompt are alike and come and go
together. The estimate itself counts each once; the spread of the resamples around their mean is its standard error,
and t quantiles of as many degrees of freedom as there are prompts less one make the interval. So what a resample with
repeats is biased by (a U-statistic, a diversity) does not shift it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

Array = NDArray[numpy.float64]
NORMAL = 1.959964
"""the 97.5 % quantile of the normal distribution"""


@dataclass(frozen=True)
class Weights:
    """How often each counts; the first row counts each once."""

    units: Array  # [R, n] of drawings
    references: Array  # [R, m]
    groups: int
    """prompts that were drawn from"""


@dataclass(frozen=True)
class Value:
    """A measure with its interval of 95 %."""

    estimate: float
    low: float
    """NaN where there is no interval"""
    high: float
    n: int
    """drawings that it is of"""
    references: int
    """pictures that these were laid beside; 0: none"""


@dataclass(frozen=True)
class Refused:
    """A measure that cannot be told, and why, in words that end in what would help."""

    reason: str


def resampled(prompts: Sequence[int], references: int, resamples: int, seed: int = 0) -> Weights:
    """Weights of resamples of `prompts` (the prompt of each drawing, [n]) and of so many references."""
    random = numpy.random.default_rng((20261123, seed))
    of = numpy.unique(numpy.asarray(prompts, dtype=numpy.int64), return_inverse=True)[1]
    groups = int(of.max()) + 1 if len(of) else 0
    units = _counts(random, groups, resamples)[:, of]
    return Weights(units, _counts(random, references, resamples), groups)


def interval(replicates: Array, groups: int, *, share: bool = False) -> tuple[float, float]:
    """(low, high) of the first replicate by the spread of the others.

    A share has Wilson's interval (1927) of as many trials as its spread has, so that 0 of 5 is not certain; fewer where
    few groups tell its spread (Korn and Graubard 1998). (NaN, NaN) of fewer than two groups, and where half of the
    resamples have no figure.
    """
    estimate, others = float(replicates[0]), replicates[1:][numpy.isfinite(replicates[1:])]
    if groups < 2 or not math.isfinite(estimate) or len(others) < 2 or 2 * len(others) < len(replicates) - 1:
        return math.nan, math.nan
    spread = float(numpy.std(others, ddof=1)) * math.sqrt(groups / (groups - 1))
    reach = student(groups - 1)
    if not share:
        return estimate - reach * spread, estimate + reach * spread
    if spread and 0 < estimate < 1:
        return wilson(estimate, max(1.0, min(estimate * (1 - estimate) / spread**2, 1e6) * (NORMAL / reach) ** 2))
    return wilson(estimate, float(groups))


def of_shares(first: Value, second: Value) -> tuple[float, float]:
    """(low, high) of a difference of two shares, out of the interval of each (Newcombe 1998, method 10)."""
    apart = first.estimate - second.estimate
    below = math.hypot(first.estimate - first.low, second.high - second.estimate)
    above = math.hypot(first.high - first.estimate, second.estimate - second.low)
    return apart - below, apart + above


def within(ends: tuple[float, float], bounds: tuple[float, float]) -> tuple[float, float]:
    """The same, no further than the bounds; NaN stays."""
    low, high = ends
    return (low if math.isnan(low) else max(low, bounds[0])), (high if math.isnan(high) else min(high, bounds[1]))


def wilson(share: float, trials: float) -> tuple[float, float]:
    """(low, high) of a share of so many trials (Wilson 1927)."""
    z = NORMAL
    middle = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    reach = z / (1 + z**2 / trials) * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return (0.0 if share == 0 else middle - reach), (1.0 if share == 1 else middle + reach)


def mean_under(values: Array, weights: Array) -> Array:
    """[R] means of values [n] under weights [R, n]; NaN where all weigh nothing."""
    total = weights.sum(axis=1)
    mean: Array = numpy.divide(weights @ values, total, out=numpy.full(len(total), numpy.nan), where=total > 0)
    return mean


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, to 1e-3 (Cornish and Fisher's expansion; few degrees from tables)."""
    known = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764}
    if freedom in known:
        return known[freedom]
    z = NORMAL
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / freedom**power for power, term in enumerate(terms, 1))


def _counts(random: numpy.random.Generator, size: int, resamples: int) -> Array:
    """[1 + resamples, size], all ones first."""
    if size == 0:
        return numpy.ones((resamples + 1, 0))
    drawn = random.multinomial(size, numpy.full(size, 1 / size), size=resamples)
    return numpy.concatenate([numpy.ones((1, size)), drawn.astype(numpy.float64)])
