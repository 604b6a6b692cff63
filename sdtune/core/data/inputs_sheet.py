"""The inputs' sheet: some images as the model is shown them, each under what was done to it."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from sdtune.core.data.views import View
from sdtune.core.sheet import GAP, wrapped

MOST = 16  # images on a sheet
COLUMNS = 4
CELL = 256, 320  # pixels that an image has at most
LETTERS = 14  # pixels
LINES = 4, 2  # of what was done, and of the caption
GROUND, DARK, GREY = "#ececec", "#1a1a1a", "#5c5c5c"  # not white, so that the edges of white pictures are seen


def chosen(views: Sequence[int]) -> list[tuple[int, int]]:
    """(image, view) of at most 16 inputs, spread over all images and over their views; each image has so many."""
    shown = min(MOST, len(views))
    found = []
    for again in range(MOST):
        for place in range(shown):
            image = place * len(views) // shown
            if again < views[image]:
                found.append((image, (place + again) % views[image]))
    return sorted(found[:MOST])


def inputs_sheet(shown: Sequence[tuple[Image.Image, View, str, str]]) -> Image.Image:
    """Each image as it is shown, in rows of four, over what was done to it and its caption, which may say so."""
    font = ImageFont.load_default(LETTERS)
    line = round(LETTERS * 1.3)
    cells = [
        (_fitted(image), _lines(f"{name}: {done(view)}", caption + view.said, font))
        for image, view, caption, name in shown[:MOST]
    ]
    rows = [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
    heights = [max(image.height for image, _ in row) for row in rows]
    below = [GAP // 2 + line * max(len(lines) for _, lines in row) + 2 * GAP for row in rows]
    width = GAP + len(rows[0]) * (CELL[0] + GAP)
    canvas = Image.new("RGB", (width, GAP + sum(heights) + sum(below)), GROUND)
    pen = ImageDraw.Draw(canvas)
    top = GAP
    for row, height, under in zip(rows, heights, below, strict=True):
        for number, (image, lines) in enumerate(row):
            left = GAP + number * (CELL[0] + GAP)
            canvas.paste(image, (left + (CELL[0] - image.width) // 2, top + height - image.height))
            for place, (words, colour) in enumerate(lines):
                pen.text((left, top + height + GAP // 2 + place * line), words, fill=colour, font=font)
        top += height + under
    return canvas


def done(view: View) -> str:
    """What was done to the image."""
    left, top, right, bottom = view.box
    words = [f"{view.size[0]} x {view.size[1]} of {right - left:.0f} x {bottom - top:.0f}"]
    words += ["mirrored"] if view.mirrored else []
    words += [f"turned {view.angle:+.1f} degrees"] if view.angle else []
    changes = zip(("light", "contrast", "colour"), (round(100 * one) - 100 for one in view.colours), strict=True)
    words += [f"{name} {percent:+d}%" for name, percent in changes if percent]
    return ", ".join(words)


def _fitted(image: Image.Image) -> Image.Image:
    scale = min(CELL[0] / image.width, CELL[1] / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _lines(what: str, caption: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[tuple[str, str]]:
    """(words, colour) of each line below an image."""
    parts = zip((what, caption), LINES, (DARK, GREY), strict=True)
    return [(words, colour) for part, most, colour in parts for words in _begun(part, font, most)]


def _begun(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, most: int) -> list[str]:
    """The text in a few lines, with dots where it goes on."""
    lines = wrapped(text, font, CELL[0], most)
    if " ".join(lines) != " ".join(text.split()):
        while font.getlength(f"{lines[-1]} ...") > CELL[0]:
            lines[-1] = lines[-1][:-1]
        lines[-1] = f"{lines[-1].rstrip(' ,')} ..."
    return lines
