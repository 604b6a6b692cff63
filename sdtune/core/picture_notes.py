"""What is written into picture files beside the picture: found without decoding any of it, with limits.

PNG: text chunks "parameters" and "sdtune" (W3C PNG, sec. 11.3.3). JPEG and WebP: EXIF, of which UserComment is what
A1111 writes, and MakerNote is left to whoever makes a picture: programs that rewrite EXIF keep it as it is.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

Kind = Literal["png", "jpeg", "webp"]
SUFFIXES: dict[str, Kind] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
RECIPE = "sdtune"
"""name of our PNG chunk, and how our MakerNote begins"""
PARAMETERS = "parameters"
RECIPE_BYTES = 2**20
NOTE_BYTES = 2**23
"""of one chunk; larger ones are passed over"""
AT_ONCE = 2**20  # bytes
CHUNKS = 100_000
"""of one file; of 64 KB as most programs write them that is 6 GB"""
EXIF = b"Exif\0\0"
UNICODE = b"UNICODE\0"
_EXIF_IFD, _VERSION, _MAKER_NOTE, _USER_COMMENT = 0x8769, 0x9000, 0x927C, 0x9286
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Notes:
    """What a picture file says of itself."""

    kind: Kind
    recipe: str | None = None
    parameters: str | None = None
    """as A1111 and many others write them"""
    whole: bool = False
    """whether the file has its end; what is before that may be damaged"""


def notes_in(path: Path) -> Notes | None:
    """What a file says; None where it is no PNG, JPEG or WebP. Raises OSError; a pipe is not waited for."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        return None
    with open(path, "rb") as file:
        begin = file.read(12)
        file.seek(0)
        if begin.startswith(_PNG):
            return _of_png(file)
        if begin.startswith(b"\xff\xd8\xff"):
            return _of_jpeg(file)
        if begin[:4] == b"RIFF" and begin[8:] == b"WEBP":
            return _of_webp(file)
    return None


def is_whole(path: Path) -> bool:
    """Whether a picture file can be read and has its end, and a PNG the bytes that its checksums are of."""
    try:
        notes = notes_in(path)
        if notes is None or not notes.whole or notes.kind != "png":
            return notes is not None and notes.whole
        with open(path, "rb") as file:
            return _checks_hold(file)
    except OSError:
        return False


def _checks_hold(file: BinaryIO) -> bool:
    """Whether every chunk of a PNG up to its end has the checksum that stands behind it."""
    file.seek(len(_PNG))
    kind = b""
    while kind != b"IEND":
        head = file.read(8)
        left, kind = int.from_bytes(head[:4], "big"), head[4:]
        check = zlib.crc32(kind)
        while left and (data := file.read(min(left, AT_ONCE))):
            check, left = zlib.crc32(data, check), left - len(data)
        if file.read(4) != check.to_bytes(4, "big"):
            return False
    return True


def _of_png(file: BinaryIO) -> Notes:
    recipe, parameters, whole = None, None, False
    file.seek(len(_PNG))
    for _ in range(CHUNKS):
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            whole = head[4:] == b"IEND" and len(file.read(4)) == 4
            break
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind not in (b"tEXt", b"iTXt") or length > NOTE_BYTES:
            file.seek(length + 4, os.SEEK_CUR)
            continue
        body, check = file.read(length), file.read(4)
        name, _, text = body.partition(b"\0")
        if zlib.crc32(kind + body) != int.from_bytes(check, "big"):
            continue
        if name == RECIPE.encode() and kind == b"tEXt":
            recipe = text.decode("latin-1")
        elif name == PARAMETERS.encode():
            parameters = text.decode("latin-1") if kind == b"tEXt" else _international(text)
    return Notes("png", recipe, parameters, whole)


def _international(text: bytes) -> str:
    """The text of an iTXt chunk behind its name; nothing of one that is compressed."""
    if text[:2] != b"\0\0":
        return ""
    return text[2:].split(b"\0", 2)[-1].decode("utf-8", "replace")


