"""Where each module's weights lie in the original layout, in which other programs hold a model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdtune.core import original
from sdtune.core.families import family_named
from sdtune.core.families.base import Shapes


@dataclass(frozen=True)
class Place:
    """Rows of a tensor in the original layout."""

    key: str
    """model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"""
    start: int
    end: int

    def rows(self, value: Tensor) -> Tensor:
        """Of the whole tensor those that are the module's, flat [out, in]."""
        return value.flatten(1)[self.start : self.end]


def places(family: str, shapes: Shapes) -> dict[str, Place]:
    """{diffusers' name of a weight: where it lies}, of those that are not turned there."""
    found = {}
    for piece in original.pieces(family_named(family), shapes):
        if piece.how in ("plain", "flat"):
            start = 0
            for name in piece.names:
                end = start + shapes[name][0]
                found[name] = Place(piece.key, start, end)
                start = end
    return found


def tensors(family: str, shapes: Shapes) -> dict[str, Tensor]:
    """A whole model in the original layout: vectors of zeros, all else on the meta device."""
    found = {}
    for piece in original.pieces(family_named(family), shapes):
        shape = original.file_shape(piece, shapes)
        found[piece.key] = torch.zeros(shape, device="cpu" if len(shape) < 2 else "meta")
    return found
