"""Every view lies inside its image, has its bucket's shape, and shows the pixels that it says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from sdtune.core.data.buckets import bucket_sizes
from sdtune.core.data.views import PLAIN_COLOURS, View, show, show_mask, views_of
from sdtune.tables import Augment
from tests.core.data.test_images import decibels, detailed

EDGE = 1e-6  # pixels, of rounding
sides = st.integers(16, 5000)
seeds = st.text("0123456789abcdef", min_size=64, max_size=64)
PICTURE = detailed(300, 300)
buckets = st.sampled_from([128, 512, 1024]).flatmap(lambda resolution: st.sampled_from(bucket_sizes(resolution)))
shapes = st.tuples(st.integers(8, 256), st.integers(8, 256)).map(lambda size: (size[0] * 8, size[1] * 8))
augments = st.builds(
    Augment,
    crop=st.sampled_from([0.0, 0.1, 0.5]),
    flip=st.booleans(),
    rotate=st.sampled_from([0.0, 3.0, 15.0]),
    colour=st.sampled_from([0.0, 0.2]),
    versions=st.integers(1, 16),
    tag=st.booleans(),
)


def corners(view: View) -> list[tuple[float, float]]:
    """Places in the original of the four corners of what is shown."""
    left, top, right, bottom = view.box
    turn = math.radians(view.angle)
    around = [(x, y) for x in (left - right, right - left) for y in (top - bottom, bottom - top)]
    return [
        (
            (left + right + math.cos(turn) * x - math.sin(turn) * y) / 2,
            (top + bottom + math.sin(turn) * x + math.cos(turn) * y) / 2,
        )
        for x, y in around
    ]


@settings(deadline=None)
@given(sides, sides, seeds, buckets | shapes, augments, st.sampled_from([1.0, 1.25, 2.0]))
def test_every_view_lies_inside_has_the_buckets_shape_and_is_not_enlarged(
    width: int, height: int, sha256: str, size: tuple[int, int], augment: Augment, upscale: float
) -> None:
    views = views_of(width, height, sha256, size, augment, upscale=upscale)
    assert len(views) == augment.count
    plain = max(size[0] / width, size[1] / height)
    for view in views:
        left, top, right, bottom = view.box
        assert view.size == size
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert abs((right - left) * size[1] / size[0] - (bottom - top)) < EDGE * max(width, height)
        for x, y in corners(view):
            assert -EDGE <= x <= width + EDGE
            assert -EDGE <= y <= height + EDGE
        assert size[0] / (right - left) <= max(plain, upscale) * (1 + 1e-9)
        assert abs(view.angle) <= augment.rotate
        assert all(abs(factor - 1) <= augment.colour for factor in view.colours)
        assert math.isclose(view.right, width - right, abs_tol=EDGE)
        if not augment.rotate:  # at most `crop` of each side is cut beyond the plain crop
            assert (right - left) * plain >= size[0] * (1 - augment.crop) * (1 - 1e-9)


@settings(deadline=None)
@given(sides, sides, seeds, buckets, augments)
def test_the_first_is_plain_and_the_others_depend_on_image_and_number_alone(
    width: int, height: int, sha256: str, size: tuple[int, int], augment: Augment
) -> None:
    views = views_of(width, height, sha256, size, augment)
    assert views[0] == views_of(width, height, "another", size, Augment())[0]
    assert views[0] == View(size, views[0].box, right=views[0].right)
    left, top, right, bottom = views[0].box
    assert math.isclose(left, width - right, abs_tol=EDGE)
    assert math.isclose(top, height - bottom, abs_tol=EDGE)
    assert min(left, top) < EDGE
    more = views_of(width, height, sha256, size, augment.model_copy(update={"versions": augment.count + 3}))
    assert more[: len(views)] == views


@pytest.mark.parametrize("count", range(1, 10))
def test_half_of_the_versions_are_mirrored(count: int) -> None:
    views = views_of(900, 600, "a", (576, 448), Augment(flip=True, versions=count))
    assert sum(view.mirrored for view in views) == count // 2
    assert not views[0].mirrored
    kept = views_of(900, 600, "a", (576, 448), Augment(flip=True, versions=count), may_flip=False)
    assert not any(view.mirrored for view in kept)
    assert [view.box for view in kept] == [view.box for view in views]


def test_nothing_varies_that_was_not_asked_for() -> None:
    def differing(**settings: float) -> set[str]:
        first, *others = views_of(3000, 2000, "a", (512, 512), Augment.model_validate({"versions": 32, **settings}))
        names = ("box", "angle", "mirrored", "colours")
        return {name for name in names for view in others if getattr(view, name) != getattr(first, name)}

    assert differing(crop=0.1) == {"box"}
    assert differing(flip=True) == {"mirrored"}
    assert differing(colour=0.1) == {"colours"}
    assert differing(rotate=5) == {"angle", "box"}
    assert len(views_of(3000, 2000, "a", (512, 512), Augment())) == 1


def test_draws_are_spread_evenly() -> None:
    augment = Augment(crop=0.2, rotate=10, colour=0.3)
    views = [view for n in range(500) for view in views_of(4000, 4000, f"{n}", (512, 512), augment)[1:]]
    sizes = numpy.array([(view.box[2] - view.box[0]) for view in views])
    turned = numpy.array(
        [math.cos(math.radians(view.angle)) + abs(math.sin(math.radians(view.angle))) for view in views]
    )
    for drawn in (
        numpy.array([view.angle / 20 + 0.5 for view in views]),
        *numpy.array([[(factor - 0.7) / 0.6 for factor in view.colours] for view in views]).T,
        1 - (1 - sizes * turned / 4000) / 0.2,
    ):
        shares = numpy.histogram(drawn, 10, (0, 1))[0] / len(views)
        assert shares.sum() == pytest.approx(1)
        assert abs(shares - 0.1).max() < 0.025
    places = numpy.array([view.box[0] / (4000 - size) for view, size in zip(views, sizes, strict=True)])
    assert places.mean() == pytest.approx(0.5, abs=0.02)


def test_what_the_bucket_cuts_anyway_slides_even_where_nothing_may_be_enlarged() -> None:
    views = views_of(2000, 500, "a", (512, 512), Augment(crop=0.1), upscale=1.0)
    assert [view.box[2] - view.box[0] for view in views] == [pytest.approx(500)] * 8
    assert {view.box[1] for view in views} == {0}
    assert len({view.box[0] for view in views}) == 8
    still = views_of(2000, 500, "a", (512, 512), Augment(rotate=3), upscale=1.0)
    assert {view.box for view in still} == {(750, 0, 1250, 500)}
    assert {view.angle for view in still} == {0}


def test_where_turning_would_enlarge_too_much_it_turns_less() -> None:
    large = views_of(2000, 2000, "a", (512, 512), Augment(rotate=15))
    small = views_of(450, 450, "a", (512, 512), Augment(rotate=15))
    assert max(abs(view.angle) for view in large) > 10
    assert 1 < max(abs(view.angle) for view in small) < 7
    ratios = {round(one.angle / other.angle, 6) for one, other in zip(small[1:], large[1:], strict=True)}
    assert len(ratios) == 1


@settings(deadline=None)
@given(sides, sides, seeds, buckets, augments)
def test_facts_are_plain_numbers_of_all_that_changes_the_pixels_and_of_nothing_else(
    width: int, height: int, sha256: str, size: tuple[int, int], augment: Augment
) -> None:
    view = views_of(width, height, sha256, size, augment)[-1]
    assert all(type(number) in (int, float) for number in view.facts())
    assert replace(view, said=", something").facts() == view.facts()
    left, top, right, bottom = view.box
    for change in (
        {"size": (size[0] + 8, size[1])},
        {"size": (size[0], size[1] + 8)},
        *({"box": box} for box in ((left + 1, top, right, bottom), (left, top + 1, right, bottom))),
        *({"box": box} for box in ((left, top, right - 1, bottom), (left, top, right, bottom - 1))),
        {"angle": view.angle + 1},
        {"mirrored": not view.mirrored},
        *({"colours": tuple(view.colours[i] + (i == j) for i in range(3))} for j in range(3)),
    ):
        assert replace(view, **change).facts() != view.facts()  # type: ignore[arg-type]


def test_what_a_caption_adds() -> None:
    augment = Augment(crop=0.1, flip=True, rotate=10, colour=0.3, versions=16)
    assert {view.said for view in views_of(900, 900, "a", (512, 512), augment)} == {""}
    views = views_of(900, 900, "a", (512, 512), augment.model_copy(update={"tag": True}))
    assert views[0].said == ""
    for view in views:
        assert (", mirrored" in view.said) == view.mirrored
        assert (", slightly turned" in view.said) == (abs(view.angle) >= 1)
        assert (", changed colours" in view.said) == any(abs(factor - 1) >= 0.05 for factor in view.colours)
    assert {view.said for view in views_of(900, 900, "a", (512, 512), Augment(crop=0.1, tag=True))} == {""}


def test_the_corner_is_what_was_taken_of_the_picture_as_shown() -> None:
    view = View((500, 400), (30.0, 80.0, 280.0, 280.0), right=120.0)
    assert view.corner() == (60, 160)
    assert replace(view, mirrored=True).corner() == (240, 160)


@settings(deadline=None, max_examples=50)
@given(st.integers(16, 300), st.integers(16, 300), buckets)
def test_a_plain_view_is_the_middle_scaled_in_one_pass(width: int, height: int, size: tuple[int, int]) -> None:
    image = PICTURE.crop((0, 0, width, height))
    scale = max(size[0] / width, size[1] / height)
    left, top = max(0.0, (width - size[0] / scale) / 2), max(0.0, (height - size[1] / scale) / 2)
    view = views_of(width, height, "a", size, Augment())[0]
    expected = image.resize(size, Image.Resampling.LANCZOS, box=(left, top, width - left, height - top))
    assert show(image, view).tobytes() == expected.tobytes()
    assert view.corner() == (round(left * scale), round(top * scale))


@settings(deadline=None, max_examples=50)
@given(st.integers(16, 400), st.integers(16, 400), seeds, shapes, augments)
def test_no_corner_is_empty(width: int, height: int, sha256: str, size: tuple[int, int], augment: Augment) -> None:
    """Nothing is darker than a white image, as what lies beyond it would be."""
    assume(size[0] * size[1] < 2**19)
    image, mask = Image.new("RGB", (width, height), "white"), Image.new("L", (width // 2 + 1, height * 2), 255)
    for view in views_of(width, height, sha256, size, augment):
        shown = show(image, replace(view, colours=PLAIN_COLOURS))
        assert shown.size == size
        assert shown.mode == "RGB"
        assert shown.getextrema() == ((255, 255),) * 3
        seen = show_mask(mask, view, image.size)
        assert (seen.mode, seen.size, seen.getextrema()) == ("L", size, (255, 255))


def test_what_is_cut_off_does_not_appear() -> None:
    """A turned view of a square reaches no further to the sides than the square, but for the filter's few pixels."""
    image = Image.new("RGB", (600, 400), (255, 0, 255))
    image.paste((0, 200, 0), (96, 0, 504, 400))
    for view in views_of(600, 400, "a", (400, 400), Augment(rotate=15)):
        assert show(image, view).getcolors() == [(160_000, (0, 200, 0))]


