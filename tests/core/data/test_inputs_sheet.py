"""The sheet shows inputs of many images in many versions, whole and undistorted, over words that can be read."""

from __future__ import annotations

import numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdtune.core.data.inputs_sheet import CELL, MOST, chosen, done, inputs_sheet
from sdtune.core.data.views import View

COLOURS = ["#ff0000", "#00ff00", "#0000ff", "#ffff00", "#ff00ff", "#00ffff"]


def plain(width: int, height: int) -> View:
    return View((width, height), (0.0, 0.0, float(width), float(height)))


@settings(deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=200))
def test_the_chosen_are_spread_over_images_and_views(views: list[int]) -> None:
    found = chosen(views)
    assert len(found) == len(set(found)) == min(MOST, sum(views))
    assert all(view < views[image] for image, view in found)
    images = [image for image, _ in found]
    assert len(set(images)) == min(MOST, len(views))
    if len(views) >= MOST:
        gaps = numpy.diff([*images, len(views)])
        assert gaps.max() - gaps.min() <= 1


def test_versions_vary_among_the_chosen() -> None:
    assert {view for _, view in chosen([8] * 100)} == set(range(8))
    assert {view for _, view in chosen([8] * 2)} == set(range(8))
    assert chosen([3]) == [(0, 0), (0, 1), (0, 2)]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(8, 200), st.integers(8, 200)), min_size=1, max_size=6))
def test_every_image_is_there_whole_and_undistorted(shapes: list[tuple[int, int]]) -> None:
    shown = [
        (
            Image.new("RGB", (width * 8, height * 8), colour),
            plain(width * 8, height * 8),
            "a caption of some words " * 9,
            "a.png",
        )
        for (width, height), colour in zip(shapes, COLOURS, strict=False)
    ]
    page = numpy.asarray(inputs_sheet(shown)).astype(int)
    for (width, height), colour in zip(shapes, COLOURS, strict=False):
        rows, columns = numpy.nonzero((page == list(bytes.fromhex(colour[1:]))).all(axis=2))
        high, wide = rows.max() - rows.min() + 1, columns.max() - columns.min() + 1
        assert rows.size == high * wide
        assert wide == CELL[0] or high == CELL[1]
        assert wide <= CELL[0]
        assert high <= CELL[1]
        assert abs(wide * height / width - high) <= max(1, height / width)


def test_words_stand_below_each_image_and_not_in_it() -> None:
    image = Image.new("RGB", (512, 512), "#ff0000")

    def ink(caption: str, said: str = "") -> int:
        view = View((512, 512), (0.0, 0.0, 512.0, 512.0), said=said)
        page = numpy.asarray(inputs_sheet([(image, view, caption, "a.png")])).astype(int)
        return int((page.max(axis=2) < 0xC0).sum())

    assert 0 < ink("") < ink("an apple") < ink("an apple and two pears")
    assert ink("an apple", ", mirrored") == ink("an apple, mirrored")
    assert ink("an apple " * 100) == ink("an apple " * 200)
    assert ink("x" * 300) < ink("") + 3000


def test_at_most_sixteen_in_rows_of_four() -> None:
    cell = (Image.new("RGB", (64, 64), "#ff0000"), plain(64, 64), "", "a.png")
    page = inputs_sheet([cell] * 40)
    assert (CELL[0] * CELL[0] * 16, (255, 0, 0)) in (page.getcolors(2**20) or [])
    assert page.width < 4.5 * CELL[0]
    assert inputs_sheet([cell]).width < 1.5 * CELL[0]


def test_what_was_done_is_said() -> None:
    assert done(plain(512, 448)) == "512 x 448 of 512 x 448"
    view = View((512, 448), (10.0, 0.0, 1034.0, 896.0), -3.04, True, (1.1, 1.001, 0.75))
    assert done(view) == "512 x 448 of 1024 x 896, mirrored, turned -3.0 degrees, light +10%, colour -25%"
