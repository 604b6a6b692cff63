"""Sheets of pictures that are on disk, with labels on both sides, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from PIL import Image, ImageDraw

from sdtune.core.picture_file import HOW
from sdtune.core.picture_notes import SUFFIXES
from sdtune.core.run_folder import write_atomically
from sdtune.core.sampling.axes import Axis
from sdtune.core.sampling.layout import Shown, Table, tables_of, told
from sdtune.core.sheet import GAP, SMALLEST, WIDEST, Font, as_wide, font_of, opened, size_of, wrapped

TALLEST = 8000  # pixels
LEAST = 64  # pixels of a cell's width; sheets grow rather than show less
BESIDE = 120, 360  # pixels of the labels of rows, at least and at most
COLUMN_LINES, HEADING_LINES, FOOT_LINES, CAPTION_LINES = 4, 3, 3, 2
GROUND, INK, SOFT, MAT = (
    "#efefed",
    "#1a1a1a",
    "#5c5c5c",
    "#dededb",
)  # not white, so that edges of white pictures are seen


@dataclass(frozen=True)
class Plan:
    """Where everything of a table stands, in pixels from its own top left."""

    cell: tuple[int, int]
    beside: int
    """width of the labels of rows"""
    heading: list[str]
    rows: list[list[str]]
    columns: list[list[str]]
    foot: list[str]
    captions: dict[tuple[int, int], list[str]]
    letters: int

    @property
    def line(self) -> int:
        """Height of a line of text."""
        return round(self.letters * 1.35)

    @property
    def under(self) -> int:
        """Height of what stands under each picture."""
        return max(map(len, self.captions.values()), default=0) * self.line

    @property
    def top(self) -> int:
        """Where the first row begins."""
        heading = len(self.heading) * round(self.line * 1.2) + GAP if self.heading else 0
        return GAP + heading + max(len(lines) for lines in self.columns) * self.line + GAP // 2

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of all."""
        foot = GAP + len(self.foot) * self.line if self.foot else 0
        width = self.place(0, len(self.columns))[0]
        return width, self.place(len(self.rows), 0)[1] + foot + GAP

    def place(self, row: int, column: int) -> tuple[int, int]:
        """(left, top) of a cell."""
        return GAP + self.beside + column * (self.cell[0] + GAP), self.top + row * (self.cell[1] + self.under + GAP)


def write_sheet(pictures: Sequence[Shown], axes: Sequence[Axis], out: Path) -> None:
    """A labelled sheet, as PNG, JPEG or WebP by its name.

    Pictures are opened one at a time, and scaled down where the sheet would be too large.
    What `parts_of` parts stands below each other.
    """
    tables = tables_of(pictures, axes)
    plans = [plan_of(table, TALLEST // len(tables)) for table in tables]
    canvas = Image.new("RGB", (max(plan.size[0] for plan in plans), sum(plan.size[1] for plan in plans)), GROUND)
    top = 0
    for table, plan in zip(tables, plans, strict=True):
        _draw(canvas, top, table, plan)
        top += plan.size[1]
    kind = SUFFIXES[out.suffix.lower()]
    write_atomically(out, lambda path: canvas.save(path, format=kind, **HOW[kind]))


def plan_of(table: Table, tallest: int) -> Plan:
    """Cells of the pictures' own size, or more where that is little, or less where the sheet would be too large."""
    sizes = [size for one in table.cells.values() if (size := size_of(one.path))] or [(SMALLEST, SMALLEST)]
    width, height = (max(side) for side in zip(*sizes, strict=True))
    factor = max(1.0, -(-SMALLEST // width))
    for _ in range(2):  # the first tells how large the letters are
        plan = _planned(table, (round(width * factor), round(height * factor)))
        across = (WIDEST - plan.place(0, 0)[0]) / len(table.columns) - GAP
        texts = plan.size[1] - len(table.rows) * (plan.cell[1] + GAP)
        down = (tallest - texts) / len(table.rows) - GAP
        factor = max(min(factor, across / width, down / height), LEAST / width)
    return _planned(table, (max(1, int(width * factor)), ceil(height * factor)))


def _planned(table: Table, cell: tuple[int, int]) -> Plan:
    letters = min(36, max(13, cell[0] // 15))
    font, line = font_of(letters), round(letters * 1.35)
    longest = max((font.getlength(part) for text in table.rows for part in text[:1000].split("\n")), default=0)
    beside = min(round(longest) + 2 * GAP, max(BESIDE[0], min(BESIDE[1], cell[0]))) if any(table.rows) else 0
    width = GAP + beside + len(table.columns) * (cell[0] + GAP) - 2 * GAP
    return Plan(
        cell,
        beside,
        wrapped(table.heading, _bold(letters), width, HEADING_LINES) if table.heading else [],
        [wrapped(text, font, beside - GAP, max(1, cell[1] // line)) if text else [] for text in table.rows],
        [wrapped(text, font, cell[0], COLUMN_LINES) if text else [] for text in table.columns],
        wrapped(told(table.settings), font, width, FOOT_LINES) if table.settings else [],
        {place: wrapped(text, font, cell[0], CAPTION_LINES) for place, text in table.captions.items() if text},
        letters,
    )


def _draw(canvas: Image.Image, top: int, table: Table, plan: Plan) -> None:
    pen = ImageDraw.Draw(canvas)
    font = font_of(plan.letters)
    for place, one in table.cells.items():
        left, above = plan.place(*place)
        _put(canvas, (left, top + above), one.path, plan.cell)
    for place, lines in plan.captions.items():
        left, above = plan.place(*place)
        for number, text in enumerate(lines):
            pen.text((left, top + above + plan.cell[1] + number * plan.line), text, INK, font)
    for number, text in enumerate(plan.heading):
        pen.text((GAP, top + GAP + number * round(plan.line * 1.2)), text, INK, _bold(plan.letters))
    for column, lines in enumerate(plan.columns):
        left, below = plan.place(0, column)
        for number, text in enumerate(reversed(lines), 1):
            middle = left + plan.cell[0] // 2
            pen.text((middle, top + below - GAP // 2 - number * plan.line), text, INK, font, anchor="ma")
    for row, lines in enumerate(plan.rows):
        _, above = plan.place(row, 0)
        start = above + (plan.cell[1] - len(lines) * plan.line) // 2
        for number, text in enumerate(lines):
            pen.text((GAP, top + start + number * plan.line), text, INK, font)
    for number, text in enumerate(plan.foot):
        _, below = plan.place(len(plan.rows), 0)
        pen.text((GAP, top + below + number * plan.line), text, SOFT, font)


def _put(canvas: Image.Image, place: tuple[int, int], path: Path, cell: tuple[int, int]) -> None:
    """A picture in the middle of its cell, which stays grey where there is none."""
    canvas.paste(MAT, (*place, place[0] + cell[0], place[1] + cell[1]))
    picture = opened(path)
    if picture is None:
        return
    width = min(cell[0], max(1, int(cell[1] * picture.width / picture.height)))
    picture = as_wide(picture, width)
    canvas.paste(picture, (place[0] + (cell[0] - width) // 2, place[1] + max(0, cell[1] - picture.height) // 2))


def _bold(letters: int) -> Font:
    return font_of(round(letters * 1.15), bold=True)
