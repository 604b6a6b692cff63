"""Kinds of files, told by their first bytes and never by their name."""

from __future__ import annotations

import re
from pathlib import PurePath

NAMES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "AVIF": (".avif", ".avifs"),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "HEIF": (".heic", ".heif", ".hif"),
}
"""{kind that can be decoded, as Pillow calls it: the suffixes that fit it}"""

BITMAP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # bytes; of every version of BMP
BRANDS = {
    "AVIF": (b"avif", b"avis"),
    "HEIF": (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"),
}
"""of the ftyp box, ISO/IEC 23008-12 annex B; a file of brand mif1 tells its coding among the compatible brands"""

EXPORT = "export it as PNG or JPEG"
OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (b"%PDF-", "a PDF", EXPORT),
    (b"%!PS", "an EPS or PostScript drawing", EXPORT),
    (b"\xc5\xd0\xd3\xc6", "an EPS drawing", EXPORT),
    (b"8BPS", "a Photoshop document", EXPORT),
    (b"gimp xcf", "a GIMP document", EXPORT),
    (b"\0\0\0\x0cJXL ", "a JPEG XL", EXPORT),
    (b"\xff\x0a", "a JPEG XL", EXPORT),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000", EXPORT),
    (b"\0\0\1\0", "an icon", EXPORT),
    (b"\x76\x2f\x31\x01", "an OpenEXR", EXPORT),
    (b"#?RADIANCE", "a Radiance HDR", EXPORT),
    (b"FUJIFILMCCD-RAW", "a camera's raw file", "develop it to JPEG or TIFF"),
    (b"PK\3\4", "a zip archive or an office document", "unpack it"),
    (b"Rar!", "a rar archive", "unpack it"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it"),
    (b"\x1f\x8b", "a gzip archive", "unpack it"),
    (b"\x1aE\xdf\xa3", "a video", "save the pictures wanted from it"),
    (b"version https://git-lfs", "a pointer of Git LFS", "fetch the file itself with `git lfs pull`"),
)
"""(first bytes, what it is, what to do)"""


def kind_of(data: bytes) -> str | None:
    """The kind of NAMES that the bytes begin like, or None where they begin like none."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in BITMAP_HEADERS:
        return "BMP"
    brands = _brands(data)
    return next((kind for brand in brands for kind, known in BRANDS.items() if brand in known), None)


def other(data: bytes) -> tuple[str, str]:
    """What bytes are that are no image of a known kind, and what to do."""
    for start, what, remedy in OTHERS:
        if data.startswith(start):
            return what, remedy
    if _brands(data):
        return "a video", "save the pictures wanted from it"
    text = data[:2000].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in text:
        return "an SVG drawing", EXPORT
    if re.match(rb"<(!doctype html|html|head|body)", text):
        return "a web page, as a failed download leaves", "download it again"
    return "something else", "remove it, or give a JPEG, PNG, WebP, AVIF, BMP, TIFF, GIF or HEIC"


def misnamed(name: str, kind: str) -> str | None:
    """A notice where a file's suffix says another kind than its content."""
    suffix = PurePath(name).suffix.lower()
    if suffix in NAMES[kind] or not any(suffix in known for known in NAMES.values()):
        return None
    return f"is {'an' if kind == 'AVIF' else 'a'} {kind}, whatever its name says"


def _brands(data: bytes) -> list[bytes]:
    """Major brand and compatible brands of an ISO base media file; none of any other."""
    if data[4:8] != b"ftyp":
        return []
    size = min(int.from_bytes(data[:4], "big"), 1024)
    return [data[8:12], *(data[place : place + 4] for place in range(16, size - 3, 4))]
