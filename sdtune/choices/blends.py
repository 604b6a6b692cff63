"""Blends: how several LoRAs become one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sdtune.choices.spec import Choice, Spec


class Concat(Spec):
    """Their updates are added exactly, ranks side by side: the same as using all of them at once."""

    kind: Literal["concat"] = "concat"


class Linear(Spec):
    """Their matrices are added, not their updates, so ranks must agree (arithmetic of checkpoints of one training)."""

    kind: Literal["linear"] = "linear"


class TIES(Spec):
    """The largest changes alone, those of the sign that wins (Yadav et al. 2023, arXiv:2306.01708)."""

    kind: Literal["ties"] = "ties"
    density: float = Field(0.2, gt=0, le=1)
    """Share of each update's numbers that is kept."""


class DARE(Spec):
    """Numbers are dropped at random and the others made larger for it (Yu et al. 2023, arXiv:2311.03099)."""

    kind: Literal["dare"] = "dare"
    drop: float = Field(0.5, ge=0, lt=1)
    """Share of each update's numbers that is dropped."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Start of the draws."""


Blend = Annotated[Concat | Linear | TIES | DARE, Choice()]