@pytest.mark.parametrize("angle", [0.0, 12.0, -7.0])
@pytest.mark.parametrize("dense", [1, 3, 9])
def test_views_show_the_place_they_say(angle: float, dense: int) -> None:
    """A view equals the whole image, turned about the box's middle and then cropped and scaled."""
    image = detailed(900, 700)
    box = (300.0, 200.0, 620.0, 440.0)
    size = (round(320 / dense), round(240 / dense))
    view = View(size, box, angle)
    turned = image.rotate(angle, Image.Resampling.BICUBIC, center=(460, 320))
    expected = turned.crop((300, 200, 620, 440)).resize(size, Image.Resampling.LANCZOS)
    assert decibels(show(image, view), expected) > 35
    mirrored = show(image, replace(view, mirrored=True))
    assert mirrored.tobytes() == show(image, view).transpose(Image.Transpose.FLIP_LEFT_RIGHT).tobytes()


@settings(deadline=None, max_examples=50)
@given(seeds, augments)
def test_a_mask_goes_through_the_same_geometry_whatever_its_size(sha256: str, augment: Augment) -> None:
    image = Image.new("RGB", (300, 200), "black")
    image.paste("white", (90, 50, 200, 160))
    whole = image.getchannel(0)
    for view in views_of(300, 200, sha256, (96, 128), augment):
        shown = numpy.asarray(show(image, replace(view, colours=PLAIN_COLOURS)))[..., 0].astype(int)
        for mask in (whole, whole.resize((600, 400), 0), whole.resize((150, 400), 0)):
            assert (abs(numpy.asarray(show_mask(mask, view, image.size)) - shown) > 90).mean() < 0.01


