"""Overviews of finished pictures: sheets, pages, animations."""

from __future__ import annotations

import filecmp
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sdtune.core.picture_text import parameters
from sdtune.core.reports import Saved, Telling, Warned
from sdtune.core.sampling.animation import write_animation
from sdtune.core.sampling.asked import Asked
from sdtune.core.sampling.axes import Axis
from sdtune.core.sampling.axis_settings import name_of
from sdtune.core.sampling.layout import Shown, groups_of, parts_of
from sdtune.core.sampling.page import write_page
from sdtune.core.sampling.recipe import Recipe
from sdtune.core.sampling.sheets import write_sheet
from sdtune.core.sampling.shelf import PAGE, Shelf
from sdtune.sample_config import Sample

SHEET = range(2, 101)
"""so many pictures get a sheet of all, where none is asked for"""


@dataclass(frozen=True)
class Finished:
    """A picture on disk."""

    asked: Asked
    recipe: Recipe
    path: Path


def overviews(
    config: Sample, axes: Sequence[Axis], pictures: Sequence[Finished], shelf: Shelf, *, drawn: int
) -> Telling[None]:
    """Writes what is asked for, telling each; without axes a sheet of all where some were drawn just now."""
    shown = [_shown(one) for one in pictures]
    own = shelf.whole.suffix if shelf.whole else None
    if config.animate:
        for some in groups_of(shown, axes).values():
            film = partial(write_animation, some, axes[0])
            yield from _put(shelf, ("animation", "animation"), own or ".webp", film)
    elif axes:
        for some in parts_of(shown, axes):
            yield from _put(shelf, ("sheet", "grid"), own or ".png", partial(write_sheet, some, axes))
        yield from _put(shelf, ("page", "grid"), PAGE, partial(write_page, shown, axes))
    elif drawn and len(shown) in SHEET:
        yield from _put(shelf, ("sheet", "grid"), ".png", partial(write_sheet, shown, ()))


def _shown(one: Finished) -> Shown:
    asked = one.asked
    loras = {name_of(lora): str(lora.strength) for lora in asked.loras}
    return Shown(one.path, asked.text, asked.seed, asked.line, asked.cell, parameters(one.recipe), loras)


def _put(shelf: Shelf, kind: tuple[str, str], suffix: str, write: Callable[[Path], None]) -> Telling[None]:
    """Writes a file of a kind, (as people call it, as its name begins), and tells where it is.

    What holds the same bytes already stays alone; other bytes are not replaced, but where that is asked for.
    """
    what, begins = kind
    named = shelf.named(suffix)
    if named and (shelf.config.overwrite or not named.exists()):
        write(named)
        yield Saved(what, named)
        return
    if named and _is_there(named, write):
        yield Saved(f"{what} (there already)", named)
        return
    path = shelf.further(begins, suffix)
    write(path)
    place = shelf.settled(path)
    if named:
        yield Warned(f"{named}: is there already, and another {what}, so that this one is {place}")
    yield Saved(what if place == path else f"{what} (there already)", place)


def _is_there(named: Path, write: Callable[[Path], None]) -> bool:
    """Whether a file holds what would be written: that is tried beside it, where pages lead to the same places."""
    handle, name = tempfile.mkstemp(dir=named.parent, prefix=".sdtune-", suffix=named.suffix)
    os.close(handle)
    try:
        write(Path(name))
        return filecmp.cmp(named, name, shallow=False)
    finally:
        Path(name).unlink(missing_ok=True)
