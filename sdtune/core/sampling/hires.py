"""The second pass: a picture scaled up and drawn over, so that large ones have no doubled subjects."""

from __future__ import annotations

from PIL import Image

from sdtune.core.sampling.recipe import Recipe
from sdtune.core.sampling.source import Source

STREAM = "hires"
"""of noise: the second pass has another than the first, from the same seed"""


def has_second_pass(recipe: Recipe) -> bool:
    """Whether a picture is drawn over once more."""
    return recipe.hires.scale > 1


def second_size(recipe: Recipe, unit: int) -> tuple[int, int]:
    """(width, height) after the second pass, to the nearest multiples of `unit`."""
    width, height = (
        max(unit, round(side * recipe.hires.scale / unit) * unit) for side in (recipe.width, recipe.height)
    )
    return width, height


def scaled(source: Source, size: tuple[int, int]) -> Source:
    """A source at another size."""
    mask = source.mask.resize(size, Image.Resampling.NEAREST) if source.mask else None
    return Source(source.image.resize(size, Image.Resampling.LANCZOS), mask)
