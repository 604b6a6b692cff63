"""The source: a picture to begin with, and which part of it is drawn anew."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy
from numpy.typing import NDArray
from PIL import Image

from sdtune.core.data.image_file import told
from sdtune.core.data.images import decode
from sdtune.errors import DataError

STRENGTH, STRENGTH_INSIDE = 0.75, 1.0  # where none is given: over all of a picture, and inside a mask
NO_HOLE = "no pixel of it is over half white (red and blue count as dark), so nothing is drawn anew"
RAMPS = 32  # steps at most from the old picture to the new one


@dataclass(frozen=True)
class Source:
    """A picture to begin with, and which part of it is drawn anew."""

    image: Image.Image
    """RGB, of the size that is drawn"""
    mask: Image.Image | None = None
    """L, of the same size: 255 is drawn anew, 0 stays; nothing between"""


def strength_of(given: float | None, *, inside: bool) -> float:
    """Share of the steps that are taken; not given, that over all of a picture, or inside a mask."""
    return (STRENGTH_INSIDE if inside else STRENGTH) if given is None else given


def read_source(init: Path, mask: Path | None, size: tuple[int, int] | None = None) -> Source:
    """The pictures as they are drawn on: upright, RGB, scaled and cut to `size`, or else as large as they are.

    Raises DataError for what is no picture, and for a mask of another size than the picture.
    """
    image = _read(init, "--init", "white")
    wanted = size or image.size
    fitted = _fitted(image, wanted, Image.Resampling.LANCZOS)
    if mask is None:
        return Source(fitted)
    holes = _holes(mask)
    if holes.size != image.size:
        sizes = f"{holes.width} x {holes.height} pixels, but --init is {image.width} x {image.height}"
        raise DataError(f"--mask {mask}: {sizes}; give a mask of the picture's size")
    holes = _fitted(holes, wanted, Image.Resampling.BILINEAR).point(lambda level: 255 if level >= 128 else 0)
    if holes.getbbox() is None:
        raise DataError(f"--mask {mask}: {NO_HOLE}; paint white what shall change")
    return Source(fitted, holes)


class Sources:
    """The source of a command, at each size that is drawn."""

    def __init__(self, init: Path | None, mask: Path | None) -> None:
        self.init, self.mask = init, mask
        self._sized: dict[tuple[int, int], Source] = {}

    def of(self, size: tuple[int, int]) -> Source | None:
        """At (width, height); None where drawing begins with noise alone."""
        if self.init is None:
            return None
        if size not in self._sized:
            self._sized[size] = read_source(self.init, self.mask, size)
        return self._sized[size]


def kept(source: Source, drawn: Image.Image, feather: int) -> Image.Image:
    """What is drawn, with the source's own bytes where the mask is black, and a soft edge inside the white.

    Over `feather` pixels, or as many as the widest white place has, the old picture goes over into the new one.
    """
    assert source.mask is not None, "without a mask all is drawn anew"
    return Image.composite(drawn, source.image, _softened(source.mask, feather))


def _read(path: Path, flag: str, background: str) -> Image.Image:
    """A picture that a flag names; DataError, one line that begins with the flag, where it is none."""
    name = f"{flag} {path}"
    try:
        found = os.stat(path).st_mode
        if not stat.S_ISREG(found):
            what = "a folder" if stat.S_ISDIR(found) else "no file that can be read as a whole"
            raise DataError(f"{name}: {what}; give a picture's file")
        return decode(path, name, background=background, smallest=1).image
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{name}: no such file; check its name") from None
    except (OSError, MemoryError) as error:
        raise DataError(f"{name}: {told(error)}") from None
    except ValueError:
        raise DataError(f"{flag}: its name holds what no file's name can; check it") from None


def _fitted(image: Image.Image, size: tuple[int, int], resampling: Image.Resampling) -> Image.Image:
    """Scaled to cover the size, and cut to it around the middle."""
    if image.size == size:
        return image
    factor = max(size[0] / image.width, size[1] / image.height)
    width, height = size[0] / factor, size[1] / factor
    left, top = (image.width - width) / 2, (image.height - height) / 2
    right, bottom = min(left + width, image.width), min(top + height, image.height)
    return image.resize(size, resampling, box=(max(left, 0), max(top, 0), right, bottom))


def _holes(mask: Path) -> Image.Image:
    """A mask in black and white: what is transparent is black beside white, and white where all else is black.

    So white strokes on a layer of their own are masks, and pictures painted black with a hole erased.
    """
    on_black = _black_or_white(_read(mask, "--mask", "black").convert("L"))
    if on_black.getbbox() is not None:
        return on_black
    on_white = _black_or_white(_read(mask, "--mask", "white").convert("L"))
    if on_white.getextrema() == (255, 255):
        raise DataError(f"--mask {mask}: transparent all over; paint white what shall change, on black")
    return on_white


def _black_or_white(mask: Image.Image) -> Image.Image:
    """White from half on; of a mask whose only levels are 0 and 1, the 1 is white."""
    _, most = mask.getextrema()
    least = 1 if most == 1 else 128
    return mask.point(lambda level: 255 if level >= least else 0)


def _softened(mask: Image.Image, feather: int) -> Image.Image:
    """The mask with a ramp of so many pixels inside its white; the picture's border is no edge."""
    if not feather:
        return mask
    white = numpy.asarray(mask) >= 128
    depths = sorted({feather * level // min(feather, RAMPS) for level in range(min(feather, RAMPS))})
    shrunk = [white]
    for depth in depths[1:]:
        shrunk.append(_shrunk(white, depth))
        if not shrunk[-1].any():
            shrunk.pop()
            break
    ramp = numpy.mean(shrunk, axis=0, dtype=numpy.float32)
    return Image.fromarray((ramp * 255).round().astype(numpy.uint8))


def _shrunk(white: NDArray[numpy.bool_], depth: int) -> NDArray[numpy.bool_]:
    """What is at least so many pixels, in either direction, away from black."""
    black = numpy.pad(~white, depth)
    for axis in (0, 1):
        sums = numpy.cumsum(black, axis=axis, dtype=numpy.int32)
        sums = numpy.concatenate([numpy.zeros_like(sums.take([0], axis)), sums], axis)
        length = black.shape[axis] - 2 * depth
        ahead = sums.take(range(2 * depth + 1, 2 * depth + 1 + length), axis)
        black = (ahead - sums.take(range(length), axis)) > 0
    return ~black
