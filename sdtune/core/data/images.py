"""Image files: decoded whole, upright, in sRGB with 8 bits and no transparency, or refused with the reason."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageColor

from sdtune.core.data.colours import is_deep, to_srgb
from sdtune.core.data.image_file import FILE_BYTES as FILE_BYTES
from sdtune.core.data.image_file import must_have_a_sane_size, read, told
from sdtune.core.data.kinds import NAMES, kind_of, misnamed, other
from sdtune.errors import DataError

FORMATS = tuple(NAMES)
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif"})
PIXELS = 64 * 2**20  # a file of a few kB can claim many more and take all memory
SMALLEST = 16  # pixels a side; there is nothing to learn from less
SCANS = 100  # of a progressive JPEG; editors write about 10, and each costs as much time as a whole image
NO_MEMORY = "out of memory"  # in an OSError of Pillow's decoders, where their own C code finds none
SPARE = {2: 1.65, 4: 2.0, 8: 2.0}
"""{a JPEG decoded at half, quarter or eighth: times a side that it stays larger than what is needed}. Scaled with
Lanczos from there, 16 of 17 pictures that are sharp to the pixel come out at 40.9 to 54 dB (PSNR) to the same decoded
whole; a scanned page of text at 39.5."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""{EXIF orientation: what puts the image upright}"""
ORIENTATION = 0x0112
BITS, SUBFILE, INNER_IMAGES, DNG = 258, 254, 330, 50706  # tags of TIFF

logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it has to say is said in our words


@dataclass(frozen=True)
class Decoded:
    """An image file's picture, and what it was."""

    image: Image.Image
    """upright, mode RGB, on the background"""
    alpha: Image.Image | None
    """mode L, of the image's size; None where nothing is transparent"""
    kind: str
    """of `kinds.NAMES`, by content"""
    width: int
    """pixels of the original, upright"""
    height: int
    reduced: int
    """1, 2, 4 or 8: original pixels a side of each pixel of `image`"""
    turn: Image.Transpose | None
    """how it was put upright"""
    notices: tuple[str, ...]
    """what the user should know of how it is used"""


def suffixes_shown() -> str:
    """The suffixes of what can be read here, for messages: HEIC needs a package of its own."""
    absent = NAMES["HEIF"] if importlib.util.find_spec("pillow_heif") is None else ()
    return ", ".join(sorted(SUFFIXES.difference(absent)))


def open_image(path: Path) -> Image.Image:
    """The image as upright RGB on white; raises DataError with the reason where it cannot be read whole."""
    return _of_file(path).image


def decode(
    file: Path | bytes,
    name: str,
    *,
    background: str = "white",
    at_least: Callable[[int, int], tuple[int, int]] | None = None,
    smallest: int = SMALLEST,
) -> Decoded:
    """The file's picture; raises DataError, one line that begins with the name, where it cannot be read whole.

    `at_least` tells from the upright size what size will be needed: a JPEG may then be decoded smaller, which is
    several times faster. Where memory runs out, MemoryError is left to the caller, who knows how much there is.
    """
    red, green, blue = ImageColor.getrgb(background)[:3]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = file if isinstance(file, bytes) else read(file)
            must_have_a_sane_size(len(data))
            return _decoded(data, name, (red, green, blue), at_least, smallest)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, EOFError and their own
        if NO_MEMORY in str(error):
            raise MemoryError from None
        raise DataError(f"{name}: {told(error)}") from None


def _of_file(path: Path) -> Decoded:
    try:
        return decode(path, str(path))
    except MemoryError as error:
        raise DataError(f"{path}: {told(error)}") from None


