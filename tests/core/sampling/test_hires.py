"""Sizes and sources of the second pass; what it draws stands in test_artist."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as some
from PIL import Image

from sdtune.core.sampling.hires import has_second_pass, scaled, second_size
from sdtune.core.sampling.source import Source
from sdtune.sample_config import Hires
from tests.core.sampling.test_artist import recipe


def told(width: int, height: int, scale: float) -> Any:
    return recipe(width=width, height=height, hires=Hires(scale=scale))


@given(
    sides=some.tuples(some.integers(1, 100), some.integers(1, 100)),
    scale=some.floats(1, 8),
    unit=some.sampled_from([8, 16]),
)
def test_the_second_size_is_the_nearest_that_can_be_drawn(sides: tuple[int, int], scale: float, unit: int) -> None:
    width, height = (side * unit for side in sides)
    for first, second in zip((width, height), second_size(told(width, height, scale), unit), strict=True):
        assert second % unit == 0
        assert abs(second - first * scale) <= unit / 2 + 1e-6


@pytest.mark.parametrize(("scale", "expected"), [(1.0, False), (1.01, True), (2.0, True)])
def test_only_a_larger_picture_is_drawn_over(scale: float, expected: bool) -> None:
    assert has_second_pass(told(64, 64, scale)) is expected


def test_a_mask_stays_black_and_white_as_it_grows() -> None:
    mask = Image.new("L", (64, 48))
    mask.paste(255, (10, 10, 33, 31))
    larger = scaled(Source(Image.new("RGB", (64, 48)), mask), (104, 80))
    assert larger.image.size == (104, 80)
    assert larger.mask is not None
    assert {level for _, level in larger.mask.getcolors()} == {0, 255}
    assert abs((numpy.asarray(larger.mask) > 0).mean() - (numpy.asarray(mask) > 0).mean()) < 0.02
