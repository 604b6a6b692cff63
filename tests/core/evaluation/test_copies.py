"""Near-copies: found and named, however they are disguised, and nothing else."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from PIL import Image, ImageOps

from sdtune.core.data.images import open_image
from sdtune.core.evaluation.copies import copies_of
from sdtune.core.evaluation.intervals import Array, Refused, Value, resampled
from sdtune.core.evaluation.measures import Seen, measures

EXAMPLES = Path(__file__).parents[3] / "examples"
TRAINED = [EXAMPLES / "fluent-3d" / f"{name}.png" for name in ("1f335", "1f339", "1f345", "1f347", "1f418")]
HELD_OUT = [EXAMPLES / "fluent-3d-held-out" / f"{name}.png" for name in ("1f34e", "1f344", "1f680", "1f697")]
OTHERS = [EXAMPLES / "fluent-3d" / f"{name}.png" for name in ("1f511", "1f682", "1f9f8", "2602", "1f3b2")]


def features(pictures: list[Path]) -> Array:
    """Unit vectors of mean colours in 4 x 4 fields, about white: an encoder that is quick and knows little."""
    small = [numpy.asarray(open_image(one).resize((4, 4), Image.Resampling.BOX), dtype=float) for one in pictures]
    flat = 1 + 255 - numpy.array(small).reshape(len(pictures), -1)
    found: Array = flat / numpy.linalg.norm(flat, axis=1, keepdims=True)
    return found


def seen(drawn: list[Path], of_trained: list[int] | None = None, *, trained: list[Path] = TRAINED) -> Seen:
    """A cell of new prompts; without the LoRA other things are drawn."""
    n = len(drawn)
    every, none = numpy.ones(n, dtype=numpy.bool_), numpy.zeros(n, dtype=numpy.bool_)
    return Seen(
        drawn=features(drawn),
        base=features(OTHERS)[numpy.arange(n) % len(OTHERS)],
        references=features(HELD_OUT),
        trained=features(trained) if trained else features(TRAINED)[:0],
        prompt=numpy.arange(n),
        in_distribution=none,
        new_context=every,
        generic=none,
        has_concept=every,
        of_reference=numpy.full(n, -1),
        of_trained=numpy.array(of_trained or [-1] * n),
        pictures=drawn,
        reference_pictures=HELD_OUT,
        trained_pictures=trained,
    )


def told(case: Seen, name: str) -> Value | Refused:
    """A measure of it."""
    return measures()[name].value(case, resampled(case.prompt.tolist(), len(case.references), 200))


def changed(folder: Path, how: str) -> list[Path]:
    """The trained pictures as files of their own."""
    found = []
    for number, picture in enumerate(TRAINED):
        image = open_image(picture)
        if how == "recoloured":
            red, green, blue = image.split()
            image = Image.merge("RGB", (red.point(lambda v: v * 0.92), green, blue.point(lambda v: v * 0.95 + 8)))
        elif how == "cropped":
            image = ImageOps.crop(image, round(0.03 * image.width)).resize((128, 128))
        path = folder / (f"{number}.jpg" if how == "jpeg" else f"{number}.png")
        image.save(path, quality=70)
        found.append(path)
    return found


@pytest.mark.parametrize("how", ["equal", "jpeg", "recoloured", "cropped"])
def test_every_copy_is_named(tmp_path: Path, how: str) -> None:
    """Whatever was done to it."""
    case = seen(changed(tmp_path, how))
    assert [(one.unit, one.trained, one.own_prompt) for one in copies_of(case)] == [(i, i, False) for i in range(5)]
    assert all(one.likeness > one.usual for one in copies_of(case))
    share = told(case, "copies")
    assert isinstance(share, Value)
    assert (share.estimate, share.high, share.n, share.references) == (1, 1, 5, 5)


def test_a_mirrored_copy_is_found(tmp_path: Path) -> None:
    """By an encoder to which it is as near."""
    mirrored = tmp_path / "mirrored.png"
    ImageOps.mirror(open_image(TRAINED[0])).save(mirrored)
    case = seen([mirrored])
    case.drawn[0] = case.trained[0]
    assert [one.trained for one in copies_of(case)] == [0]


def test_others_are_no_copies() -> None:
    """Pictures of the same style; and what a blind encoder takes for a copy is looked at."""
    case = seen(OTHERS)
    assert copies_of(case) == ()
    share = told(case, "copies")
    assert isinstance(share, Value)
    assert share.estimate == 0
    assert share.low == pytest.approx(0)
    fooled = seen(OTHERS[:1], trained=TRAINED[:1])
    fooled.drawn[:] = fooled.trained
    assert copies_of(fooled) == ()


def test_its_own_caption_is_told_apart() -> None:
    """A drawing of a trained picture's caption may look like it; another trained picture may not come."""
    case = seen([TRAINED[0], TRAINED[1], OTHERS[0]], [0, 2, -1])
    assert [(one.unit, one.trained, one.own_prompt) for one in copies_of(case)] == [(0, 0, True), (1, 1, False)]
    share = told(case, "copies")
    assert isinstance(share, Value)
    assert (share.estimate, share.n) == (pytest.approx(1 / 3), 3)
    detail = measures()["copies"].detail(case)
    assert detail == {"by_trained": {"1": 1}, "recited": 1, "of_trained_captions": 2}


