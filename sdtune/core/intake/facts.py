"""What goes to a worker and what comes back: plain values that are the same as JSON."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """One image that a worker shall look at and, where `stem` is given, prepare."""

    name: str
    """as the user knows it; for messages"""
    path: str | None
    """the file, or None where its bytes come with the job, out of an archive"""
    stem: str | None
    """path without suffix at which the prepared image is put (its mask: stem + "-mask.png", its thumbnail: stem +
    "-thumb.jpg"); None: look only, write nothing"""
    mask_path: str | None = None
    """mask file that belongs to the image, or None where there is none or its bytes come with the job"""
    resolution: int = 1024
    """pixels of the side of the square whose area is kept"""
    background: str = "white"
    """colour behind transparent parts: a name or #rrggbb"""
    alpha_mask: bool = False
    """keep transparency as the mask"""
    crop_borders: bool = False
    form: str = "png"
    """of the prepared image: png, jpeg or webp"""


@dataclass(frozen=True)
class Measured:
    """What is known of an image that was decoded whole."""

    sha256: str
    """of the file's bytes"""
    bytes: int
    kind: str
    """PNG, JPEG ... by content"""
    width: int
    """pixels of the original, upright"""
    height: int
    border: tuple[int, int, int, int] | None
    """left, top, right, bottom: pixels of a plain border around the picture, found in the upright original (0: none
    on that side); None where there is none. Cut off only where the job asks for it."""
    prepared: tuple[int, int]
    """width, height after cropping and scaling"""
    sharpness: float
    """variance of the Laplacian of the grey image (0-255) at an area of at most 512 x 512"""
    contrast: float
    """standard deviation of the grey image, 0-255"""
    fingerprint: str
    """perceptual hash, 64 bits in hex"""
    tints: str
    """the image as 8 x 8 RGB values of 8 bits, in hex"""
    notices: tuple[str, ...] = ()
    """what was done that the user should know: "animated: only the first frame is used" """
    mask: str | None = None
    """where the mask came from: "file", "alpha"; None: no mask"""
    written: int = 0
    """bytes of the prepared image, 0 where nothing was written"""
    made: str = ""
    """SHA-256 of the prepared image, "" where nothing was written"""
