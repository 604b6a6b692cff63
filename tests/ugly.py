"""A corpus of bad and odd image files, each with what shall become of it."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
from PIL import Image, ImageCms

from tests import handmade
from tests.handmade import Pixels

WIDTH, HEIGHT = 48, 32


@dataclass(frozen=True)
class Case:
    """One file, and what shall become of it."""

    kind: str
    """group it belongs to"""
    name: str
    """of the file, in the corpus's folder"""
    reason: str | None = None
    """words of its refusal; None: it is kept"""
    pixels: Pixels | None = None
    """[h, w, 3] as it shall look on white, made without the code under test; None where it is refused"""
    tolerance: int = 0
    """of 255: largest difference of any value"""
    notice: str | None = None
    """words of a notice; None: no notice at all"""


Made = tuple[Case, bytes | None]
"""a case and its file's bytes; None: it was put there already"""


def build(folder: Path) -> list[Case]:
    """Writes the corpus into a new folder; every name ends like an image's."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for makers in (*CONTENTS, _names):
        for case, data in makers():
            (folder / case.name).write_bytes(data or b"")
            cases.append(case)
    return cases + list(_no_plain_files(folder))


def plain() -> Pixels:
    """[h, w, 3] Every corner and place differs, and colours are smooth, so that lossy formats keep them."""
    x, y = numpy.meshgrid(numpy.arange(WIDTH), numpy.arange(HEIGHT))
    return numpy.stack([x * 5, y * 7, 255 - x * 2 - y * 3], axis=2).astype(numpy.uint8)


def shades() -> Pixels:
    """[h, w] The same in grey."""
    x, y = numpy.meshgrid(numpy.arange(WIDTH), numpy.arange(HEIGHT))
    return (x * 3 + y * 3).astype(numpy.uint8)


def noise() -> Pixels:
    """[64, 64, 3] Nothing that could be compressed."""
    return numpy.random.default_rng(0).integers(0, 255, (64, 64, 3), numpy.uint8)


def encoded(pixels: Pixels | Image.Image, form: str, **options: Any) -> bytes:
    """A file of Pillow's making."""
    buffer = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(buffer, form, **options)
    return buffer.getvalue()


def grey(values: Pixels) -> Pixels:
    """[h, w, 3] of [h, w]."""
    return numpy.repeat(values.astype(numpy.uint8)[:, :, None], 3, axis=2)


def on_white(colours: Pixels, alpha: Pixels) -> Pixels:
    """[h, w, 3] as seen on white: alpha [h, w] of 255."""
    share = alpha[:, :, None] / 255
    return (colours * share + 255 * (1 - share)).round().astype(numpy.uint8)


def _kept(kind: str, name: str, data: bytes, pixels: Pixels, tolerance: int = 0, notice: str | None = None) -> Made:
    return Case(kind, name, None, pixels, tolerance, notice), data


def _refused(kind: str, name: str, data: bytes, reason: str) -> Made:
    return Case(kind, name, reason), data


