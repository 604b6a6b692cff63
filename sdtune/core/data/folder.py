"""A data folder: which images it holds, and what the captions of each are."""

from __future__ import annotations

import errno
import math
import os
import re
import shlex
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sdtune.config import TrainLora
from sdtune.core.data import captions
from sdtune.core.data.apart import Placed, check_cache, check_images, check_places
from sdtune.core.data.cache_folder import folder_of
from sdtune.core.data.classes import classes_of, classes_of_held_out
from sdtune.core.data.layout import REGULARISATION, Item, Layout, arrange
from sdtune.core.data.looks import look
from sdtune.core.data.nearly import instead_of_captions, instead_of_images, unpacked
from sdtune.core.data.sources import FolderSource
from sdtune.core.intake.facts import Measured
from sdtune.core.intake.image_mask import BLACK, CLEAR
from sdtune.core.reports import Note, Skipped, Telling, Warned
from sdtune.errors import DataError
from sdtune.tables import Folder

NAMED = 5  # files named in one message about many
DRAW_THEM = 'let --prior 200 --class-prompt "a dog" draw them'


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
    held_out: bool = False
    """whether it lies in held-out/, and is for validation alone"""
    fingerprint: str = ""
    """perceptual hash, 64 bits in hex, "" where it was not taken"""
    tints: str = ""
    """the image as 8 x 8 RGB values of 8 bits, in hex, with it"""

    @property
    def caption(self) -> str:
        """The first."""
        return self.captions[0]


class NoImagesError(DataError):
    """A folder holds no images to train on."""


@dataclass(frozen=True)
class _Arranged:
    """A folder of the run with what lies in it."""

    folder: Folder
    layout: Layout
    classes: dict[str, str] = field(default_factory=dict)
    """{path below the folder: class}, where the task has classes"""
    validated: bool = True
    """whether what it holds out is read, too"""

    @property
    def trained(self) -> list[Item]:
        """What is trained on."""
        return [item for item in self.layout.items if not item.held_out]

    @property
    def held_out(self) -> list[Item]:
        """What is for validation alone; where there are classes, it must be of one."""
        if not self.validated or self.folder.prior:
            return []
        found = [item for item in self.layout.items if item.held_out and not item.prior]
        return [item for item in found if not self.classes or item.entry.name in self.classes]

    @property
    def items(self) -> list[Item]:
        """What is read: what is trained on, then what is held out."""
        return self.trained + self.held_out

    def is_prior(self, item: Item) -> bool:
        """Whether an image is for regularisation."""
        return item.prior or self.folder.prior


def read_folders(config: TrainLora) -> Telling[list[Example]]:
    """Tells what is left out, and returns the examples folder by folder, each by path, then what it holds out.

    Every image is decoded whole once, within limits. Raises DataError with the problems of all folders together.
    """
    if config.data.trigger and not (config.task.reads_captions or config.task.has_classes):
        yield Warned(f"--trigger {config.data.trigger}: is not used, since the task {config.task.kind} has no captions")
    arranged = _arranged(config)
    found: list[Example] = []
    placed: list[Placed] = []
    problems: list[str] = []
    for one in arranged:
        try:
            read = yield from _read(one, config)
            found += read
            placed += [
                Placed(example.path, example.sha256, one.folder.path, example.prior)
                for example in read
                if not example.held_out
            ]
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(*problems)
    trained = [example for example in found if not example.held_out]
    if all(example.prior for example in trained):
        told = ", ".join(str(one.folder.path) for one in arranged)
        raise DataError(f"{told}: holds regularisation images only; put the pictures to learn beside reg/")
    if not any(example.weight for example in trained if not example.prior):
        told = ", ".join(str(one.folder.path) for one in arranged)
        raise DataError(
            f"{told}: all images to learn have the weight 0, so that nothing is learnt; give some a higher one"
        )
    for told in check_images(placed):
        yield Warned(told)
    examples = in_lowest_terms(trained)
    seen = sum(example.repeats for example in examples)
    if len(arranged) > 1 or seen > len(examples):
        told = f"with repeats a pass sees {seen}" if seen > len(examples) else "a pass sees each once"
        yield Note(f"data: {len(examples)} images in all; {told}")
    return examples + [example for example in found if example.held_out]


def in_lowest_terms(examples: Sequence[Example]) -> list[Example]:
    """The same with the least repeats that have their proportions: 10 and 20 are 1 and 2."""
    unit = math.gcd(*(example.repeats for example in examples))
    return [replace(example, repeats=example.repeats // unit) for example in examples]


def arrange_folder(folder: Path, *, follow_links: bool) -> Layout:
    """All images in the folder and below it with what is said of them; raises DataError where there are none."""
    try:
        if not folder.exists():
            _tell_of_a_circle(folder)
            raise DataError(f"{folder}: no such folder; give the folder that holds the images")
        if not folder.is_dir():
            raise DataError(f"{folder}: is a file; give the folder that holds the images{unpacked(folder)}")
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}); check its name and permissions") from None
    layout = arrange(FolderSource(folder, follow_links=follow_links))
    if not any(not item.held_out for item in layout.items):
        raise NoImagesError(f"{folder}: no images in this folder; {instead_of_images(layout)}")
    return layout


