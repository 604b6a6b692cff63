"""Layouts: which of a source's files are images, and what the files and folders around each one say of it.

Understood, also mixed: captions beside the images (.txt, .caption, .json with a "caption"), kohya's `10_name class`
folders and `reg/`, Hugging Face's metadata.jsonl and metadata.csv, WebDataset's shards, OneTrainer's
`name-masklabel.png`, and what `prepare` writes.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from sdtune.core.data import captions
from sdtune.core.data.images import SUFFIXES
from sdtune.core.data.sources import MASK as MASK
from sdtune.core.data.sources import TEXTS as TEXTS
from sdtune.core.data.sources import Entry, Source, without_end
from sdtune.errors import DataError

HELD_OUT = "held-out"
"""folder of a data set for the images that are kept from training"""
SPLITS = frozenset({"validation", "valid", "val", "test"})
"""Hugging Face's names of the same, beside a `train` folder"""
REGULARISATION = frozenset({"reg", "regularization", "regularisation"})
KOHYA = re.compile(r"(\d{1,3})_(.*)")
MOST_REPEATS = 500  # 2024_holiday is a date
UNUSED_LABEL = "-condlabel"
IMAGE_LIKE = SUFFIXES | frozenset(
    {".heic", ".heif", ".jpe", ".jfif", ".mpo", ".apng", ".dib", ".psd", ".svg", ".eps", ".ico", ".tga", ".jp2", ".jxl"}
    | {".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw", ".pdf"}
)
"""what people take for images; those that cannot be read are told by name"""
MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG|GIF8|BM....\0\0\0\0|II\*\0|MM\0\*|RIFF....WEBP|....ftyp(avi|hei|mif|msf)", re.S
)
OWN = frozenset({"report.html", "prepared.jsonl"})


@dataclass(frozen=True, slots=True)
class Item:
    """One image with what is said of it."""

    entry: Entry
    captions: tuple[str, ...] = ()
    of_class: str | None = None
    """the caption that its folder's name gives where it has none of its own: `10_sks cat` -> "sks cat" """
    repeats: int = 1
    """how often it counts in each pass over the data"""
    group: str = ""
    """name of the kohya folder that it lies in"""
    prior: bool = False
    """a regularisation image"""
    held_out: bool = False
    mask: Entry | None = None
    weight: float = 1.0
    """how much its errors count"""
    troubles: tuple[str, ...] = ()
    """why it cannot be used, each with what to do"""


@dataclass(frozen=True)
class Layout:
    """All that a source holds."""

    items: list[Item] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    """(file, reason) of what is no image and belongs to none"""
    unread: list[tuple[str, str]] = field(default_factory=list)
    """(file, folder or archive; reason) of what may hold images, and cannot be read"""
    troubles: list[str] = field(default_factory=list)
    """what is wrong with lists of captions: `file:line: reason; remedy`"""


def arrange(source: Source) -> Layout:
    """Reads the names and texts of a source, and no image."""
    layout = Layout()
    images: dict[str, Entry] = {}
    texts: dict[str, dict[str, Entry]] = {}
    lists: list[Entry] = []
    for entry in source.entries():
        path = PurePosixPath(entry.name)
        suffix = path.suffix.lower()
        if entry.hides:
            layout.unread.append((entry.told, entry.trouble or "cannot be read"))
        elif path.name in (captions.METADATA, captions.METADATA_CSV):
            lists.append(entry)
        elif suffix in TEXTS:
            texts.setdefault(_stem(entry.name), {})[suffix] = entry
        elif entry.name in images:
            layout.unread.append((entry.told, entry.trouble or "stands there twice; remove one of them"))
        elif suffix in IMAGE_LIKE or (not entry.trouble and MAGIC.match(source.head(entry))):
            images[entry.name] = entry
        elif path.name not in OWN or len(path.parts) > 1:
            layout.left.append((entry.told, entry.trouble or "is no image"))
    masks = _masks(images, layout)
    listed, weights = _listed(source, lists, images, layout)
    splits = any(name.startswith("train/") for name in images)
    used: set[str] = set()
    for name, entry in images.items():
        told, troubles = _captions(source, entry, texts.get(_stem(name), {}), listed.get(name))
        used.add(_stem(name))
        item = _item(source, entry, told, troubles, masks.get(_stem(name)), splits=splits)
        layout.items.append(replace(item, weight=weights[name]) if name in weights else item)
    for stem, found in texts.items():
        if stem not in used:
            layout.left.extend((entry.told, "no image of that name") for entry in found.values())
    return layout