def _truncated() -> Iterator[Made]:
    options: dict[str, dict[str, Any]] = {"jpg": {"quality": 90}, "webp": {"lossless": True}}
    forms = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tiff": "TIFF", "avif": "AVIF"}
    for suffix, form in forms.items():
        whole = encoded(noise(), form, **options.get(suffix, {}))
        for percent in (2, 10, 20, 30, 40, 50, 60, 70, 80, 90):
            cut = whole[: max(32, len(whole) * percent // 100)]
            yield _refused("truncated", f"cut-{percent}.{suffix}", cut, "damaged or cut short")


def _bombs() -> Iterator[Made]:
    big = "over 64 megapixels"
    for side in (9_000, 14_000, 100_000):
        head = handmade.header(side, side, 8, 2)
        yield _refused("bomb", f"claims-{side}.png", handmade.png_of(head, bytes(99)), big)
    zeros = handmade.png_of(handmade.header(14_000, 14_000, 1, 0), bytes(14_000 * (1 + 14_000 // 8)), level=1)
    yield _refused("bomb", "zeros-196-megapixels.png", zeros, big)
    under = handmade.png_of(handmade.header(8_000, 8_000, 8, 6), bytes(99))
    yield _refused("bomb", "claims-just-less.png", under, "damaged or cut short")
    bitmap = bytearray(handmade.bmp(plain()))
    bitmap[18:26] = struct.pack("<ii", 60_000, 60_000)
    yield _refused("bomb", "claims.bmp", bytes(bitmap), big)
    yield _refused("bomb", "claims.tiff", handmade.tiff(plain(), t256=(50_000,), t257=(50_000,)), big)
    photo = bytearray(encoded(plain(), "JPEG"))
    frame = photo.index(b"\xff\xc0")
    photo[frame + 5 : frame + 9] = struct.pack(">HH", 65_500, 65_500)
    yield _refused("bomb", "claims.jpg", bytes(photo), big)
    canvas = bytearray(encoded(plain(), "GIF"))
    canvas[6:10] = struct.pack("<HH", 65_535, 65_535)
    yield _refused("bomb", "claims.gif", bytes(canvas), big)
    extended = b"VP8X" + struct.pack("<IB", 10, 0) + bytes(3) + (16_382).to_bytes(3, "little") * 2
    webp = b"WEBP" + extended + encoded(plain(), "WEBP", lossless=True)[12:]
    yield _refused("bomb", "claims.webp", b"RIFF" + struct.pack("<I", len(webp)) + webp, "")
    huge = bytes(65 * 2**20)
    yield _refused("bomb", "over-64-mb.png", handmade.PNG + huge, "over 64 MB")


def _scans() -> Iterator[Made]:
    progressive = encoded(plain(), "JPEG", quality=95, subsampling=0, progressive=True)
    yield _kept("scans", "progressive.jpg", progressive, plain(), 8)
    yield _refused("scans", "hundreds-of-scans.jpg", handmade.with_scans(progressive, 500), "scans")


def _texts() -> Iterator[Made]:
    bomb = zlib.compress(bytes(80 * 2**20), 1)
    for name, body in ((b"zTXt", b"Comment\0\0"), (b"iTXt", b"Comment\0\1\0\0\0"), (b"iCCP", b"profile\0\0")):
        data = handmade.png(plain(), 2, handmade.chunk(name, body + bomb))
        yield _refused("text bomb", f"{name.decode()}.png", data, "unpacks to a great size")
    text = handmade.chunk(b"tEXt", b"prompt\0" + b"x" * 2 * 2**20)
    yield _kept("long text", "text-of-2-mb.png", handmade.png(plain(), 2, text), plain())
    comment = encoded(plain(), "JPEG", quality=95, subsampling=0, comment=b"\x1b[31m<b>" * 4_000)
    yield _kept("long text", "comment-of-32-kb.jpg", comment, plain(), 8)


def _deep() -> Iterator[Made]:
    said = "16-bit"
    ramp = numpy.tile(numpy.linspace(0, 65535, 256).astype(numpy.uint16), (20, 1))
    look = grey(numpy.tile(numpy.arange(256), (20, 1)))
    yield _kept("16-bit", "grey-16.png", handmade.png(ramp, 0), look, notice=said)
    yield _kept("16-bit", "grey-16.tiff", handmade.tiff(ramp), look, notice=said)
    yield _kept("16-bit", "grey-16-big-endian.tiff", handmade.tiff(ramp, ">"), look, notice=said)
    twelve = (ramp >> 4).astype(numpy.uint16)
    yield _kept("16-bit", "twelve-of-16-bits.tiff", handmade.tiff(twelve), look, 1, "0 to 4095")
    deep = plain().astype(numpy.uint16) * 257
    yield _kept("16-bit", "rgb-16.png", handmade.png(deep, 2), plain(), notice=said)
    yield _kept("16-bit", "rgb-16.tiff", handmade.tiff(deep), plain(), notice=said)
    yield _kept("16-bit", "rgb-16-big-endian.tiff", handmade.tiff(deep, ">"), plain(), notice=said)
    fine = deep + numpy.uint16(90)
    fine[deep > 65535 - 90] = 65535
    yield _kept("16-bit", "rgb-16-between.png", handmade.png(fine, 2), plain(), 1, said)
    alpha = numpy.linspace(0, 65535, HEIGHT).astype(numpy.uint16)[:, None].repeat(WIDTH, 1)
    seen = on_white(plain(), alpha / 257)
    yield _kept("16-bit", "rgba-16.png", handmade.png(numpy.dstack([deep, alpha]), 6), seen, 2, said)
    both = numpy.dstack([shades().astype(numpy.uint16) * 257, alpha])
    yield _kept("16-bit", "grey-alpha-16.png", handmade.png(both, 4), on_white(grey(shades()), alpha / 257), 2, said)
    clear = handmade.chunk(b"tRNS", struct.pack(">H", 65535))
    yield _kept("16-bit", "grey-16-clear.png", handmade.png(ramp[:, :200], 0, clear), look[:, :200], 0, said)


def _numbers() -> Iterator[Made]:
    look = grey(numpy.tile(numpy.arange(256), (20, 1)))
    for white in (1.0, 255.0, 65535.0):
        ramp = numpy.tile(numpy.linspace(0, white, 256, dtype=numpy.float32), (20, 1))
        yield _kept("float", f"to-{white:.0f}.tiff", handmade.tiff(ramp), look, 1, "float")
    below = numpy.tile(numpy.linspace(-3, 5, 256, dtype=numpy.float32), (20, 1))
    yield _kept("float", "below-zero.tiff", handmade.tiff(below), look, 1, "-3 to 5")
    whole = numpy.tile(numpy.linspace(0, 65535, 256).astype(numpy.int32), (20, 1))
    yield _kept("float", "int-32.tiff", handmade.tiff(whole), look, 0, "scaled to 8 bits")
    for name, value in (("nan", numpy.nan), ("infinite", numpy.inf), ("minus-infinite", -numpy.inf)):
        pixels = numpy.full((20, 20), 0.5, numpy.float32)
        pixels[3, 4] = value
        yield _refused("not a number", f"{name}.tiff", handmade.tiff(pixels), "no numbers")


def _inks() -> Iterator[Made]:
    # R = (255 - C) (255 - K) / 255, so inks without black are the colours' complement.
    inks = numpy.dstack([255 - plain(), numpy.zeros((HEIGHT, WIDTH), numpy.uint8)])
    image = Image.frombytes("CMYK", (WIDTH, HEIGHT), inks.tobytes())
    yield _kept("CMYK", "inks.tiff", encoded(image, "TIFF"), plain())
    adobe = encoded(image, "JPEG", quality=98, subsampling=0)
    yield _kept("CMYK", "inks-adobe-inverted.jpg", adobe, plain(), 6)
    straight = encoded(
        Image.frombytes("CMYK", (WIDTH, HEIGHT), (255 - inks).tobytes()), "JPEG", quality=98, subsampling=0
    )
    yield _kept("CMYK", "inks-not-adobe.jpg", handmade.without_segment(straight, b"\xff\xee"), plain(), 6)
    cyan = Image.new("CMYK", (WIDTH, HEIGHT), (255, 0, 0, 0))
    red = numpy.broadcast_to(numpy.array([255, 0, 0], numpy.uint8), (HEIGHT, WIDTH, 3))
    for form, suffix in (("JPEG", "jpg"), ("TIFF", "tiff")):
        data = encoded(cyan, form, icc_profile=handmade.ink_profile())
        yield _kept("CMYK", f"inks-with-profile.{suffix}", data, red, 60)
    odd = encoded(image, "TIFF", icc_profile=b"nonsense")
    yield _kept("CMYK", "inks-with-corrupt-profile.tiff", odd, plain(), 0, "profile cannot be used")


def _lab() -> Iterator[Made]:
    middle = Image.new("LAB", (WIDTH, HEIGHT), (138, 208, 195))  # L 54.1, a 80, b 67: sRGB's red (D50)
    red = numpy.broadcast_to(numpy.array([255, 0, 0], numpy.uint8), (HEIGHT, WIDTH, 3))
    yield _kept("LAB", "red.tiff", encoded(middle, "TIFF"), red, 20)
    light = Image.new("LAB", (WIDTH, HEIGHT), (255, 128, 128))
    yield _kept("LAB", "white.tiff", encoded(light, "TIFF"), numpy.full((HEIGHT, WIDTH, 3), 255, numpy.uint8), 2)


def _palettes() -> Iterator[Made]:
    colours = numpy.array([[200, 10, 10], [10, 200, 10], [10, 10, 200], [90, 90, 90]], numpy.uint8)
    places = (numpy.add.outer(numpy.arange(HEIGHT), numpy.arange(WIDTH)) // 5 % 4).astype(numpy.uint8)
    table = handmade.chunk(b"PLTE", colours.tobytes())
    yield _kept("palette", "palette.png", handmade.png(places, 3, table), colours[places])
    alpha = numpy.array([0, 128, 255, 255], numpy.uint8)
    seen = on_white(colours[places], alpha[places])
    clear = table + handmade.chunk(b"tRNS", alpha[:2].tobytes())
    yield _kept("palette", "palette-half-clear.png", handmade.png(places, 3, clear), seen, 1)
    image = Image.fromarray(places)
    image.putpalette(colours.tobytes())
    yield _kept("palette", "palette.bmp", encoded(image, "BMP"), colours[places])
    yield _kept("palette", "palette.tiff", encoded(image, "TIFF"), colours[places])
    yield _kept("palette", "palette.gif", encoded(image, "GIF"), colours[places])
    white = numpy.where(places[:, :, None] == 1, 255, colours[places]).astype(numpy.uint8)
    yield _kept("palette", "palette-clear.gif", encoded(image, "GIF", transparency=1), white)
    packed = numpy.packbits(numpy.unpackbits(places[:, :, None], axis=2)[:, :, 6:].reshape(HEIGHT, -1), axis=1)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    two = handmade.png_of(handmade.header(WIDTH, HEIGHT, 2, 3), rows, table)
    yield _kept("palette", "palette-2-bit.png", two, colours[places])


def _greys() -> Iterator[Made]:
    values = shades()
    bits = values > 100
    image = Image.fromarray(bits)
    for form, suffix, options in (
        ("PNG", "png", {}), ("BMP", "bmp", {}), ("TIFF", "tiff", {}), ("TIFF", "g4.tiff", {"compression": "group4"})
    ):  # fmt: skip
        yield _kept("1-bit", f"bits.{suffix}", encoded(image, form, **options), grey(bits * 255))
    clear = encoded(image, "PNG", transparency=0)
    yield _kept("1-bit", "bits-clear.png", clear, numpy.full((HEIGHT, WIDTH, 3), 255, numpy.uint8))
    alpha = plain()[:, :, 1]
    yield _kept("grey", "grey.png", handmade.png(values, 0), grey(values))
    yield _kept("grey", "grey.jpg", encoded(values, "JPEG", quality=95), grey(values), 6)
    yield _kept("grey", "grey.tiff", handmade.tiff(values), grey(values))
    inverse = handmade.tiff(255 - values, t262=(0,))
    yield _kept("grey", "grey-white-is-zero.tiff", inverse, grey(values))
    yield _kept(
        "grey", "grey-alpha.png", handmade.png(numpy.dstack([values, alpha]), 4), on_white(grey(values), alpha), 1
    )
    yield _kept("alpha", "rgba.png", handmade.png(numpy.dstack([plain(), alpha]), 6), on_white(plain(), alpha), 1)
    for form in ("WEBP", "TIFF"):
        data = encoded(
            numpy.dstack([plain(), alpha]), form, **({"lossless": True, "exact": True} if form == "WEBP" else {})
        )
        yield _kept("alpha", f"rgba.{form.lower()}", data, on_white(plain(), alpha), 1)
    hidden = handmade.png(numpy.dstack([plain(), numpy.zeros_like(alpha)]), 6)
    yield _kept("alpha", "hidden-colours.png", hidden, numpy.full((HEIGHT, WIDTH, 3), 255, numpy.uint8))
    opaque = handmade.png(numpy.dstack([plain(), numpy.full_like(alpha, 255)]), 6)
    yield _kept("alpha", "opaque.png", opaque, plain())


def _animated() -> Iterator[Made]:
    said = "first frame"
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in colours]
    first = numpy.asarray(frames[0])
    for form, suffix, tolerance in (("GIF", "gif", 0), ("WEBP", "webp", 0), ("PNG", "png", 0), ("AVIF", "avif", 8)):
        options = {"lossless": True} if form == "WEBP" else {}
        data = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
        yield _kept("animated", f"animated.{suffix}", data, first, tolerance, said)
    noisy = [Image.fromarray(noise() // part) for part in (1, 2)]
    data = encoded(noisy[0].quantize(4), "GIF", save_all=True, append_images=[noisy[1].quantize(4)])
    look = numpy.asarray(noisy[0].quantize(4).convert("RGB"))
    yield _kept("animated", "second-frame-cut.gif", data[: len(data) * 3 // 4], look, 0, said)


def _turned() -> Iterator[Made]:
    upright = plain()
    # What the camera stored, so that EXIF's turn makes it upright (EXIF 2.32, tag 274).
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: numpy.rot90(upright), 7: numpy.rot90(upright.transpose(1, 0, 2), 2),
        8: numpy.rot90(upright, -1),
    }  # fmt: skip
    for orientation, pixels in stored.items():
        exif = Image.Exif()
        exif[274] = orientation
        pixels = numpy.ascontiguousarray(pixels)
        for suffix, form, options, tolerance in (
            ("jpg", "JPEG", {"quality": 98, "subsampling": 0}, 5), ("png", "PNG", {}, 0),
            ("webp", "WEBP", {"lossless": True}, 0), ("tiff", "TIFF", {}, 0),
        ):  # fmt: skip
            data = encoded(pixels, form, exif=exif, **options)
            yield _kept("EXIF turn", f"turn-{orientation}.{suffix}", data, upright, tolerance)
    for name, exif_bytes in (
        ("corrupt", b"Exif\0\0MM\0\x2a\0\0\0\x08\xff\xff\x01\x12"), ("none", b"Exif\0\0"),
        ("noise", b"Exif\0\0" + b"\xff" * 99),
        ("turn-9", b"Exif\0\0MM\0\x2a\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\x09\0\0\0\0\0\0"),
    ):  # fmt: skip
        yield _kept("odd EXIF", f"exif-{name}.png", encoded(upright, "PNG", exif=exif_bytes), upright)
        photo = encoded(upright, "JPEG", quality=98, subsampling=0, exif=exif_bytes)
        yield _kept("odd EXIF", f"exif-{name}.jpg", photo, upright, 5)


def _profiles() -> Iterator[Made]:
    odd = "profile cannot be used"
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield _kept("ICC", "srgb.png", encoded(plain(), "PNG", icc_profile=srgb), plain())
    for suffix, form, options, tolerance in (
        ("png", "PNG", {}, 4), ("jpg", "JPEG", {"quality": 98, "subsampling": 0}, 8), ("tiff", "TIFF", {}, 4),
        ("webp", "WEBP", {"lossless": True}, 4),
    ):  # fmt: skip
        data = encoded(plain(), form, icc_profile=handmade.swapped_profile(), **options)
        yield _kept("ICC", f"swapped.{suffix}", data, plain()[:, :, ::-1], tolerance)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    swapped = handmade.swapped_profile()
    for name, profile in (
        ("nonsense", b"nonsense"), ("zeros", bytes(128)), ("cut", swapped[:200]), ("byte", b"x"), ("lab", lab),
        ("inks", handmade.ink_profile()),
    ):  # fmt: skip
        yield _kept("ICC", f"profile-{name}.png", encoded(plain(), "PNG", icc_profile=profile), plain(), 0, odd)
        photo = encoded(plain(), "JPEG", quality=98, subsampling=0, icc_profile=profile)
        yield _kept("ICC", f"profile-{name}.jpg", photo, plain(), 5, odd)
    alpha = numpy.full((HEIGHT, WIDTH), 128, numpy.uint8)
    data = encoded(numpy.dstack([plain(), alpha]), "PNG", icc_profile=swapped)
    yield _kept("ICC", "swapped-alpha.png", data, on_white(plain()[:, :, ::-1], alpha), 4)


def _disguised() -> Iterator[Made]:
    yield _refused("empty", "empty.png", b"", "is empty")
    yield _refused("empty", "empty.jpg", b"", "is empty")
    forms = {
        "svg.png": (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "SVG"),
        "svg-with-xml.png": (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- x -->\n<svg width="9"/>', "SVG"),
        "eps.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n", "EPS"),
        "eps-with-preview.jpg": (b"\xc5\xd0\xd3\xc6" + bytes(40), "EPS"),
        "psd.png": (b"8BPS\0\x01" + bytes(6) + struct.pack(">HIIHH", 3, 64, 64, 8, 3) + bytes(64), "Photoshop"),
        "pdf.jpg": (b"%PDF-1.7\n1 0 obj\n", "PDF"),
        "page.jpg": (b"<!DOCTYPE html>\n<html><body>404 <script>alert(1)</script></body></html>", "web page"),
        "page.png": (b"<html><head></head></html>", "web page"),
        "archive.jpg": (b"PK\3\4" + bytes(60), "archive"),
        "icon.png": (b"\0\0\1\0\1\0" + bytes(60), "icon"),
        "xl.jpg": (b"\xff\x0a" + bytes(60), "JPEG XL"),
        "two-thousand.jpg": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(60), "JPEG 2000"),
        "video.jpg": (handmade.ftyp(b"isom", b"isom", b"mp42") + bytes(60), "video"),
        "matroska.png": (b"\x1aE\xdf\xa3" + bytes(60), "video"),
        "pointer.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        "raw.tiff": (b"II*\0\x10\0\0\0CR\2\0" + bytes(60), "damaged"),
        "text.png": (b"this is no picture", "not an image"),
        "zeros.png": (bytes(500), "not an image"),
        "noise.jpg": (bytes(noise())[:500], "not an image"),
        "bm.bmp": (b"BMW is a car" * 9, "not an image"),
        "program.png": (b"\x7fELF" + bytes(60), "not an image"),
    }
    for name, (data, reason) in forms.items():
        yield _refused("in disguise", f"disguised-{name}", data, reason)
    preview = handmade.tiff(plain(), t254=(1,), t330=(8,))
    yield _refused("in disguise", "camera-raw.tiff", preview, "raw file")
    yield _refused("in disguise", "digital-negative.tiff", handmade.tiff(plain(), t50706=(1, 4, 0, 0)), "raw file")


def _misnamed() -> Iterator[Made]:
    for form, suffix in (("PNG", "jpg"), ("BMP", "png"), ("GIF", "jpeg"), ("TIFF", "bmp"), ("PNG", "heic")):
        image = Image.fromarray(grey(shades() // 16 * 16))
        data = encoded(image, form)
        said = f"is a {form}, whatever its name says"
        yield _kept("wrong suffix", f"{form.lower()}-named.{suffix}", data, numpy.asarray(image), 0, said)
    photo = encoded(plain(), "JPEG", quality=98, subsampling=0)
    yield _kept("wrong suffix", "jpeg-named.png", photo, plain(), 5, "is a JPEG")
    yield _kept("wrong suffix", "avif-named.jpg", encoded(plain(), "AVIF", quality=95), plain(), 40, "is an AVIF")
    yield _kept("wrong suffix", "SHOUTED.PNG", encoded(plain(), "PNG"), plain())


def _polyglots() -> Iterator[Made]:
    photo, drawing = encoded(plain(), "JPEG", quality=98, subsampling=0), encoded(plain(), "PNG")
    yield _kept(
        "polyglot",
        "script.gif",
        b"GIF89a" + encoded(shades(), "GIF")[6:] + b"*/=1;alert(1)",
        grey(shades()),
    )
    yield _kept("polyglot", "archive.jpg", photo + b"PK\3\4" + bytes(99), plain(), 5)
    yield _kept("polyglot", "page.png", drawing + b"<script>alert(1)</script>", plain())
    yield _kept("after the end", "garbage.jpg", photo + bytes(noise())[:3000], plain(), 5)
    yield _kept("after the end", "zeros.jpg", photo + bytes(5000), plain(), 5)
    yield _kept("after the end", "second.jpg", photo + photo, plain(), 5)
    yield _kept("after the end", "garbage.png", drawing + bytes(noise())[:3000], plain())
    yield _kept("after the end", "garbage.bmp", handmade.bmp(plain()) + b"more", plain())


def _sizes() -> Iterator[Made]:
    small = "too small"
    for width, height in ((1, 1), (20_000, 1), (1, 20_000), (15, 300), (300, 15)):
        data = encoded(Image.new("RGB", (width, height)), "PNG")
        yield _refused("too small", f"{width}x{height}.png", data, small)
    yield _refused("too small", "1x1.gif", encoded(Image.new("L", (1, 1)), "GIF"), small)
    yield _refused("too small", "0x0.png", handmade.png_of(handmade.header(0, 0, 8, 2), b""), "")
    square = numpy.ascontiguousarray(plain()[:16, :16])
    yield _kept("very small", "16x16.png", handmade.png(square, 2), square)
    long = numpy.tile(plain(), (1, 417, 1))[:16, :20_000]
    yield _kept("very long", "20000x16.png", handmade.png(long, 2), long)
    yield _kept(
        "very long",
        "16x20000.png",
        handmade.png(numpy.ascontiguousarray(long.transpose(1, 0, 2)), 2),
        long.transpose(1, 0, 2),
    )


def _checksums() -> Iterator[Made]:
    rows = b"".join(b"\0" + row.tobytes() for row in plain())
    head, data, end = handmade.header(WIDTH, HEIGHT, 8, 2), zlib.compress(rows), handmade.chunk(b"IEND", b"")
    start = handmade.PNG + handmade.chunk(b"IHDR", head)
    wrong = handmade.PNG + handmade.chunk(b"IHDR", head, 1) + handmade.chunk(b"IDAT", data) + end
    yield _refused("checksum", "header.png", wrong, "damaged")
    text = start + handmade.chunk(b"tEXt", b"a\0b", 1) + handmade.chunk(b"IDAT", data) + end
    yield _refused("checksum", "text.png", text, "damaged")
    # The pixels have a checksum of their own, so they are whole.
    yield _kept("checksum", "data.png", start + handmade.chunk(b"IDAT", data, 1) + end, plain())
    stored = bytearray(zlib.compress(rows, 0))
    stored[len(stored) // 2] ^= 16
    yield _refused("bit rot", "stored.png", start + handmade.chunk(b"IDAT", bytes(stored)) + end, "damaged")
    packed = bytearray(encoded(noise(), "PNG"))
    packed[len(packed) // 2] ^= 16
    yield _refused("bit rot", "packed.png", bytes(packed), "damaged")
    lzw = bytearray(encoded(noise(), "TIFF", compression="tiff_lzw"))  # libtiff would print what it dislikes
    lzw[200:3000] = bytes(2800)
    yield _refused("bit rot", "zeros-in-lzw.tiff", bytes(lzw), "damaged")
    yield _refused("bit rot", "no-data.png", start + end, "damaged")


def _variants() -> Iterator[Made]:
    yield _kept("PNG variant", "interlaced.png", handmade.png(plain(), 2, interlaced=True), plain())
    yield _kept(
        "PNG variant",
        "interlaced-16.png",
        handmade.png(plain().astype(numpy.uint16) * 257, 2, interlaced=True),
        plain(),
        0,
        "16-bit",
    )
    clear = handmade.chunk(b"tRNS", struct.pack(">HHH", *plain()[3, 4]))
    seen = plain()
    seen[3, 4] = 255
    yield _kept("PNG variant", "one-clear-colour.png", handmade.png(plain(), 2, clear), seen)
    yield _kept("BMP variant", "bottom-up.bmp", handmade.bmp(plain()), plain())
    yield _kept("BMP variant", "top-down.bmp", handmade.bmp(plain(), top_down=True), plain())
    for name, options in (
        ("lzw", {"compression": "tiff_lzw"}), ("deflate", {"compression": "tiff_adobe_deflate"}),
        ("packbits", {"compression": "packbits"}), ("big", {"big_tiff": True}),
    ):  # fmt: skip
        yield _kept("TIFF variant", f"{name}.tiff", encoded(plain(), "TIFF", **options), plain())
    yield _kept("TIFF variant", "big-endian.tiff", handmade.tiff(plain(), ">"), plain())
    jpeg_inside = encoded(plain(), "TIFF", compression="jpeg", quality=98)
    yield _kept("TIFF variant", "jpeg-inside.tiff", jpeg_inside, plain(), 24)
    looped = bytearray(handmade.tiff(plain()))
    start = struct.unpack("<I", looped[4:8])[0]
    after = start + 2 + 12 * struct.unpack("<H", looped[start : start + 2])[0]
    looped[after : after + 4] = struct.pack("<I", start)
    yield _kept("TIFF variant", "directory-in-a-circle.tiff", bytes(looped), plain())
    yield _refused("TIFF variant", "float-rgb.tiff", handmade.tiff(plain().astype(numpy.float32)), "variant")
    many = handmade.tiff(plain(), t277=(99,))  # Pillow would log it
    yield _refused("TIFF variant", "99-samples.tiff", many, "variant")
    yield _refused("TIFF variant", "no-directory.tiff", b"II*\0\xff\xff\xff\x7f" + bytes(40), "damaged")
    for sampling in (0, 1, 2):
        data = encoded(plain(), "JPEG", quality=98, subsampling=sampling)
        yield _kept("JPEG variant", f"sampling-{sampling}.jpg", data, plain(), 5 if sampling == 0 else 24)
    restarts = encoded(plain(), "JPEG", quality=98, subsampling=0, restart_marker_blocks=1)
    yield _kept("JPEG variant", "restarts.jpg", restarts, plain(), 5)
    yield _kept("WebP variant", "lossy.webp", encoded(plain(), "WEBP", quality=95), plain(), 24)
    pages = [Image.fromarray(plain()), Image.new("RGB", (20, 20), "red")]
    data = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    yield _kept("pages", "pages.tiff", data, plain(), 0, "several pages")
    options = {"quality": 98, "subsampling": 0}
    data = encoded(pages[0], "MPO", save_all=True, append_images=pages[1:], **options)
    yield _kept("multi-picture", "phone.jpg", data, plain(), 5)
    yield _kept("multi-picture", "phone.mpo", data, plain(), 5)
    yield _kept("multi-picture", "phone-second-cut.jpg", data[: len(data) - 100], plain(), 5)


def _heic() -> Iterator[Made]:
    try:
        import pillow_heif
    except ImportError:
        for brand in (b"heic", b"mif1"):
            data = handmade.ftyp(brand, b"mif1", b"heic") + bytes(200)
            yield _refused("HEIC", f"{brand.decode()}.heic", data, "pip install pillow-heif")
        return
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(plain())).save(buffer, quality=95, chroma=444)
    yield _kept("HEIC", "phone.heic", buffer.getvalue(), plain(), 16)
    yield _kept("HEIC", "phone-heic.jpg", buffer.getvalue(), plain(), 16, "is a HEIF")
    yield _refused("HEIC", "cut.heic", buffer.getvalue()[:-200], "damaged")
    yield _refused("HEIC", "box-only.heic", handmade.ftyp(b"heic", b"mif1", b"heic") + bytes(200), "damaged")


def _names() -> Iterator[Made]:
    names = [
        "žluťoučký kůň.png", "cafe\u0301 decomposed.png",
        "写真の名前.png", "صورة جميلة.png", "תמונה.png", "😀👩‍👩‍👧.png",
        "\u202egnp.exe\u202c.png", "\u2066isolated\u2069.png", "zero\u200bwidth.png", "\x1b[31mred\x1b[0m.png",
        "\x1b]0;title\x07.png", "\x1b]8;;http:example\x1b\\link.png", "bell\x07.png", "back\x08space.png",
        "line\nbreak.png", "carriage\rreturn.png", "tab\tstop.png", "[bold red]markup[bold].png",
        "[link=file:x]y[link].png", "<script>alert(1)<&#47;script>.png", "'\"><img src=x onerror=alert(1)>.png",
        "&lt;entity&gt;.png", "%s%n%d{0}{name}.png", "=cmd|' &C calc'!A0.png", "+1+1.png", "@SUM(A1).png",
        "-rf.png", "--help.png", "~.png", "$(id).png", "`id`.png", "a;b&c|d.png", "space at end .png",
        " space at start.png", "CON.png", "nul.png", "dot.dot..png", "*?.png", "back\\slash.png", "colon:name.png",
        "n" * 251 + ".png", "語" * 83 + "xy.png", os.fsdecode(b"not utf-8 \xff\xfe.png"), "c1 \x9b31m.png",
        "\ufeffmark.png", "\u2028separator.png",
    ]  # fmt: skip
    for number, name in enumerate(names):
        pixels = plain()
        pixels[0, 0] = number  # no two files are the same
        yield _kept("name", name, handmade.png(pixels, 2), pixels)


def _no_plain_files(folder: Path) -> Iterator[Case]:
    """What stands in a folder and is no plain file, as far as the system has it."""
    target = folder / "target-of-link.png"
    target.write_bytes(handmade.png(plain(), 2))
    yield Case("link", target.name, pixels=plain())
    links = {
        "link.png": (target.name, None),
        "link-in-a-circle.png": ("link-in-a-circle.png", "circle"),
        "link-one-of-two.png": ("link-two-of-two.png", "circle"),
        "link-two-of-two.png": ("link-one-of-two.png", "circle"),
        "link-to-nowhere.png": ("nowhere.png", "leads nowhere"),
        "link-to-zeros.png": ("/dev/zero", "is not a file"),
        "link-to-noise.jpg": ("/dev/urandom", "is not a file"),
        "link-to-terminal.png": ("/dev/tty", ""),
        "link-to-folder.png": (".", "is not a file"),
    }
    for name, (to, reason) in links.items():
        (folder / name).symlink_to(to)
        yield Case("link", name, reason, plain() if reason is None else None)
    (folder / "folder.png").mkdir()
    yield Case("no file", "folder.png", "is not a file")
    os.mkfifo(folder / "pipe.png")
    yield Case("no file", "pipe.png", "is not a file")
    closed = folder / "closed.png"
    closed.write_bytes(handmade.png(plain(), 2))
    closed.chmod(0)
    readable = os.access(closed, os.R_OK)  # by root
    yield replace(
        Case("unreadable", closed.name, "permissions"),
        **({"reason": None, "pixels": plain()} if readable else {}),
    )


CONTENTS = (
    _truncated, _bombs, _scans, _texts, _deep, _numbers, _inks, _lab, _palettes, _greys, _animated, _turned, _profiles,
    _disguised, _misnamed, _polyglots, _sizes, _checksums, _variants, _heic,
)  # fmt: skip
