"""The shelf: where each image of a data set lies, with its captions and its mask beside it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from sdtune.core.data import captions
from sdtune.core.data.images import SUFFIXES
from sdtune.core.data.layout import HELD_OUT, MASK, Item
from sdtune.core.intake.ledger import Ledger, Row, digest
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


@dataclass(frozen=True)
class Placed:
    """What became of the images that were wanted."""

    rows: dict[str, Row]
    """{file as wanted: row as it stands}; an image that someone has edited keeps its kind of file"""
    missing: list[str]
    """keys of those that are nowhere, and so must be prepared anew"""
    edited: list[str]
    """images and masks that are people's by now; they stay"""


def put_in_place(wanted: Sequence[Wanted], ledger: Ledger) -> Placed:
    """Moves every wanted image to its place, out of the stage or from where it stood; what is people's stays."""
    known = list(ledger.known.values())
    by_place = {_stem(row.file): row for row in known}
    by_key, by_origin = {row.key: row for row in known}, {row.origin: row for row in known}
    by_content = {row.sha256: row for row in known}
    placed = Placed({}, [], [])
    for one in wanted:
        row = one.row
        stood = by_place.get(_stem(row.file))
        before = [
            old for old in (stood, by_key.get(row.key), by_origin.get(row.origin), by_content.get(row.sha256)) if old
        ]
        found = _put(row, stood, before, ledger, placed)
        if found is None:
            placed.missing.append(row.key)
            continue
        placed.rows[row.file] = found
        path = ledger.out / found.file
        for old in before:
            _bring_along(ledger.out / old.file, path, ledger)
        if stood is not None and stood.mask and not row.mask and ledger.is_own(mask_of(path)):
            mask_of(path).unlink()
        planned = ledger.planned.get(row.file)
        ours = {old.captions for old in (*before, *([planned] if planned else []))}
        _describe(path, one.texts, ours, ledger)
    return placed


def _put(row: Row, stood: Row | None, before: Sequence[Row], ledger: Ledger, placed: Placed) -> Row | None:
    """The row as it stands, None where its image is nowhere."""
    path = ledger.out / row.file
    if path.exists():
        finished = ledger.rows.get(row.file)
        if finished is not None and finished.key == row.key and not ledger.planned:
            if not _is_whole(path, row):
                placed.edited.append(str(path))
            return row
        if not ledger.is_own(path):
            placed.edited.append(str(path))
            return row
        if digest(path) == row.made:
            _take_mask(row, path, ledger, placed)  # an end of the process may have come between the two
            return row
    else:
        for old in before:
            there = ledger.out / old.file
            if old.file == row.file or not there.exists():
                continue
            if digest(there) == row.made:
                _move(there, path)
                return row
            if not ledger.is_own(there) and (stood is None or stood.file == old.file or old.origin == row.origin):
                kept = path.with_suffix(there.suffix)
                if kept != there and not kept.exists():
                    _move(there, kept)
                placed.edited.append(str(kept))
                return replace(row, file=kept.relative_to(ledger.out).as_posix())
    if _is_whole(_staged(ledger, row), row):
        _take_mask(row, path, ledger, placed)
        ledger.take(_staged(ledger, row), path)
        return row
    return None


def _take_mask(row: Row, path: Path, ledger: Ledger, placed: Placed) -> None:
    mask, there = ledger.stage / f"{row.key}-mask.png", mask_of(path)
    if row.mask not in ("file", "alpha") or not mask.exists():
        return
    if there.exists() and not ledger.is_own(there):
        placed.edited.append(str(there))
    else:
        ledger.take(mask, there)


def take_away(ledger: Ledger, rows: Sequence[Row]) -> list[str]:
    """Removes what an earlier run made and this one does not want.

    Returns the images, masks and caption files that are people's by now, which stay.
    """
    kept = {row.file for row in rows}
    stems = {_stem(file) for file in kept}
    edited = []
    for file in ledger.known:
        if file in kept:
            continue
        path = ledger.out / file
        if path.exists():
            if ledger.is_own(path):
                path.unlink()
            else:
                edited.append(str(path))
        if _stem(file) in stems or any(path.with_suffix(suffix).exists() for suffix in SUFFIXES):
            continue
        mask, text = mask_of(path), path.with_suffix(".txt")
        ours = {one.captions for one in (ledger.rows.get(file), ledger.planned.get(file)) if one}
        for there, own in ((mask, ledger.is_own(mask)), (text, _read(text) in ours)):
            if there.exists():
                if own:
                    there.unlink()
                else:
                    edited.append(str(there))
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


def _describe(path: Path, texts: tuple[str, ...], ours: set[tuple[str, ...]], ledger: Ledger) -> None:
    """Captions that someone has written since the last run are left alone."""
    now = _read(path.with_suffix(".txt"))
    if now == texts or (now is not None and now not in ours) or (now is None and not texts):
        return
    if texts:
        ledger.write(path.with_suffix(".txt"), "\n".join(texts))
    else:
        path.with_suffix(".txt").unlink(missing_ok=True)


def _bring_along(old: Path, new: Path, ledger: Ledger) -> None:
    """The captions of an image, and a mask that someone has drawn, go with it where its name or its folder changes."""
    if old.with_suffix("") == new.with_suffix("") or (old.exists() and old.stem == new.stem and not ledger.is_own(old)):
        return
    _bring(old.with_suffix(".txt"), new.with_suffix(".txt"))
    if mask_of(old).exists() and not ledger.is_own(mask_of(old)):
        _bring(mask_of(old), mask_of(new))


def _bring(old: Path, new: Path) -> None:
    if old.exists() and not new.exists():
        new.parent.mkdir(parents=True, exist_ok=True)
        os.replace(old, new)


def _stem(file: str) -> str:
    return os.path.splitext(file)[0]


def _staged(ledger: Ledger, row: Row) -> Path:
    return ledger.stage / f"{row.key}{PurePosixPath(row.file).suffix}"


def _is_whole(path: Path, row: Row) -> bool:
    try:
        return path.stat().st_size == row.bytes
    except OSError:
        return False


def _move(old: Path, new: Path) -> None:
    """An image with all that stands beside it."""
    new.parent.mkdir(parents=True, exist_ok=True)
    os.replace(old, new)
    _bring(mask_of(old), mask_of(new))
    _bring(old.with_suffix(".txt"), new.with_suffix(".txt"))
    with contextlib.suppress(OSError):
        old.parent.rmdir()


def _read(path: Path) -> tuple[str, ...] | None:
    try:
        return captions.lines(captions.decoded(path.read_bytes()[: captions.BYTES], path))
    except DataError:
        return ("",)  # not ours, whatever it is
    except OSError:
        return None
