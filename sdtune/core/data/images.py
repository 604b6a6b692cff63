"""Image files: decoded whole, upright, in sRGB with 8 bits and no transparency, or refused with the reason."""

from __future__ import annotations

import errno
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from sdtune.core.data.colours import to_srgb
from sdtune.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"})
PIXELS = 64 * 2**20  # a file of a few kB can claim many more and take all memory
FILE_BYTES = 64 * 2**20
SMALLEST = 16  # pixels a side; there is nothing to learn from less


@dataclass(frozen=True)
class Facts:
    """What is known of an image file once it has been decoded whole."""

    width: int
    """pixels, upright"""
    height: int
    notice: str | None
    """what the user should know of how it is used: "animated: only the first frame is used" """


def open_image(path: Path) -> Image.Image:
    """The image as upright RGB on white; raises DataError with the reason where it cannot be read whole."""
    return _open(path)[0]


def inspect_image(path: Path) -> Facts:
    """The image's size and what is special about it; raises DataError as open_image does."""
    image, notice = _open(path)
    return Facts(image.width, image.height, notice)


def fit(image: Image.Image, size: tuple[int, int]) -> tuple[Image.Image, tuple[int, int]]:
    """The middle of the image scaled to `size` (width, height), and what the crop took at the (left, top), scaled."""
    scale = max(size[0] / image.width, size[1] / image.height)
    left, top = max(0.0, (image.width - size[0] / scale) / 2), max(0.0, (image.height - size[1] / scale) / 2)
    # Cropping and scaling in one, since the whole of a very long image would be huge once it is scaled.
    box = (left, top, image.width - left, image.height - top)
    return image.resize(size, Image.Resampling.LANCZOS, box=box), (round(left * scale), round(top * scale))


def _open(path: Path) -> tuple[Image.Image, str | None]:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise DataError(f"{path}: is not a file, whatever its name says; rename or remove it")
        if not 0 < found.st_size <= FILE_BYTES:
            raise DataError(f"{path}: {'over 64 MB; save it smaller' if found.st_size else 'is empty'}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                return _decoded(path, image)
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise DataError(f"{path}: its content is not an image ({known}), whatever its name says") from None
    except Image.DecompressionBombError:
        raise DataError(f"{path}: over 64 megapixels; save it smaller") from None
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: a link that leads nowhere, or removed meanwhile") from None
    except PermissionError:
        raise DataError(f"{path}: cannot be read; check its permissions") from None
    except MemoryError:
        raise DataError(f"{path}: takes more memory than there is; save it smaller") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, EOFError and their own
        if isinstance(error, OSError) and error.errno == errno.ELOOP:
            raise DataError(f"{path}: a link that leads in a circle; put the file itself there") from None
        raise DataError(f"{path}: damaged or cut short ({_reason(error)})") from None


def _decoded(path: Path, image: Any) -> tuple[Image.Image, str | None]:
    if image.width * image.height > PIXELS:
        raise DataError(f"{path}: {image.width} x {image.height} is over 64 megapixels; save it smaller")
    if min(image.size) < SMALLEST:
        raise DataError(f"{path}: {image.width} x {image.height} is too small; give at least {SMALLEST} pixels a side")
    notice = "animated: only the first frame is used" if getattr(image, "n_frames", 1) > 1 else None
    image.seek(0)
    image.load()
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        notice = notice or "16-bit or float: scaled to 8 bits"
    return to_srgb(_upright(image)), notice


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says; what cannot be read there is not heeded."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Pillow raises struct.error, SyntaxError, TypeError and others on broken EXIF
        return image


def _reason(error: Exception) -> str:
    """Pillow's words on one line, without its internals."""
    words = " ".join(str(error).split())
    return words[:120] if words else type(error).__name__
