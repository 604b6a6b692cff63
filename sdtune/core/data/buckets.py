"""Aspect-ratio buckets: sizes of about the same area and other shapes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import overload

WIDEST = 4.0  # side to side, as prepare keeps them; what is longer is cropped
COARSE = 8  # steps a side, and fewer
LEAST = 0.7  # of the area, on a coarse grid
EXACT = 1e-9  # shares and factors nearer than this are equal

Size = tuple[int, int]
"""width, height in pixels"""


@dataclass(frozen=True)
class Tally:
    """The images that fall into one bucket."""

    size: Size
    images: int
    cropped: float
    """mean share of an image's area that is cut off, 0-1"""
    cropped_most: float
    enlarged: int
    """images that are enlarged, or enlarged beyond what was asked about"""
    enlarged_most: float
    """times; 1: none is enlarged"""


def step_for(resolution: int) -> int:
    """Pixels by which a bucket's sides differ: 64, or 32 for models of small images."""
    return 64 if resolution >= 256 else 32


@cache
def bucket_sizes(resolution: int, step: int | None = None) -> list[Size]:
    """(width, height) of every bucket whose area is at most resolution^2, the square among them."""
    step = step or step_for(resolution)
    area = resolution * resolution
    sizes = {(resolution, resolution)}
    for width in range(step, int(resolution * math.sqrt(WIDEST)) + step, step):
        highest = area // width // step * step
        # On a coarse grid 128 x 128 and 160 x 96 would have nothing between them.
        lower = highest - step if resolution < COARSE * step and width * (highest - step) >= LEAST * area else highest
        for height in {highest, lower}:
            if height and max(width, height) <= WIDEST * min(width, height):
                sizes |= {(width, height), (height, width)}
    return sorted(sizes)


def covering_scale(width: int, height: int, bucket: Size) -> float:
    """By how much an image is scaled so that it just covers the bucket; above 1 it is enlarged."""
    return max(bucket[0] / width, bucket[1] / height)


def cropped(width: int, height: int, bucket: Size) -> float:
    """The share of an image's area that is cut off, 0-1."""
    scale = covering_scale(width, height, bucket)
    return 1 - min(1.0, bucket[0] * bucket[1] / (scale * scale * width * height))


@overload
def bucket_for(
    width: int, height: int, resolution: int, *, step: int | None = None, upscale: None = None, square: bool = False
) -> Size: ...
@overload
def bucket_for(
    width: int, height: int, resolution: int, *, step: int | None = None, upscale: float, square: bool = False
) -> Size | None: ...
def bucket_for(
    width: int,
    height: int,
    resolution: int,
    *,
    step: int | None = None,
    upscale: float | None = None,
    square: bool = False,
) -> Size | None:
    """The bucket that loses least of the image by cropping, which is that of the nearest shape; the larger of equals.

    An image that would be enlarged more than `upscale` times gets a smaller one, its sides multiples of the step; None
    where even the smallest is too large for it.
    """
    return _bucket_for(width, height, resolution, step or step_for(resolution), upscale, square)


def tally(sizes: Sequence[Size], buckets: Sequence[Size], *, beyond: float = 1.0) -> tuple[Tally, ...]:
    """Of images of these sizes, each in its bucket, the buckets from the tallest shape to the widest.

    Those count as enlarged that are so more than `beyond` times.
    """
    found: dict[Size, list[tuple[int, float, float]]] = {}
    for (size, bucket), count in Counter(zip(sizes, buckets, strict=True)).items():
        found.setdefault(bucket, []).append((count, cropped(*size, bucket), covering_scale(*size, bucket)))
    rows = []
    for bucket in sorted(found, key=lambda size: (size[0] / size[1], size)):
        images = sum(count for count, _, _ in found[bucket])
        rows.append(
            Tally(
                bucket,
                images,
                sum(count * share for count, share, _ in found[bucket]) / images,
                max(share for _, share, _ in found[bucket]),
                sum(count for count, _, scale in found[bucket] if scale > beyond),
                max(1.0, *(scale for _, _, scale in found[bucket])),
            )
        )
    return tuple(rows)


@lru_cache(maxsize=2**16)
def _bucket_for(
    width: int, height: int, resolution: int, step: int, upscale: float | None, square: bool
) -> Size | None:
    shape = math.log(width / height)
    best = min(
        [(resolution, resolution)] if square else bucket_sizes(resolution, step),
        key=lambda size: (round(abs(math.log(size[0] / size[1]) - shape), 6), -size[0] * size[1]),
    )
    if upscale is None or covering_scale(width, height, best) <= upscale + EXACT:
        return best
    widest, highest = (int(side * upscale / step + EXACT) * step for side in (width, height))
    smaller = _square(min(widest, highest)) if square else _within(widest, highest, resolution, step)

    def pixels_left(size: Size) -> tuple[float, int]:
        """Of the image, after cropping and scaling down: cropping alone would favour tiny buckets of its shape."""
        return round(size[0] * size[1] / max(1.0, covering_scale(width, height, size)) ** 2, 3), size[0] * size[1]

    return max(smaller, key=pixels_left, default=None)


def _square(side: int) -> list[Size]:
    return [(side, side)] if side else []


def _within(widest: int, highest: int, resolution: int, step: int) -> list[Size]:
    """All sizes of at most the area of the resolution, and of shapes that buckets have."""
    sizes = []
    for width in range(step, min(widest, int(resolution * math.sqrt(WIDEST))) + 1, step):
        lowest = math.ceil(width / WIDEST / step) * step
        most = min(highest, resolution * resolution // width, int(width * WIDEST))
        sizes += [(width, height) for height in range(lowest, most + 1, step)]
    return sizes
