"""Likeness: how much drawings are like the references, all of them and the one that their prompt describes."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy

from sdtune.core.evaluation.intervals import Array, Weights
from sdtune.core.evaluation.measures.averages import Average, prompts
from sdtune.core.evaluation.measures.base import Mask, Measure, Seen


class ImageSimilarity(Measure):
    """Mean cosine of drawings and all references (CLIP-I and DINO of Ruiz et al. 2022)."""

    name: ClassVar[str] = "image_similarity"
    title: ClassVar[str] = "image similarity"
    says: ClassVar[str] = (
        "How much drawings are like the references on average; copying raises it, so read it beside the copies."
    )
    better: ClassVar[Literal["lower", "higher", "none"]] = "higher"
    order: ClassVar[int] = 33
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    source: ClassVar[str] = "Ruiz et al. 2022, arXiv:2208.12242"

    def counts(self, seen: Seen) -> tuple[int, int]:
        """Fair drawings, all references."""
        return int(seen.fair.sum()), len(seen.references)

    def refusal(self, seen: Seen, *, force: bool) -> str | None:  # noqa: ARG002 (nothing to be forced)
        """Nothing to compare."""
        if not len(seen.references):
            return "there are no references; give --reference FOLDER"
        return None if seen.fair.any() else "no prompt is from a caption; give --reference FOLDER with captions"

    def replicates(self, seen: Seen, weights: Weights) -> Array:
        """[R] weighted means over all pairs: the product of the weighted means of both sides."""
        units = weights.units[:, seen.fair]
        total = units.sum(axis=1) * weights.references.sum(axis=1)
        sums = ((units @ (seen.drawn[seen.fair] @ seen.references.T)) * weights.references).sum(axis=1)
        mean: Array = numpy.divide(sums, total, out=numpy.full(len(sums), numpy.nan), where=total > 0)
        return mean

    def groups(self, seen: Seen, weights: Weights) -> int:  # noqa: ARG002 (it depends on some prompts alone)
        """Prompts or references, whichever are fewer: of one alone nothing tells how others would do."""
        return min(prompts(seen, seen.fair), len(seen.references))


class TruthSimilarity(Average):
    """Mean cosine of a drawing and the very picture that its prompt describes."""

    name: ClassVar[str] = "truth_similarity"
    title: ClassVar[str] = "likeness to the true picture"
    says: ClassVar[str] = (
        "How much a drawing from the caption of a picture that was never trained is like that very picture."
    )
    better: ClassVar[Literal["lower", "higher", "none"]] = "higher"
    order: ClassVar[int] = 12
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    def chosen(self, seen: Seen) -> Mask:
        """Those whose prompts describe references."""
        return seen.of_reference >= 0

    def each(self, seen: Seen, chosen: Mask) -> Array:
        """Cosine of drawing and truth."""
        truths = seen.references[seen.of_reference[chosen]]
        cosines: Array = numpy.einsum("nd,nd->n", seen.drawn[chosen], truths)
        return cosines

    def counts(self, seen: Seen) -> tuple[int, int]:
        """Drawings, and the references that they should be."""
        chosen = self.chosen(seen)
        return int(chosen.sum()), len(numpy.unique(seen.of_reference[chosen]))

    def refusal(self, seen: Seen, *, force: bool) -> str | None:  # noqa: ARG002 (nothing to be forced)
        """No prompt that describes a reference."""
        return None if self.chosen(seen).any() else "no prompt describes a reference; give --reference with captions"
