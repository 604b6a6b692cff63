"""A data folder: which images it holds, and what each one's caption is."""

from __future__ import annotations

import errno
import os
from collections import defaultdict
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdtune.config import Data
from sdtune.core.data import captions
from sdtune.core.data.images import SUFFIXES, Facts, inspect_image
from sdtune.core.reports import Note, Progress, Skipped, Warned
from sdtune.errors import DataError

NAMED = 5  # files named in one message about many
OFTEN = 20  # images between two reports


@dataclass(frozen=True)
class Example:
    """One image with its caption, as it lies on disk."""

    path: Path
    caption: str
    width: int
    """pixels, upright"""
    height: int


def read_folder(data: Data) -> Generator[Skipped | Note | Warned | Progress, None, list[Example]]:
    """Tells what is left out, and returns the examples by file name; every image is decoded whole once."""
    folder = data.folder
    paths = image_paths(folder)
    listed = captions.listed(folder, follow_links=data.follow_links)
    found: list[tuple[Path, Facts, str | None]] = []
    bad: list[tuple[Path, str]] = []
    for number, path in enumerate(paths, 1):
        told, reasons = _read(path, data, listed)
        bad += [(path, reason) for reason in reasons]
        found += [told] if told else []
        if number % OFTEN == 0 or number == len(paths):
            yield Progress("reading images", number, len(paths))
    if data.skip_bad:
        for path, reason in bad:
            yield Skipped(path, reason.removeprefix(f"{path}: "))
    read = [(path, facts, caption or _from_name(path, data)) for path, facts, caption in found]
    problems = [] if data.skip_bad else _told_of_bad(folder, [reason for _, reason in bad], left=bool(found))
    problems += _lacking(folder, [path for path, _, caption in read if not caption], len(paths))
    if problems:
        raise DataError(*problems)
    if not read:
        raise DataError(f"{folder}: none of its {len(paths)} images can be read; the reasons are told above")
    yield from _notices(read)
    yield Note(f"data: {len(read)} images with captions in {folder}")
    return [
        Example(path, with_trigger(caption or "", data.trigger), facts.width, facts.height)
        for path, facts, caption in read
    ]


def image_paths(folder: Path) -> list[Path]:
    """All in the folder that is named like an image, by name; hidden files are left alone."""
    try:
        if not folder.exists():
            _tell_of_a_circle(folder)
            raise DataError(f"{folder}: no such folder; give the folder that holds the images")
        if not folder.is_dir():
            raise DataError(f"{folder}: is a file; give the folder that holds the images")
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        paths = [path for path in entries if path.suffix.lower() in SUFFIXES]
        if not paths:
            raise DataError(f"{folder}: no images in this folder; {_where_else(entries)}")
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}); check its name and permissions") from None
    return paths


def _tell_of_a_circle(folder: Path) -> None:
    try:
        folder.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DataError(f"{folder}: a link that leads in a circle; give the folder itself") from None


def with_trigger(caption: str, trigger: str | None) -> str:
    """The caption with the trigger word before it, where it lacks it."""
    return caption if trigger is None or trigger.lower() in caption.lower() else f"{trigger}, {caption}"


def _where_else(entries: Sequence[Path]) -> str:
    inner = [
        entry.name
        for entry in entries
        if entry.is_dir()
        and os.access(entry, os.R_OK | os.X_OK)
        and any(path.suffix.lower() in SUFFIXES for path in entry.iterdir())
    ]
    if inner:
        return f"there are images in {', '.join(inner[:NAMED])}: give that folder"
    return f"put images there ({', '.join(sorted(SUFFIXES))})"


def _read(path: Path, data: Data, listed: dict[str, str]) -> tuple[tuple[Path, Facts, str | None] | None, list[str]]:
    """What an image and its caption say, or the reasons why they cannot be used."""
    reasons = []
    caption, facts = None, None
    try:
        if not data.follow_links:
            captions.must_stay_inside(path, data.folder)
    except DataError as error:
        return None, [str(error)]
    try:
        if not data.follow_links:
            for suffix in captions.SUFFIXES:
                captions.must_stay_inside(path.with_suffix(suffix), data.folder)
        caption = _caption(path, listed)
    except DataError as error:
        reasons.append(str(error))
    try:
        facts = inspect_image(path)
    except DataError as error:
        reasons.append(str(error))
    return ((path, facts, caption) if facts and not reasons else None), reasons


def _caption(path: Path, listed: dict[str, str]) -> str | None:
    return listed[path.name] if listed.get(path.name) else captions.beside(path)


def _from_name(path: Path, data: Data) -> str | None:
    return captions.clean(path.stem.replace("_", " ").replace("-", " ")) if data.caption_from_filename else None


def _told_of_bad(folder: Path, reasons: Sequence[str], *, left: bool) -> list[str]:
    """Each reason once, and what to do where something is left without them."""
    if not reasons:
        return []
    *first, last = captions.first_of(list(dict.fromkeys(reasons)), f"{folder}: and", "more such files")
    them = "them" if first else "it"
    return [*first, f"{last}; put {them} right" + (f", or leave {them} out with --skip-bad" if left else "")]


def _lacking(folder: Path, paths: Sequence[Path], of: int) -> list[str]:
    if not paths:
        return []
    first = paths[0]
    beside = first.with_suffix(captions.SUFFIXES[0]).name
    return [
        f"{folder}: {len(paths)} of {of} images have no caption, or an empty one ({_names(paths)}); write {beside} "
        f"beside {first.name} (or .caption, or a {captions.METADATA}), or take the names as captions with "
        "--caption-from-filename"
    ]


def _notices(told: Sequence[tuple[Path, Facts, str | None]]) -> Generator[Warned, None, None]:
    """What the user should know of several images at once."""
    by_notice: dict[str, list[Path]] = defaultdict(list)
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for path, facts, _ in told:
        by_stem[path.stem].append(path)
        if facts.notice:
            by_notice[facts.notice].append(path)
    for notice, paths in by_notice.items():
        yield Warned(f"{_names(paths)}: {notice}")
    for paths in by_stem.values():
        if len(paths) > 1 and any(paths[0].with_suffix(suffix).exists() for suffix in captions.SUFFIXES):
            yield Warned(f"{_names(paths)}: have one caption file between them; rename one if they are not the same")


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths[:NAMED]) + (
        f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    )
