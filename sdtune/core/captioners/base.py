"""What every captioner is: pictures go in, what is told of each comes out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch
    from PIL import Image


@dataclass(frozen=True)
class Picture:
    """One picture to tell of."""

    path: Path
    image: Image.Image | None = None
    """upright, RGB; None for a captioner that needs no image"""


@dataclass(frozen=True)
class Told:
    """One thing told of a picture: a whole caption, or one tag of many."""

    text: str
    score: float = 1.0
    """in [0, 1]; what a tagger or mini gives is how sure it is, others always say 1"""


@dataclass(frozen=True)
class Setting:
    """Where and how a captioner works, whichever it is."""

    device: torch.device
    dtype: torch.dtype
    seed: int = 0
    """of captions that are drawn at random; with it a picture's captions are the same in any batch and order"""
    trigger: str = ""
    """fills {trigger} of a template"""


class Describer(ABC):
    """A captioner at work, made by `load`; it has its model, and is asked batch by batch."""

    kind: ClassVar[str]
    """of the settings in choices/captioners.py that it works by"""
    tags: ClassVar[bool] = False
    """whether it tells many short things, the surest first, rather than a caption"""
    needs_image: bool = True
    """whether pictures must come with their image"""
    batch: int = 1
    """pictures that fit well into one call"""

    @abstractmethod
    def __init__(self, settings: Any, setting: Setting) -> None: ...

    @abstractmethod
    def describe(self, pictures: Sequence[Picture], variants: int = 1) -> list[list[Told]]:
        """What is told of each picture: up to `variants` captions, the likeliest first, or its tags; [] for nothing."""
