"""The shelf: where each image of a data set lies, with its captions and its mask beside it."""

from __future__ import annotations

import contextlib
import os
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
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


def put_in_place(wanted: Sequence[Wanted], ledger: Ledger, standing: Collection[str] = ()) -> Placed:
    """Moves every wanted image to its place, out of the stage or from where it stood; what is people's stays.

    `standing`: files that stand in the data set beside these.
    """
    kin = _Kin(ledger, {*(one.row.file for one in wanted), *standing})
    placed = Placed({}, [], [])
    for one in wanted:
        row = one.row
        before = kin.of(row)
        path = ledger.out / row.file
        for old in before:
            _bring_mask(ledger.out / old.file, path, ledger)
        found = _put(row, before, ledger, placed)
        if found is None:
            placed.missing.append(row.key)
            continue
        placed.rows[row.file] = found
        path = ledger.out / found.file
        for old in before:
            _bring_text(ledger.out / old.file, path, ledger)
        if not row.mask and mask_of(path).exists() and ledger.is_own(mask_of(path)):
            mask_of(path).unlink()
        planned = ledger.planned.get(row.file)
        ours = {old.captions for old in (*before, *([planned] if planned else []))}
        _describe(path, one.texts, ours, ledger)
    return placed


class _Kin:
    """Which rows of earlier runs tell of the same image: by place, work, content or origin, in this order."""

    def __init__(self, ledger: Ledger, taken: Collection[str]) -> None:
        self._found: dict[tuple[str, str], list[Row]] = defaultdict(list)
        self._taken = taken
        for row in ledger.known.values():
            for name in _names_of(row):
                self._found[name].append(row)

    def of(self, row: Row) -> list[Row]:
        """Those of a wanted row, without the ones whose place is another image's."""
        rows = {old.file: old for name in _names_of(row) for old in self._found.get(name, ())}
        return [old for old in rows.values() if old.file == row.file or old.file not in self._taken]


def _names_of(row: Row) -> tuple[tuple[str, str], ...]:
    return ("stem", _stem(row.file)), ("key", row.key), ("sha256", row.sha256), ("origin", row.origin)


def _put(row: Row, before: Sequence[Row], ledger: Ledger, placed: Placed) -> Row | None:
    """The row as it stands, None where its image is nowhere."""
    path = ledger.out / row.file
    finished = ledger.rows.get(row.file)
    if path.exists() and finished is not None and finished.key == row.key and not ledger.planned:
        if not _is_whole(path, row):
            placed.edited.append(str(path))
        return row
    for old in before:
        there = ledger.out / old.file
        if old.file != row.file and there.exists() and not ledger.is_own(there):
            kept = path.with_suffix(there.suffix)
            if path != kept and path.exists() and ledger.is_own(path):
                path.unlink()
            if kept != there and not kept.exists():
                _move(there, kept)
            placed.edited.append(str(kept if kept.exists() else there))
            return replace(row, file=(kept if kept.exists() else there).relative_to(ledger.out).as_posix())
    if path.exists() and not ledger.is_own(path):
        placed.edited.append(str(path))
        return row
    if path.exists() and digest(path) == row.made:
        return row if _take_mask(row, finished, path, ledger, placed) else None
    for old in before if not path.exists() else ():
        there = ledger.out / old.file
        if old.file != row.file and there.exists() and digest(there) == row.made:
            _move(there, path)
            return row if _take_mask(row, old, path, ledger, placed) else None
    if _is_whole(_staged(ledger, row), row):
        _take_mask(row, None, path, ledger, placed)
        ledger.take(_staged(ledger, row), path)
        return row
    return None


def _take_mask(row: Row, old: Row | None, path: Path, ledger: Ledger, placed: Placed) -> bool:
    """The mask that belongs to an image in its place, out of the stage; False where it must be made anew first."""
    mask, there = ledger.stage / f"{row.key}-mask.png", mask_of(path)
    if row.mask not in ("file", "alpha") or (old is not None and old.key == row.key and there.exists()):
        return True
    if there.exists() and not ledger.is_own(there):
        placed.edited.append(str(there))
    elif mask.exists():
        ledger.take(mask, there)
    else:
        return False
    return True


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


def _bring_mask(old: Path, new: Path, ledger: Ledger) -> None:
    """A mask that someone has drawn goes with its image where its name or its folder changes."""
    if old.with_suffix("") != new.with_suffix("") and mask_of(old).exists() and not ledger.is_own(mask_of(old)):
        _bring(mask_of(old), mask_of(new))


def _bring_text(old: Path, new: Path, ledger: Ledger) -> None:
    """So do its captions, unless an image that someone has edited stays with them."""
    if old.with_suffix("") != new.with_suffix("") and not (old.exists() and not ledger.is_own(old)):
        _bring(old.with_suffix(".txt"), new.with_suffix(".txt"))


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
