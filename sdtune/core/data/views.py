"""Views: the versions in which an image is shown, each a crop of its bucket's shape."""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass, replace

import numpy
from PIL import Image

from sdtune.core.data.buckets import covering_scale
from sdtune.tables import Augment

Box = tuple[float, float, float, float]
"""left, top, right, bottom in pixels"""
PLAIN_COLOURS = (1.0, 1.0, 1.0)
GREY = numpy.array([0.299, 0.587, 0.114], numpy.float32)  # ITU-R BT.601, as Pillow's grey
OVERSAMPLED = 2  # times a side that an image stays larger than its view while it is turned
SEEN_TURNED = 1.0  # degrees from which on a caption says so; less is hardly seen
SEEN_COLOURED = 0.05  # distance of a colour factor from 1, likewise


@dataclass(frozen=True)
class View:
    """How one image is shown."""

    size: tuple[int, int]
    """(width, height) of the bucket, pixels"""
    box: Box
    """what is cropped out and scaled to `size`, in pixels of the upright original"""
    angle: float = 0.0
    """degrees that the picture is turned, counter-clockwise, about the box's centre"""
    mirrored: bool = False
    """left and right changed, last of all"""
    colours: tuple[float, float, float] = PLAIN_COLOURS
    """factors of brightness, contrast, saturation"""
    said: str = ""
    """what a caption should add, as ", mirrored"; "" for a plain one, and for all where captions shall not tell"""
    right: float = 0.0
    """pixels of the original beyond the box's right side, which a mirrored one has at its left"""

    def facts(self) -> tuple[float, ...]:
        """All numbers that change the pixels, for a cache's key."""
        return (*self.size, *self.box, self.angle + 0.0, int(self.mirrored), *self.colours)  # -0.0 + 0.0 is 0.0

    def corner(self) -> tuple[int, int]:
        """What the crop took at the (left, top) as shown, in pixels of the scaled image."""
        left, top, right, bottom = self.box
        scale = max(self.size[0] / (right - left), self.size[1] / (bottom - top))
        return round((self.right if self.mirrored else left) * scale), round(top * scale)


def views_of(
    width: int,
    height: int,
    sha256: str,
    size: tuple[int, int],
    augment: Augment,
    *,
    upscale: float = 1.25,
    may_flip: bool = True,
) -> tuple[View, ...]:
    """The `augment.count` versions of an image of these pixels in a bucket.

    Number 0 is plain and centred; the others are drawn from (sha256, number) alone, so that all runs share them.
    None is enlarged beyond `upscale`, unless the plain one is already.
    """
    scale = covering_scale(width, height, size)
    left, top = max(0.0, (width - size[0] / scale) / 2), max(0.0, (height - size[1] / scale) / 2)
    plain = View(size, (left, top, width - left, height - top), right=left)
    if not augment.on:
        return (plain,)
    whole = width - 2 * left, height - 2 * top
    least = min(1.0, scale / upscale)
    steepest = _steepest(width, height, whole, least, augment.rotate)
    views = [plain]
    for number in range(1, augment.count):
        nearer, across, down, turned, *colours = _shares(sha256, number)
        angle = (2 * turned - 1) * steepest
        largest = _inscribed(width, height, whole, angle)
        share = largest - nearer * (largest - max(least, largest * (1 - augment.crop)))
        box = _placed(width, height, whole, share, angle, (across, down) if augment.crop else (0.5, 0.5))
        brightness, contrast, saturation = (1 + (2 * one - 1) * augment.colour for one in colours)
        mirrored = augment.flip and may_flip and number % 2 == 1
        view = View(size, box, angle, mirrored, (brightness, contrast, saturation), right=width - box[2])
        views.append(replace(view, said=_said(view)) if augment.tag else view)
    return tuple(views)


def show(image: Image.Image, view: View) -> Image.Image:
    """The upright original, mode RGB, as the view shows it."""
    shown = _cut(image, view, (1.0, 1.0), Image.Resampling.LANCZOS, Image.Resampling.BICUBIC)
    return shown if view.colours == PLAIN_COLOURS else _coloured(shown, view.colours)


def show_mask(mask: Image.Image, view: View, size_of_image: tuple[int, int]) -> Image.Image:
    """The mask of the whole image, mode L and of any size, through the view's geometry; no value leaves its range."""
    across, down = mask.width / size_of_image[0], mask.height / size_of_image[1]
    return _cut(mask, view, (across, down), Image.Resampling.BILINEAR, Image.Resampling.BILINEAR)


def _shares(sha256: str, number: int) -> list[float]:
    """Seven numbers in [0, 1) that depend on image and version alone."""
    digest = hashlib.blake2b(f"view {sha256} {number}".encode(), digest_size=56).digest()
    return [(word >> 11) * 2.0**-53 for word in struct.unpack("<7Q", digest)]


