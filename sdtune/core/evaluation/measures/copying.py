"""Copying: drawings that are nearly trained pictures, and whether drawings are nearer to these than others are."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar, Literal

import numpy

from sdtune.core.evaluation.copies import copies_of
from sdtune.core.evaluation.intervals import Array, Weights
from sdtune.core.evaluation.measures.base import Mask, Measure, Seen

UNKNOWN = "which pictures were trained is not known; give --trained"
FEW = 0.05  # of held-out pictures: 1 in 20
EQUAL = 1 - 1e-6  # cosine from which on a reference is a trained picture


class CopyShare(Measure):
    """Share of drawings of what was learned that are near-copies, reciting a trained picture's own caption apart.

    Whoever asks for a trained picture by its caption may get it: such prompts count where another one comes.
    Somepalli et al. 2022 call copies what has a cosine over 0.5 by SSCD; here `copies` says what stands for it.
    """

    name: ClassVar[str] = "copies"
    title: ClassVar[str] = "Near-copies"
    says: ClassVar[str] = (
        "The share of drawings that come out as nearly one of the trained pictures, though something else was asked."
    )
    better: ClassVar[Literal["lower", "higher", "none"]] = "lower"
    share: ClassVar[bool] = True
    order: ClassVar[int] = 5
    source: ClassVar[str] = "Somepalli et al. 2022, arXiv:2212.03860"

    def counts(self, seen: Seen) -> tuple[int, int]:
        """Drawings that could be alarming, and trained pictures."""
        return int(_asked_otherwise(seen).sum()), len(seen.trained)

    def refusal(self, seen: Seen, *, force: bool) -> str | None:  # noqa: ARG002 (there is nothing to force)
        """Where no trained pictures are known, or nothing but their captions was drawn."""
        if not len(seen.trained):
            return UNKNOWN
        if not _asked_otherwise(seen).any():
            return "every prompt is the caption of a trained picture; give others with --prompts"
        return None

    def replicates(self, seen: Seen, weights: Weights) -> Array:
        """[R] shares."""
        asked = _asked_otherwise(seen)
        units = weights.units[:, asked]
        return _shares(units @ _copied(seen)[asked], units.sum(axis=1))

    def detail(self, seen: Seen) -> dict[str, Any]:
        """Copies by trained picture, and how many drawings recite: {trained: drawings}, place among the trained."""
        copies = copies_of(seen)
        by = Counter(str(copy.trained) for copy in copies if not copy.own_prompt)
        captions = seen.of_trained >= 0
        recited = sum(copy.own_prompt for copy in copies)
        return {"by_trained": dict(by), "recited": recited, "of_trained_captions": int(captions.sum())}

    def groups(self, seen: Seen, weights: Weights) -> int:  # noqa: ARG002 (only these prompts)
        """Prompts of what was learned."""
        return len(numpy.unique(seen.prompt[_asked_otherwise(seen)]))


class CopyScore(Measure):
    """Share of drawings that are nearer to a trained picture than 19 of 20 held-out pictures are to theirs.

    By the two sets of C_T (Meehan et al. 2020, sec. 3.1): both sides have the same trained pictures, so that it does
    not depend on how many there are of which. Its rank sum is of all drawings and misses the few that are copies: with
    8 copies among 60 drawings it was 0.45 by CLIP of mini, of a good LoRA 0.69 (0.44 and 0.25 by EfficientNet-Lite0).
    AuthPct (Alaa et al. 2022) has no yardstick that is held out. This share was 0.13 and 0.12 by CLIP of mini, which
    does not tell them apart, 0.10 and 0.00 by EfficientNet-Lite0: read it beside the near-copies, which do.
    Where nothing is held out, trained pictures are, one at a time.
    """

    name: ClassVar[str] = "copy_score"
    title: ClassVar[str] = "Copy score"
    says: ClassVar[str] = (
        "The share of drawings that come nearer to a trained picture than nearly all real pictures that were not"
        " trained: 0.05 is chance, 1 is copying."
    )
    better: ClassVar[Literal["lower", "higher", "none"]] = "lower"
    share: ClassVar[bool] = True
    order: ClassVar[int] = 87
    source: ClassVar[str] = "Meehan et al. 2020, arXiv:2004.05675"

    def counts(self, seen: Seen) -> tuple[int, int]:
        """Drawings, and pictures that they are measured by."""
        return int(self._drawings(seen).sum()), len(self._yardstick(seen)[0])

    def refusal(self, seen: Seen, *, force: bool) -> str | None:  # noqa: ARG002 (there is nothing to force)
        """Where there is nothing to measure by."""
        if not len(seen.trained):
            return UNKNOWN
        if not len(self._yardstick(seen)[0]):
            return "one trained picture and none held out leave nothing to measure by; give --reference"
        if not self._drawings(seen).any():
            return "nothing was drawn of what was learned; give prompts with the trigger"
        return None

    def replicates(self, seen: Seen, weights: Weights) -> Array:
        """[R] shares."""
        drawings = self._drawings(seen)
        yardstick, held_out = self._yardstick(seen)
        near = _others(seen)[drawings].max(axis=1)
        units = weights.units[:, drawings]
        references = weights.references[:, held_out] if held_out.any() else numpy.ones((len(units), len(yardstick)))
        nearer = _shares(references @ (yardstick[:, None] >= near), references.sum(axis=1)[:, None])  # [R, n]
        return _shares((units * (nearer <= FEW)).sum(axis=1), units.sum(axis=1))

    def detail(self, seen: Seen) -> dict[str, Any]:
        """What chance alone would give."""
        return {"expected": max(FEW, 1 / (1 + len(self._yardstick(seen)[0])))}

    def groups(self, seen: Seen, weights: Weights) -> int:  # noqa: ARG002 (only these prompts)
        """Prompts of what was learned."""
        return len(numpy.unique(seen.prompt[self._drawings(seen)]))

    def _drawings(self, seen: Seen) -> Mask:
        """[n] those that have trained pictures to be near to which they were not asked for."""
        there: Mask = seen.has_concept & ((seen.of_trained < 0) | (len(seen.trained) > 1))
        return there

    def _yardstick(self, seen: Seen) -> tuple[Array, Mask]:
        """Cosines of held-out pictures to their nearest trained ones, and which references [m] these are."""
        if not len(seen.trained):
            return numpy.zeros(0), numpy.zeros(len(seen.references), dtype=numpy.bool_)
        nearest = (seen.references @ seen.trained.T).max(axis=1)
        held_out = nearest < EQUAL
        if held_out.any():
            return nearest[held_out], held_out
        among = seen.trained @ seen.trained.T
        numpy.fill_diagonal(among, -1)
        return (among.max(axis=1) if len(among) > 1 else numpy.zeros(0)), held_out


def _asked_otherwise(seen: Seen) -> Mask:
    """[n] drawings of what was learned, but for those that recite a trained picture's caption as they may."""
    asked: Mask = seen.has_concept & ((seen.of_trained < 0) | (_copied(seen) > 0))
    return asked


def _copied(seen: Seen) -> Array:
    """[n] 1 where another trained picture came out than the prompt describes."""
    copied = numpy.zeros(len(seen.drawn))
    copied[[copy.unit for copy in copies_of(seen) if not copy.own_prompt]] = 1
    return copied


def _others(seen: Seen) -> Array:
    """[n, k] cosines to the trained pictures, -1 to that which the prompt describes."""
    likeness = seen.drawn @ seen.trained.T
    own = numpy.flatnonzero(seen.of_trained >= 0)
    likeness[own, seen.of_trained[own]] = -1
    return likeness


def _shares(sums: Array, totals: Array) -> Array:
    totals = numpy.broadcast_to(totals, sums.shape)
    shares: Array = numpy.divide(sums, totals, out=numpy.full(sums.shape, numpy.nan), where=totals > 0)
    return shares
