"""What drawing begins with: pictures from strangers as they are drawn on, and what of them is kept."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from PIL import Image

from sdtune.core.sampling.source import Source, kept, read_source
from sdtune.errors import DataError


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    return Image.fromarray(numpy.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), numpy.uint8))


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


# ---- as they are drawn on


def test_a_picture_of_the_right_size_is_untouched(tmp_path: Path) -> None:
    picture = noise((64, 48))
    for size in (None, (64, 48)):
        source = read_source(saved(picture, tmp_path / "a.png"), None, size)
        assert (source.image.mode, source.image.tobytes(), source.mask) == ("RGB", picture.tobytes(), None)


def test_it_is_scaled_to_cover_and_cut_around_the_middle(tmp_path: Path) -> None:
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste("blue", (100, 0, 200, 100))
    source = read_source(saved(wide, tmp_path / "a.png"), None, (64, 64))
    assert source.image.getcolors() == [(64 * 64, (0, 0, 255))] or source.image.getpixel((32, 32)) == (0, 0, 255)
    tall = read_source(saved(wide.rotate(90, expand=True), tmp_path / "b.png"), None, (64, 128))
    left, middle = tall.image.getpixel((2, 5)), tall.image.getpixel((32, 64))
    assert (left, middle) == ((255, 0, 0), (0, 0, 255))


def test_it_is_upright_and_on_white(tmp_path: Path) -> None:
    lying = Image.new("RGB", (64, 32), "red")
    lying.paste("blue", (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn to the right
    source = read_source(saved(lying, tmp_path / "a.jpg", exif=exif, quality=100), None)
    assert source.image.size == (32, 64)
    red, _, blue = source.image.getpixel((16, 8))  # type: ignore[misc]
    assert blue > 200 > 50 > red
    glass = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    assert read_source(saved(glass, tmp_path / "b.png"), None).image.getpixel((5, 5)) == (255, 255, 255)


def test_masks_are_black_and_white_and_cut_as_their_picture(tmp_path: Path) -> None:
    picture = saved(noise((96, 64)), tmp_path / "a.png")
    grey = Image.linear_gradient("L").rotate(90).resize((96, 64))
    grey.save(tmp_path / "mask.png")
    for size in (None, (64, 64), (192, 128)):
        mask = read_source(picture, tmp_path / "mask.png", size).mask
        assert mask is not None
        assert (mask.mode, mask.size) == ("L", size or (96, 64))
        assert {level for _, level in mask.getcolors()} == {0, 255}
        assert abs(mask.histogram()[255] / (mask.width * mask.height) - 0.5) < 0.03
    Image.fromarray(numpy.eye(64, 96, dtype=numpy.uint8)).save(tmp_path / "ones.png")
    ones = read_source(picture, tmp_path / "ones.png").mask
    assert ones is not None
    assert ones.histogram()[255] == 64, "of 0 and 1, the 1 is white"


# ---- what cannot be used


def test_a_mask_of_another_size_names_both(tmp_path: Path) -> None:
    picture, mask = saved(noise((96, 64)), tmp_path / "a.png"), saved(noise((64, 64)), tmp_path / "m.png")
    with pytest.raises(DataError) as told:
        read_source(picture, mask, (64, 64))
    assert str(told.value) == (
        f"--mask {mask}: 64 x 64 pixels, but --init is 96 x 64; give a mask of the picture's size"
    )


@pytest.mark.parametrize("colour", ["black", "red", "blue", "#7f7f7f"])
def test_a_mask_without_white_is_an_error_that_says_what_counts(tmp_path: Path, colour: str) -> None:
    painted = Image.new("RGB", (64, 64))
    painted.paste(colour, (8, 8, 24, 24))
    picture, mask = saved(noise((64, 64)), tmp_path / "a.png"), saved(painted, tmp_path / "m.png")
    told = r"no pixel of it is over half white \(red and blue count as dark\).*; paint white what shall change"
    with pytest.raises(DataError, match=told):
        read_source(picture, mask)


def test_transparent_is_black_beside_white_and_the_hole_where_all_else_is_black(tmp_path: Path) -> None:
    picture = saved(noise((64, 64)), tmp_path / "a.png")
    white, glass, black = (255, 255, 255, 255), (255, 255, 255, 0), (0, 0, 0, 255)

    def hole(ground: tuple[int, ...], stroke: tuple[int, ...]) -> tuple[int, int, int, int] | None:
        layer = Image.new("RGBA", (64, 64), ground)
        layer.paste(stroke, (8, 16, 24, 40))
        source = read_source(picture, saved(layer, tmp_path / "m.png"))
        assert source.mask is not None
        return source.mask.getbbox()

    assert hole(glass, white) == hole(black, white) == hole(black, glass) == (8, 16, 24, 40)
    assert hole(black, (0, 0, 0, 0)) == (8, 16, 24, 40)
    assert hole(white, glass) == hole(white, black) == (0, 0, 64, 64)
    with pytest.raises(DataError, match="transparent all over; paint white what shall change"):
        hole(glass, glass)


def bomb() -> bytes:
    """A PNG of a few bytes that claims 50,000 x 50,000 pixels."""
    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    told = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + told


@pytest.mark.parametrize("flag", ["--init", "--mask"])
@pytest.mark.parametrize(
    "kind", ["absent", "folder", "pipe", "text", "empty", "cut short", "bomb", "no name", "under a file", "long name"]
)
def test_what_is_no_picture_is_told_in_one_line_that_names_the_flag(tmp_path: Path, kind: str, flag: str) -> None:
    good = saved(noise((64, 64)), tmp_path / "good.png")
    path = tmp_path / "bad.png"
    made = {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "text": lambda: path.write_text("no picture"),
        "empty": path.touch,
        "cut short": lambda: path.write_bytes(good.read_bytes()[:3000]),
        "bomb": lambda: path.write_bytes(bomb()),
    }
    made.get(kind, lambda: None)()
    path = {"no name": Path("a\0b.png"), "under a file": good / "a.png", "long name": tmp_path / ("a" * 300)}.get(
        kind, path
    )
    with pytest.raises(DataError) as told:
        read_source(*((path, None) if flag == "--init" else (good, path)))
    words = str(told.value)
    assert words.startswith(flag)
    assert "\n" not in words
    assert ";" in words, "what to do stands behind it"


# ---- what is kept


def shapes() -> some.SearchStrategy[tuple[int, int, int, int]]:
    sides = some.integers(0, 60)
    return some.tuples(sides, sides, some.integers(1, 64), some.integers(1, 64))


@settings(max_examples=40, deadline=None)
@given(boxes=some.lists(shapes(), min_size=1, max_size=3), feather=some.integers(0, 100))
def test_outside_the_white_every_byte_is_the_old_picture(boxes: list[tuple[int, int, int, int]], feather: int) -> None:
    mask = Image.new("L", (64, 64))
    for left, top, width, height in boxes:
        mask.paste(255, (left, top, left + width, top + height))
    old, new = Image.new("RGB", (64, 64), "black"), Image.new("RGB", (64, 64), "white")
    result = numpy.asarray(kept(Source(old, mask), new, feather))
    white = numpy.asarray(mask) == 255
    assert (result[~white] == 0).all()
    assert (result[white] > 0).all(), "of the new one there is something everywhere"
    assert result.max() == 255, "and somewhere, however small the hole, it alone"
    if feather == 0:
        assert (result[white] == 255).all()


def test_the_edge_is_a_ramp_inside_the_white_and_the_border_is_no_edge() -> None:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (20, 0, 64, 64))
    row = numpy.asarray(kept(Source(Image.new("RGB", (64, 64)), mask), Image.new("RGB", (64, 64), "white"), 8))[0, :, 0]
    assert row[:20].max() == 0
    assert row[20] == round(255 / 8)
    assert (numpy.diff(row[19:28].astype(int)) > 0).all()
    assert (row[27:] == 255).all()
