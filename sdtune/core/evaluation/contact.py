"""Pictures on a page that has them within: small, with what they show in words, and only as many as a page can hold."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sdtune.core.data.images import open_image
from sdtune.core.evaluation.subject import Case, Kind, Unit
from sdtune.core.html_page import text
from sdtune.errors import DataError

SMALL, LARGE = 160, 320  # pixels of the longer side, twice of what most screens show
PAGE_BYTES = 6 * 2**20  # of pictures in a page, as base64; the rest lies in files
QUALITY = 78
LETTERS = 300  # of a prompt
NAME = 80  # letters of a name
CHOSEN = ' class="chosen"'
TRAINED, REAL = "trained picture", "real picture"
ROWS = 3  # of each kind that are shown at once
KINDS: dict[Kind, str] = {
    "in-distribution": "Prompts like the captions",
    "new context": "What was learned, somewhere new",
    "generic": "Everyday prompts, which should stay as they were",
    "pair": "Prompts with a true picture",
}


def escaped(told: str, most: int = LETTERS) -> str:
    """Text of others, as nothing but letters, and not too many."""
    more = len(told) - most
    return text(told) if more <= 0 else f"{text(told[:most])}... and {more:,} letters more"


class Album:
    """Makes pictures part of a page until that is full."""

    def __init__(self) -> None:
        self.left = PAGE_BYTES
        self._made: dict[tuple[Path, int], tuple[str, tuple[int, int]] | None] = {}

    @property
    def is_full(self) -> bool:
        """Whether no more pictures are taken."""
        return self.left <= 0

    def picture(self, path: Path | None, alt: str, side: int = SMALL) -> str:
        """The picture as an element; a box with words where there is none or no room for it; None: nothing."""
        if path is None:
            return ""
        made = self._small(path, side)
        if made is None:
            return f'<div class="blank">{"see pictures/" if self.is_full else "no picture"}</div>'
        data, (width, height) = made
        self.left -= len(data)
        return (
            f'<img src="data:image/webp;base64,{data}" alt="{escaped(alt)}" width="{width}" height="{height}"'
            ' decoding="async">'
        )

    def _small(self, path: Path, side: int) -> tuple[str, tuple[int, int]] | None:
        if self.is_full:
            return None
        key = (path, side)
        if key not in self._made:
            self._made[key] = _encoded(path, side)
        return self._made[key]


def _encoded(path: Path, side: int) -> tuple[str, tuple[int, int]] | None:
    try:
        image = open_image(path)
    except DataError:
        return None
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.save(data, "WEBP", quality=QUALITY, method=4)
    return base64.b64encode(data.getvalue()).decode(), image.size


@dataclass(frozen=True)
class Column:
    """What a contact sheet shows of each prompt."""

    label: str
    pictures: Sequence[Path | None]
    """one a row"""
    chosen: bool = False
    """whether it is what is recommended"""


@dataclass(frozen=True)
class Row:
    """A prompt of a contact sheet."""

    label: str
    kind: Kind


def sheets(album: Album, rows: Sequence[Row], columns: Sequence[Column]) -> Iterator[str]:
    """A sheet for each kind of prompts, the first rows open and the others behind a click."""
    yield '<div class="sheets">\n'
    for kind in dict.fromkeys(row.kind for row in rows):
        places = [place for place, row in enumerate(rows) if row.kind == kind]
        yield f"<div><h3>{text(KINDS[kind])} <small>{len(places):,}</small></h3>\n"
        yield from sheet(album, rows, columns, places[:ROWS])
        if places[ROWS:]:
            yield f"<details><summary>{len(places) - ROWS:,} more</summary>\n"
            yield from sheet(album, rows, columns, places[ROWS:])
            yield "</details>\n"
        yield "</div>\n"
    yield "</div>\n"


def sheet(album: Album, rows: Sequence[Row], columns: Sequence[Column], places: Sequence[int]) -> Iterator[str]:
    """One table of pictures; once the page is full, how many prompts are left out."""
    columns = [one for one in columns if any(one.pictures[place] for place in places)]
    heads = "".join(
        f'<th scope="col" dir="auto"{CHOSEN if one.chosen else ""}>{escaped(one.label, NAME)}</th>' for one in columns
    )
    yield (
        f'<div class="scroll" tabindex="0"><table class="contact">\n<thead><tr><td></td>{heads}</tr></thead>\n<tbody>\n'
    )
    for done, place in enumerate(places):
        if album.is_full:
            yield (
                f'<tr><th scope="row">and {len(places) - done:,} more</th>'
                f'<td colspan="{len(columns)}">in pictures/</td></tr>\n'
            )
            break
        row = rows[place]
        yield f'<tr><th scope="row" dir="auto">{escaped(row.label)}</th>'
        for column in columns:
            yield f"<td>{album.picture(column.pictures[place], f'{column.label}: {row.label}')}</td>"
        yield "</tr>\n"
    yield "</tbody>\n</table></div>\n"


def example(case: Case, units: Sequence[Unit]) -> int | None:
    """The unit that shows best what was learned: the first whose prompt describes a picture that was not trained."""

    def telling(place: int) -> tuple[bool, bool]:
        prompt = case.prompts[units[place].prompt]
        return prompt.held_out is None and prompt.truth is None, not prompt.has_concept

    return min(range(len(units)), key=telling, default=None)


def truth(case: Case, unit: Unit) -> tuple[str, Path] | None:
    """(what it is, the picture) that the prompt of a unit describes."""
    prompt = case.prompts[unit.prompt]
    if prompt.truth is not None:
        return "true picture", prompt.truth
    if prompt.held_out is not None:
        return TRAINED if case.references_are_trained else REAL, case.references[prompt.held_out].path
    if prompt.trained is not None:
        return TRAINED, case.subjects[prompt.trained[0]].trained[prompt.trained[1]].path
    return None


def true_column(case: Case, units: Sequence[Unit], places: Sequence[int]) -> list[Column]:
    """The pictures that prompts describe, where any does."""
    found = [truth(case, units[place]) for place in places]
    kinds = sorted({one[0] for one in found if one is not None})
    return [Column(" or ".join(kinds), [one[1] if one is not None else None for one in found])] if kinds else []


def rows_of(case: Case, units: Sequence[Unit], places: Sequence[int]) -> list[Row]:
    """Rows of a contact sheet for these units."""
    prompts = [case.prompts[units[place].prompt] for place in places]
    return [Row(prompt.text, prompt.kind) for prompt in prompts]
