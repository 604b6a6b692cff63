"""Sizes: at how many pixels a picture is drawn, and what becomes of one to begin with."""

from __future__ import annotations

import math
from pathlib import Path

from sdtune.errors import DataError, cut
from sdtune.sample_config import LARGEST

Size = tuple[int, int]
"""(width, height) in pixels"""
ROOM = 2
"""how many times the area that a model was made for a picture may have: 512 x 768 is usual for SD 1.5"""


def drawn_size(asked: tuple[int | None, int | None], own: Size | None, unit: int, side: int) -> Size:
    """The size at which is drawn: what is asked for, else that of the picture to begin with, `own`, else the model's.

    The picture keeps its shape, where only one side is asked for too; where none is, and it is over ROOM times as large
    as the square of `side` that the model was made for, it has about the area of that. Its sides are the nearest
    multiples of `unit`.
    """
    width, height = asked
    if own is None:
        return width or side, height or side
    factor = math.sqrt(side * side / (own[0] * own[1])) if _is_too_large(own, side) else 1.0
    if width or height:
        factor = width / own[0] if width else (height or 0) / own[1]
    fitted = [max(unit, round(pixels * factor / unit) * unit) for pixels in own]
    return width or fitted[0], height or fitted[1]


def must_be_drawable(init: Path, own: Size, size: Size) -> None:
    """Stop at a picture whose shape gives too long a side."""
    if max(size) > LARGEST:
        raise DataError(
            f"--init {init}: {own[0]} x {own[1]} would be drawn at {size[0]} x {size[1]}, over {LARGEST} a side; give "
            "--width and --height"
        )


def becomes(init: Path, own: Size, size: Size, unit: int, side: int, *, asked: bool, masked: bool) -> str | None:
    """What is told of a picture that is not drawn on as it is; `asked`: whether the user has given a size."""
    if own == size:
        return None
    factor = max(size[0] / own[0], size[1] / own[1])
    is_cut = any(pixels * factor - drawn >= 0.5 for pixels, drawn in zip(own, size, strict=True))
    is_too_large = not asked and _is_too_large(own, side)
    why = ", what the model was made for" if is_too_large else "" if asked else f", as sides are multiples of {unit}"
    told = f"{cut(init.name)}: {own[0]} x {own[1]} is drawn at {size[0]} x {size[1]}{why}"
    told += f"{',' if why else ''} and cut around its middle" if is_cut else ""
    told += "; --width and --height give another" if is_too_large else ""
    return told + ("; what is black in the mask stays as it is in the scaled picture" if masked and factor != 1 else "")


def _is_too_large(own: Size, side: int) -> bool:
    return own[0] * own[1] > ROOM * side * side
