"""Again: a picture drawn once more by what its file tells, and what differs where the bytes do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sdtune.core.applied import Applied
from sdtune.core.sampling.recipe import Made, Recipe
from sdtune.sample_config import Sample


def recipe_in(path: Path) -> Recipe:
    """What a picture of ours was made of; DataError where it is none, or tells nothing."""
    raise NotImplementedError


def loras_of(recipe: Recipe, picture: Path, given: Sequence[Applied]) -> tuple[Applied, ...]:
    """The LoRAs of the recipe by their SHA-256: among those given, where they lay, beside the picture, under runs/."""
    raise NotImplementedError


def config_of(recipe: Recipe, picture: Path, config: Sample) -> Sample:
    """The settings that draw it once more, over those that may be given beside --again (--model, --init, --out ...)."""
    raise NotImplementedError


def differences(recipe: Recipe, now: Recipe) -> list[str]:
    """In a few words each: what is otherwise now than when the picture was drawn."""
    raise NotImplementedError


def verdict(picture: Path, drawn: Path, recipe: Recipe, made: Made) -> str:
    """Whether the two files have the same bytes, or the same pixels, or by how much they differ and why they may."""
    raise NotImplementedError
