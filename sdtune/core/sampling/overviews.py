"""Overviews of finished pictures: sheets, pages, animations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdtune.core.picture_text import parameters
from sdtune.core.reports import Saved, Telling
from sdtune.core.sampling.animation import write_animation
from sdtune.core.sampling.asked import Asked
from sdtune.core.sampling.axes import Axis
from sdtune.core.sampling.layout import Shown, groups_of, parts_of
from sdtune.core.sampling.page import write_page
from sdtune.core.sampling.recipe import Recipe
from sdtune.core.sampling.sheets import write_sheet
from sdtune.core.sampling.shelf import Shelf
from sdtune.sample_config import Sample

GIF = ".gif"
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
    shown = [
        Shown(one.path, one.asked.text, one.asked.seed, one.asked.line, one.asked.cell, parameters(one.recipe))
        for one in pictures
    ]
    if config.animate:
        for some in groups_of(shown, axes).values():
            path = shelf.further("animation", GIF if config.out.suffix.lower() == GIF else ".webp")
            write_animation(some, axes[0], path)
            yield Saved("animation", path)
    elif axes:
        for some in parts_of(shown, axes):
            path = shelf.further("grid", ".png")
            write_sheet(some, axes, path)
            yield Saved("sheet", path)
        page = shelf.further("grid", ".html")
        write_page(shown, axes, page)
        yield Saved("page", page)
    elif drawn and len(shown) in SHEET:
        path = shelf.further("grid", ".png")
        write_sheet(shown, (), path)
        yield Saved("sheet", path)
