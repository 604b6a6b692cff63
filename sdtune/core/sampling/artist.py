"""The artist: draws batches of pictures with the denoiser and the VAE, in one pass or two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from sdtune.core.families import Family
from sdtune.core.reports import Telling
from sdtune.core.sampling.reading import Guide
from sdtune.core.sampling.recipe import Recipe
from sdtune.core.sampling.start import Source


@dataclass(frozen=True)
class Piece:
    """A picture to draw, with all that it needs."""

    recipe: Recipe
    prompt: Guide
    negative: Guide
    source: Source | None = None


@dataclass
class Artist:
    """What draws: the model's parts on their device."""

    family: Family
    net: Any
    vae: Any
    scheduler: Any
    """the base model's own, from which samplers are made"""
    tiles: str = "auto"
    encoded: dict[int, Any] = field(default_factory=dict)
    """latents of sources, by id, so that each is encoded once"""

    def draw(self, pieces: Sequence[Piece], shown: Mapping[str, int]) -> Telling[list[Image.Image]]:
        """Pictures of one shape (size, steps, sampler, guidance, chunks), drawn together and told step by step.

        `shown` holds "first" and "of": which of all pictures these are. A picture does not depend on the others.
        """
        raise NotImplementedError


def shape_of(piece: Piece) -> tuple[object, ...]:
    """What pictures that are drawn together have in common."""
    raise NotImplementedError
