"""At how many pixels is drawn: as asked, as the picture to begin with, or as the model was made for."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
from hypothesis import assume, given
from hypothesis import strategies as some
from PIL import Image

from sdtune.config import resolve
from sdtune.core.reports import Drawn, Note
from sdtune.core.sample import sample
from sdtune.core.sampling.sizes import LARGEST, ROOM, becomes, drawn_size, must_be_drawable
from sdtune.errors import ConfigError, DataError
from sdtune.sample_config import Sample
from tests import pictures

PHOTO = Path("photos/photo.jpg")
SIDES = some.integers(1, 9000)
UNITS = some.sampled_from([8, 16])


def test_without_a_picture_it_is_what_the_model_was_made_for() -> None:
    assert drawn_size((None, None), None, 8, 512) == (512, 512)
    assert drawn_size((None, 768), None, 8, 512) == (512, 768)


def test_a_portrait_as_people_draw_them_stays() -> None:
    assert drawn_size((None, None), (512, 768), 8, 512) == (512, 768)


@given(own=some.tuples(some.integers(1, 128), some.integers(1, 128)), unit=UNITS)
def test_a_picture_that_is_no_larger_keeps_its_size(own: tuple[int, int], unit: int) -> None:
    for side, drawn in zip(own, drawn_size((None, None), own, unit, 1024), strict=True):
        assert drawn % unit == 0
        assert drawn == unit or abs(drawn - side) <= unit / 2


@given(own=some.tuples(SIDES, SIDES), unit=UNITS, side=some.sampled_from([128, 512, 1024]))
def test_a_larger_one_has_the_area_that_the_model_was_made_for(own: tuple[int, int], unit: int, side: int) -> None:
    assume(ROOM * side * side < own[0] * own[1] and max(own) < 8 * min(own))
    width, height = drawn_size((None, None), own, unit, side)
    assert width % unit == height % unit == 0
    fewest = min(width, height)
    assert abs(width * height / (side * side) - 1) <= 1.3 * unit / fewest
    assert abs(width / height / (own[0] / own[1]) - 1) <= 1.3 * unit / fewest


@given(own=some.tuples(SIDES, SIDES), width=some.integers(8, 1024))
def test_where_one_side_is_asked_for_the_shape_stays(own: tuple[int, int], width: int) -> None:
    for turned in (False, True):
        asked = (None, width) if turned else (width, None)
        size = drawn_size(asked, own[::-1] if turned else own, 8, 512)  # type: ignore[arg-type]
        first, second = size[::-1] if turned else size
        assert first == width
        assert second % 8 == 0
        assert second == 8 or abs(second - own[1] * width / own[0]) <= 4 + 1e-6


@given(own=some.tuples(SIDES, SIDES), asked=some.tuples(SIDES, SIDES))
def test_what_is_asked_for_is_drawn(own: tuple[int, int], asked: tuple[int, int]) -> None:
    assert drawn_size(asked, own, 8, 512) == asked


def test_a_side_that_is_too_long_asks_for_a_size() -> None:
    must_be_drawable(PHOTO, (9000, 16), (LARGEST, 16))
    with pytest.raises(DataError, match="9000 x 16 would be drawn at 9000 x 16, over 8192 a side; give --width"):
        must_be_drawable(PHOTO, (9000, 16), (9000, 16))


@pytest.mark.parametrize(
    ("own", "size", "asked", "told"),
    [
        ((512, 384), (512, 384), False, None),
        ((512, 384), (512, 384), True, None),
        (
            (4032, 3024),
            (1184, 888),
            False,
            "4032 x 3024 is drawn at 1184 x 888, what the model was made for; --width and",
        ),
        ((3000, 1500), (1448, 720), False, "what the model was made for, and cut around its middle; --width and"),
        ((333, 251), (336, 248), False, "333 x 251 is drawn at 336 x 248, as sides are multiples of 8, and cut around"),
        ((400, 200), (200, 100), True, "400 x 200 is drawn at 200 x 100"),
        ((400, 200), (200, 200), True, "400 x 200 is drawn at 200 x 200 and cut around its middle"),
    ],
)
def test_what_becomes_of_a_picture_is_told(
    own: tuple[int, int], size: tuple[int, int], asked: bool, told: str | None
) -> None:
    line = becomes(PHOTO, own, size, 8, 1024, asked=asked, masked=False)
    masked = becomes(PHOTO, own, size, 8, 1024, asked=asked, masked=True)
    if told is None:
        assert line is masked is None
        return
    assert line is not None
    assert line.startswith("photo.jpg: ")
    assert told in line
    assert ("--width" in line) == (not asked and own[0] * own[1] > 1024 * 1024)
    stays = "" if own == (400, 200) == (size[0] * 2, size[1]) else "; what is black in the mask stays as it is in the"
    assert masked is not None
    assert stays in masked.removeprefix(line)
    assert bool(masked.removeprefix(line)) == bool(stays)


def test_a_large_picture_is_drawn_on_at_the_size_of_the_model(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """64 x 64 pixels; what was black in the mask is that of the scaled picture to the byte."""
    photo = Image.fromarray(numpy.random.default_rng(0).integers(0, 256, (96, 192, 3), numpy.uint8))
    photo.save(tmp_path / "photo.png")
    mask = Image.new("L", photo.size)
    mask.paste(255, (96, 0, 192, 96))
    mask.save(tmp_path / "mask.png")

    def drawn(**told: object) -> tuple[list[str], Path]:
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.png"
        work = sample(
            Sample(
                model=str(tiny_models["sd1"]), prompt=("a cat",), steps=2, out=out, init=tmp_path / "photo.png", **told
            )
        )
        reports = list(work)
        assert any(isinstance(report, Drawn) for report in reports)
        return [one.text for one in reports if isinstance(one, Note) and one.text.startswith("photo.png: ")], out

    lines, out = drawn(mask=tmp_path / "mask.png")
    assert lines == [
        "photo.png: 192 x 96 is drawn at 88 x 48, what the model was made for, and cut around its middle; --width and "
        "--height give another; what is black in the mask stays as it is in the scaled picture"
    ]
    scaled = photo.resize((88, 48), Image.Resampling.LANCZOS, box=(8, 0, 184, 96))
    assert (pictures.pixels(out)[:, :40] == numpy.asarray(scaled)[:, :40]).all()
    lines, out = drawn(width=192, height=96)
    assert lines == []
    assert pictures.pixels(out).shape == (96, 192, 3)
    lines, out = drawn(width=96)
    assert lines == ["photo.png: 192 x 96 is drawn at 96 x 48"]


@pytest.mark.parametrize("told", [{"width": 8192}, {"height": 4096, "hires": {"scale": 2.01}}])
def test_a_second_pass_has_the_same_limit(
    told: dict[str, object], tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    """Before anything is loaded where --width says it, else by the line that does."""
    tables = {"prompt": ["a"], "hires": {"scale": 8}}
    with pytest.raises(ConfigError, match=r"--hires (8|2\.01): makes over 8192 pixels of --(width 8192|height 4096);"):
        resolve(Sample, [tables, told])
    more = {"model": str(tiny_models["sd1"]), "out": tmp_path, "prompt": ["a", "a --w 2048"]}
    with pytest.raises(
        ConfigError, match="number 2: 2048 x 64: over 8192 pixels a side with --hires 8; give a smaller"
    ):
        list(sample(resolve(Sample, [tables, more])))
