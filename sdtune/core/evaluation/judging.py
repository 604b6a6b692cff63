"""Judging: every measure of every cell, and what each cell differs by from the base model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy

from sdtune.core.evaluation.copies import copies_of
from sdtune.core.evaluation.intervals import Array, Refused, Value, Weights, interval, resampled
from sdtune.core.evaluation.measures import Measure, Seen, measures
from sdtune.core.evaluation.outcome import Copy
from sdtune.core.evaluation.subject import BASE, Cell
from sdtune.core.reports import Progress, Telling


@dataclass(frozen=True)
class Marks:
    """All that was measured of one cell."""

    values: Mapping[str, Value | Refused]
    replicates: Mapping[str, Array]
    """[R] of the measures that are told; the same resamples in all cells"""
    groups: Mapping[str, int]
    """that were drawn anew for each"""
    details: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    copies: tuple[Copy, ...] = ()

    def __getitem__(self, name: str) -> float:
        """The figure; NaN where it is refused."""
        value = self.values.get(name)
        return value.estimate if isinstance(value, Value) else math.nan


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
    values: dict[str, Value | Refused] = {}
    replicates, groups, details = {}, {}, {}
    for name, measure in measures().items():
        reason = measure.refusal(seen, force=force)
        if reason is not None:
            values[name] = Refused(reason)
            continue
        replicates[name] = measure.replicates(seen, weights)
        groups[name] = measure.groups(seen, weights)
        values[name] = _value(measure, seen, replicates[name], groups[name])
        if detail := measure.detail(seen):
            details[name] = detail
    return Marks(values, replicates, groups, details, copies_of(seen))


def _value(measure: Measure, seen: Seen, replicates: Array, groups: int) -> Value:
    low, high = interval(replicates, groups, share=measure.share)
    return Value(float(replicates[0]), low, high, *measure.counts(seen))


def difference(first: Marks, second: Marks, name: str) -> Value | None:
    """How much the first has more of a measure than the second, with its paired interval; None where one is refused."""
    if name not in first.replicates or name not in second.replicates:
        return None
    paired = first.replicates[name] - second.replicates[name]
    low, high = interval(paired, min(first.groups[name], second.groups[name]))
    value = first.values[name]
    assert isinstance(value, Value), "what has replicates has a value"
    return Value(float(paired[0]), low, high, value.n, value.references)


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
