"""Blends: how several LoRAs become one.

Each adds s_i D_i to the weights of a module, with a strength s_i; of a plain LoRA D_i = up_i @ down_i, both with the
root of alpha / rank. Blends of factors give the two factors of the sum, so that it has a low rank; blends of updates
give the sum itself, [out, in].
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from sdtune.choices.spec import Choice, Spec

if TYPE_CHECKING:
    from torch import Generator, Tensor


class OfFactors(Spec):
    """Two factors of the sum, out of those of the LoRAs."""

    of_one_rank: ClassVar[bool] = False
    """whether the LoRAs have to be plain ones of the same rank"""

    @abstractmethod
    def factors(
        self, ups: Sequence[Tensor], downs: Sequence[Tensor], strengths: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        """(up, down), out of up_i [out, rank] and down_i [rank, in]."""


class OfUpdates(Spec):
    """The sum itself, out of the LoRAs' updates."""

    @property
    def start(self) -> int:
        """Of random draws."""
        return 0

    @abstractmethod
    def summed(self, updates: Sequence[Tensor], strengths: Sequence[float], draws: Sequence[Generator]) -> Tensor:
        """[out, in], out of D_i [out, in], with a generator for each."""


class Concat(OfFactors):
    """Their updates are added exactly, ranks side by side: the same as using all of them at once."""

    kind: Literal["concat"] = "concat"

    def factors(
        self, ups: Sequence[Tensor], downs: Sequence[Tensor], strengths: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        """[s_1 up_1, s_2 up_2 ...] and down_1, down_2 ... below each other: their product is the sum of s_i D_i."""
        import torch

        return torch.cat([s * up for s, up in zip(strengths, ups, strict=True)], 1), torch.cat(list(downs))


class Linear(OfFactors):
    """Their matrices are added, not their updates, so ranks must agree: for checkpoints of one training."""

    kind: Literal["linear"] = "linear"
    of_one_rank: ClassVar[bool] = True

    def factors(
        self, ups: Sequence[Tensor], downs: Sequence[Tensor], strengths: Sequence[float]
    ) -> tuple[Tensor, Tensor]:
        """The sum of sign(s_i) sqrt|s_i| up_i and that of sqrt|s_i| down_i: of a LoRA alone s D, of several more."""
        up = sum(abs(s) ** 0.5 * (one if s > 0 else -one) for s, one in zip(strengths, ups, strict=True))
        down = sum(abs(s) ** 0.5 * one for s, one in zip(strengths, downs, strict=True))
        return up, down


class TIES(OfUpdates):
    """The largest changes alone, those of the sign that wins (Yadav et al. 2023, arXiv:2306.01708)."""

    kind: Literal["ties"] = "ties"
    density: float = Field(0.2, gt=0, le=1)
    """Share of each update's numbers that is kept."""

    def summed(self, updates: Sequence[Tensor], strengths: Sequence[float], draws: Sequence[Generator]) -> Tensor:  # noqa: ARG002
        """Algorithm 1: trim, elect a sign, and the mean of those that agree; s_i in place of its one lambda."""
        import torch

        trimmed = torch.stack([s * self._trimmed(one) for s, one in zip(strengths, updates, strict=True)])
        agreeing = (trimmed.sign() == trimmed.sum(0).sign()) & (trimmed != 0)
        return (trimmed * agreeing).sum(0) / agreeing.sum(0).clamp_min(1)

    def _trimmed(self, update: Tensor) -> Tensor:
        """The largest by magnitude, the others 0."""
        from math import ceil

        sizes = update.abs()
        kept = ceil(self.density * update.numel() - 1e-9)
        return update * (sizes >= sizes.flatten().kthvalue(update.numel() - kept + 1).values)


class DARE(OfUpdates):
    """Numbers are dropped at random and the others made larger for it (Yu et al. 2023, arXiv:2311.03099)."""

    kind: Literal["dare"] = "dare"
    drop: float = Field(0.5, ge=0, lt=1)
    """Share of each update's numbers that is dropped."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Start of the draws."""

    @property
    def start(self) -> int:
        """The seed."""
        return self.seed

    def summed(self, updates: Sequence[Tensor], strengths: Sequence[float], draws: Sequence[Generator]) -> Tensor:
        """The sum of s_i m_i D_i / (1 - drop), where m_i is 0 with probability `drop`, else 1."""
        import torch

        kept = [
            torch.rand(one.shape, generator=drawn).ge(self.drop) * one * (s / (1 - self.drop))
            for one, s, drawn in zip(updates, strengths, draws, strict=True)
        ]
        return torch.stack(kept).sum(0)


Blend = Annotated[Concat | Linear | TIES | DARE, Choice()]
