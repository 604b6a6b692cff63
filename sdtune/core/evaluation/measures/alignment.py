"""Text alignment: whether drawings show what their prompts say."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy

from sdtune.core.evaluation.intervals import Array
from sdtune.core.evaluation.measures.averages import Average
from sdtune.core.evaluation.measures.base import Mask, Seen


class TextAlignment(Average):
    """Mean cosine of drawings and their prompts' plain words (CLIP-T of Ruiz et al. 2022)."""

    name: ClassVar[str] = "text_alignment"
    title: ClassVar[str] = "Text alignment"
    says: ClassVar[str] = (
        "How well drawings show what their prompts say, the trigger left out, as the encoder reads the words; it falls "
        "where a LoRA draws what it learned whatever is asked for."
    )
    better: ClassVar[Literal["lower", "higher", "none"]] = "higher"
    order: ClassVar[int] = 20
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    source: ClassVar[str] = "Ruiz et al. 2022, arXiv:2208.12242; Hessel et al. 2021, arXiv:2104.08718"

    def chosen(self, seen: Seen) -> Mask:
        """Those of captions and of new contexts."""
        return seen.in_distribution | seen.new_context

    def each(self, seen: Seen, chosen: Mask) -> Array:
        """Cosine of drawing and text."""
        assert seen.texts is not None, "text alignment was asked of an encoder without a text tower"
        cosines: Array = numpy.einsum("nd,nd->n", seen.drawn[chosen], seen.texts[chosen])
        return cosines

    def refusal(self, seen: Seen) -> str | None:
        """An encoder without a text tower; nothing but generic prompts."""
        if seen.texts is None:
            return "the encoder reads no texts; --encoder mini, clip or siglip2 does"
        if not self.chosen(seen).any():
            return (
                "no prompt is from a caption or in a new context; give --trigger, or --prompts with some that have it"
            )
        return None
