"""Image files made byte by byte, as no library would write them."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy
from numpy.typing import NDArray
from PIL import ImageCms

Pixels = NDArray[Any]
PNG = b"\x89PNG\r\n\x1a\n"
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def chunk(name: bytes, data: bytes, crc: int | None = None) -> bytes:
    """A chunk of PNG; with a wrong checksum where one is given."""
    return (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data) if crc is None else crc)
    )


def png(pixels: Pixels, colour: int, extra: bytes = b"", *, interlaced: bool = False, level: int = 6) -> bytes:
    """[h, w] or [h, w, bands] of uint8 or uint16 as PNG of a colour type, with chunks before the data."""
    height, width = pixels.shape[:2]
    depth = 16 if pixels.dtype == numpy.uint16 else 8
    passes = [pixels[y::down, x::right] for x, y, right, down in ADAM7] if interlaced else [pixels]
    rows = [
        b"\0" + row.astype(pixels.dtype.newbyteorder(">")).tobytes() for part in passes if part.size for row in part
    ]
    return png_of(header(width, height, depth, colour, interlaced=interlaced), b"".join(rows), extra, level=level)


def header(width: int, height: int, depth: int, colour: int, *, interlaced: bool = False) -> bytes:
    """What an IHDR chunk holds."""
    return struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))


def png_of(head: bytes, rows: bytes, extra: bytes = b"", *, level: int = 6) -> bytes:
    """A PNG of a header and of rows with their filter bytes."""
    return PNG + chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(rows, level)) + chunk(b"IEND", b"")


def tiff(pixels: Pixels, order: str = "<", **tags: tuple[int, ...]) -> bytes:
    """[h, w] or [h, w, bands] as TIFF of one uncompressed strip; tags by number, as t254=(1,), over the usual ones."""
    height, width = pixels.shape[:2]
    bands = pixels.shape[2] if pixels.ndim == 3 else 1
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    usual = {
        256: (width,), 257: (height,), 258: (pixels.dtype.itemsize * 8,) * bands, 259: (1,),
        262: (2 if bands >= 3 else 1,), 273: (8,), 277: (bands,), 278: (height,), 279: (len(data),),
        339: (kind,) * bands,
    }  # fmt: skip
    usual |= {int(name[1:]): value for name, value in tags.items()}
    start = 8 + len(data)
    entries, body, after = b"", b"", start + 2 + 12 * len(usual) + 4
    for tag, values in sorted(usual.items()):
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(packed) > 4:
            place = struct.pack(f"{order}I", after + len(body))
            body += packed
            packed = place
        entries += struct.pack(f"{order}HHI", tag, 4, len(values)) + packed
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return (
        mark + struct.pack(f"{order}I", start) + data + struct.pack(f"{order}H", len(usual)) + entries + bytes(4) + body
    )


def bmp(pixels: Pixels, *, top_down: bool = False) -> bytes:
    """[h, w, 3] as BMP of 24 bits; width a multiple of 4."""
    height, width = pixels.shape[:2]
    rows = pixels[:, :, ::-1] if top_down else pixels[::-1, :, ::-1]
    info = struct.pack("<IiiHHIIiiII", 40, width, -height if top_down else height, 1, 24, 0, rows.size, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + rows.size, 0, 0, 54) + info + rows.tobytes()


def ftyp(*brands: bytes) -> bytes:
    """The first box of HEIC, AVIF and video: the major brand, then the compatible ones."""
    return struct.pack(">I", 16 + 4 * len(brands[1:])) + b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])


def with_scans(progressive: bytes, count: int) -> bytes:
    """A progressive JPEG whose last scan comes `count` times."""
    last = progressive.rindex(b"\xff\xda")
    return progressive[:last] + progressive[last:-2] * count + b"\xff\xd9"


def without_segment(jpeg: bytes, marker: bytes) -> bytes:
    """A JPEG without the first segment of a kind."""
    place = jpeg.index(marker)
    return jpeg[:place] + jpeg[place + 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big") :]


def swapped_profile() -> bytes:
    """SRGB with red and blue exchanged: what is blue by its numbers looks red."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", data[128:132])[0]
    places = {bytes(data[132 + 12 * n : 136 + 12 * n]): 132 + 12 * n for n in range(count)}
    red, blue = places[b"rXYZ"], places[b"bXYZ"]
    data[red + 4 : red + 12], data[blue + 4 : blue + 12] = data[blue + 4 : blue + 12], data[red + 4 : red + 12]
    start, size = struct.unpack(">II", data[places[b"desc"] + 4 : places[b"desc"] + 12])
    data[start : start + size] = data[start : start + size].replace(
        "sRGB".encode("utf-16-be"), "swap".encode("utf-16-be")
    )
    return bytes(data)


def ink_profile() -> bytes:
    """A profile of CMYK by whose table cyan ink looks red, black is black, and every other ink white."""
    white, black, red = bytes([255, 128, 128]), bytes([0, 128, 128]), bytes([138, 128 + 80, 128 + 67])  # L a b, 8 bits
    straight = bytes(range(256))
    table = b"".join(black if corner & 1 else red if corner & 8 else white for corner in range(16))  # cyan slowest
    matrix = struct.pack(">9i", *(65536 if place % 4 == 0 else 0 for place in range(9)))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + straight * 4 + table + straight * 3
    point = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    description = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(79)
    tags = [(b"desc", description), (b"cprt", b"text" + bytes(4) + b"none\0"), (b"wtpt", point), (b"A2B0", lut)]
    start, entries, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags:
        entries += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"none", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + entries + body
