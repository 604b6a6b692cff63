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
STRAYS = 0.005  # share of a line's pixels that may differ by more than SAME
RINGING = 16  # lines before the picture, one block of JPEG with halved colours, that count as bar though they ring
LOUD = 48  # of 255: ringing at quality 40
PICTURE = 0.1  # share of a ringing line's pixels that may differ by more than LOUD
DEEPEST = 0.45  # share of the image's side that a bar may take; beyond it, the image is of one colour nearly throughout
THINNEST = 0.004  # share of the image's side that two bars take at least; less is not worth a crop
FILLED = 0.75  # share of the picture's outermost line that must differ from the bar
CORNER = 0.03  # share of that line that is a corner
INWARD = 0.005  # share of the side by which that line lies inside, past the blur of the edge
LEFT = 16  # pixels a side of the picture that must be left
AT_ONCE = 32  # lines


def find_border(image: Image.Image) -> Sides | None:
    """Pixels of a plain border around the picture, 0 where a side has none; None where no side has one.

    A border is a pair of bars of one colour, above and below, or left and right, or both pairs, at all of which the
    picture begins in a straight line: three quarters of its outermost row (or column) differ from the bar, and so does
    one of its corners there. A thing on a white background has no border then, since only its tip touches the first row
    that is not white, or its corners are round; nor has a picture with one bar only, which may as well be sky; nor one
    that is of one colour nearly throughout. In JPEG, bars of less than 16 pixels may go unseen, for they ring all over.
    """
    colours = [numpy.median(_lines(image, side, 0, 1)[0], axis=0) for side in range(4)]
    sides = [0, 0, 0, 0]
    for pair in (0, 1):
        if abs(colours[pair] - colours[pair + 2]).max() <= SAME:
            first = _depth(image, pair, colours[pair])
            second = _depth(image, pair + 2, colours[pair + 2]) if first else 0
            if second and first + second >= THINNEST * image.size[pair]:
                sides[pair], sides[pair + 2] = first, second
    left, top, right, bottom = sides
    if not any(sides) or image.width - left - right < LEFT or image.height - top - bottom < LEFT:
        return None
    if not all(_begins_straight(image, sides, side, colours[side]) for side in range(4) if sides[side]):
        return None
    return left, top, right, bottom


def _depth(image: Image.Image, side: int, colour: NDArray[Any]) -> int:
    """How many lines from this side on are of the colour [3]; 0 where there is no end to them."""
    for start, count in _runs(int(image.size[side % 2] * DEEPEST)):
        plain = _strays(image, side, start, count, colour) <= STRAYS
        if not plain.all():
            depth = start + int(plain.argmin())
            return depth + (_ringing(image, side, depth, colour) if depth else 0)
    return 0


def _strays(image: Image.Image, side: int, start: int, count: int, colour: NDArray[Any]) -> NDArray[Any]:
    """[count] shares of each line's pixels that differ by more than SAME; in bytes, since it is most of the work."""
    least = numpy.ceil(numpy.maximum(colour - SAME, 0)).astype(numpy.uint8)
    most = numpy.floor(numpy.minimum(colour + SAME, 255)).astype(numpy.uint8)
    planes = [numpy.asarray(one) for one in image.crop(_box(image, side, start, count)).split()]
    # What is under the least wraps around to over the span.
    off = [plane - low > high - low for plane, low, high in zip(planes, least, most, strict=True)]
    shares: NDArray[Any] = (off[0] | off[1] | off[2]).mean(axis=side % 2)
    return shares if side < 2 else shares[::-1]


def _ringing(image: Image.Image, side: int, depth: int, colour: NDArray[Any]) -> int:
    """How many more lines are of the bar, where JPEG lets the picture's edge echo into it."""
    count = min(RINGING, image.size[side % 2] - depth)
    off = abs(_lines(image, side, depth, count) - colour).max(axis=2)
    bar = ((off > LOUD).mean(axis=1) <= PICTURE) & (numpy.median(off, axis=1) <= SAME)
    return count if bar.all() else int(bar.argmin())


def _runs(limit: int) -> Iterator[tuple[int, int]]:
    """(start, count) of lines to look at together; the first alone, since most images have no border."""
    yield 0, 1
    for start in range(1, limit, AT_ONCE):
        yield start, min(AT_ONCE, limit - start)


def _begins_straight(image: Image.Image, sides: list[int], side: int, colour: NDArray[Any]) -> bool:
    """Whether most of the picture's outermost line, and one of its ends, differ from the bar beside it."""
    length = image.size[side % 2]
    line = _lines(image, side, min(length - 1, sides[side] + max(1, round(INWARD * length))), 1)[0]
    across = 1 - side % 2
    inner = line[sides[across] : len(line) - sides[across + 2]]
    differs = abs(inner - colour).max(axis=1) > SAME
    corner = max(1, round(CORNER * len(differs)))
    return bool(differs.mean() >= FILLED and max(differs[:corner].mean(), differs[-corner:].mean()) > 0.5)


def _lines(image: Image.Image, side: int, start: int, count: int) -> NDArray[Any]:
    """[count, pixels, 3] rows or columns from a side (0 left, 1 top, 2 right, 3 bottom) inward."""
    pixels = numpy.asarray(image.crop(_box(image, side, start, count))).astype(numpy.int16)
    pixels = pixels if side % 2 else pixels.transpose(1, 0, 2)
    return pixels if side < 2 else pixels[::-1]


def _box(image: Image.Image, side: int, start: int, count: int) -> tuple[int, int, int, int]:
    width, height = image.size
    return (
        (start, 0, start + count, height),
        (0, start, width, start + count),
        (width - start - count, 0, width - start, height),
        (0, height - start - count, width, height - start),
    )[side]
