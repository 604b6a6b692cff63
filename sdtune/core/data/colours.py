"""Colours: from whatever a file holds to sRGB with 8 bits, on white."""

from __future__ import annotations

import io
from typing import Any

import numpy
from PIL import Image, ImageCms


def to_srgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB: profiles converted, deep colours scaled, transparent parts on white."""
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = _scaled_to_8_bits(image)
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    if image.mode not in ("RGB", "L", "CMYK", "LAB"):
        image = image.convert("RGB")
    image = _from_profile(image, profile)
    if alpha is not None:
        return Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
    return image


def _from_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Converted as the embedded profile says, by perceptual intent; one that cannot be used is not heeded."""
    srgb = ImageCms.createProfile("sRGB")
    source: Any = None
    try:
        if image.mode == "LAB":
            source = ImageCms.createProfile("LAB")
        elif profile:
            source = ImageCms.getOpenProfile(io.BytesIO(profile))
            if ImageCms.getProfileDescription(source).strip().startswith("sRGB") and image.mode == "RGB":
                source = None
        if source is not None:
            intent = ImageCms.Intent.PERCEPTUAL
            converted = ImageCms.profileToProfile(image, source, srgb, renderingIntent=intent, outputMode="RGB")
            if converted is not None:
                return converted
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError):
        pass  # a corrupt profile, or one for other colours than the image's
    return image.convert("RGB")


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    """Deep grey images by their range; convert("RGB") would clip them to white or black."""
    pixels: Any = numpy.asarray(image).astype(numpy.float32)
    if not numpy.isfinite(pixels).all():
        raise ValueError("holds values that are no numbers")
    top = float(pixels.max(initial=0.0))
    if image.mode.startswith("I;16"):
        white = 65535.0
    elif image.mode == "I":
        white = 65535.0 if top <= 65535 else 2.0**31 - 1
    else:
        white = 1.0 if top <= 1 else 255.0 if top <= 255 else 65535.0
    pixels *= 255 / white
    return Image.fromarray(pixels.round().clip(0, 255).astype(numpy.uint8))
