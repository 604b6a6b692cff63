"""LoRA: a module's weights change by strength x alpha / rank x up @ down (Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from sdtune.core.adapters.base import Adapter, share_of
from sdtune.core.adapters.shapes import check_fit, check_whole

DOWN, UP, MID = "lora_down.weight", "lora_up.weight", "lora_mid.weight"


@dataclass(frozen=True)
class LoraModule(Adapter):
    """What a plain LoRA adds to one module."""

    kind: ClassVar[str] = "LoRA"
    module: ClassVar[str] = "networks.lora"

    down: Tensor
    """[rank, in], of a convolution [rank, in, k, k]"""
    up: Tensor
    """[out, rank], of a convolution [out, rank, 1, 1]"""
    alpha: float

    @classmethod
    @override
    def from_tensors(cls, tensors: Mapping[str, Tensor], alpha: float | None) -> LoraModule:
        check_whole(cls.kind, tensors, (DOWN, UP))
        down, up, mid = tensors[DOWN], tensors[UP], tensors.get(MID)
        matrices = down.ndim in (2, 4) and up.ndim in (2, 4)
        fit = matrices and up.shape[1] == (down if mid is None else mid).shape[0] and math.prod(up.shape[2:]) == 1
        if mid is not None:
            fit = fit and mid.ndim == 4 and mid.shape[1] == down.shape[0] and math.prod(down.shape[2:]) == 1
        kernel = (down if mid is None else mid).shape[2:]
        inputs = math.prod(down.shape[1:] if mid is None else (*down.shape[1:2], *kernel))
        shape = (up.shape[0], inputs) if matrices else (0, 0)
        ranks = (down.shape[0], up.shape[1]) if matrices else (0,)
        check_fit(cls.kind, tensors, fit, shape, ranks, kernel=kernel)
        if mid is not None:  # the part of Tucker's core joins that which leads into it
            down = torch.einsum("rskl,si->rikl", mid.float(), down.float().flatten(1))
        return cls(down, up, down.shape[0] if alpha is None else alpha)

    @property
    @override
    def rank(self) -> int:
        """The inner width."""
        return self.down.shape[0]

    @property
    @override
    def shape(self) -> tuple[int, int]:
        return self.up.shape[0], math.prod(self.down.shape[1:])

    @property
    @override
    def kernel(self) -> tuple[int, ...]:
        return tuple(self.down.shape[2:])

    @override
    def tensors(self) -> dict[str, Tensor]:
        alpha = torch.tensor(self.alpha, dtype=torch.float64)
        return {DOWN: self.down, UP: self.up, "alpha": alpha}

    @override
    def delta(self, base: Tensor | None = None) -> Tensor:
        scale = self.alpha / self.rank
        return scale * (self.up.float().flatten(1) @ self.down.float().flatten(1))

    @override
    def factors(self) -> tuple[Tensor, Tensor]:
        """The root of alpha / rank is on both sides."""
        scale = self.alpha / self.rank
        root = math.sqrt(abs(scale))
        left = math.copysign(root, scale) * self.up.double().flatten(1)
        return left, root * self.down.double().flatten(1)

    @override
    def share(self, number: int, of: int) -> LoraModule:
        return LoraModule(self.down, share_of(self.up, number, of), self.alpha)
