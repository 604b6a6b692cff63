"""Weightings: how much each noise level counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from sdtune.choices.spec import Choice, Spec

if TYPE_CHECKING:
    from torch import Tensor


class MinSNR(Spec):
    """Easy, nearly clean levels count less (Hang et al. 2023, arXiv:2303.09556, sec. 3.4)."""

    kind: Literal["min-snr"] = "min-snr"
    predictions: ClassVar[frozenset[str]] = frozenset({"epsilon", "v"})
    """what a model may predict for this to have a meaning"""
    gamma: float = Field(5.0, ge=1e-3, le=1e6)
    """Signal-to-noise ratio above which a level's weight is capped."""

    def __call__(self, snr: Tensor, prediction: str) -> Tensor:
        """Weights [B]: min(snr, gamma) / snr for epsilon, min(snr, gamma) / (snr + 1) for v."""
        assert prediction in self.predictions, "the settings are checked before"
        # A level of pure noise has snr 0: min(snr, gamma) / snr tends to 1 there.
        return snr.clamp(max=self.gamma) / (snr + 1 if prediction == "v" else snr.clamp(min=1e-12))


class Flat(Spec):
    """Every level counts the same."""

    kind: Literal["constant"] = "constant"
    predictions: ClassVar[frozenset[str]] = frozenset({"epsilon", "v", "flow"})
    """what a model may predict for this to have a meaning"""

    def __call__(self, snr: Tensor, prediction: str) -> Tensor:  # noqa: ARG002 (as every weighting)
        """Weights [B]: ones."""
        return snr.new_ones(snr.shape)


Weighting = Annotated[MinSNR | Flat, Choice()]
