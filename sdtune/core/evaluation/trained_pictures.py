"""Trained pictures: what a run was trained on and what it held out, known by content and found where it lies now."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from sdtune.core.data.image_file import contents
from sdtune.core.data.layout import IMAGE_LIKE
from sdtune.core.data.sources import FolderSource
from sdtune.core.data_list import Listed, listed_in
from sdtune.core.evaluation.candidates import Origin
from sdtune.core.evaluation.picture_folder import named_of, pictures_in, worded
from sdtune.core.evaluation.subject import Reference, Subject
from sdtune.core.home import expanded
from sdtune.core.reports import Progress, Telling
from sdtune.core.run_folder import RunFolder
from sdtune.core.sampling.file_names import printable
from sdtune.core.sampling.run_of import MAX_DATA_BYTES
from sdtune.errors import ConfigError, DataError, InputError

MOST_SOUGHT = 20_000
"""files of a data folder that are read to find one that has moved"""
ABOVE = 3
"""folders above a run from which its data may have been named: runs/cats-1 lies two below where it was begun"""


@dataclass(frozen=True)
class Known:
    """What is known of a training."""

    subject: Subject
    told: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    """of pictures that are nowhere"""


def subject_of(origin: Origin, trained: Path | None, *, follow_links: bool) -> Telling[Known]:
    """What LoRAs of an origin were trained on; `trained` is --trained.

    Pictures of a run are known by their content; one that is elsewhere in its folders is found there.
    """
    plain = Subject(origin.name, origin.place)
    listed, told = _listed(origin)
    if listed:
        folders = [*([trained] if trained else []), *_folders(origin)]
        found = yield from _found(listed, folders, origin.name, follow_links=follow_links)
        known = [(one, found[one.sha256]) for one in listed if one.sha256 in found]
        own = tuple(_picture(one, place, origin) for one, place in known if not one.held_out)
        held_out = tuple(_picture(one, place, origin) for one, place in known if one.held_out)
        if own or not trained:
            gone = tuple(worded(one.captions[0], origin) for one in listed if one.captions and one.sha256 not in found)
            missing = _missing(listed, found, origin)
            lost = _lost(origin) if missing else ()
            return Known(replace(plain, trained=own, held_out=held_out), (*told, *lost, *missing), gone)
        plain = replace(plain, held_out=held_out)
    if not trained:
        return Known(plain, told)
    pictures, lines = yield from pictures_in(trained, "--trained", origin, follow_links=follow_links)
    outside = {one.sha256 for one in plain.held_out}
    own = tuple(one for one in pictures if one.sha256 not in outside)
    return Known(replace(plain, trained=own), (*told, *lines))


def _listed(origin: Origin) -> tuple[list[Listed], tuple[str, ...]]:
    """The images of its data.json but for regularisation; none where that cannot be read, which is told."""
    if origin.run is None:
        return [], ()
    data = origin.run.data
    try:
        if data.stat().st_size > MAX_DATA_BYTES:
            raise ConfigError(f"{data}: over {MAX_DATA_BYTES >> 20} MB")
        return [one for one in listed_in(data) if not one.prior], ()
    except (OSError, InputError):
        return [], (
            f"{printable(str(data))}: cannot be read, so that nobody knows what {origin.name} was trained on; "
            "--trained FOLDER and --reference FOLDER say it",
        )


def _folders(origin: Origin) -> list[Path]:
    """The data folders of a run that are there: from here, from the folders above it, or in full."""
    data = origin.told.get("data")
    data = data if isinstance(data, dict) else {}
    more = data.get("folders")
    named = [data.get("folder"), *((one.get("path") for one in more if _is_own(one)) if isinstance(more, list) else ())]
    run: RunFolder | None = origin.run
    above = [Path(), *(list(run.path.absolute().parents)[:ABOVE] if run else ())]
    found = []
    for text in named:
        if isinstance(text, str) and text and "\0" not in text:
            places = [base / expanded(Path(text)) for base in above]
            found += [next((place for place in places if _is_folder(place)), places[0])]
    return list(dict.fromkeys(found))


def _is_own(folder: Any) -> bool:
    """Whether one of [[data.folders]] holds what was to be learned."""
    return isinstance(folder, Mapping) and folder.get("prior") is not True


def _is_folder(place: Path) -> bool:
    try:
        return place.is_dir()
    except (OSError, ValueError):
        return False


def _found(
    listed: Sequence[Listed], folders: Sequence[Path], name: str, *, follow_links: bool
) -> Telling[dict[str, Path]]:
    """{SHA-256: where it lies}: where it lay, else anywhere in these folders."""
    found: dict[str, Path] = {}
    read: set[Path] = set()
    for number, one in enumerate(listed):
        if number % 100 == 0 and len(listed) > 100:
            yield Progress(f"looking for the pictures of {name}", number, len(listed))
        inner = PurePosixPath(one.file)
        if inner.is_absolute() or ".." in inner.parts or "\0" in one.file or not inner.parts:
            continue
        for place in (folder / inner for folder in folders):
            if one.sha256 not in found and (digest := _digest(place)):
                read.add(place)
                found.setdefault(digest, place)
    wanted = {one.sha256 for one in listed}
    for number, place in enumerate(_files(folders, follow_links=follow_links)):
        if number >= MOST_SOUGHT or wanted <= found.keys():
            break
        if place not in read and (digest := _digest(place)) in wanted:
            found.setdefault(digest, place)
    return {digest: place for digest, place in found.items() if digest in wanted}


def _files(folders: Sequence[Path], *, follow_links: bool) -> Iterator[Path]:
    """Files of these folders that may be pictures."""
    for folder in folders:
        if _is_folder(folder):
            for entry in FolderSource(folder, follow_links=follow_links).entries():
                if entry.path and Path(entry.name).suffix.lower() in IMAGE_LIKE:
                    yield entry.path


def _digest(place: Path) -> str:
    """The SHA-256 of a file that may be a picture; "" of anything else."""
    try:
        return hashlib.sha256(contents(place, "")).hexdigest()
    except (DataError, ValueError):
        return ""


def _picture(one: Listed, place: Path, origin: Origin) -> Reference:
    caption = worded(one.captions[0], origin) if one.captions else None
    return Reference(place, printable(one.file), one.sha256, caption)


def _lost(origin: Origin) -> tuple[str, ...]:
    """Where pictures should have been, and why nothing could be looked for there."""
    if not origin.told:
        place = printable(str(origin.run.settings if origin.run else origin.place))
        return (f"{place}: cannot be read, so that nobody knows where the pictures of {origin.name} lie",)
    gone = [place for place in _folders(origin) if not _is_folder(place)]
    return tuple(f"{origin.name}: its data folder {printable(str(place))} is not there" for place in gone)


def _missing(listed: Sequence[Listed], found: Mapping[str, Path], origin: Origin) -> tuple[str, ...]:
    """A line each for trained and held-out pictures that are nowhere."""
    lines = []
    for what, some in (
        ("trained", [one for one in listed if not one.held_out]),
        ("held-out", [one for one in listed if one.held_out]),
    ):
        gone = [one for one in some if one.sha256 not in found]
        if gone:
            remedy = "copies of them are not found; --trained FOLDER says where they are"
            remedy = remedy if what == "trained" else "they are no references; --reference FOLDER gives others"
            are = "is" if len(gone) == 1 else "are"
            named = named_of([one.file for one in gone])
            lines.append(
                f"{origin.name}: {len(gone)} of {len(some)} {what} pictures {are} not where they were, or were changed "
                f"({named}): {remedy}"
            )
    return tuple(lines)
