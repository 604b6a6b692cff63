"""Which modules of diffusers a module in the original layout is, and how their tensors are made of each other."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

How = Literal["plain", "flat", "transposed", "swapped"]
"""flat: [out, in] in diffusers is [out, in, 1, 1] in the file; transposed: a matrix the other way round; swapped: its
halves along the first dimension change places"""


@dataclass(frozen=True)
class Room:
    """A module, or a single tensor, under both of its names; whatever is below it has the same name in both."""

    names: tuple[str, ...]
    """by part and diffusers' name: ("unet.conv_in",); several are joined along their first dimension"""
    key: str
    """model.diffusion_model.input_blocks.0.0"""
    how: How = "plain"
    """flat ones: of its matrices alone"""


def rooms_of(pairs: Iterable[tuple[str, str]], part: str, prefix: str) -> list[Room]:
    """A room for each pair of diffusers' name in this part and the original one below this prefix."""
    return [Room((f"{part}.{name}",), f"{prefix}{key}") for name, key in pairs]


def numbers(keys: Iterable[str], pattern: str) -> list[int]:
    """What stands for the one group of a pattern at the start of these keys, in order."""
    fitting = (re.match(pattern, key) for key in keys)
    return sorted({int(found[1]) for found in fitting if found})
