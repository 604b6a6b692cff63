"""Several pictures as one labelled sheet."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

GAP = 8
SMALLEST = 192  # smaller pictures are enlarged, so that a sheet of a small model can be looked at
HEADING_LINES = 3


def sheet(rows: Sequence[Sequence[Image.Image]], columns: Sequence[str], labels: Sequence[str]) -> Image.Image:
    """A grid of pictures with a heading over each column and a label over each row; sizes may differ."""
    factor = max(1, -(-SMALLEST // max(image.width for row in rows for image in row)))
    cell = factor * max(image.width for row in rows for image in row)
    letters = max(12, cell // 16)
    font = ImageFont.load_default(letters)
    line = round(letters * 1.3)
    headings = [wrapped(text, font, cell) for text in columns]
    heading = line * max(len(lines) for lines in headings)
    heights = [factor * max(image.height for image in row) for row in rows]
    width = GAP + max(len(row) for row in rows) * (cell + GAP)
    canvas = Image.new("RGB", (width, GAP + heading + sum(line + height + GAP for height in heights)), "white")
    pen = ImageDraw.Draw(canvas)
    for number, lines in enumerate(headings):
        pen.text((GAP + number * (cell + GAP), GAP // 2), "\n".join(lines), fill="black", font=font, spacing=2)
    top = GAP + heading
    for row, label, height in zip(rows, labels, heights, strict=True):
        pen.text((GAP, top), wrapped(label, font, width - 2 * GAP)[0], fill="#666666", font=font)
        for number, image in enumerate(row):
            shown = image.resize((image.width * factor, image.height * factor), Image.Resampling.LANCZOS)
            canvas.paste(shown, (GAP + number * (cell + GAP), top + line))
        top += line + height + GAP
    return canvas


def wrapped(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, most: int = HEADING_LINES
) -> list[str]:
    """The text in lines of this width, cut off after a few."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    kept = [line for line in lines if line][:most] or [""]
    while font.getlength(kept[-1]) > width and len(kept[-1]) > 1:
        kept[-1] = kept[-1][:-1]
    return kept