def test_what_does_not_ask_for_what_was_learned_is_no_alarm() -> None:
    """The measure and its pictures count the same drawings."""
    case = replace(seen(TRAINED[:3]), has_concept=numpy.array([False, True, True]))
    assert [one.astray for one in copies_of(case)] == [False, True, True]
    share = told(case, "copies")
    assert isinstance(share, Value)
    assert (share.estimate, share.n) == (1, 2)
    assert measures()["copies"].detail(case)["by_trained"] == {"1": 1, "2": 1}


def test_a_picture_that_was_written_anew_is_looked_at_anew(tmp_path: Path) -> None:
    """Though it has the name of one that was a copy."""
    picture = tmp_path / "0.png"
    open_image(TRAINED[0]).save(picture)
    assert copies_of(seen([picture]))
    open_image(OTHERS[0]).save(picture)
    os.utime(picture, ns=(1, 1))
    again = seen([picture])
    again.drawn[0] = again.trained[0]
    assert copies_of(again) == ()


def test_a_picture_trained_twice_hides_nothing(tmp_path: Path) -> None:
    """Nor one that is a reference, too."""
    again = changed(tmp_path, "jpeg")
    case = seen([TRAINED[2]], trained=[*TRAINED, *again])
    assert len(copies_of(case)) == 1
    assert copies_of(seen([TRAINED[2]], [7], trained=[*TRAINED, *again]))[0].own_prompt


def test_pictures_that_are_all_alike(tmp_path: Path) -> None:
    """Ten photographs of one thing: another one of them is no copy, the same one is."""
    bear = open_image(EXAMPLES / "fluent-3d" / "1f9f8.png").resize((96, 96))
    pictures = []
    for number in range(14):
        image = Image.new("RGB", (128, 128), (200, 220, 240))
        image.paste(
            bear.rotate(-28 + 8 * (number % 7), fillcolor=(255, 255, 255)), (4 * (number // 7), 6 * (number % 5))
        )
        pictures.append(tmp_path / f"{number}.png")
        image.save(pictures[-1])
    case = seen([*pictures[10:], pictures[3]], trained=pictures[:10])
    assert [(one.unit, one.trained) for one in copies_of(case)] == [(4, 3)]


def test_as_near_as_a_held_out_picture_is_no_copy(tmp_path: Path) -> None:
    """What looks like a trained picture is usual where a held-out one is nearer to it."""
    shifted = []
    for number, pixels in enumerate((5, 8)):
        paper = Image.new("RGB", (128, 128), "white")
        paper.paste(open_image(TRAINED[0]).resize((128, 128)), (pixels, pixels))
        shifted.append(tmp_path / f"{number}.png")
        paper.save(shifted[-1])
    assert [one.trained for one in copies_of(seen(shifted[1:]))] == [0]
    case = replace(seen(shifted[1:]), references=features(shifted[:1]), reference_pictures=shifted[:1])
    assert copies_of(case) == ()


def test_refused_where_trained_pictures_are_not_known() -> None:
    """With what would help."""
    case = seen(OTHERS, trained=[])
    assert told(case, "copies") == Refused("which pictures were trained is not known; give --trained")
    assert copies_of(case) == ()
