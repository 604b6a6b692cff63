"""A data folder: which images it holds, and what the captions of each are."""

from __future__ import annotations

import errno
import math
import re
import shlex
from collections import defaultdict
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdtune.core.data import archives, captions
from sdtune.core.data.images import suffixes_shown
from sdtune.core.data.layout import HELD_OUT, Item, Layout, arrange
from sdtune.core.data.sources import FolderSource
from sdtune.core.intake.facts import Job, Measured
from sdtune.core.intake.workers import Workers
from sdtune.core.reports import Note, Progress, Skipped, Warned
from sdtune.errors import DataError
from sdtune.tables import Data, Limits

NAMED = 5  # files named in one message about many
OFTEN = 20  # images between two reports
USUAL = Limits()
SIDE = 1024  # pixels; a JPEG is decoded as large as that needs, where the resolution is not known yet


@dataclass(frozen=True)
class Example:
    """One image with its captions, as it lies on disk."""

    path: Path
    captions: tuple[str, ...]
    """one or more, of which each step draws one"""
    width: int
    """pixels, upright"""
    height: int
    repeats: int = 1
    """how often it is seen in a pass over the data, beside images that are seen once"""
    weight: float = 1.0
    """how much its errors count"""
    prior: bool = False
    """whether it shows the class alone, to keep the model from forgetting it"""
    sha256: str = ""
    """of the file's bytes, when it was looked at"""
    mask: Path | None = None
    """mask file of the whole upright image, in grey: white counts"""
    of_class: str = ""
    """name of the class that its folder stands for, "" where there are no classes"""

    @property
    def caption(self) -> str:
        """The first."""
        return self.captions[0]


