"""Every image finds the bucket that loses least of it, none is larger than its square, and small images stay small."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sdtune.core.data.buckets import (
    WIDEST,
    Size,
    Tally,
    bucket_for,
    bucket_sizes,
    covering_scale,
    cropped,
    step_for,
    tally,
)

resolutions = st.integers(4, 256).map(lambda number: number * 8)
steps = st.sampled_from([None, 32, 64])
sides = st.integers(16, 20_000)


@given(resolutions, steps)
def test_sizes_have_at_most_the_area_and_even_sides(resolution: int, step: int | None) -> None:
    sizes = bucket_sizes(resolution, step)
    assert (resolution, resolution) in sizes
    assert len(set(sizes)) == len(sizes)
    for width, height in sizes:
        assert width * height <= resolution**2
        assert (height, width) in sizes
        assert max(width, height) <= WIDEST * min(width, height)
        assert (width, height) == (resolution, resolution) or not any(
            side % (step or step_for(resolution)) for side in (width, height)
        )


@given(sides, sides, resolutions, steps)
@example(1138, 1000, 512, None)  # by its logarithm nearer to 576 x 448, by its ratio to 512 x 512
def test_every_image_loses_least_in_its_bucket(width: int, height: int, resolution: int, step: int | None) -> None:
    chosen, sizes = bucket_for(width, height, resolution, step=step), bucket_sizes(resolution, step)
    assert chosen in sizes
    lost = cropped(width, height, chosen)
    assert lost <= min(cropped(width, height, size) for size in sizes) + 1e-5
    equals = [size for size in sizes if abs(cropped(width, height, size) - lost) < 1e-9]
    assert chosen[0] * chosen[1] == max(size[0] * size[1] for size in equals)


@given(sides, sides, resolutions)
def test_an_image_and_its_bucket_turn_together(width: int, height: int, resolution: int) -> None:
    for options in ({}, {"upscale": 1.25}):
        upright, lying = (bucket_for(*size, resolution, **options) for size in ((width, height), (height, width)))
        if upright is None or lying is None:
            assert upright == lying
        else:
            assert cropped(width, height, upright) == pytest.approx(cropped(height, width, lying), abs=1e-5)
            assert upright[0] * upright[1] == lying[0] * lying[1]


def test_the_usual_sizes() -> None:
    assert bucket_for(300, 300, 512) == (512, 512)
    assert bucket_for(1920, 1080, 512) == (640, 384)
    assert bucket_for(1080, 1920, 1024) == (768, 1344)
    assert bucket_for(1080, 1920, 1024, step=32) == (768, 1344)
    assert bucket_for(1000, 900, 512) == (512, 512)
    assert bucket_for(1000, 900, 512, step=32) == (544, 480)
    assert bucket_for(1000, 900, 512, square=True) == bucket_for(100, 10_000, 512, square=True) == (512, 512)
    assert bucket_for(100, 10_000, 128) == (64, 256)


def test_a_resolution_between_the_steps_keeps_its_square() -> None:
    assert bucket_for(800, 800, 520) == (520, 520)
    assert bucket_for(800, 800, 136) == (136, 136)
    assert bucket_for(1600, 900, 520) == (704, 384)
    assert bucket_for(800, 800, 32, step=64) == (32, 32)
    assert bucket_for(410, 410, 520, upscale=1.25) == (512, 512)
    assert bucket_for(416, 416, 520, upscale=1.25) == (520, 520)


def test_a_small_image_gets_a_smaller_bucket() -> None:
    assert bucket_for(500, 300, 1024, upscale=1.25) == (512, 320)
    assert bucket_for(300, 300, 512, upscale=1.25) == (320, 320)
    assert bucket_for(300, 300, 512, upscale=1.0) == (256, 256)
    assert bucket_for(300, 300, 512, upscale=1.25, step=32) == (352, 352)
    assert bucket_for(500, 300, 512, upscale=1.25, square=True) == (320, 320)
    assert bucket_for(60, 1000, 512, upscale=1.25) == (64, 256)
    assert bucket_for(410, 410, 512, upscale=1.25) == (512, 512)
    assert bucket_for(52, 52, 512, upscale=1.25) == (64, 64)
    assert bucket_for(51, 900, 512, upscale=1.25) is None
    assert bucket_for(51, 900, 512, upscale=1.25, square=True) is None
    assert bucket_for(51, 900, 512, upscale=1.25, step=32) == (32, 128)


def best_of_all(width: int, height: int, resolution: int, step: int, upscale: float) -> tuple[Fraction, int]:
    """Of the image's area what the best of all sizes keeps without enlarging it too much, and that size's area."""
    kept = []
    for across in range(step, int(WIDEST) * resolution, step):
        for down in range(step, int(WIDEST) * resolution, step):
            scale = max(Fraction(across, width), Fraction(down, height))
            fits = across * down <= resolution**2 and max(across, down) <= WIDEST * min(across, down)
            if fits and scale <= Fraction(upscale):
                kept.append((across * down / max(Fraction(1), scale) ** 2, across * down))
    return max(kept)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(16, 700),
    st.integers(16, 700),
    st.sampled_from([32, 136, 256, 512, 520]),
    steps,
    st.sampled_from([1.0, 1.25, 2.0]),
    st.booleans(),
)
def test_no_image_is_enlarged_beyond_what_is_asked(
    width: int, height: int, resolution: int, step: int | None, upscale: float, square: bool
) -> None:
    chosen = bucket_for(width, height, resolution, step=step, upscale=upscale, square=square)
    usual = bucket_for(width, height, resolution, step=step, square=square)
    even = step or step_for(resolution)
    if covering_scale(width, height, usual) <= upscale:
        assert chosen == usual
    elif even > resolution or even > upscale * min(width, height):
        assert chosen is None
    else:
        assert chosen is not None
        assert covering_scale(width, height, chosen) <= upscale
        assert chosen[0] % even == chosen[1] % even == 0
        assert chosen[0] * chosen[1] <= resolution**2
        if square:
            side = chosen[0]
            assert chosen == (side, side)
            assert side + even > resolution or (side + even) > upscale * min(width, height)
        else:
            assert max(chosen) <= WIDEST * min(chosen)
            kept = chosen[0] * chosen[1] / max(1, Fraction(covering_scale(width, height, chosen))) ** 2
            assert float(kept) == pytest.approx(
                float(best_of_all(width, height, resolution, even, upscale)[0]), rel=1e-6
            )


@pytest.mark.parametrize(("upscale", "square"), [(None, False), (1.25, False), (None, True), (1.25, True)])
@given(st.integers(1, 20_000), st.integers(1, 20_000), resolutions)
def test_what_a_bucket_shows_lies_inside_the_image_and_has_its_shape(
    upscale: float | None, square: bool, width: int, height: int, resolution: int
) -> None:
    bucket = bucket_for(width, height, resolution, square=square, **({"upscale": upscale} if upscale else {}))
    if bucket is None:
        return
    scale = covering_scale(width, height, bucket)
    shown = bucket[0] / scale, bucket[1] / scale  # pixels of the image
    assert shown[0] <= width * (1 + 1e-12)
    assert shown[1] <= height * (1 + 1e-12)
    assert math.isclose(shown[0], width) or math.isclose(shown[1], height)  # no more is cut than must be
    assert abs(shown[0] * bucket[1] / bucket[0] - shown[1]) < 1e-6
    assert shown[0] * shown[1] == pytest.approx((1 - cropped(width, height, bucket)) * width * height)


@given(st.lists(st.tuples(sides, sides), max_size=30), st.sampled_from([136, 512, 1024]), st.sampled_from([1.0, 1.25]))
def test_the_tally_is_of_all_images(sizes: list[Size], resolution: int, beyond: float) -> None:
    buckets = [bucket_for(*size, resolution) for size in sizes]
    rows = tally(sizes, buckets, beyond=beyond)
    shapes = [row.size[0] / row.size[1] for row in rows]
    assert shapes == sorted(shapes)
    assert {row.size for row in rows} == set(buckets)
    assert len(rows) == len(set(buckets))
    for row in rows:
        inside = [size for size, bucket in zip(sizes, buckets, strict=True) if bucket == row.size]
        scales = [max(Fraction(row.size[0], width), Fraction(row.size[1], height)) for width, height in inside]
        shown = [row.size[0] * row.size[1] / (scale**2 * w * h) for scale, (w, h) in zip(scales, inside, strict=True)]
        assert row.images == len(inside)
        assert row.cropped == pytest.approx(float(1 - sum(shown) / len(shown)), abs=1e-9)
        assert row.cropped_most == pytest.approx(float(1 - min(shown)), abs=1e-9)
        assert row.enlarged == sum(scale > beyond for scale in scales)
        assert row.enlarged_most == pytest.approx(float(max(1, *scales)))


def test_a_tally_by_hand() -> None:
    images = [(1024, 1024), (400, 400), (1, 10_000), (1000, 500)]
    buckets = [(512, 512), (512, 512), (384, 640), (640, 384)]
    assert tally(images, buckets) == (
        Tally((384, 640), 1, pytest.approx(1 - 640 / 384 / 10_000), pytest.approx(1 - 640 / 384 / 10_000), 1, 384.0),
        Tally((512, 512), 2, 0.0, 0.0, 1, 1.28),
        Tally((640, 384), 1, pytest.approx(1 / 6), pytest.approx(1 / 6), 0, 1.0),
    )
    assert tally([], []) == ()
    with pytest.raises(ValueError, match="shorter"):
        tally(images, buckets[:-1])
