"""Image files: decoded whole, upright, in sRGB with 8 bits and no transparency, or refused with the reason."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy
from PIL import Image, ImageOps, UnidentifiedImageError

from sdtune.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"})
PIXELS = 64 * 2**20  # a file of a few kB can claim many more and take all memory
FILE_BYTES = 64 * 2**20


def open_image(path: Path) -> Image.Image:
    """The image as upright RGB on white; raises DataError with the reason where it cannot be read whole."""
    try:
        if path.stat().st_size > FILE_BYTES:
            raise DataError(f"{path}: over 64 MB; save it smaller")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > PIXELS:
                    raise DataError(f"{path}: {image.width} x {image.height} is over 64 megapixels; save it smaller")
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise DataError(f"{path}: its content is not an image ({known}), whatever its name says") from None
    except DataError:
        raise
    except PermissionError:
        raise DataError(f"{path}: cannot be read; check its permissions") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, EOFError and their own
        raise DataError(f"{path}: damaged or cut short ({error})") from None


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of the upright image, once it has been decoded whole."""
    return open_image(path).size


def fit(image: Image.Image, size: tuple[int, int]) -> tuple[Image.Image, tuple[int, int]]:
    """The image scaled to cover `size` (width, height) and cropped from its middle, and the crop's (left, top)."""
    scale = max(size[0] / image.width, size[1] / image.height)
    scaled = image.resize(
        (max(size[0], round(image.width * scale)), max(size[1], round(image.height * scale))),
        Image.Resampling.LANCZOS,
    )
    left, top = (scaled.width - size[0]) // 2, (scaled.height - size[1]) // 2
    return scaled.crop((left, top, left + size[0], top + size[1])), (left, top)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = _scaled_to_8_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    """Sixteen-bit and float images by their type's range; convert("RGB") would clip them to white or black."""
    pixels: Any = numpy.asarray(image).astype(numpy.float64)
    if not numpy.isfinite(pixels).all():
        raise ValueError("holds values that are no numbers")
    top = pixels.max(initial=0.0)
    full = 1.0 if top <= 1 else 255.0 if top <= 255 else 65535.0
    return Image.fromarray((pixels / full * 255).clip(0, 255).round().astype(numpy.uint8))
