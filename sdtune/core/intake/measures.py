"""Measures of a picture: how sharp, how varied, and what it looks like in a few bytes."""

from __future__ import annotations

import math
from functools import cache

import numpy
from numpy.typing import NDArray
from PIL import Image

SIDE = 512  # pixels; sharpness is measured at this area at most, so that it does not depend on the camera
TINTS = 8  # a side
NEAR = 12.0
"""of 255; see `alike`. Measured on 26 photographs and scans and 76 drawings: versions of a picture that are scaled,
recompressed (JPEG 20), cropped by 2 % a side, brighter by 20 % or greyer by 30 % are at most 13 apart, 19 of 20 of them
at most 12; drawings with hues turned by 60 degrees at least 11 in 19 of 20; different pictures whose hashes are up to
14 bits apart at least 23."""


def grey_of(image: Image.Image) -> Image.Image:
    """The picture in grey (ITU-R BT.601), scaled down to an area of at most 512 x 512."""
    scale = math.sqrt(SIDE * SIDE / (image.width * image.height))
    grey = image.convert("L")
    if scale >= 1:
        return grey
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return grey.resize(size, Image.Resampling.LANCZOS)


def sharpness(grey: Image.Image) -> float:
    """Variance of the Laplacian of grey values 0-255 (Pech-Pacheco et al. 2000, doi:10.1109/ICPR.2000.903548).

    Kernel 0 1 0 / 1 -4 1 / 0 1 0, inner pixels only; 0 where there are none. Unit: grey values squared.
    """
    pixels = numpy.asarray(grey, dtype=numpy.int16)
    if min(pixels.shape) < 3:
        return 0.0
    middle = pixels[1:-1, 1:-1]
    laplacian = pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:] - 4 * middle
    return float(laplacian.var(dtype=numpy.float64))


def contrast(grey: Image.Image) -> float:
    """Standard deviation of grey values 0-255."""
    return float(numpy.asarray(grey).std(dtype=numpy.float64))


def fingerprint(grey: Image.Image) -> str:
    """Perceptual hash of 64 bits in hex: signs of the 8 x 8 lowest frequencies against their median.

    Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions", sec. 3.2.1: 32 x 32 pixels,
    DCT-II, without the constant and the outermost terms of rows and columns.
    """
    small = numpy.asarray(grey.resize((32, 32), Image.Resampling.BOX), dtype=numpy.float64)
    cosines = _cosines()
    lowest = (cosines @ small @ cosines.T).ravel()
    bits = lowest > numpy.median(lowest)
    return numpy.packbits(bits).tobytes().hex()


@cache
def _cosines() -> NDArray[numpy.float64]:
    """[8, 32] rows 1 to 8 of the DCT-II, unscaled."""
    place, frequency = numpy.arange(32), numpy.arange(1, 9)[:, None]
    cosines: NDArray[numpy.float64] = numpy.cos(math.pi / 32 * (place + 0.5) * frequency)
    return cosines


def tints(image: Image.Image) -> str:
    """The picture's mean colours in 8 x 8 fields, RGB of 8 bits row by row, in hex."""
    return image.resize((TINTS, TINTS), Image.Resampling.BOX).tobytes().hex()


def alike(
    hash_a: NDArray[numpy.uint64],
    hash_b: NDArray[numpy.uint64],
    tints_a: NDArray[numpy.uint8],
    tints_b: NDArray[numpy.uint8],
    bits: int,
) -> NDArray[numpy.bool_]:
    """[n] Which pairs are near-duplicates: hashes [n] at most `bits` apart, and tints [n, 192] near.

    The hash knows no colour: hearts of any colour have the same. Tints are near where what neither brightness nor
    contrast explains (the part of one that is not in line with the other, both about their mean) is at most NEAR.
    """
    same: NDArray[numpy.bool_] = numpy.bitwise_count(hash_a ^ hash_b) <= bits
    (near,) = same.nonzero()
    same[near] = _unlikeness(tints_a[near], tints_b[near]) <= NEAR
    return same


def _unlikeness(tints_a: NDArray[numpy.uint8], tints_b: NDArray[numpy.uint8]) -> NDArray[numpy.float32]:
    """[n] sqrt(s_a s_b (1 - r^2)) of standard deviations s and correlation r; sqrt(s_a s_b) where r < 0. Of 255."""
    a, b = (tints.astype(numpy.float32) for tints in (tints_a, tints_b))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    size = numpy.sqrt((a * a).mean(axis=1) * (b * b).mean(axis=1))
    correlation = (a * b).mean(axis=1).clip(0) / numpy.maximum(size, 1e-6)
    unlikeness: NDArray[numpy.float32] = numpy.sqrt(size * (1 - correlation**2).clip(0))
    return unlikeness
