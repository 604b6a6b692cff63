"""Masks: how much each place of an image counts, from a file or from transparency to the latent grid."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy
import torch
from PIL import Image
from torch import Tensor

from sdtune.core.data.image_file import contents, told
from sdtune.core.data.images import decode
from sdtune.core.data.mask_file import Drawn, drawn_mask, is_empty
from sdtune.errors import DataError


def mask_for(path: Path, mask_path: Path | None, use: Literal["files", "alpha", "off"]) -> Drawn:
    """The image's mask file; with "alpha", where it has none, its transparency.

    Raises DataError where the mask cannot be read, and where it leaves nothing of the image to learn.
    """
    if use == "off" or (mask_path is None and use == "files"):
        return None, ()
    try:
        mask, notices = _found(path, mask_path)
    except MemoryError as error:
        raise DataError(f"{path}: with its mask, {told(error)}") from None
    if mask and is_empty(mask):
        what = f"its mask {mask_path.name} is wholly black" if mask_path else "it is wholly transparent"
        remedy = "paint what counts white, or remove the mask" if mask_path else "give it a mask file"
        raise DataError(f"{path}: {what}, so nothing of it would be learnt; {remedy}, or leave out the image")
    return mask, notices


def latent_mask(mask: Image.Image, down: int) -> Tensor:
    """[1, h, w] in 0 to 1: of each latent pixel the mean of the mask's down x down pixels."""
    assert mask.width % down == mask.height % down == 0, "a bucket's sides are multiples of a latent pixel's"
    pixels = torch.from_numpy(numpy.array(mask, numpy.float32)) / 255
    return torch.nn.functional.avg_pool2d(pixels[None], down)


def weights_of(mask: Tensor, floor: float) -> Tensor:
    """How much each place counts, of the mask's shape: 1 where it is white, `floor` where it is black."""
    return floor + (1 - floor) * mask


def _found(path: Path, mask_path: Path | None) -> Drawn:
    decoded = decode(path, str(path), at_least=lambda *_: (1, 1))  # of a JPEG, which has no alpha, its size is enough
    if mask_path is None:
        return decoded.alpha, ()
    name = f"{path}: its mask {mask_path.name}"
    return drawn_mask(contents(mask_path, name), name, decoded)
