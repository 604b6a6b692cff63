"""Closeness: how near drawings come to what was to be learned, by which LoRAs are told apart."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy

from sdtune.core.evaluation.intervals import Array, Weights, mean_under
from sdtune.core.evaluation.measures.averages import prompts
from sdtune.core.evaluation.measures.base import Measure, Seen


class Closeness(Measure):
    """The mean of two likenesses: to the very picture that a prompt describes, and to all references.

    The first is of drawings whose prompts describe references; the second of all that ask for what was learned. Where
    no prompt describes a reference it is the second alone. Chosen among eight rules by how far their choice is from the
    best of all on pictures that were not looked at (docs/science.md).
    """

    name: ClassVar[str] = "closeness"
    title: ClassVar[str] = "Closeness"
    says: ClassVar[str] = (
        "How alike drawings are to pictures of what was to be learned that were never trained, 1 being the same; by "
        "this the recommended one is chosen, once copies are left out."
    )
    better: ClassVar[Literal["lower", "higher", "none"]] = "higher"
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    order: ClassVar[int] = 8

    def counts(self, seen: Seen) -> tuple[int, int]:
        """Drawings that ask for what was learned, and references."""
        return int(seen.has_concept.sum()), len(seen.references)

    def refusal(self, seen: Seen) -> str | None:
        """Without a drawing that asks for it."""
        return None if seen.has_concept.any() else "no prompt asks for what was learned; give --prompts that do"

    def replicates(self, seen: Seen, weights: Weights) -> Array:
        """[R] given the references, as these are the same for all that is compared."""
        asked, described = seen.has_concept, seen.has_concept & (seen.of_reference >= 0)
        to_all = mean_under((seen.drawn[asked] @ seen.references.T).mean(axis=1), weights.units[:, asked])
        if not described.any():
            return to_all
        truths = seen.references[seen.of_reference[described]]
        to_truth = mean_under((seen.drawn[described] * truths).sum(axis=1), weights.units[:, described])
        found: Array = (to_all + numpy.where(numpy.isnan(to_truth), to_all, to_truth)) / 2
        return found

    def groups(self, seen: Seen) -> int:
        """Prompts that ask for what was learned."""
        return prompts(seen, seen.has_concept)

    def detail(self, seen: Seen) -> dict[str, Any]:
        """How many drawings describe a reference."""
        return {"drawings_of_references": int((seen.has_concept & (seen.of_reference >= 0)).sum())}
