"""Shapes: the crop and the size that an image and its mask get alike."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from sdtune.core.data.buckets import bucket_for, covering_scale
from sdtune.core.intake.borders import Sides


@dataclass(frozen=True)
class Shape:
    """A crop out of an image and the size it is scaled to."""

    original: tuple[int, int]
    """width, height of the whole image, in pixels"""
    box: tuple[int, int, int, int]
    """left, top, right, bottom places of the crop in it"""
    size: tuple[int, int]
    """width, height afterwards"""


def covering(width: int, height: int, resolution: int) -> tuple[int, int]:
    """The size at which an image just covers the bucket nearest to its shape; its own where that is smaller."""
    bucket = bucket_for(width, height, resolution)
    scale = covering_scale(width, height, bucket)
    if scale >= 1:
        return width, height
    return max(bucket[0], round(width * scale)), max(bucket[1], round(height * scale))


def shape_of(width: int, height: int, border: Sides | None, resolution: int) -> Shape:
    """Without the border, scaled down to what training uses at this resolution."""
    left, top, right, bottom = border or (0, 0, 0, 0)
    box = left, top, width - right, height - bottom
    return Shape((width, height), box, covering(box[2] - left, box[3] - top, resolution))


def shaped(image: Image.Image, shape: Shape) -> Image.Image:
    """The image, or a smaller or larger version of it, as the shape says; Lanczos (antialiased)."""
    if shape.box != (0, 0, *shape.original):
        across, down = image.width / shape.original[0], image.height / shape.original[1]
        left, top, right, bottom = shape.box
        # Not by resize's own box, which would let what is cut off shine into the edge.
        image = image.crop((round(left * across), round(top * down), round(right * across), round(bottom * down)))
    return image if image.size == shape.size else image.resize(shape.size, Image.Resampling.LANCZOS)
