"""OFT: weights are turned, block by block, by rotations (Qiu et al. 2023, arXiv:2306.07280).

A rotation is R = (I + Q)(I - Q)^-1 of Q = blocks - blocks^T (Cayley). Blocks [n, b, b] turn each b of the outputs, W'
= R^T W; blocks [m, n, b, b] are m layers of a butterfly, W' = R W in each (BOFT, Liu et al. 2023, arXiv:2311.06243).
alpha x outputs is the largest norm of all Q together, 0: any; `rescale` scales the outputs in the end (LyCORIS,
lycoris/modules/diag_oft.py and boft.py; kohya's networks/oft.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from sdtune.core.adapters.base import Adapter
from sdtune.core.adapters.shapes import check_fit, check_whole

BLOCKS, RESCALE = "oft_blocks", "rescale"


@dataclass(frozen=True)
class OftModule(Adapter):
    """What an OFT makes of one module."""

    kind: ClassVar[str] = "OFT"
    needs_base: ClassVar[bool] = True

    blocks: Tensor
    """[n, b, b] or [m, n, b, b]"""
    rescale: Tensor | None
    """[out, 1], of a convolution with two ones more"""
    alpha: float

    @classmethod
    @override
    def from_tensors(cls, tensors: Mapping[str, Tensor], alpha: float | None) -> OftModule:
        check_whole(cls.kind, tensors, [BLOCKS])
        blocks, rescale = tensors[BLOCKS], tensors.get(RESCALE)
        fit = blocks.ndim in (3, 4) and blocks.shape[-1] == blocks.shape[-2]
        if fit and blocks.ndim == 4:  # each layer has to part all outputs in twos of its stride
            layers, number, size = blocks.shape[:3]
            fit = size % 2 == 0 and 1 <= layers <= 32 and number % 2 ** (layers - 1) == 0
        outputs = math.prod(blocks.shape[-3:-1])
        if rescale is not None:
            fit = fit and rescale.shape[:1] == (outputs,) and rescale.numel() == outputs
        check_fit(cls.kind, tensors, fit, (outputs, math.prod(blocks.shape[-1:])))
        return cls(blocks, rescale, 0.0 if alpha is None else alpha)

    @property
    @override
    def shape(self) -> tuple[int]:
        return (math.prod(self.blocks.shape[-3:-1]),)

    @override
    def tensors(self) -> dict[str, Tensor]:
        found = {BLOCKS: self.blocks, "alpha": torch.tensor(self.alpha, dtype=torch.float64)}
        return found if self.rescale is None else found | {RESCALE: self.rescale}

    def rotations(self) -> Tensor:
        """R of every block, shaped like the blocks."""
        skew = self.blocks.float() - self.blocks.float().mT
        norm, most = float(skew.norm()), self.alpha * self.shape[0]
        if 0 < most < norm:
            skew = skew * (most / norm)
        identity = torch.eye(skew.shape[-1])
        rotations: Tensor = torch.linalg.solve(identity - skew, identity + skew)  # the two commute
        return rotations

    @override
    def delta(self, base: Tensor | None = None) -> Tensor:
        assert base is not None, "an OFT's change depends on the weights"
        rotations = self.rotations()
        turned = base
        if self.blocks.ndim == 3:
            turned = (rotations.mT @ base.unflatten(0, rotations.shape[:2])).flatten(0, 1)
        else:
            for layer, rotation in enumerate(rotations):
                turned = _butterfly(turned, rotation, 2**layer * rotation.shape[-1] // 2)
        if self.rescale is not None:
            turned = turned * self.rescale.float().reshape(-1, 1)
        return turned - base


def _butterfly(weight: Tensor, rotation: Tensor, stride: int) -> Tensor:
    """[out, in] with outputs turned together that lie a stride apart; `rotation` is [n, b, b]."""
    side_by_side = weight.unflatten(0, (-1, 2, stride)).transpose(1, 2).flatten(0, 2)
    turned = (rotation @ side_by_side.unflatten(0, rotation.shape[:2])).flatten(0, 1)
    back: Tensor = turned.unflatten(0, (-1, stride, 2)).transpose(1, 2).flatten(0, 2)
    return back
