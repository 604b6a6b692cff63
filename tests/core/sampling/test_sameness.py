"""A picture drawn once more beside the first: the same bytes, the same pixels, or how far apart, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdtune.core.picture_file import save_picture
from sdtune.core.reports import Note, Warned
from sdtune.core.sampling.recipe import FileUse, LoraUse, Recipe, WordUse
from sdtune.core.sampling.sameness import Verdict, compared, differences, verdict
from sdtune.errors import SdtuneError
from tests.core.sampling.recipes import HASH, MADE, recipe
from tests.core.sampling.test_again import image


def test_differences_are_named() -> None:
    assert differences(recipe(), recipe()) == []
    made = MADE.model_copy(update={"torch": "2.13", "device": "a \x1b card"})
    assert differences(recipe(), recipe(made=made)) == [
        "torch 2.12 then, 2.13 now",
        r"device cpu then, 'a \x1b card' now",
    ]
    narrow = MADE.model_copy(update={"precision": "bfloat16"})
    assert differences(recipe(), recipe(made=narrow)) == ["precision float32 then, bfloat16 now"]
    then, now = (recipe(words=(WordUse(file="a", sha256=HASH, word=word),)) for word in ("sks", "zwx"))
    assert differences(then, now) == ["the new words are not the same"]
    other: list[tuple[Recipe, str]] = [
        (
            recipe(model={"name": "x", "family": "sd1", "weights": "f" * 64}),
            "the model has other weights than mini had",
        ),
        (recipe(loras=(LoraUse(file="a", sha256=HASH),)), "the LoRAs are not the same"),
        (recipe(words=(WordUse(file="a", sha256=HASH, word="cat"),)), "the new words are not the same"),
        (recipe(init=FileUse(file="a", sha256=HASH)), "--init is not the same"),
        (recipe(mask=FileUse(file="a", sha256=HASH)), "--mask is not the same"),
        (recipe(seed=8), "its settings are not the same"),
    ]
    for now, told in other:
        assert differences(recipe(), now) == [told]


def test_the_verdict(tmp_path: Path) -> None:
    one = recipe()
    elsewhere = recipe(made=MADE.model_copy(update={"device": "cuda"}))
    first = save_picture(tmp_path / "a.png", image(), one)
    same = save_picture(tmp_path / "b.png", image(), one)
    assert verdict(first, same, one, one) == Verdict("bytes", f"{same}: the same bytes as {first}")
    told = save_picture(tmp_path / "c.png", image(), elsewhere)
    assert verdict(first, told, one, elsewhere) == Verdict(
        "pixels", f"{told}: the same pixels as {first}, other metadata: device cpu then, cuda now"
    )
    changed = image()
    changed.putpixel((3, 4), (2, 0, 1))
    drawn = save_picture(tmp_path / "d.png", changed, elsewhere)
    assert verdict(first, drawn, one, elsewhere) == Verdict(
        "neither",
        f"{drawn}: differs from {first} in under 0.1 % of the pixels, by 2 of 255 at most: device cpu then, cuda now",
    )
    drawn = save_picture(tmp_path / "e.png", image(200), one)
    assert verdict(first, drawn, one, one).told == (
        f"{drawn}: differs from {first} in 100.0 % of the pixels, by 200 of 255 at most: it was changed since it was "
        "drawn, or this machine or sdtune itself is another"
    )
    small = save_picture(tmp_path / "f.png", image().resize((32, 24)), one)
    first.write_bytes(first.read_bytes()[:-40])
    for other, words in ((small, "cannot be compared"), (same, "cannot be compared")):
        assert verdict(first, other, one, one).same == "neither"
        assert words in verdict(first, other, one, one).told
    assert "cannot be compared" in verdict(tmp_path / "nowhere.png", same, one, one).told
    assert "32 x 24 pixels, but" in verdict(same, small, one, one).told


def test_a_script_hears_of_other_pixels(tmp_path: Path) -> None:
    one = recipe()
    elsewhere = recipe(made=MADE.model_copy(update={"device": "cuda"}))
    first = save_picture(tmp_path / "a.png", image(), one)
    same, other_words, other = (
        save_picture(tmp_path / f"{name}.png", picture, told)
        for name, picture, told in (("b", image(), one), ("c", image(), elsewhere), ("d", image(200), one))
    )
    assert [type(told) for told in compared(first, same, one, one)] == [Note]
    assert [type(told) for told in compared(first, other_words, one, elsewhere)] == [Warned]
    with pytest.raises(SdtuneError, match=r"d\.png: differs from .*a\.png in 100.0 %") as problem:
        list(compared(first, other, one, one))
    assert problem.value.exit_code == 1