def test_colours_change_by_their_factors() -> None:
    image = Image.new("RGB", (64, 64), (120, 80, 40))
    image.paste((60, 100, 140), (32, 0, 64, 64))
    plain = View((64, 64), (0.0, 0.0, 64.0, 64.0))

    def of(*colours: float) -> numpy.ndarray[tuple[int, ...], numpy.dtype[numpy.float64]]:
        assert len(colours) == 3
        shown = show(image, replace(plain, colours=colours))
        return numpy.asarray(shown)[5, [5, 60]].astype(float)

    before = of(1, 1, 1)
    grey = before @ [0.299, 0.587, 0.114]
    assert abs(of(1.2, 1, 1) - 1.2 * before).max() <= 0.51
    assert abs(of(1, 0.7, 1) - (grey.mean() + 0.7 * (before - grey.mean()))).max() <= 0.51
    assert abs(of(1, 1, 1.3) - (grey[:, None] + 1.3 * (before - grey[:, None]))).max() <= 0.51
    assert of(2.5, 1.5, 1.5).max() == 255


def test_turning_keeps_fine_detail() -> None:
    """Turned a little and back, an image is nearly the one that was scaled alone."""
    image = detailed(2000, 2000)
    size = (256, 256)
    plain = show(image, View(size, (500.0, 500.0, 1500.0, 1500.0)))
    turned = image.rotate(-8, Image.Resampling.BICUBIC, center=(1000, 1000))
    back = show(turned, View(size, (500.0, 500.0, 1500.0, 1500.0), 8.0))
    assert decibels(back, plain) > 35


def test_a_very_long_image_is_cropped_without_much_memory() -> None:
    image = Image.new("RGB", (20_000, 16), "red")
    image.paste("blue", (9_990, 0, 10_010, 16))
    view = views_of(20_000, 16, "a", (512, 256), Augment())[0]
    shown = show(image, view)
    assert shown.size == (512, 256)
    assert shown.getpixel((256, 100)) == (0, 0, 255)
    assert view.corner()[1] == 0
    for other in views_of(20_000, 16, "a", (512, 256), Augment(crop=0.5, rotate=15), upscale=100):
        assert show(image, other).size == (512, 256)
