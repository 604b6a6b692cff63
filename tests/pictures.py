"""Small data folders of drawn pictures with captions."""

from __future__ import annotations

from pathlib import Path

import numpy
from numpy.typing import NDArray
from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")


def folder(place: Path, count: int = 4, sizes: tuple[tuple[int, int], ...] = ((64, 64),)) -> Path:
    """Discs of different colours on white, `a red disc.png` with `a red disc` in its .txt."""
    place.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        colour, (width, height) = COLOURS[number % len(COLOURS)], sizes[number % len(sizes)]
        picture = Image.new("RGB", (width, height), "white")
        ImageDraw.Draw(picture).ellipse((8, 8, width - 8, height - 8 - number), fill=colour)
        picture.save(place / f"{number}.png")
        (place / f"{number}.txt").write_text(f"a {colour} disc")
    return place


def pixels(path: Path) -> NDArray[numpy.int64]:
    """[height, width, 3] of a picture on disk, as whole numbers that can be subtracted."""
    with Image.open(path) as picture:
        return numpy.asarray(picture.convert("RGB"), dtype=numpy.int64)