def in_command(folder: Path) -> str:
    """A folder as a shell takes it in a command that is suggested, and never as a flag."""
    return shlex.quote(f"./{folder}" if str(folder).startswith("-") else str(folder))


def with_trigger(caption: str, trigger: str | None) -> str:
    """The caption with the trigger word before it, where it lacks it; "risks" is not "sks".

    An accent may be a sign of its own in one of them, as names of files on a Mac have it.
    """
    if not trigger:
        return caption
    word, text = (unicodedata.normalize("NFC", one) for one in (trigger, caption))
    there = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)
    return caption if there else f"{trigger}, {caption}"


def triggers_of(config: TrainLora) -> tuple[str, ...]:
    """The words that stand for what is learned; tags that hold one are never dropped."""
    told = [config.data.trigger, config.token.word, *(folder.trigger for folder in config.data.folders)]
    return tuple(dict.fromkeys(word for word in told if word))


def _arranged(config: TrainLora) -> list[_Arranged]:
    """Every folder by names and texts alone; raises DataError with what is wrong with any of them."""
    problems = check_places([(folder.path, folder.prior) for folder in config.data.all_folders])
    if cache := folder_of(config.cache):
        problems += check_cache(cache, [folder.path for folder in config.data.all_folders])
    found = []
    for folder in config.data.all_folders:
        try:
            layout = arrange_folder(folder.path, follow_links=config.data.follow_links)
            _must_hold_priors(folder, layout)
            if layout.troubles and config.task.reads_captions:
                raise DataError(*captions.first_of(layout.troubles, f"{folder.path}: and", "more such lines"))
            classes = classes_of(folder.path, layout) if config.task.has_classes and not folder.prior else {}
            classes |= classes_of_held_out(layout, classes)
            found.append(_Arranged(folder, layout, classes, not config.validation.off))
        except DataError as error:
            more = f", or {DRAW_THEM}" if folder.prior and isinstance(error, NoImagesError) else ""
            problems += [f"{problem}{more}" for problem in error.problems]
    if problems:
        raise DataError(*dict.fromkeys(problems))
    return found


def _must_hold_priors(folder: Folder, layout: Layout) -> None:
    """Stop at a reg/ that is there and holds nothing, as kohya's users make one and forget it."""
    if any(item.prior for item in layout.items):
        return
    for name in sorted(os.listdir(folder.path)):
        if name.lower() in REGULARISATION and (inner := folder.path / name).is_dir():
            raise DataError(f"{inner}: holds no images; put images of the class there, remove it, or {DRAW_THEM}")


def _tell_of_a_circle(folder: Path) -> None:
    try:
        folder.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DataError(f"{folder}: a link that leads in a circle; give the folder itself") from None


def _read(one: _Arranged, config: TrainLora) -> Telling[list[Example]]:
    """The examples of one folder."""
    place, items = one.folder.path, one.items
    looked = yield from look(items, config)
    bad = [(told, f"{told}: {reason}") for told, reason in one.layout.unread]
    both = list(zip(items, looked, strict=True))
    bad += [(item.entry.told, reason) for item, seen in both for reason in _reasons(item, seen, one, config)]
    found = [
        (item, seen) for item, seen in both if isinstance(seen, Measured) and not _reasons(item, seen, one, config)
    ]
    if config.data.skip_bad:
        for told, reason in bad:
            yield Skipped(Path(told), reason.removeprefix(f"{told}: "))
    read = [(item, facts, _captions(item, one, config)) for item, facts in found]
    problems = [] if config.data.skip_bad else _told_of_bad(place, [reason for _, reason in bad], left=bool(found))
    lacking = [_path(item) for item, _, texts in read if not texts and not item.held_out]
    problems += _lacking(one, lacking, len(one.trained))
    if problems:
        raise DataError(*problems)
    if not any(not item.held_out for item, *_ in read):
        raise DataError(f"{place}: none of its {len(one.trained)} images can be read; the reasons are told above")
    mute = [_path(item) for item, _, texts in read if not texts]
    if mute:
        have = "1 held-out image has" if len(mute) == 1 else f"{len(mute)} held-out images have"
        yield Warned(f"{place}: {have} no caption, and no part in validation ({_names(mute)})")
    yield from _notices(found)
    yield Note(_counted(one, sum(not item.held_out for item, *_ in read), config))
    return [
        Example(
            _path(item),
            texts,
            facts.width,
            facts.height,
            item.repeats * one.folder.repeats,
            item.weight * one.folder.weight * (config.prior.weight if one.is_prior(item) else 1),
            one.is_prior(item),
            facts.sha256,
            item.mask.path if item.mask and config.mask.use != "off" else None,
            one.classes.get(item.entry.name, ""),
            item.held_out,
            facts.fingerprint,
            facts.tints,
        )
        for item, facts, texts in read
        if texts
    ]


