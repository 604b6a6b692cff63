"""Drift: how far a LoRA moves drawings that do not ask for what it learned."""

from __future__ import annotations

from typing import ClassVar, Literal

from sdtune.core.evaluation.intervals import Array
from sdtune.core.evaluation.measures.averages import Average
from sdtune.core.evaluation.measures.base import Mask, Seen


class Drift(Average):
    """Mean cosine distance between generic drawings and the base model's from the same noise."""

    name: ClassVar[str] = "drift"
    title: ClassVar[str] = "Drift"
    says: ClassVar[str] = (
        "How far the LoRA changes drawings of everyday prompts that do not ask for what was learned; 0: not at all, as "
        "it should be."
    )
    better: ClassVar[Literal["lower", "higher", "none"]] = "lower"
    order: ClassVar[int] = 25
    bounds: ClassVar[tuple[float, float]] = (0.0, 2.0)

    def chosen(self, seen: Seen) -> Mask:
        """The generic ones."""
        return seen.generic

    def each(self, seen: Seen, chosen: Mask) -> Array:
        """1 - cosine of unit vectors, as half the squared distance: exactly 0 of the same picture."""
        distances: Array = ((seen.drawn[chosen] - seen.base[chosen]) ** 2).sum(axis=1) / 2
        return distances

    def refusal(self, seen: Seen) -> str | None:
        """No generic prompts."""
        return None if seen.generic.any() else "no prompt is without the trigger; give --prompts with some that are"
