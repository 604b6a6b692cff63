"""Copying: drawings that are nearly trained pictures."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar, Literal

import numpy

from sdtune.core.evaluation.copies import copies_of
from sdtune.core.evaluation.intervals import Array
from sdtune.core.evaluation.measures.averages import Average
from sdtune.core.evaluation.measures.base import Mask, Seen


class CopyShare(Average):
    """Share of drawings of what was learned that are near-copies of another trained picture than their caption's own.

    Whoever asks for a trained picture by its caption may get it; not another one. Somepalli et al. 2022 call copies
    what has a cosine over 0.5 by SSCD; here `copies` says what stands for it.
    """

    name: ClassVar[str] = "copies"
    title: ClassVar[str] = "Near-copies"
    says: ClassVar[str] = (
        "Of the drawings whose prompt asks for what was learned, the share that come out as nearly one of the trained "
        "pictures, though the prompt describes another; 0: none is repeated."
    )
    better: ClassVar[Literal["lower", "higher", "none"]] = "lower"
    share: ClassVar[bool] = True
    order: ClassVar[int] = 5
    source: ClassVar[str] = "Somepalli et al. 2022, arXiv:2212.03860"

    def chosen(self, seen: Seen) -> Mask:
        """Those that ask for what was learned."""
        return seen.has_concept

    def each(self, seen: Seen, chosen: Mask) -> Array:
        """1 where another trained picture came out than the prompt describes."""
        copied = numpy.zeros(len(seen.drawn))
        copied[[copy.unit for copy in copies_of(seen) if copy.astray]] = 1
        return copied[chosen]

    def counts(self, seen: Seen) -> tuple[int, int]:
        """Drawings that could be alarming, and trained pictures."""
        return int(seen.has_concept.sum()), len(seen.trained)

    def refusal(self, seen: Seen) -> str | None:
        """Where no trained pictures are known, or nothing asks for what was learned."""
        if not len(seen.trained):
            return "which pictures were trained is not known; give --trained"
        return None if seen.has_concept.any() else "no prompt asks for what was learned; give --prompts that do"

    def detail(self, seen: Seen) -> dict[str, Any]:
        """Copies by trained picture, and how many drawings recite: {trained: drawings}, place among the trained."""
        copies = copies_of(seen)
        by = Counter(str(copy.trained) for copy in copies if copy.astray)
        recited = sum(copy.own_prompt for copy in copies)
        captions = int(((seen.of_trained >= 0) & seen.has_concept).sum())
        return {"by_trained": dict(by), "recited": recited, "of_trained_captions": captions}
