"""PSNR, SSIM and a perceptual distance: how far drawings are from the very pictures that they should equal."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy

from sdtune.core.evaluation.intervals import Array
from sdtune.core.evaluation.measures.averages import Average, prompts
from sdtune.core.evaluation.measures.base import Mask, Seen


class OfPairs:
    """The mean of what was measured on pairs; of drawings that have one."""

    name: ClassVar[str]

    def chosen(self, seen: Seen) -> Mask:
        """Those that have a pair."""
        missing = numpy.full(len(seen.prompt), numpy.nan)
        there: Mask = numpy.isfinite(seen.values.get(self.name, missing))
        return there

    def each(self, seen: Seen, chosen: Mask) -> Array:
        """What was measured."""
        return seen.values[self.name][chosen]

    def counts(self, seen: Seen) -> tuple[int, int]:
        """Drawings that have a pair, and as many true pictures as they have prompts."""
        there = self.chosen(seen)
        return int(there.sum()), prompts(seen, there)

    def refusal(self, seen: Seen) -> str | None:
        """Where nothing is paired."""
        return None if self.chosen(seen).any() else "no pairs; give --pairs"


class PSNR(OfPairs, Average):
    """Peak signal-to-noise ratio, 10 log10(255^2 / MSE)."""

    name: ClassVar[str] = "psnr"
    title: ClassVar[str] = "PSNR (dB)"
    says: ClassVar[str] = (
        "How closely drawings match their true pictures pixel by pixel: 20 dB is rough, 40 dB hard to tell apart."
    )
    better: ClassVar[Literal["lower", "higher", "none"]] = "higher"
    digits: ClassVar[int] = 1
    order: ClassVar[int] = 80


class SSIM(OfPairs, Average):
    """Structural similarity with a Gaussian window of 11 pixels, sigma 1.5."""

    name: ClassVar[str] = "ssim"
    title: ClassVar[str] = "SSIM"
    says: ClassVar[str] = (
        "How well light, contrast and structure of drawings match their true pictures, place by place: 1 is the same."
    )
    better: ClassVar[Literal["lower", "higher", "none"]] = "higher"
    order: ClassVar[int] = 81
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    source: ClassVar[str] = "Wang et al. 2004, doi:10.1109/TIP.2003.819861"


class Perceptual(OfPairs, Average):
    """1 - cosine of the encoder's features; LPIPS (Zhang et al. 2018, arXiv:1801.03924) has weights of its own."""

    name: ClassVar[str] = "perceptual"
    title: ClassVar[str] = "Perceptual distance"
    says: ClassVar[str] = (
        "How different drawings look from their true pictures to the encoder, which is not LPIPS: 0 is the same."
    )
    better: ClassVar[Literal["lower", "higher", "none"]] = "lower"
    order: ClassVar[int] = 82
    bounds: ClassVar[tuple[float, float]] = (0.0, 2.0)
