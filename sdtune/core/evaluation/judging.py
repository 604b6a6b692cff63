"""Judging: every measure of every cell, and what sets two cells apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy

from sdtune.core.evaluation.copies import copies_of
from sdtune.core.evaluation.intervals import Refused, Value, Weights, interval, of_shares, resampled, within
from sdtune.core.evaluation.measures import Seen, measures
from sdtune.core.evaluation.measures.base import Told
from sdtune.core.evaluation.outcome import Copy
from sdtune.core.evaluation.subject import BASE, Cell
from sdtune.core.reports import Progress, Telling


@dataclass(frozen=True)
class Marks:
    """All that was measured of one cell."""

    told: Mapping[str, Told | Refused]
    details: Mapping[str, Mapping[str, Any]]
    copies: tuple[Copy, ...] = ()

    def __getitem__(self, name: str) -> float:
        """The figure; NaN where it is refused."""
        told = self.told.get(name)
        return told.value.estimate if isinstance(told, Told) else math.nan

    @property
    def values(self) -> dict[str, Value | Refused]:
        """As they are told."""
        return {name: one if isinstance(one, Refused) else one.value for name, one in self.told.items()}


def marks_of(seen: Mapping[Cell, Seen], resamples: int, *, force: bool) -> Telling[dict[Cell, Marks]]:
    """Every measure of every cell, under the same resamples."""
    first = seen[BASE]
    weights = resampled([int(one) for one in first.prompt], len(first.references), resamples)
    found = {}
    for number, (cell, one) in enumerate(seen.items(), 1):
        found[cell] = _marks(one, weights, force=force)
        yield Progress("measuring", number, len(seen))
    return found


def _marks(seen: Seen, weights: Weights, *, force: bool) -> Marks:
    told = {name: measure.told(seen, weights, force=force) for name, measure in measures().items()}
    details = {
        name: detail
        for name, measure in measures().items()
        if isinstance(told[name], Told) and (detail := measure.detail(seen))
    }
    return Marks(told, details, copies_of(seen))


def difference(first: Marks, second: Marks, name: str) -> Value | None:
    """How much the first has more of a measure than the second, with its paired interval; None where one is refused."""
    one, other = first.told.get(name), second.told.get(name)
    if not isinstance(one, Told) or not isinstance(other, Told):
        return None
    paired = one.replicates - other.replicates
    low, high = interval(paired, min(one.groups, other.groups))
    if measures()[name].share and low == high:  # all of one and none of the other, in every resample
        low, high = of_shares(one.value, other.value)
    least, most = (0.0, 1.0) if measures()[name].share else measures()[name].bounds
    low, high = within((low, high), (least - most, most - least))
    return Value(float(paired[0]), low, high, one.value.n, one.value.references)


def floor_of(marks: Mapping[Cell, Marks], cells: Sequence[Cell]) -> dict[str, float]:
    """By measure how far two cells that are truly alike may come out apart: {name: half of the usual paired interval}.

    The median over cells that follow each other; what differs by less is noise.
    """
    found = {}
    for name in measures():
        told = [difference(marks[one], marks[other], name) for one, other in pairwise(cells)]
        reaches = [(one.high - one.low) / 2 for one in told if one and math.isfinite(one.low)]
        if reaches:
            found[name] = float(numpy.median(reaches))
    return found


def is_better(name: str, apart: Value | None, floor: float = 0.0) -> bool | None:
    """Whether a difference is for the better or for the worse; None where it says nothing."""
    better = measures()[name].better
    if apart is None or better == "none" or not (apart.low > 0 or apart.high < 0) or abs(apart.estimate) <= floor:
        return None
    return (apart.estimate > 0) == (better == "higher")
