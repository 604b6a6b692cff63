"""Likeness: how much drawings are like the references, all of them and the one that their prompt describes."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy

from sdtune.core.evaluation.intervals import Array, Weights
from sdtune.core.evaluation.measures.averages import Average
from sdtune.core.evaluation.measures.base import Mask, Seen
from sdtune.core.evaluation.measures.sets import OfSets, mean_of_pairs


class ImageSimilarity(OfSets):
    """Mean cosine of drawings and all references (CLIP-I and DINO of Ruiz et al. 2022)."""

    name: ClassVar[str] = "image_similarity"
    title: ClassVar[str] = "Image similarity"
    says: ClassVar[str] = (
        "How much drawings are like the references on average; copying raises it, so read it beside the copies."
    )
    better: ClassVar[Literal["lower", "higher", "none"]] = "higher"
    order: ClassVar[int] = 33
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    source: ClassVar[str] = "Ruiz et al. 2022, arXiv:2208.12242"

    def refusal(self, seen: Seen) -> str | None:
        """Nothing to compare."""
        if not len(seen.references):
            return "there are no references; give --reference FOLDER"
        return None if seen.fair.any() else "no prompt is from a caption; give --reference FOLDER with captions"

    def replicates(self, seen: Seen, weights: Weights) -> Array:
        """[R] means over all pairs, to the first order."""
        cosines = seen.drawn[seen.fair] @ seen.references.T
        return mean_of_pairs(cosines, numpy.ones(cosines.shape, dtype=numpy.bool_)).under(seen, weights)


class TruthSimilarity(Average):
    """Mean cosine of a drawing and the very picture that its prompt describes."""

    name: ClassVar[str] = "truth_similarity"
    title: ClassVar[str] = "Likeness to the true picture"
    says: ClassVar[str] = "How much a drawing from the caption of a reference is like that very picture; 1: the same."
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

    def refusal(self, seen: Seen) -> str | None:
        """No prompt that describes a reference."""
        return None if self.chosen(seen).any() else "no prompt describes a reference; give --reference with captions"
