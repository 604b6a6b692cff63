"""Folders that are nearly right: what they hold in place of images and captions, and what makes them right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from sdtune.core.data import archives, captions
from sdtune.core.data.images import suffixes_shown
from sdtune.core.data.layout import HELD_OUT, IMAGE_LIKE, MOST_REPEATS, Layout
from sdtune.core.data.sources import RUN_SETTINGS

TABLES = (".parquet", ".arrow")
TEXT_LIKE = frozenset({".txt", ".text", ".caption", ".captions", ".cap", ".tags", ".tag", ".prompt"})
ENDINGS = re.compile(r"[-_. ](captions?|tags?|prompts?|text)$")
LISTS = (".jsonl", ".csv", ".tsv", ".json")
VIDEOS = (".mp4", ".mov", ".mkv", ".avi", ".webm")
REPEATS = re.compile(r"\d+_.*\w.*")  # as in 1000_cat; where kohya's form is right it is a caption
LIST_BYTES = 2**20  # so much of a list is looked into


def instead_of_images(layout: Layout) -> str:
    """What a folder holds whose images cannot be found, with what to do."""
    if layout.items:
        return f"only in {HELD_OUT}/, which is kept from training; put the others beside it"
    links = [told for told, reason in layout.unread if "--follow-links" in reason]
    if links:
        return f"{links[0]} is a link that leads out of it: --follow-links reads it"
    if layout.unread:
        told, reason = layout.unread[0]
        return f"{told}: {reason}"
    left = [told for told, _ in layout.left]
    if packed := _ending(left, archives.SUFFIXES):
        return f"there is {packed}: sdtune prepare {packed} --out dataset"
    if table := _ending(left, TABLES):
        return f"there is {table}, a table: save its images as files, as docs/data.md says"
    if runs := [told for told in left if (Path(told) / RUN_SETTINGS).is_file()]:
        return f"{runs[0]} is the folder of a training, whose pictures are no data; give the folder it was trained on"
    if video := _ending(left, VIDEOS):
        return f"there is {video}, a video: save the pictures wanted from it"
    if texts := _ending(left, tuple(TEXT_LIKE)):
        return f"there is {texts}, but no image of that name: put the images beside their captions"
    return f"put images there ({suffixes_shown()})"


def unpacked(file: Path) -> str:
    """What to do where a file is given in place of a folder."""
    archive = file.name.lower().endswith(archives.SUFFIXES)
    return f", or make one: sdtune prepare {file} --out dataset" if archive else ""


def instead_of_captions(images: Sequence[Path], layout: Layout) -> str | None:
    """Where the captions of images that lack them seem to stand, with what to do; None where they stand nowhere."""
    left = [Path(told) for told, _ in layout.left]
    texts: dict[str, list[Path]] = {}
    for path in left:
        if path.suffix.lower() in TEXT_LIKE:
            texts.setdefault(_bare(path), []).append(path)
    found = [(image, _nearest(image, near)) for image in images if (near := texts.get(image.stem.lower()))]
    if found:
        image, text = found[0]
        wanted = image.with_suffix(".txt")
        told = f"put {text} beside it, as" if text.parent != image.parent else f"rename {text.name} to"
        others = f", and {len(found) - 1} others alike" if len(found) > 1 else ""
        return f"the caption of {image.name} seems to stand elsewhere: {told} {wanted.name}{others}"
    for path in left:
        if path.suffix.lower() in LISTS and _names(path, images):
            return (
                f"{path.name} names them: make a {captions.METADATA} of it, with lines {captions.FORMS['.jsonl'][17:]}"
            )
    for image in images:
        folder = image.resolve().parent.name
        if REPEATS.fullmatch(folder):
            return (
                f"{folder} names no class, since the repeats that such a name begins with are 1 to {MOST_REPEATS}: "
                f"give it such a number, or write {image.with_suffix('.txt').name} beside {image.name}"
            )
    silent = [image.with_suffix(".json") for image in images if image.with_suffix(".json").is_file()]
    return f'{silent[0].name} tells no "caption", "text" or "prompt"; write one there' if silent else None


def _ending(left: Sequence[str], suffixes: tuple[str, ...]) -> str | None:
    return next((told for told in left if told.lower().endswith(suffixes)), None)


def _bare(text: Path) -> str:
    """The name that an image of this text would have: Cat.png.txt, cat_caption.txt and cat.tags are cat's."""
    name = text.stem.lower()
    suffix = Path(name).suffix
    return ENDINGS.sub("", name.removesuffix(suffix) if suffix in IMAGE_LIKE else name)


def _nearest(image: Path, texts: Sequence[Path]) -> Path:
    """The one in its own folder, where there is one."""
    return next((text for text in texts if text.parent == image.parent), texts[0])


def _names(file: Path, images: Sequence[Path]) -> bool:
    """Whether a list speaks of one of the images."""
    try:
        if not file.is_file():
            return False
        with file.open("rb") as there:
            head = there.read(LIST_BYTES)
    except OSError:
        return False
    return any(image.name.encode("utf-8", "surrogateescape") in head for image in images[:100])
