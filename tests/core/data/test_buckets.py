"""Every image finds the bucket of the nearest shape, and no bucket is larger than its square."""

from __future__ import annotations

import math

from hypothesis import example, given
from hypothesis import strategies as st

from sdtune.core.data.buckets import WIDEST, bucket_for, bucket_sizes, step_for

resolutions = st.integers(4, 256).map(lambda number: number * 8)


@given(resolutions)
def test_sizes_have_at_most_the_area_and_even_sides(resolution: int) -> None:
    sizes = bucket_sizes(resolution)
    step = step_for(resolution)
    assert (resolution, resolution) in sizes
    assert len(set(sizes)) == len(sizes)
    for width, height in sizes:
        assert width * height <= resolution**2
        assert (height, width) in sizes
        assert max(width, height) <= WIDEST * min(width, height)
        assert (width, height) == (resolution, resolution) or width % step == height % step == 0


@given(st.integers(16, 20_000), st.integers(16, 20_000), resolutions)
@example(1138, 1000, 512)  # by its logarithm nearer to 576 x 448, by its ratio to 512 x 512
def test_every_image_goes_to_the_nearest_shape(width: int, height: int, resolution: int) -> None:
    def distance(size: tuple[int, int]) -> float:
        return abs(math.log(size[0] / size[1]) - math.log(width / height))

    chosen = bucket_for(width, height, resolution)
    assert distance(chosen) <= min(map(distance, bucket_sizes(resolution))) + 1e-6
    equals = [size for size in bucket_sizes(resolution) if abs(distance(size) - distance(chosen)) < 1e-7]
    assert chosen[0] * chosen[1] == max(size[0] * size[1] for size in equals)


def test_the_usual_sizes() -> None:
    assert bucket_for(300, 300, 512) == (512, 512)
    assert bucket_for(1920, 1080, 512) == (640, 384)
    assert bucket_for(1080, 1920, 1024) == (768, 1344)
    assert bucket_for(100, 10_000, 128) == (96, 160)