def read_folder(
    data: Data, limits: Limits = USUAL
) -> Generator[Skipped | Note | Warned | Progress, None, list[Example]]:
    """Tells what is left out, and returns the examples by path; every image is decoded whole once, within limits."""
    folder = data.all_folders[0].path
    layout = arrange_folder(folder, follow_links=data.follow_links)
    items = [item for item in layout.items if not item.held_out]
    if layout.troubles:
        raise DataError(*captions.first_of(layout.troubles, f"{folder}: and", "more such lines"))
    looked = yield from _look(items, data, limits)
    bad = [(told, f"{told}: {reason}") for told, reason in layout.unread]
    both = list(zip(items, looked, strict=True))
    bad += [(item.entry.told, reason) for item, seen in both for reason in _reasons(item, seen)]
    found = [(item, seen) for item, seen in both if isinstance(seen, Measured) and not item.troubles]
    if data.skip_bad:
        for told, reason in bad:
            yield Skipped(Path(told), reason.removeprefix(f"{told}: "))
    read = [(item, facts, _captions(item, data)) for item, facts in found]
    problems = [] if data.skip_bad else _told_of_bad(folder, [reason for _, reason in bad], left=bool(found))
    problems += _lacking(folder, [_path(item) for item, _, texts in read if not texts], len(items))
    if problems:
        raise DataError(*problems)
    if not read:
        raise DataError(f"{folder}: none of its {len(items)} images can be read; the reasons are told above")
    if all(item.prior for item, _ in found):
        raise DataError(f"{folder}: holds regularisation images only; put the pictures to learn beside reg/")
    yield from _notices(found)
    unit = math.gcd(*(item.repeats for item, _ in found))
    yield Note(_counted(folder, layout, len(read)) + _repeated([item.repeats // unit for item, _ in found]))
    return [
        Example(
            _path(item),
            texts if item.prior else tuple(with_trigger(text, data.trigger) for text in texts),
            facts.width,
            facts.height,
            item.repeats // unit,
            1.0,
            item.prior,
            facts.sha256,
            item.mask.path if item.mask else None,
        )
        for item, facts, texts in read
    ]


def arrange_folder(folder: Path, *, follow_links: bool) -> Layout:
    """All images in the folder and below it with what is said of them; raises DataError where there are none."""
    try:
        if not folder.exists():
            _tell_of_a_circle(folder)
            raise DataError(f"{folder}: no such folder; give the folder that holds the images")
        if not folder.is_dir():
            raise DataError(f"{folder}: is a file; give the folder that holds the images{_unpacked(folder)}")
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}); check its name and permissions") from None
    layout = arrange(FolderSource(folder, follow_links=follow_links))
    if not any(not item.held_out for item in layout.items):
        raise DataError(f"{folder}: no images in this folder; {_what_there_is(layout)}")
    return layout


def in_command(folder: Path) -> str:
    """A folder as a shell takes it in a command that is suggested, and never as a flag."""
    return shlex.quote(f"./{folder}" if str(folder).startswith("-") else str(folder))


def with_trigger(caption: str, trigger: str | None) -> str:
    """The caption with the trigger word before it, where it lacks it; "risks" is not "sks"."""
    if not trigger or re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", caption, re.IGNORECASE):
        return caption
    return f"{trigger}, {caption}"


def _tell_of_a_circle(folder: Path) -> None:
    try:
        folder.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DataError(f"{folder}: a link that leads in a circle; give the folder itself") from None


def _unpacked(file: Path) -> str:
    archive = file.name.lower().endswith(archives.SUFFIXES)
    return f", or make one: sdtune prepare {file} --out dataset" if archive else ""


def _what_there_is(layout: Layout) -> str:
    if layout.items:
        return f"only in {HELD_OUT}/, which is kept from training; put the others beside it"
    links = [told for told, reason in layout.unread if "--follow-links" in reason]
    if links:
        return f"{links[0]} is a link that leads out of it: --follow-links reads it"
    if layout.unread:
        told, reason = layout.unread[0]
        return f"{told}: {reason}"
    packed = [told for told, _ in layout.left if told.lower().endswith(archives.SUFFIXES)]
    if packed:
        return f"there is {packed[0]}: sdtune prepare {packed[0]} --out dataset"
    return f"put images there ({suffixes_shown()})"


def _look(items: Sequence[Item], data: Data, limits: Limits) -> Generator[Progress, None, list[Measured | str | None]]:
    """What worker processes found of each image, or why it cannot be used; None where its name tells that already."""
    found: list[Measured | str | None] = [None] * len(items)
    jobs = (
        (place, Job(item.entry.told, str(item.entry.path), None, resolution=data.resolution or SIDE), None, None)
        for place, item in enumerate(items)
        if item.entry.path is not None
    )
    with Workers(limits) as workers:
        for number, (place, seen) in enumerate(workers.each(jobs), 1):
            found[place] = seen
            if number % OFTEN == 0:
                yield Progress("reading images", number, len(items))
    yield Progress("reading images", len(items), len(items))
    return found


def _reasons(item: Item, seen: Measured | str | None) -> list[str]:
    """Why an image or its caption cannot be used."""
    return [*item.troubles, *([f"{item.entry.told}: {seen}"] if isinstance(seen, str) else [])]


def _captions(item: Item, data: Data) -> tuple[str, ...]:
    if item.captions:
        return item.captions
    if item.of_class:
        return (item.of_class,)
    name = captions.clean(_path(item).stem.replace("_", " ").replace("-", " ")) if data.caption_from_filename else ""
    return (name,) if name else ()


def _path(item: Item) -> Path:
    assert item.entry.path is not None, "what lies in a folder has a path, and other sources are not read here"
    return item.entry.path


def _counted(folder: Path, layout: Layout, used: int) -> str:
    held_out = sum(item.held_out for item in layout.items)
    priors = sum(item.prior for item in layout.items)
    more = [f"{priors} of them for regularisation"] if priors else []
    more += [f"{held_out} more are held out"] if held_out else []
    return f"data: {used} images with captions in {folder}" + "".join(f", {one}" for one in more)


def _repeated(repeats: Sequence[int]) -> str:
    """Repeats weigh folders against each other: where all have the same there is nothing to say."""
    return f"; with repeats a pass sees {sum(repeats)}" if max(repeats) > 1 else ""


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
        f"beside {first.name}, let sdtune caption {folder} describe them, or take the names as captions with "
        "--caption-from-filename"
    ]


def _notices(told: Sequence[tuple[Item, Measured]]) -> Generator[Warned, None, None]:
    """What the user should know of several images at once."""
    by_notice: dict[str, list[Path]] = defaultdict(list)
    by_stem: dict[Path, list[Path]] = defaultdict(list)
    for item, facts in told:
        path = _path(item)
        by_stem[path.with_suffix("")].append(path)
        for notice in facts.notices:
            by_notice[notice].append(path)
    for notice, paths in by_notice.items():
        yield Warned(f"{_names(paths)}: {notice}")
    for paths in by_stem.values():
        if len(paths) > 1 and any(paths[0].with_suffix(suffix).exists() for suffix in captions.SUFFIXES):
            yield Warned(f"{_names(paths)}: have one caption file between them; rename one if they are not the same")
    masks = [_path(item) for item, _ in told if item.mask]
    if masks:
        yield Warned(f"{_names(masks)}: have masks, which this version does not train with")


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths[:NAMED]) + (
        f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    )
