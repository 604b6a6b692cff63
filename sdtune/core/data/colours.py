"""Colours: from whatever a file holds to sRGB with 8 bits, and its transparency beside it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageCms

STRIP = 2**20  # pixels at once where numbers are worked on, so that a large image takes little more than itself
WHITES = (255, 1023, 4095, 65535)  # of integers that use 8, 10, 12 and 16 bits
ODD_PROFILE = "its colour profile cannot be used and was not heeded"


def to_srgb(image: Image.Image, paper: tuple[int, int, int]) -> tuple[Image.Image, Image.Image | None, list[str]]:
    """The image in mode RGB on the paper's colour, its alpha channel (None: opaque), and notices.

    Memory is at most twice and a half that of the image in RGB, by converting in place what can be.
    """
    profile = image.info.get("icc_profile")
    notices: list[str] = []
    alpha = None
    if is_deep(image):
        image, alpha, scaled = _scaled_to_8_bits(image)
        notices.append(scaled)
    elif image.has_transparency_data:
        if image.mode not in ("LA", "RGBA"):
            image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.getchannel("L") if image.mode == "LA" else image.convert("RGB")
    if image.mode not in ("RGB", "L", "CMYK", "LAB"):
        image = image.convert("RGB")
    image, odd = _from_profile(image, profile)
    notices += [odd] if odd else []
    if alpha is None or alpha.getextrema()[0] == 255:
        return image, None, notices
    image.paste(paper, (0, 0, *image.size), ImageChops.invert(alpha))
    return image, alpha, notices


def is_deep(image: Image.Image) -> bool:
    """Whether the pixels are numbers of more than 8 bits."""
    return image.mode.startswith("I;16") or image.mode in ("I", "F")


def _from_profile(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str | None]:
    """Converted as the embedded profile says, by perceptual intent; a notice where it cannot be used."""
    notice = None
    try:
        source: Any = None
        if image.mode == "LAB":
            source = ImageCms.createProfile("LAB")
        elif profile:
            source = ImageCms.getOpenProfile(io.BytesIO(profile))
            if ImageCms.getProfileDescription(source).strip().startswith("sRGB") and image.mode == "RGB":
                source = None
        if source is not None:
            srgb = ImageCms.createProfile("sRGB")
            intent = ImageCms.Intent.PERCEPTUAL
            in_place = image.mode == "RGB" and not image.readonly
            converted = ImageCms.profileToProfile(
                image, source, srgb, renderingIntent=intent, outputMode="RGB", inPlace=in_place
            )
            return converted or image, None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError):
        notice = ODD_PROFILE  # corrupt, or for other colours than the image's
    return (image if image.mode == "RGB" else image.convert("RGB")), notice


def _scaled_to_8_bits(image: Image.Image) -> tuple[Image.Image, Image.Image | None, str]:
    """Deep grey by its range (convert("RGB") would clip it), its one transparent value as alpha, and the notice."""
    low = min(float(strip.min()) for _, strip in _strips(image))
    top = max(float(strip.max()) for _, strip in _strips(image))
    if not numpy.isfinite((low, top)).all():
        raise ValueError("holds values that are no numbers")
    floats = image.mode == "F"
    black, white = _range(low, top, floats=floats)
    clear = image.info.get("transparency")
    grey = Image.new("L", image.size)
    alpha = Image.new("L", image.size) if isinstance(clear, int) else None
    for place, strip in _strips(image):
        values = (strip.astype(numpy.float32) - black) * (255 / (white - black))
        grey.paste(Image.fromarray(values.round().clip(0, 255).astype(numpy.uint8)), (0, place))
        if alpha is not None:
            alpha.paste(Image.fromarray(((strip != clear) * 255).astype(numpy.uint8)), (0, place))
    what = "float" if floats else "32-bit" if white > 65535 else "16-bit"
    return grey, alpha, f"{what}: {black:.6g} to {white:.6g} scaled to 8 bits"


def _range(low: float, top: float, *, floats: bool) -> tuple[float, float]:
    """What becomes black and what white, by the values that are there.

    Integers use a whole number of bits. Floats run to 1, 255 or 65535; a little over 1, as light has it, or
    clearly below 0, they run over just what is there.
    """
    if not floats:
        return (min(0.0, low), next((float(white) for white in WHITES if top <= white), 2.0**31 - 1))
    black = low if low < -0.05 * max(abs(top), 1e-6) else 0.0
    if black < 0 or 1 < top < 16 or top > 65535:
        return black, max(top, black + 1e-6)
    return 0.0, 1.0 if top <= 1 else 255.0 if top <= 255 else 65535.0


def _strips(image: Image.Image) -> Iterator[tuple[int, NDArray[Any]]]:
    """(first row, values) of each part of the image; a copy of all at once would be too large."""
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        yield top, numpy.asarray(image.crop((0, top, image.width, min(image.height, top + rows))))
