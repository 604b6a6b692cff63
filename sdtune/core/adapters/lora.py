"""LoRA: a module's weights change by strength x alpha / rank x up @ down (Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from sdtune.core.adapters.base import Adapter

MAX_RANK = 1024


@dataclass(frozen=True)
class LoraModule(Adapter):
    """What a plain LoRA adds to one module."""

    kind: ClassVar[str] = "LoRA"

    down: Tensor
    """[rank, in], of a convolution [rank, in, k, k]"""
    up: Tensor
    """[out, rank], of a convolution [out, rank, 1, 1]"""
    alpha: float

    @classmethod
    @override
    def from_tensors(cls, tensors: Mapping[str, Tensor], alpha: float | None) -> LoraModule:
        down, up = tensors["lora_down.weight"], tensors["lora_up.weight"]
        matrices = down.ndim in (2, 4) and up.ndim in (2, 4)
        fits = matrices and up.shape[1] == down.shape[0] and math.prod(up.shape[2:]) == 1
        if not fits or not 1 <= down.shape[0] <= MAX_RANK:
            shapes = f"{tuple(down.shape)} and {tuple(up.shape)}"
            raise ValueError(f"has shapes {shapes}, which make no LoRA of rank 1 to {MAX_RANK}")
        return cls(down, up, down.shape[0] if alpha is None else alpha)

    @property
    @override
    def rank(self) -> int:
        """The inner width."""
        return self.down.shape[0]

    @override
    def tensors(self) -> dict[str, Tensor]:
        alpha = torch.tensor(self.alpha, dtype=torch.float64)
        return {"lora_down.weight": self.down, "lora_up.weight": self.up, "alpha": alpha}

    @override
    def delta(self, base: Tensor | None = None) -> Tensor:
        scale = self.alpha / self.rank
        return scale * (self.up.float().flatten(1) @ self.down.float().flatten(1))
