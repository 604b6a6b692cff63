"""A picture as a square: the whole of it, squashed, as clean-fid resizes (Parmar et al. 2022, arXiv:2104.11222).

Pillow widens its filter where it makes pictures smaller, so nothing is skipped (antialiasing), and rounds to 8 bits as
files do. What is longer than wide is squashed: a border would tell pictures of other proportions apart from drawings,
and what a crop cuts away would not be judged.
"""

from __future__ import annotations

import numpy
import torch
from PIL import Image
from torch import Tensor


def square_of(image: Image.Image, side: int) -> Tensor:
    """[1, 3, side, side] in [0, 255], whole numbers."""
    pixels = numpy.array(image.resize((side, side), Image.Resampling.BICUBIC), dtype=numpy.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float()


def told(side: int) -> str:
    """That in words, for reports."""
    return f"the whole picture squashed to {side} x {side} px, bicubic with antialiasing, 8 bits (Pillow)"