def _decoded(
    data: bytes,
    name: str,
    paper: tuple[int, int, int],
    at_least: Callable[[int, int], tuple[int, int]] | None,
    smallest: int,
) -> Decoded:
    kind = _kind(data)
    image: Any = Image.open(io.BytesIO(data), formats=[kind])  # not held open by `with`: it is let go once converted
    _must_be_workable(image, data, smallest)
    orientation = _orientation(image) if kind in ("JPEG", "TIFF") else 1  # others would be loaded for it
    notices = [notice for notice in (misnamed(name, kind), _of_several(image, kind), _depth(image, data)) if notice]
    size = image.size
    if kind == "JPEG" and at_least:
        _ask_for_less(image, orientation, at_least)
    with _hushed() if kind == "TIFF" else contextlib.nullcontext():
        image.load()
    reduced = round(size[0] / image.width) if kind == "JPEG" else 1
    if kind == "JPEG" and image.mode == "CMYK" and "adobe" not in image.info:
        image = ImageChops.invert(image)  # only Adobe's have 255 as no ink, while Pillow takes all of them for Adobe's
    if kind == "TIFF":  # turned by Pillow
        turn, size = None, image.size
    else:
        turn = TURNS.get(orientation if kind == "JPEG" else _orientation(image))
    if turn is not None:
        image = image.transpose(turn)
        size = size[::-1] if turn in (TURNS[5], TURNS[6], TURNS[7], TURNS[8]) else size
    image, alpha, told = to_srgb(image, paper)
    image.info.clear()  # metadata go no further
    notices += [notice for notice in told if notice not in notices]
    turn = turn or TURNS.get(orientation)
    width, height = size
    return Decoded(image, alpha, kind, width, height, reduced, turn, tuple(notices))


def _kind(data: bytes) -> str:
    kind = kind_of(data)
    if kind is None:
        what, remedy = other(data)
        raise DataError(f"its content is not an image but {what}, whatever its name says; {remedy}")
    if kind == "HEIF":
        try:
            importlib.import_module("pillow_heif").register_heif_opener(thumbnails=False)
        except ImportError:
            raise DataError("HEIC needs one more package: pip install pillow-heif") from None
    if kind == "JPEG" and data.count(b"\xff\xda") > SCANS:
        raise DataError(f"has over {SCANS} scans, which would take very long to decode; save it again")
    return kind


def _must_be_workable(image: Any, data: bytes, smallest: int) -> None:
    width, height = image.size
    if width * height > PIXELS:
        raise DataError(f"{width} x {height} is over 64 megapixels; save it smaller")
    if min(width, height) < smallest:
        raise DataError(f"{width} x {height} is too small; give at least {smallest} pixels a side")
    if image.format == "TIFF":
        tags = image.tag_v2
        preview = tags.get(SUBFILE, 0) == 1 and INNER_IMAGES in tags
        if DNG in tags or preview or data[8:10] == b"CR":
            raise DataError("is a camera's raw file, of which only a small preview could be read; develop it to JPEG")


def _of_several(image: Any, kind: str) -> str | None:
    """A notice where the file holds more than one picture, and the first made the current one."""
    if kind in ("JPEG", "HEIF"):  # a phone's second picture is a depth map or a smaller copy
        return None
    try:
        several = bool(getattr(image, "is_animated", False))
    except Exception:  # the second one is damaged, which does not matter
        several = True
    image.seek(0)
    if not several:
        return None
    return "has several pages: only the first is used" if kind == "TIFF" else "animated: only the first frame is used"


def _depth(image: Any, data: bytes) -> str | None:
    """A notice where colours of 16 bits lose their lower half; greys are scaled by their range, and told then."""
    deep = data[24] == 16 if image.format == "PNG" else image.format == "TIFF" and 16 in image.tag_v2.get(BITS, ())
    return "16-bit: scaled to 8 bits" if deep and not is_deep(image) else None


def _ask_for_less(image: Any, orientation: int, at_least: Callable[[int, int], tuple[int, int]]) -> None:
    lying = orientation >= 5
    width, height = at_least(*(image.size[::-1] if lying else image.size))
    needed = (height, width) if lying else (width, height)
    room = min(image.width / needed[0], image.height / needed[1])
    for factor, spare in sorted(SPARE.items(), reverse=True):
        if room >= factor * spare:
            image.draft(None, (image.width // factor, image.height // factor))
            return


def _orientation(image: Any) -> int:
    """As EXIF or XMP says, 1 to 8; what cannot be read there is not heeded."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow raises struct.error, SyntaxError, TypeError and others on broken EXIF
        return 1
    return found if isinstance(found, int) and found in TURNS else 1


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """libtiff writes what it dislikes to the process's stderr, past Python."""
    try:
        kept = os.dup(2)
    except OSError:  # closed
        yield
        return
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
