"""A picture as a PNG, JPEG or WebP that says how it was made, whole or not at all."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdtune.core.picture_notes import (
    NOTE_BYTES,
    PARAMETERS,
    RECIPE,
    RECIPE_BYTES,
    SUFFIXES,
    Kind,
    exif_of,
    is_whole,
    notes_in,
)
from sdtune.core.picture_text import parameters
from sdtune.core.run_folder import beside
from sdtune.core.sampling.recipe import Recipe, key_of, read, written
from sdtune.errors import DISK_FULL, FULL, DataError, OutputError, SdtuneError

JPEG_EXIF = 2**16 - 3
"""bytes of EXIF in a JPEG: a segment tells its length, its own two bytes included, in 16 bits"""
SIDES: dict[Kind, int] = {"png": 2**31 - 1, "jpeg": 2**16 - 1, "webp": 2**14 - 1}
"""pixels, the most that a format has"""
HOW: dict[Kind, dict[str, Any]] = {
    "png": {},
    "jpeg": {"quality": 95, "subsampling": "4:4:4"},
    "webp": {"lossless": True},
}


def save_picture(
    path: Path, image: Image.Image, recipe: Recipe, *, overwrite: bool = False, again: bool = False
) -> Path:
    """Puts a picture into a file of the format that its ending names, and returns where it lies.

    That is another place (00001-7-apple-2.png) where a file has come there meanwhile, and may not be replaced. Where
    that is this very picture, it stays the only one, unless it is to be drawn again.
    """
    kind = SUFFIXES[path.suffix.lower()]
    if max(image.size) > SIDES[kind]:
        raise OutputError(f"{path}: {kind} has at most {SIDES[kind]} pixels a side; give --format png")
    notes, _ = _notes(kind, recipe)
    for number in count(1):
        place = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        try:
            with beside(place, overwrite=overwrite) as unfinished:
                image.save(unfinished, format=kind, **notes, **HOW[kind])
        except FileExistsError:
            if not os.path.lexists(place):  # what is there is no folder, as a link that leads nowhere
                told = "is no folder that pictures can lie in; give another --out"
                raise SdtuneError(f"{place.parent}: {told}") from None
            if not again and key_in(place) == key_of(recipe) and is_whole(place):
                break
            continue
        except OSError as error:
            if error.errno in FULL:
                raise SdtuneError(f"{path}: {DISK_FULL}") from None
            raise SdtuneError(
                f"{path}: cannot be written ({error.strerror}); free space, or choose another --out"
            ) from None
        break
    return place


def key_in(path: Path) -> str | None:
    """What a picture file is of; None where it says nothing, or nothing that can be read."""
    try:
        notes = notes_in(path)
        return key_of(read(notes.recipe, path)) if notes and notes.recipe is not None else None
    except (OSError, DataError):
        return None


def left_out(suffix: str, recipe: Recipe) -> str | None:
    """What a file with this ending cannot say of its picture, for want of room; None where it says all."""
    return _notes(SUFFIXES[suffix.lower()], recipe)[1]


def _notes(kind: Kind, recipe: Recipe) -> tuple[dict[str, Any], str | None]:
    """(what Pillow is told to write beside the picture, what there is no room for)."""
    said, text = parameters(recipe), written(recipe)
    whole = text if len(text) <= RECIPE_BYTES else None
    if kind == "png":
        info = PngInfo()
        info.add_text(PARAMETERS, said) if _is_latin(said) else info.add_itxt(PARAMETERS, said)
        if whole is not None:
            info.add_text(RECIPE, whole)
        return {"pnginfo": info}, None if whole else "its recipe"
    most = JPEG_EXIF if kind == "jpeg" else NOTE_BYTES
    for kept, spoken in ((whole, said), (whole, None), (None, said), (None, None)):
        exif = exif_of(kept, spoken)
        if len(exif) <= most:
            break
    missing = [name for name, there in (("its parameters", spoken), ("its recipe", kept)) if there is None]
    return {"exif": exif}, " and ".join(missing) or None


def _is_latin(text: str) -> bool:
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True