def _masks(images: dict[str, Entry], layout: Layout) -> dict[str, Entry]:
    """{stem of the image: its mask}; they are taken out of the images."""
    masks = {}
    stems = {_stem(name) for name in images}
    for name in list(images):
        stem = _stem(name)
        owner = without_end(stem, MASK)
        if without_end(stem, UNUSED_LABEL) in stems:
            layout.left.append((images.pop(name).told, "a condition image, which is not used"))
        elif owner is not None:
            if owner in stems:
                masks[owner] = images.pop(name)
            else:
                layout.left.append((images.pop(name).told, "a mask without its image"))
    return masks


def _listed(
    source: Source, lists: Sequence[Entry], images: dict[str, Entry], layout: Layout
) -> tuple[dict[str, tuple[str, ...]], dict[str, float]]:
    """{image: captions} and {image: weight} of every metadata.jsonl and metadata.csv."""
    found: dict[str, tuple[str, ...]] = {}
    weights: dict[str, float] = {}
    for entry in lists:
        try:
            data = source.text(entry, captions.METADATA_BYTES, "which is too much; split the data set")
            rows = captions.rows(captions.decoded(data, entry.told), entry.told)
        except DataError as error:
            layout.troubles.extend(error.problems)
            continue
        here: set[str] = set()
        at, wrong = rows.at, rows.wrong
        for name, told in rows.captions.items():
            inner = posixpath.normpath(posixpath.join(posixpath.dirname(entry.name), name))
            if inner not in images or name.startswith("/"):
                reason = f"{name[:200]} is not a file in this folder; mend or remove that line"
                wrong.append(f"{entry.told}:{at[name]}: {reason}")
            elif inner in here:
                wrong.append(f"{entry.told}:{at[name]}: {inner} has a line already; remove one of them")
            else:
                found |= {inner: told} if told else {}
                weights |= {inner: rows.weights[name]} if name in rows.weights else {}
            here.add(inner)
        layout.troubles.extend(sorted(wrong, key=_line))
    return found, weights


def _captions(
    source: Source, entry: Entry, texts: dict[str, Entry], listed: tuple[str, ...] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The captions of an image, and why they or it cannot be read."""
    troubles = [f"{entry.told}: {entry.trouble}"] if entry.trouble else []
    if listed:
        return listed, tuple(troubles)
    for suffix in TEXTS:
        if suffix not in texts:
            continue
        text = texts[suffix]
        try:
            if suffix == ".json":
                return _from_json(source, text), tuple(troubles)
            data = source.text(text, captions.BYTES, "which is no caption; shorten it or rename the file")
            return captions.lines(captions.decoded(data, text.told)), tuple(troubles)
        except DataError as error:
            return (), (*troubles, *error.problems)
    return (), tuple(troubles)


def _from_json(source: Source, entry: Entry) -> tuple[str, ...]:
    """The caption in a JSON object, as WebDataset's tools write beside each image; () where it tells none."""
    try:
        told = json.loads(source.text(entry, 16 * captions.BYTES, "which is no caption"))
        text = next(told[name] for name in ("caption", "text", "prompt") if name in told)
        return captions.lines(text)
    except (DataError, ValueError, TypeError, AttributeError, StopIteration, RecursionError):
        return ()


def _item(
    source: Source, entry: Entry, told: tuple[str, ...], troubles: tuple[str, ...], mask: Entry | None, *, splits: bool
) -> Item:
    folders = list(PurePosixPath(entry.name).parts[:-1])
    parent = folders[-1] if folders else source.title
    kohya = KOHYA.fullmatch(parent)
    repeats = int(kohya[1]) if kohya else 1
    named = kohya is not None and 1 <= repeats <= MOST_REPEATS
    return Item(
        entry,
        told,
        of_class=(captions.clean(kohya[2]) or None) if kohya and named else None,
        repeats=repeats if named else 1,
        group=parent if named else "",
        prior=any(folder.lower() in REGULARISATION for folder in folders),
        held_out=bool(folders) and (folders[0] == HELD_OUT or (splits and folders[0].lower() in SPLITS)),
        mask=mask,
        troubles=troubles,
    )


def _stem(name: str) -> str:
    """The path without its suffix, which is what files that belong together share."""
    head, _, last = name.rpartition("/")
    stem = last.rpartition(".")[0] or last
    return f"{head}/{stem}" if head else stem


def _line(problem: str) -> int:
    """The line number in `file:line: ...`, so that problems stand in the file's order."""
    found = re.search(r":(\d+): ", problem)
    return int(found[1]) if found else 0
