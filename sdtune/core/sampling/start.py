"""Where drawing starts: from noise alone, from a picture, or from a picture of which a part is drawn anew."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Source:
    """A picture to begin with, and which part of it is drawn anew."""

    image: Image.Image
    """RGB, of the size that is drawn"""
    mask: Image.Image | None = None
    """L, of the same size: 255 is drawn anew"""


@dataclass(frozen=True)
class Start:
    """A source as the denoiser's latents."""

    latents: Tensor  # [C, h, w] clean, in the denoiser's scale, float32
    strength: float
    """share of the steps that are taken"""
    mask: Tensor | None = None  # [1, h, w], 1 is drawn anew
    structure: float = 0.0
    """share of the steps in which coarse shapes are held"""


def read_source(init: Path, mask: Path | None, size: tuple[int, int] | None, unit: int) -> Source:
    """The pictures as they are drawn on: upright, RGB, scaled and cut to `size`.

    Not given, the size is the picture's own, to the nearest multiple of `unit`. Raises DataError for what is no
    picture, and for a mask of another size than the picture.
    """
    raise NotImplementedError


def kept(source: Source, drawn: Image.Image, feather: int) -> Image.Image:
    """What is drawn, with the source's own bytes where the mask is black, and a soft edge inside the white."""
    raise NotImplementedError
