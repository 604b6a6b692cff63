"""Pairs of pictures, pixel by pixel: PSNR, SSIM, and how far an encoder sees them apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray
from PIL import Image

from sdtune.core.data.images import open_image
from sdtune.core.evaluation.intervals import Array

Pixels = NDArray[numpy.uint8]  # [h, w, 3]

RANGE = 255.0
EQUAL = 100.0
"""dB that equal pictures are given in place of infinity, which has no mean; one value of 255 that is off by one is
96 dB in a picture of 256 x 256, 102 in one of 512 x 512"""
WINDOW, SIGMA = 11, 1.5  # pixels; and the two constants: Wang et al. 2004, sec. III-C
C1, C2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2


def psnr(a: Pixels, b: Pixels) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(255^2 / MSE), at most EQUAL."""
    error = float(numpy.square(a.astype(numpy.float64) - b).mean())
    return min(EQUAL, 10 * math.log10(RANGE**2 / error)) if error else EQUAL


def ssim(a: Pixels, b: Pixels) -> float:
    """Structural similarity, the mean of the windows around all pixels, each colour by itself.

    Wang et al. 2004, doi:10.1109/TIP.2003.819861, eq. 13; beyond the edges pictures are mirrored, as in torchmetrics.
    """
    x, y = a.astype(numpy.float64), b.astype(numpy.float64)
    mean_x, mean_y = _blurred(x), _blurred(y)
    variance_x, variance_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + C1) * (2 * covariance + C2)
    return float((likeness / ((mean_x**2 + mean_y**2 + C1) * (variance_x + variance_y + C2))).mean())


def paired_values(
    drawn: Sequence[Path], truth: Sequence[Path | None], drawn_features: Array, truth_features: Array
) -> dict[str, Array]:
    """{psnr, ssim, perceptual: [n]} of drawings and the pictures that they should equal; NaN where there is none.

    A true picture is brought to the drawing's size by Pillow's Lanczos filter, as bytes. Features are unit vectors
    [n, d]; those of drawings without a pair may be anything. Perceptual is 1 - their cosine.
    """
    values = {name: numpy.full(len(drawn), math.nan) for name in ("psnr", "ssim", "perceptual")}
    for place, (drawing, true) in enumerate(zip(drawn, truth, strict=True)):
        if true is None:
            continue
        image = open_image(drawing)
        a, b = _pixels(image), _pixels(_brought(open_image(true), image.size))
        values["psnr"][place], values["ssim"][place] = psnr(a, b), ssim(a, b)
        values["perceptual"][place] = 1 - drawn_features[place] @ truth_features[place]
    return values


def _brought(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def _pixels(image: Image.Image) -> Pixels:
    return numpy.asarray(image, dtype=numpy.uint8)


def _blurred(values: NDArray[Any]) -> Array:
    """[h, w, 3] means under a Gaussian window."""
    reach = WINDOW // 2
    padded = numpy.pad(values, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    place = numpy.arange(WINDOW) - reach
    weights = numpy.exp(-(place**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    height, width = values.shape[:2]
    rows = sum(weight * padded[i : i + height] for i, weight in enumerate(weights.tolist()))
    found: Array = sum(weight * rows[:, i : i + width] for i, weight in enumerate(weights.tolist()))
    return found
