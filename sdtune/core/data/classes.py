"""Classes of a data set: each folder directly under it is one, and says so by its name."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from sdtune.core.data import captions
from sdtune.core.data.layout import HELD_OUT, KOHYA, Layout
from sdtune.errors import DataError

NAMED = 3  # images named in one message
TRAIN = "train"
"""Hugging Face's folder of what is trained on, beside the held out splits; no class"""


def classes_of(folder: Path, layout: Layout) -> dict[str, str]:
    """{path below the folder: class} of all that is trained on, but for regularisation images."""
    items = [item for item in layout.items if not item.held_out and not item.prior]
    splits = any(item.held_out and not item.entry.name.startswith(f"{HELD_OUT}/") for item in layout.items)
    below = {item.entry.name: PurePosixPath(item.entry.name).parts[:-1] for item in items}
    below = {name: parts[1:] if splits and parts[:1] == (TRAIN,) else parts for name, parts in below.items()}
    loose = [name for name, parts in below.items() if not parts]
    if loose:
        more = f" and {len(loose) - NAMED} more" if len(loose) > NAMED else ""
        named = f"{', '.join(loose[:NAMED])}{more} {'is' if len(loose) == 1 else 'are'}"
        raise DataError(f"{folder}: {named} of no class; put each image into a folder that has the name of its class")
    classes = {name: _named(parts[0]) for name, parts in below.items()}
    if len(set(classes.values())) < 2:
        only = next(iter(classes.values()), "")
        raise DataError(
            f"{folder}: holds images of one class alone ({only}); put each class into a folder of its own there, or "
            "say --task text-to-image"
        )
    return classes


def classes_of_held_out(layout: Layout, classes: dict[str, str]) -> dict[str, str]:
    """The same of what is held out in a folder of one of these classes, as held-out/red apple/1.png."""
    held_out = {item.entry.name: PurePosixPath(item.entry.name).parts[1:-1] for item in layout.items if item.held_out}
    named = {name: _named(parts[0]) for name, parts in held_out.items() if parts}
    return {name: told for name, told in named.items() if told in classes.values()}


def _named(folder: str) -> str:
    """ "10_red_apple" -> "red apple"."""
    kohya = KOHYA.fullmatch(folder)
    name = captions.clean((kohya[2] if kohya else folder).replace("_", " ").replace("-", " "))
    return name or folder
