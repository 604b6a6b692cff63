"""Plain borders are found to the pixel, and what only looks like one is left alone."""

from __future__ import annotations

import io

import numpy
import pytest
from PIL import Image, ImageDraw, ImageOps

from sdtune.core.data.images import open_image
from sdtune.core.intake.borders import SAME, Sides, _lines, _strays, find_border
from tests.core.data.test_images import detailed
from tests.core.intake.test_measures import DRAWINGS

SIDES: list[Sides] = [(0, 31, 0, 29), (25, 0, 37, 0), (20, 12, 16, 50), (3, 3, 3, 3), (0, 130, 0, 130)]


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("colour", ["black", "white", (120, 20, 60)])
def test_bars_are_found_to_the_pixel(sides: Sides, colour: str | tuple[int, int, int]) -> None:
    assert find_border(ImageOps.expand(detailed(300, 200), sides, colour)) == sides


@pytest.mark.parametrize("level", [0, 5, 10, 10.5, 128, 244.5, 245, 255])
def test_lines_are_compared_in_bytes_as_they_would_be_in_numbers(level: float) -> None:
    chance = numpy.random.default_rng(0)
    near = chance.integers(int(level) - 12, int(level) + 14, (40, 30, 3)).clip(0, 255).astype(numpy.uint8)
    colour = numpy.array([level, level, level])
    for side in range(4):
        off = abs(_lines(Image.fromarray(near), side, 3, 8) - colour).max(axis=2) > SAME
        assert (_strays(Image.fromarray(near), side, 3, 8, colour) == off.mean(axis=1)).all()


@pytest.mark.parametrize("sides", [*SIDES[:2], (36, 24, 32, 50)])
@pytest.mark.parametrize("quality", [40, 70, 95])
def test_jpeg_hides_no_bar(sides: Sides, quality: int) -> None:
    buffer = io.BytesIO()
    ImageOps.expand(detailed(300, 200), sides, "black").save(buffer, "JPEG", quality=quality)
    found = find_border(Image.open(buffer).convert("RGB"))
    assert found is not None
    for depth, true in zip(found, sides, strict=True):
        assert abs(depth - true) <= (16 if true else 0)


def disc(margin: int) -> Image.Image:
    image = Image.new("RGB", (256, 256), "white")
    ImageDraw.Draw(image).ellipse((margin, margin, 255 - margin, 255 - margin), fill="red")
    return image


def rounded() -> Image.Image:
    image = Image.new("RGB", (256, 256), "white")
    ImageDraw.Draw(image).rounded_rectangle((30, 30, 225, 225), 40, fill="red")
    return image


def cross() -> Image.Image:
    image = Image.new("RGB", (256, 256), "white")
    for line in ((30, 30, 225, 225), (225, 30, 30, 225)):
        ImageDraw.Draw(image).line(line, fill="red", width=24)
    image.paste("white", (0, 0, 256, 30))
    image.paste("white", (0, 226, 256, 256))
    return image


def one_bar() -> Image.Image:
    return ImageOps.expand(detailed(300, 200), (0, 40, 0, 0), "white")


def bars_of_two_colours() -> Image.Image:
    image = ImageOps.expand(detailed(300, 200), (0, 40, 0, 40), "white")
    image.paste("black", (0, 240, 300, 280))
    return image


def mountains() -> Image.Image:
    image = Image.new("RGB", (300, 200), "white")
    ImageDraw.Draw(image).polygon([(0, 160), (80, 60), (150, 120), (220, 40), (299, 160), (299, 180), (0, 180)], "grey")
    return image


NONE = {
    "a picture": detailed(300, 200),
    "a disc on white": disc(30),
    "a disc that touches the edge": disc(0),
    "a card with round corners": rounded(),
    "a cross whose ends are the corners": cross(),
    "one bar": one_bar(),
    "bars of two colours": bars_of_two_colours(),
    "sky and snow": mountains(),
    "one colour": Image.new("RGB", (300, 200), "white"),
    "nearly one colour": ImageOps.expand(detailed(60, 40), 200, "black"),
    "a ramp": Image.linear_gradient("L").convert("RGB"),
    "smallest": Image.new("RGB", (16, 16), "white"),
    "a hairline": ImageOps.expand(detailed(1000, 800), 1, "black"),
}


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_border_is_left(name: str) -> None:
    assert find_border(NONE[name]) is None


def test_no_drawing_on_white_has_a_border() -> None:
    assert not [path.name for path in DRAWINGS if find_border(open_image(path))]


def test_noise_in_a_bar_is_borne_and_a_pattern_is_not() -> None:
    image = numpy.array(ImageOps.expand(detailed(300, 200), (0, 40, 0, 40), (60, 60, 60))).astype(int)
    noise = numpy.random.default_rng(0).integers(-6, 7, image.shape)
    noisy = Image.fromarray((image + noise).clip(0, 255).astype(numpy.uint8))
    assert find_border(noisy) == (0, 40, 0, 40)
    image[:40:2, ::2] += 100
    assert find_border(Image.fromarray(image.clip(0, 255).astype(numpy.uint8))) is None
