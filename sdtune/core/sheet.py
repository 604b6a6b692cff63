"""Several pictures as one labelled sheet."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

GAP = 8
SMALLEST = 192  # smaller pictures are enlarged, so that a sheet of a small model can be looked at


def sheet(rows: Sequence[Sequence[Image.Image]], columns: Sequence[str], labels: Sequence[str]) -> Image.Image:
    """A grid of pictures with a heading over each column and a label over each row; rows may differ in size."""
    factor = max(1, -(-SMALLEST // max(image.width for row in rows for image in row)))
    rows = [[image.resize((image.width * factor, image.height * factor), Image.Resampling.LANCZOS) for image in row] for row in rows]
    cell = max(image.width for row in rows for image in row)
    font = ImageFont.load_default(max(12, cell // 16))
    line = round(font.size * 1.5)
    heading = line if any(columns) else 0
    width = GAP + len(rows[0]) * (cell + GAP)
    height = heading + sum(line + max(image.height for image in row) + GAP for row in rows) + GAP
    canvas = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(canvas)
    for number, text in enumerate(columns):
        pen.text((GAP + number * (cell + GAP), GAP // 2), text, fill="black", font=font)
    top = heading
    for row, label in zip(rows, labels, strict=True):
        pen.text((GAP, top + GAP // 2), _shortened(label, font, width - 2 * GAP), fill="#555555", font=font)
        for number, image in enumerate(row):
            canvas.paste(image, (GAP + number * (cell + GAP), top + line))
        top += line + max(image.height for image in row) + GAP
    return canvas


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    text = " ".join(text.split())
    while font.getlength(text) > width and len(text) > 4:
        text = text[:-4] + "..."
    return text
