"""The layout in which each family was first published as one file: names, and how its tensors are those of diffusers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sdtune.core.families import Family
from sdtune.core.families.base import Shapes

How = Literal["plain", "flat", "transposed", "swapped"]


@dataclass(frozen=True)
class Piece:
    """A tensor of a file in the original layout, made of one or more of diffusers', joined along their first dimension."""

    key: str
    """model.diffusion_model.input_blocks.0.0.weight"""
    names: tuple[str, ...]
    """by part and diffusers' name: ("unet.conv_in.weight",)"""
    how: How = "plain"
    """flat: [out, in] here is [out, in, 1, 1] there; transposed: a matrix the other way round; swapped: halves along the
    first dimension change places"""


def pieces(family: Family, shapes: Shapes) -> list[Piece]:
    """What a file in the original layout is made of; `shapes` are of diffusers' tensors, by part and name."""
    raise NotImplementedError


def pieces_of_file(family: Family, shapes: Shapes) -> list[Piece]:
    """The same for a file that is there, whose tensors these are; tensors that diffusers does not know are left out."""
    raise NotImplementedError