def _reasons(item: Item, seen: Measured | str | None, one: _Arranged, config: TrainLora) -> list[str]:
    """Why an image, its mask or its caption cannot be used."""
    if config.task.reads_captions or (config.task.has_classes and one.is_prior(item)):
        reasons = list(item.troubles)
    else:
        reasons = [f"{item.entry.told}: {item.entry.trouble}"] if item.entry.trouble else []
    if item.mask and item.mask.trouble and config.mask.use != "off":
        reasons.append(f"{item.mask.told}: {item.mask.trouble}")
    if isinstance(seen, Measured) and BLACK in seen.notices:
        reasons.append(f"{item.entry.told}: {BLACK}; paint what counts white, or remove the mask")
    if isinstance(seen, Measured) and CLEAR in seen.notices:
        reasons.append(f"{item.entry.told}: {CLEAR}; give it a mask file")
    return [*reasons, *([f"{item.entry.told}: {seen}"] if isinstance(seen, str) else [])]


def _captions(item: Item, one: _Arranged, config: TrainLora) -> tuple[str, ...]:
    """What it is trained with: as the task will have it, and with the trigger where it shows the subject."""
    texts = config.task.captions_of(_own(item, one.folder, config), one.classes.get(item.entry.name, ""))
    trigger = None if one.is_prior(item) else one.folder.trigger or config.data.trigger
    return tuple(with_trigger(text, trigger) for text in texts) if any(texts) else texts


def _own(item: Item, folder: Folder, config: TrainLora) -> tuple[str, ...]:
    """What is said of it: in files, for its folder, by kohya's name of that, or by its own name."""
    if item.captions:
        return item.captions
    if folder.caption or item.of_class:
        return (captions.clean(folder.caption or item.of_class or ""),)
    by_name = config.data.caption_from_filename
    name = captions.clean(_path(item).stem.replace("_", " ").replace("-", " ")) if by_name else ""
    return (name,) if name else ()


def _path(item: Item) -> Path:
    assert item.entry.path is not None, "what lies in a folder has a path, and other sources are not read here"
    return item.entry.path


def _counted(one: _Arranged, used: int, config: TrainLora) -> str:
    held_out = sum(item.held_out for item in one.layout.items)
    priors = sum(one.is_prior(item) for item in one.trained)
    more = [f"{priors} of them for regularisation"] if priors else []
    more += [f"{held_out} more are held out"] if held_out else []
    if one.classes:
        by_class = Counter(one.classes[item.entry.name] for item in one.trained if item.entry.name in one.classes)
        counts = ", ".join(f"{count} {name}" for name, count in sorted(by_class.items()))
        told = f"images of {len(by_class)} classes"
        more += [f"{counts}; each is told by its class, and captions on disk are not read"]
    else:
        told = "images with captions" if config.task.reads_captions else "images, whose captions are not read,"
    return f"data: {used} {told} in {one.folder.path}" + "".join(f", {part}" for part in more)


def _told_of_bad(folder: Path, reasons: Sequence[str], *, left: bool) -> list[str]:
    """Each reason once, and what to do where something is left without them."""
    if not reasons:
        return []
    *first, last = captions.first_of(list(dict.fromkeys(reasons)), f"{folder}: and", "more such files")
    them = "them" if first else "it"
    return [*first, f"{last}; put {them} right" + (f", or leave {them} out with --skip-bad" if left else "")]


def _lacking(one: _Arranged, paths: Sequence[Path], of: int) -> list[str]:
    """What to do where images have no caption."""
    if not paths:
        return []
    folder, first = one.folder.path, paths[0]
    told = f"{folder}: {len(paths)} of {of} images have no caption, or an empty one ({_names(paths)})"
    if elsewhere := instead_of_captions(paths, one.layout):
        return [f"{told}; {elsewhere}"]
    beside = first.with_suffix(captions.SUFFIXES[0]).name
    return [
        f"{told}; write {beside} beside {first.name}, let sdtune caption {in_command(folder)} describe them, or take "
        "the names as captions with --caption-from-filename"
    ]


def _notices(told: Sequence[tuple[Item, Measured]]) -> Telling[None]:
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


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths[:NAMED]) + (
        f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    )
