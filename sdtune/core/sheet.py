"""Several pictures as one labelled sheet."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from sdtune.core.html_page import inert
from sdtune.core.run_folder import write_atomically

GAP = 8
WIDEST = 4000  # pixels of a sheet that grows; programs show wider ones badly
SMALLEST = 192  # smaller pictures are enlarged, so that a sheet of a small model can be looked at
HEADING_LINES = 3
FORMATS = ("PNG", "JPEG", "WEBP")
FONTS = "mpl-data/fonts/ttf"  # DejaVu in matplotlib: Latin, Greek, Cyrillic, Arabic, Hebrew; other scripts are boxes
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
SAMPLE = re.compile(r"step-(\d+)-(\d+)\.png")


def growing_sheet(folder: Path, prompts: Sequence[str], out: Path) -> bool:
    """All samples of a run so far: a row for each prompt, a column for each step that was drawn after.

    It is made of the files in the folder alone (step-000080-1.png), so that a resumed run goes on with it. Many columns
    are scaled down, then thinned evenly; the first and the last stay. Returns whether there was anything to show.
    """
    files = {
        (int(found[1]), int(found[2])): path for path in folder.iterdir() if (found := SAMPLE.fullmatch(path.name))
    }
    numbers = range(1, len(prompts) + 1)
    steps = _spread(sorted({step for step, number in files if number in numbers}), (WIDEST - GAP) // (SMALLEST + GAP))
    rows = [[opened(files.get((step, number))) for step in steps] for number in numbers]
    widths = [image.width for row in rows for image in row if image]
    if not widths:
        return False
    cell = min(max(widths) * -(-SMALLEST // max(widths)), (WIDEST - GAP) // len(steps) - GAP)
    shown = [[image and as_wide(image, cell) for image in row] for row in rows]
    picture = sheet(shown, [f"step {step}" for step in steps], [prompt or "(no prompt)" for prompt in prompts])
    write_atomically(out, lambda path: picture.save(path))
    return True


def _spread(steps: Sequence[int], most: int) -> list[int]:
    """At most so many of the steps, evenly, with the first and the last."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(place * (len(steps) - 1) / (most - 1))] for place in range(most)]


def opened(path: Path | None) -> Image.Image | None:
    """The picture, or None where it is missing or broken: its cell stays empty."""
    if path is None:
        return None
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def size_of(path: Path) -> tuple[int, int] | None:
    """(width, height) of a picture by the first bytes of its file; None where it is missing or broken."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def as_wide(image: Image.Image, width: int) -> Image.Image:
    """The picture, so many pixels wide."""
    size = (width, max(1, round(image.height * width / image.width)))
    return image.resize(size, Image.Resampling.LANCZOS)


def sheet(rows: Sequence[Sequence[Image.Image | None]], columns: Sequence[str], labels: Sequence[str]) -> Image.Image:
    """A grid of pictures with a heading over each column and a label over each row; sizes may differ, or one miss."""
    widest = max(image.width for row in rows for image in row if image)
    factor = max(1, -(-SMALLEST // widest))
    cell = factor * widest
    letters = max(12, cell // 16)
    font = font_of(letters)
    line = round(letters * 1.3)
    headings = [wrapped(text, font, cell) for text in columns]
    heading = line * max(len(lines) for lines in headings)
    heights = [factor * max((image.height for image in row if image), default=0) for row in rows]
    width = GAP + max(len(row) for row in rows) * (cell + GAP)
    canvas = Image.new("RGB", (width, GAP + heading + sum(line + height + GAP for height in heights)), "white")
    pen = ImageDraw.Draw(canvas)
    for number, lines in enumerate(headings):
        pen.text((GAP + number * (cell + GAP), GAP // 2), "\n".join(lines), fill="black", font=font, spacing=2)
    top = GAP + heading
    for row, label, height in zip(rows, labels, heights, strict=True):
        pen.text((GAP, top), wrapped(label, font, width - 2 * GAP)[0], fill="#666666", font=font)
        for number, image in enumerate(row):
            if image is None:
                continue
            shown = image.resize((image.width * factor, image.height * factor), Image.Resampling.LANCZOS)
            canvas.paste(shown, (GAP + number * (cell + GAP), top + line))
        top += line + height + GAP
    return canvas


@cache
def font_of(letters: int, *, bold: bool = False) -> Font:
    """Letters of so many pixels, of as many scripts as there are at hand."""
    found = find_spec("matplotlib")
    for folder in (found.submodule_search_locations if found else None) or ():
        path = Path(folder) / FONTS / f"DejaVuSans{'-Bold' * bold}.ttf"
        if path.is_file():
            return ImageFont.truetype(path, letters)
    return ImageFont.load_default(letters)


def wrapped(text: str, font: Font, width: int, most: int = HEADING_LINES) -> list[str]:
    """The text in lines of this width, cut off after a few; words that are longer than a line go on in the next."""
    lines = [""]
    whole = inert(text[: (most + 1) * (width + 1)])  # no letter is narrower than a pixel, and many texts are long
    for word in whole.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines += [""] * bool(lines[-1])
        while font.getlength(word) > width and len(lines) <= most:
            fits = _fitting(word, font, width)
            lines[-1], word = word[:fits], word[fits:]
            lines.append("")
        lines[-1] = word
        if len(lines) > most:
            break
    if len(lines) <= most or not "".join(lines[most:]):
        return lines[:most]
    last = f"{lines[most - 1]}..."
    return [*lines[: most - 1], last if font.getlength(last) <= width else f"{lines[most - 1][:-3].rstrip()}..."]


def _fitting(word: str, font: Font, width: int) -> int:
    """How many letters of a word fit into a line, one at least."""
    fits = bisect_right(range(1, len(word) + 1), float(width), key=lambda count: float(font.getlength(word[:count])))
    return max(1, fits)