def _of_jpeg(file: BinaryIO) -> Notes:
    exif = b""
    file.seek(2)
    for _ in range(CHUNKS):
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] in (0xDA, 0xD9):  # pixels begin, or the end
            break
        body = file.read(max(0, int.from_bytes(head[2:], "big") - 2))
        if head[1] == 0xE1 and body.startswith(EXIF):
            exif = body
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 2))
    return _with_exif("jpeg", exif, whole=file.read(2) == b"\xff\xd9")


def _of_webp(file: BinaryIO) -> Notes:
    exif = b""
    size = file.seek(0, os.SEEK_END)
    file.seek(4)
    end = int.from_bytes(file.read(4), "little") + 8
    file.seek(12)
    for _ in range(CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            break
        length = int.from_bytes(head[4:], "little")
        if head[:4] == b"EXIF" and length <= NOTE_BYTES:
            exif = file.read(length)
            break
        file.seek(length + length % 2, os.SEEK_CUR)
    return _with_exif("webp", exif, whole=size >= end)


def _with_exif(kind: Kind, exif: bytes, *, whole: bool) -> Notes:
    """EXIF as notes; nothing of one that is damaged."""
    values = _exif_values(exif.removeprefix(EXIF))
    maker, comment = values.get(_MAKER_NOTE, b""), values.get(_USER_COMMENT, b"")
    ours = maker.startswith(RECIPE.encode() + b"\0")
    recipe = maker.partition(b"\0")[2].decode("latin-1") if ours else None
    encoding = "utf-16-be" if comment.startswith(UNICODE) else "latin-1"
    return Notes(kind, recipe, comment[8:].decode(encoding, "replace") if comment else None, whole)


def _exif_values(tiff: bytes) -> dict[int, bytes]:
    """{tag: bytes} of the two that are read, in the EXIF directory (CIPA DC-008, sec. 4.6)."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return {}
    found: dict[int, bytes] = {}
    for tag, _, _, value in _entries(tiff, order, struct.unpack_from(f"{order}I", tiff, 4)[0]):
        if tag != _EXIF_IFD:
            continue
        for inner, kind, count, place in _entries(tiff, order, struct.unpack(f"{order}I", value)[0]):
            if inner in (_MAKER_NOTE, _USER_COMMENT) and kind in (1, 2, 7) and inner not in found:
                at = struct.unpack(f"{order}I", place)[0]
                found[inner] = place[:count] if count <= 4 else tiff[at : at + count]
        break
    return found


def _entries(tiff: bytes, order: str, at: int) -> list[tuple[int, int, int, bytes]]:
    """(tag, kind, count, value or place) of a directory, as far as it is there."""
    count = int(struct.unpack_from(f"{order}H", tiff, at)[0]) if at + 2 <= len(tiff) else 0
    whole = tiff[at + 2 : at + 2 + 12 * count]
    return list(struct.iter_unpack(f"{order}HHI4s", whole[: len(whole) // 12 * 12]))


def exif_of(recipe: str | None, parameters: str | None) -> bytes:
    """EXIF that holds these, the same bytes for the same texts."""
    values = {_VERSION: b"0232"}
    if recipe is not None:
        values[_MAKER_NOTE] = f"{RECIPE}\0{recipe}".encode("ascii")
    if parameters is not None:
        values[_USER_COMMENT] = UNICODE + parameters.encode("utf-16-be")
    first = 8 + 2 + 12 + 4
    data_at = first + 2 + 12 * len(values) + 4
    entries, data = b"", b""
    for tag, value in sorted(values.items()):
        place = value if len(value) <= 4 else struct.pack(">I", data_at + len(data))
        entries += struct.pack(">HHI4s", tag, 7, len(value), place)
        data += value + b"\0" * (len(value) % 2) if len(value) > 4 else b""
    head = b"MM\0*" + struct.pack(">IHHHIII", 8, 1, _EXIF_IFD, 4, 1, first, 0)
    return EXIF + head + struct.pack(">H", len(values)) + entries + struct.pack(">I", 0) + data
