"""Measures say what they should of pictures whose measures are known, and tell versions from other pictures."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from sdtune.core.data.images import open_image
from sdtune.core.intake.measures import alike, contrast, fingerprint, grey_of, sharpness, tints
from sdtune.tables import Judge
from tests.core.data.test_images import detailed

EXAMPLES = Path(__file__).parents[3] / "examples"
DRAWINGS = [*sorted(EXAMPLES.glob("fluent-3d/*.png")), *sorted(EXAMPLES.glob("fluent-3d-held-out/*.png"))]


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """The examples' drawings, no two of which are alike."""
    return [open_image(path) for path in DRAWINGS]


def signature(image: Image.Image) -> tuple[NDArray[numpy.uint64], NDArray[numpy.uint8]]:
    """[1], [1, 192] as `alike` takes them."""
    return (
        numpy.array([int(fingerprint(grey_of(image)), 16)], numpy.uint64),
        numpy.frombuffer(bytes.fromhex(tints(image)), numpy.uint8)[None],
    )


def are_alike(one: Image.Image, other: Image.Image, bits: int | None = None) -> bool:
    (hash_a, tints_a), (hash_b, tints_b) = signature(one), signature(other)
    return bool(alike(hash_a, hash_b, tints_a, tints_b, Judge().likeness if bits is None else bits)[0])


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    rows, columns = numpy.indices((40, 60))
    board = Image.fromarray(((rows + columns) % 2 * 10).astype(numpy.uint8))
    # Each inner pixel is 0 or 10 among four of the other: Laplacian +40 or -40, in equal parts.
    assert sharpness(board) == pytest.approx(1600)
    ramp = Image.fromarray(columns.astype(numpy.uint8) * 4)
    assert sharpness(ramp) == 0
    assert sharpness(Image.new("L", (2, 500))) == 0


def test_sharpness_does_not_depend_on_the_cameras_pixels() -> None:
    image = detailed(1024, 1024)
    large = image.resize((2048, 2048), Image.Resampling.LANCZOS)
    assert grey_of(large).size == (512, 512)
    assert sharpness(grey_of(large)) == pytest.approx(sharpness(grey_of(image)), rel=0.03)
    assert sharpness(large.convert("L")) < 0.5 * sharpness(image.convert("L"))


def test_contrast_is_the_standard_deviation_of_grey() -> None:
    halves = Image.new("L", (64, 64), 0)
    halves.paste(255, (0, 0, 32, 64))
    assert contrast(halves) == pytest.approx(127.5)
    assert contrast(Image.new("L", (64, 64), 77)) == 0


def test_the_examples_drawings_are_neither_blurred_nor_uniform(pictures: list[Image.Image]) -> None:
    assert len(pictures) >= 70
    judge = Judge()
    for path, image in zip(DRAWINGS, pictures, strict=True):
        grey = grey_of(image)
        assert sharpness(grey) > 4 * judge.sharpness, path.name
        assert contrast(grey) > 4 * judge.contrast, path.name


def test_what_is_blurred_is_told() -> None:
    image = detailed(512, 512)
    assert sharpness(grey_of(image)) > 4 * Judge().sharpness
    assert sharpness(grey_of(image.filter(ImageFilter.GaussianBlur(3)))) < Judge().sharpness


def test_no_two_of_the_examples_drawings_are_alike(pictures: list[Image.Image]) -> None:
    hashes = numpy.concatenate([signature(image)[0] for image in pictures])
    colours = numpy.concatenate([signature(image)[1] for image in pictures])
    one, other = numpy.triu_indices(len(pictures), 1)
    assert not alike(hashes[one], hashes[other], colours[one], colours[other], Judge().likeness).any()
    every = numpy.arange(len(pictures))
    assert alike(hashes, hashes, colours, colours, 0)[every].all()


VERSIONS = {
    "half": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS),
    "third": lambda image: image.resize((image.width // 3, image.height // 3), Image.Resampling.BILINEAR),
    "squeezed": lambda image: image.resize((image.width, round(image.height * 0.97))),
    "cropped": lambda image: image.crop((3, 3, image.width - 3, image.height - 3)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.85),
    "flatter": lambda image: ImageEnhance.Contrast(image).enhance(0.8),
    "greyer": lambda image: ImageEnhance.Color(image).enhance(0.8),
    "sharper": lambda image: ImageEnhance.Sharpness(image).enhance(2),
    "softer": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "few colours": lambda image: image.quantize(64).convert("RGB"),
}


@pytest.mark.parametrize("version", VERSIONS)
def test_versions_of_a_picture_are_alike(version: str, pictures: list[Image.Image]) -> None:
    found = [are_alike(image, VERSIONS[version](image)) for image in pictures]
    assert sum(found) >= 0.97 * len(found)


def test_the_same_shape_in_another_colour_is_not_alike() -> None:
    def disc(colour: str) -> Image.Image:
        y, x = numpy.indices((256, 256))
        inside = (x - 128) ** 2 + (y - 128) ** 2 < 90**2
        image = Image.new("RGB", (256, 256), "white")
        image.paste(colour, (0, 0, 256, 256), Image.fromarray((inside * 255).astype(numpy.uint8)))
        return image

    # Their hashes are as near as can be, so that only their tints tell them apart.
    assert are_alike(disc("#d03030"), disc("#d03838"), 16)
    for other in ("#3030d0", "#30a030", "#d0b030", "#a030a0"):
        assert not are_alike(disc("#d03030"), disc(other), 64)


def test_alike_takes_no_pairs_and_grey_ones() -> None:
    nothing = numpy.zeros(0, numpy.uint64), numpy.zeros((0, 192), numpy.uint8)
    assert alike(nothing[0], nothing[0], nothing[1], nothing[1], 8).shape == (0,)
    assert are_alike(Image.new("RGB", (64, 64), "grey"), Image.new("RGB", (64, 64), "grey"))


def test_tints_are_mean_colours_row_by_row() -> None:
    image = Image.new("RGB", (80, 160), (10, 20, 30))
    image.paste((200, 100, 50), (10, 0, 20, 20))  # the second field of the first row
    fields = bytes.fromhex(tints(image))
    assert len(fields) == 192
    assert fields[:6] == bytes((10, 20, 30, 200, 100, 50))
    assert fields[6:] == bytes((10, 20, 30)) * 62


def test_a_fingerprint_is_64_bits_of_which_half_are_set(pictures: list[Image.Image]) -> None:
    for image in pictures[:10]:
        text = fingerprint(grey_of(image))
        assert len(text) == 16
        assert int(text, 16).bit_count() == 32
