"""OfSets: a measure of two sets of pictures, drawings and references, and how it changes with each picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy

from sdtune.core.evaluation.intervals import Array, Weights
from sdtune.core.evaluation.measures.averages import prompts
from sdtune.core.evaluation.measures.base import Mask, Measure, Seen


class OfSets(Measure):
    """Of the fair drawings and all references."""

    def counts(self, seen: Seen) -> tuple[int, int]:
        """Fair drawings, all references."""
        return int(seen.fair.sum()), len(seen.references)

    def groups(self, seen: Seen) -> int:
        """Prompts or references, whichever are fewer: of one alone nothing tells how others would do."""
        return min(prompts(seen, seen.fair), len(seen.references))


@dataclass(frozen=True)
class Slopes:
    """A figure of two sets, and its derivatives by how often each picture counts, which add up to 0."""

    figure: float
    of_drawings: Array  # [n]
    of_references: Array  # [m]

    def under(self, seen: Seen, weights: Weights) -> Array:
        """[R] to the first order, with drawings that are fair.

        How many fair drawings a resample has is nothing to it then, nor is there a mean that is divided by the weight
        of the few that are left. A reference that a prompt describes comes and goes with it: both show the same.
        """
        units, references = weights.units[:, seen.fair], weights.references.copy()
        described = seen.of_reference[seen.fair]
        references[:, described[described >= 0]] = units[:, described >= 0]
        changes: Array = (units - 1) @ self.of_drawings + (references - 1) @ self.of_references
        return self.figure + changes


def mean_of_pairs(values: Array, pairs: Mask) -> Slopes:
    """The mean of values [n, m] over `pairs` [n, m], of which there are some."""
    mean = values[pairs].mean()
    apart = numpy.where(pairs, values - mean, 0.0) / pairs.sum()
    return Slopes(float(mean), apart.sum(axis=1), apart.sum(axis=0))
