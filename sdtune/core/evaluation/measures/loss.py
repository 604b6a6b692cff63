"""The loss on references, which training never saw, relative to the base model's."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy

from sdtune.core.evaluation.intervals import Array, Weights
from sdtune.core.evaluation.measures.base import Measure, Seen


class ReferenceLoss(Measure):
    """The sum of the losses at fixed noises, divided by the base model's on the same images and noises."""

    name: ClassVar[str] = "loss"
    title: ClassVar[str] = "Loss on references"
    says: ClassVar[str] = (
        "How well the noise in pictures that were never trained is predicted, beside the base model (1): it falls "
        "while something is learned that holds for others, and rises once pictures are learned by heart. It warns of "
        "copying; it does not choose the prettiest."
    )
    better: ClassVar[Literal["lower", "higher", "none"]] = "lower"
    order: ClassVar[int] = 28
    bounds: ClassVar[tuple[float, float]] = (0.0, math.inf)
    source: ClassVar[str] = "docs/run.md, validation"

    def counts(self, seen: Seen) -> tuple[int, int]:
        """No drawings; the references that have a caption, as many as are looked at."""
        return 0, 0 if seen.losses is None else len(seen.losses)

    def refusal(self, seen: Seen) -> str | None:
        """Captions are needed, as the loss is that of pictures under theirs."""
        if seen.losses is None:
            return "not measured, by --losses 0, or since no reference has a caption and a size that the model takes"
        return None

    def replicates(self, seen: Seen, weights: Weights) -> Array:
        """[R], references drawn anew by themselves."""
        assert seen.losses is not None, "losses are there, or it is refused"
        if seen.is_base:
            return numpy.ones(len(weights.references))
        count = len(seen.losses)
        random = numpy.random.default_rng(count)
        rows = random.multinomial(count, numpy.full(count, 1 / count), size=len(weights.references))
        rows[0] = 1
        found: Array = (rows @ seen.losses[:, 0]) / (rows @ seen.losses[:, 1])
        return found

    def groups(self, seen: Seen) -> int:
        """References."""
        return 0 if seen.losses is None else len(seen.losses)
