"""Encoder: what makes features of pictures, and where it can of texts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from PIL import Image

from sdtune.core.evaluation.intervals import Array


class Encoder(ABC):
    """One encoder, loaded; the same picture has the same features, whatever else is in a batch."""

    name: ClassVar[str]
    """as --encoder names it"""
    label: str
    """as every figure is labelled with it: "CLIP of mini", "DINOv2 (facebook/dinov2-base)" """
    fingerprint: str
    """of its weights, of how it resizes and of what else its last digits depend on, for the cache"""
    resize: str
    """how it makes the square that it looks at of a picture, in words"""
    width: int
    """d, numbers of a vector"""
    reads_texts: bool = False
    at_once: int = 1
    """pictures of one call"""

    @abstractmethod
    def images(self, images: Sequence[Image.Image]) -> Array:
        """[n, d] unit vectors of RGB images of any size."""

    def texts(self, texts: Sequence[str]) -> Array:  # noqa: ARG002 (for those that read them)
        """[n, d] unit vectors in the same space; only where `reads_texts`."""
        raise AssertionError("an encoder without a text tower was asked for texts")
