"""The shelf: where each image of a data set lies, with its captions and its mask beside it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sdtune.core.data import captions
from sdtune.core.data.layout import HELD_OUT, MASK, Item
from sdtune.core.intake.ledger import Ledger, Row
from sdtune.core.run_folder import safe_name
from sdtune.errors import DataError

SUFFIX = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """An image that shall stand in the data set."""

    row: Row
    texts: tuple[str, ...]
    """captions to write where there is no caption file yet, or only what an earlier run wrote"""


def place_of(item: Item, sha256: str, form: str, *, held_out: bool) -> str:
    """held-out/cat-3fa9c2d1.png, 10_sks cat/cat-3fa9c2d1.png, reg/1_cat/...: the name follows from the content."""
    folders = [HELD_OUT] if held_out else [*(["reg"] if item.prior else []), *([_folder(item)] if item.group else [])]
    if item.prior and not item.group:
        folders.append("1_prior")
    stem = PurePosixPath(item.entry.name).stem
    stem = safe_name(stem) if re.search(r"\w", stem) else "image"
    return "/".join([*folders, f"{stem}-{sha256[:8]}{SUFFIX[form]}"])


def put_in_place(wanted: Sequence[Wanted], ledger: Ledger) -> tuple[list[str], list[str]]:
    """Moves every wanted image to its place, out of the stage or from where it stood.

    Returns the keys of those that are nowhere, and so must be prepared anew; and the images that someone has edited
    in the data set, which stay as they are.
    """
    by_place = {_stem(row.file): row for row in ledger.rows.values()}
    by_key = {row.key: row for row in ledger.rows.values()}
    by_origin = {row.origin: row for row in ledger.rows.values()}
    missing, edited = [], []
    for one in wanted:
        row = one.row
        path = ledger.out / row.file
        stood, old = by_place.get(_stem(row.file)), by_key.get(row.key)
        if stood is not None and stood.file == row.file and _is_edited(path, stood, ledger):
            edited.append(str(path))
        elif _is_whole(path, row) and (stood is None or stood.key == row.key or stood.bytes != row.bytes):
            pass  # an end of the process may have come between this and the rows
        elif old is not None and _is_whole(ledger.out / old.file, row):
            _move(ledger.out / old.file, path)
        elif _is_whole(_staged(ledger, row), row):
            mask = ledger.stage / f"{row.key}-mask.png"
            if row.mask in ("file", "alpha") and mask.exists():
                _take(mask, mask_of(path))
            _take(_staged(ledger, row), path)
        else:
            missing.append(row.key)
            continue
        before = stood or old or by_origin.get(row.origin)
        if before is not None and _stem(before.file) != _stem(row.file):
            _bring_text(ledger.out / before.file, path)
        if stood is not None and stood.mask and not row.mask:
            mask_of(path).unlink(missing_ok=True)
        _describe(path, one.texts, before, ledger)
    return missing, edited


def take_away(ledger: Ledger, rows: Sequence[Row]) -> list[str]:
    """Removes what an earlier run made and this one does not want.

    Returns the images and caption files that people have edited, which stay.
    """
    kept = {row.file for row in rows}
    stems = {_stem(file) for file in kept}
    edited = []
    for file, row in ledger.rows.items():
        if file in kept:
            continue
        path = ledger.out / file
        if _is_whole(path, row):
            path.unlink()
        elif path.exists():
            edited.append(str(path))
        if _stem(file) in stems:
            continue
        mask_of(path).unlink(missing_ok=True)
        text = path.with_suffix(".txt")
        if _read(text) == row.captions:
            text.unlink(missing_ok=True)
        elif text.exists():
            edited.append(str(text))
        with contextlib.suppress(OSError):
            path.parent.rmdir()  # where nothing is left in it
    return edited


def mask_of(path: Path) -> Path:
    """The mask of an image, named as OneTrainer names it."""
    return path.with_name(f"{path.stem}{MASK}.png")


def texts_beside(path: Path) -> tuple[str, ...] | None:
    """The captions beside an image of the data set, None where there is no file."""
    return _read(path.with_suffix(".txt"))


def class_in_name(item: Item) -> str:
    """The class of an image in letters that every file system takes; where it is another, captions have to say it."""
    words = re.sub(r"[^\w .-]+", "-", item.of_class or "").strip(" .-")
    return words.encode()[:100].decode("utf-8", "ignore").strip(" .-")


def _folder(item: Item) -> str:
    """kohya's folder: the repeats and the class."""
    return f"{item.repeats}_{class_in_name(item)}"


def _describe(path: Path, texts: tuple[str, ...], stood: Row | None, ledger: Ledger) -> None:
    """Captions that someone has written since the last run are left alone."""
    now = _read(path.with_suffix(".txt"))
    if now == texts or (now is not None and (stood is None or now != stood.captions)) or (now is None and not texts):
        return
    if texts:
        ledger.write(path.with_suffix(".txt"), "\n".join(texts))
    else:
        path.with_suffix(".txt").unlink(missing_ok=True)


def _bring_text(old: Path, new: Path) -> None:
    """The captions of an image go with it where its name or its folder changes."""
    text = new.with_suffix(".txt")
    if old.with_suffix(".txt").exists() and not text.exists():
        _take(old.with_suffix(".txt"), text)


def _stem(file: str) -> str:
    return os.path.splitext(file)[0]


def _staged(ledger: Ledger, row: Row) -> Path:
    return ledger.stage / f"{row.key}{PurePosixPath(row.file).suffix}"


def _is_edited(path: Path, stood: Row, ledger: Ledger) -> bool:
    """Whether it is not what an earlier run put there."""
    return not ledger.disturbed and path.exists() and not _is_whole(path, stood)


def _is_whole(path: Path, row: Row) -> bool:
    try:
        return path.stat().st_size == row.bytes
    except OSError:
        return False


def _move(old: Path, new: Path) -> None:
    """An image with all that stands beside it."""
    _take(old, new)
    for one, other in ((mask_of(old), mask_of(new)), (old.with_suffix(".txt"), new.with_suffix(".txt"))):
        if one.exists():
            _take(one, other)
    with contextlib.suppress(OSError):
        old.parent.rmdir()


def _take(old: Path, new: Path) -> None:
    new.parent.mkdir(parents=True, exist_ok=True)
    os.replace(old, new)


def _read(path: Path) -> tuple[str, ...] | None:
    try:
        return captions.lines(captions.decoded(path.read_bytes()[: captions.BYTES], path))
    except DataError:
        return ("",)  # not ours, whatever it is
    except OSError:
        return None
