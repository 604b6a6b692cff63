"""Borders: bars of one colour on opposite sides of a picture, as letterboxes and scans have them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy
from numpy.typing import NDArray
from PIL import Image

Sides = tuple[int, int, int, int]
"""left, top, right, bottom, in pixels"""

SAME = 10  # of 255: a flat bar's noise in JPEG
STRAYS = 0.005  # share of a line's pixels that may differ by more than SAME, up to FAR, as where JPEG's picture rings
FAR = 64
DEEPEST = 0.45  # share of the image's side that a bar may take; beyond it, the image is of one colour nearly throughout
THINNEST = 0.004  # share of the image's side that two bars take at least; less is not worth a crop
FILLED = 0.75  # share of the picture's outermost line that must differ from the bar
INWARD = 0.005  # share of the side by which that line lies inside, past the blur of the edge
LEFT = 16  # pixels a side of the picture that must be left
AT_ONCE = 32  # lines


def find_border(image: Image.Image) -> Sides | None:
    """Pixels of a plain border around the picture, 0 where a side has none; None where no side has one.

    A border is a pair of bars of one colour, above and below, or left and right, or both pairs, at which the picture
    begins in a straight line: three quarters of its outermost rows (or columns) differ from the bar. So a thing on a
    white background has no border, since only its tip touches the first row that is not white; nor has a picture with
    one bar only, which may as well be sky; nor one that is of one colour nearly throughout.
    """
    depths, colours = zip(*(_depth(image, side) for side in range(4)), strict=True)
    sides = list(depths)
    for pair in (0, 1):
        length = image.size[pair]
        near = abs(colours[pair] - colours[pair + 2]).max() <= SAME
        if not near or not sides[pair] or not sides[pair + 2] or sides[pair] + sides[pair + 2] < THINNEST * length:
            sides[pair] = sides[pair + 2] = 0
    for pair in (0, 1, 0):  # once more, since without the other pair its lines are longer
        if sides[pair] and not all(_begins_straight(image, sides, side, colours[side]) for side in (pair, pair + 2)):
            sides[pair] = sides[pair + 2] = 0
    left, top, right, bottom = sides
    if not any(sides) or image.width - left - right < LEFT or image.height - top - bottom < LEFT:
        return None
    return left, top, right, bottom


def _depth(image: Image.Image, side: int) -> tuple[int, NDArray[Any]]:
    """How many lines from this side on are plain, and their colour [3]; 0 where there is no end to them."""
    colour = numpy.median(_lines(image, side, 0, 1)[0], axis=0)
    for start, count in _runs(int(image.size[side % 2] * DEEPEST)):
        off = abs(_lines(image, side, start, count) - colour).max(axis=2)
        plain = ((off > SAME).mean(axis=1) <= STRAYS) & (off.max(axis=1) <= FAR)
        if not plain.all():
            return start + int(plain.argmin()), colour
    return 0, colour


def _runs(limit: int) -> Iterator[tuple[int, int]]:
    """(start, count) of lines to look at together; the first alone, since most images have no border."""
    yield 0, 1
    for start in range(1, limit, AT_ONCE):
        yield start, min(AT_ONCE, limit - start)


def _begins_straight(image: Image.Image, sides: list[int], side: int, colour: NDArray[Any]) -> bool:
    """Whether most of the picture's outermost line differs from the bar beside it."""
    length = image.size[side % 2]
    line = _lines(image, side, min(length - 1, sides[side] + max(1, round(INWARD * length))), 1)[0]
    across = 1 - side % 2
    inner = line[sides[across] : len(line) - sides[across + 2]]
    return bool(len(inner)) and float((abs(inner - colour).max(axis=1) > SAME).mean()) >= FILLED


def _lines(image: Image.Image, side: int, start: int, count: int) -> NDArray[Any]:
    """[count, pixels, 3] rows or columns from a side (0 left, 1 top, 2 right, 3 bottom) inward."""
    width, height = image.size
    box = (
        (start, 0, start + count, height),
        (0, start, width, start + count),
        (width - start - count, 0, width - start, height),
        (0, height - start - count, width, height - start),
    )[side]
    pixels = numpy.asarray(image.crop(box)).astype(numpy.int16)
    pixels = pixels if side % 2 else pixels.transpose(1, 0, 2)
    return pixels if side < 2 else pixels[::-1]
