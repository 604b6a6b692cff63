"""Aspect-ratio buckets: sizes of about the same area and other shapes."""

from __future__ import annotations

import math
from functools import cache

WIDEST = 2.0  # side to side; what is longer is cropped


def step_for(resolution: int) -> int:
    """Pixels by which a bucket's sides differ: 64, or 32 for models of small images."""
    return 64 if resolution >= 256 else 32


@cache
def bucket_sizes(resolution: int) -> list[tuple[int, int]]:
    """(width, height) of every bucket whose area is at most resolution^2, the square among them."""
    step = step_for(resolution)
    area = resolution * resolution
    sizes = {(resolution, resolution)}
    for width in range(step, int(resolution * math.sqrt(WIDEST)) + step, step):
        height = area // width // step * step
        if height and max(width, height) <= WIDEST * min(width, height):
            sizes |= {(width, height), (height, width)}
    return sorted(sizes)


def bucket_for(width: int, height: int, resolution: int) -> tuple[int, int]:
    """The bucket whose shape is nearest to the image's, the larger one of equals."""
    shape = math.log(width / height)
    return min(
        bucket_sizes(resolution),
        key=lambda size: (round(abs(math.log(size[0] / size[1]) - shape), 6), -size[0] * size[1]),
    )
