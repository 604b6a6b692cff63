"""Average: a measure that is the mean of one figure a drawing, over some of them."""

from __future__ import annotations

from abc import abstractmethod

import numpy

from sdtune.core.evaluation.intervals import Array, Weights, mean_under
from sdtune.core.evaluation.measures.base import Mask, Measure, Seen


class Average(Measure):
    """The mean of `each` over the drawings that `chosen` names."""

    @abstractmethod
    def chosen(self, seen: Seen) -> Mask:
        """[n] the drawings that it is of."""

    @abstractmethod
    def each(self, seen: Seen, chosen: Mask) -> Array:
        """[k] the figure of each chosen drawing."""

    def counts(self, seen: Seen) -> tuple[int, int]:
        """The chosen drawings; no references."""
        return int(self.chosen(seen).sum()), 0

    def replicates(self, seen: Seen, weights: Weights) -> Array:
        """[R] weighted means; NaN where a resample has none of these drawings."""
        chosen = self.chosen(seen)
        return mean_under(self.each(seen, chosen), weights.units[:, chosen])

    def groups(self, seen: Seen) -> int:
        """Prompts of the chosen drawings."""
        return prompts(seen, self.chosen(seen))


def prompts(seen: Seen, chosen: Mask) -> int:
    """How many prompts the chosen drawings are of."""
    return len(numpy.unique(seen.prompt[chosen]))