def _extent(whole: tuple[float, float], angle: float) -> tuple[float, float]:
    """(width, height) that a box needs to be turned by up to this angle to either side: all that it sweeps."""
    wide, tall = whole
    turn = math.radians(abs(angle))
    across, down = min(turn, math.atan2(tall, wide)), min(turn, math.atan2(wide, tall))  # at the diagonal it is widest
    return wide * math.cos(across) + tall * math.sin(across), tall * math.cos(down) + wide * math.sin(down)


def _inscribed(width: int, height: int, whole: tuple[float, float], angle: float) -> float:
    """The share of the plain crop's sides, at most 1, at which it can be turned by the angle inside the image."""
    across, down = _extent(whole, angle)
    return min(1.0, width / across, height / down)


def _steepest(width: int, height: int, whole: tuple[float, float], least: float, rotate: float) -> float:
    """The largest angle up to `rotate`, in degrees, for which the crop need not be smaller than `least`."""
    if _inscribed(width, height, whole, rotate) >= least:
        return rotate
    low, high = 0.0, rotate
    for _ in range(20):  # to a hundred thousandth of a degree
        middle = (low + high) / 2
        low, high = (middle, high) if _inscribed(width, height, whole, middle) >= least else (low, middle)
    return low


def _placed(
    width: int,
    height: int,
    whole: tuple[float, float],
    share: float,
    angle: float,
    place: tuple[float, float],
) -> Box:
    """The plain crop at this share of its sides, at a place (0 to 1 across and down) where it can be turned."""
    wide, tall = whole[0] * share, whole[1] * share
    across, down = _extent((wide, tall), angle)
    left = max(0.0, (across - wide) / 2 + place[0] * max(0.0, width - across))
    top = max(0.0, (down - tall) / 2 + place[1] * max(0.0, height - down))
    return left, top, min(float(width), left + wide), min(float(height), top + tall)


def _said(view: View) -> str:
    words = [", mirrored"] if view.mirrored else []
    words += [", slightly turned"] if abs(view.angle) >= SEEN_TURNED else []
    words += [", changed colours"] if max(abs(one - 1) for one in view.colours) >= SEEN_COLOURED else []
    return "".join(words)


def _cut(
    image: Image.Image,
    view: View,
    scale: tuple[float, float],
    scaling: Image.Resampling,
    turning: Image.Resampling,
) -> Image.Image:
    """The view's box out of an image that is `scale` times as wide and as high as the original."""
    if view.angle:
        shown = _turned(image, view, scale, scaling, turning)
    else:
        left, top, right, bottom = view.box
        # Cropping and scaling in one, since the whole of a very long image would be huge once it is scaled.
        box = (
            left * scale[0],
            top * scale[1],
            min(image.width, right * scale[0]),
            min(image.height, bottom * scale[1]),
        )
        shown = image.resize(view.size, scaling, box=box)
    return shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view.mirrored else shown


def _turned(
    image: Image.Image,
    view: View,
    scale: tuple[float, float],
    scaling: Image.Resampling,
    turning: Image.Resampling,
) -> Image.Image:
    """The turned box at about the image's own density, then scaled; much denser images are first reduced to less."""
    left, top, right, bottom = view.box
    wide, tall = right - left, bottom - top
    across, down = scale
    factor = int(min(wide * across / view.size[0], tall * down / view.size[1]) / OVERSAMPLED)
    if factor > 1:
        image, across, down = image.reduce(factor), across / factor, down / factor
    size = max(view.size[0], math.ceil(wide * across)), max(view.size[1], math.ceil(tall * down))
    cosine, sine = math.cos(math.radians(view.angle)), math.sin(math.radians(view.angle))
    step, row = wide / size[0], tall / size[1]  # pixels of the original
    middle = (left + right) / 2, (top + bottom) / 2
    matrix = (
        across * cosine * step,
        -across * sine * row,
        across * (middle[0] - cosine * wide / 2 + sine * tall / 2),
        down * sine * step,
        down * cosine * row,
        down * (middle[1] - sine * wide / 2 - cosine * tall / 2),
    )
    turned = image.transform(size, Image.Transform.AFFINE, matrix, turning)
    return turned if size == view.size else turned.resize(view.size, scaling)


def _coloured(image: Image.Image, colours: tuple[float, float, float]) -> Image.Image:
    """Brightness about black, contrast about the mean grey, saturation about each pixel's grey; rounded once."""
    brightness, contrast, saturation = colours
    pixels = numpy.asarray(image, numpy.float32) * brightness
    mean = float((pixels @ GREY).mean(dtype=numpy.float64))
    pixels = mean + contrast * (pixels - mean)
    grey = (pixels @ GREY)[..., None]
    pixels = grey + saturation * (pixels - grey)
    return Image.fromarray((pixels + 0.5).clip(0, 255).astype(numpy.uint8))
