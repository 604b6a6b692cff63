"""A picture drawn once more beside the first: the same bytes, the same pixels, or how far apart, and why."""

from __future__ import annotations

from pathlib import Path

from sdtune.core.picture_file import save_picture
from sdtune.core.sampling.recipe import FileUse, LoraUse, Recipe
from sdtune.core.sampling.sameness import differences, verdict
from tests.core.sampling.recipes import HASH, MADE, recipe
from tests.core.sampling.test_again import image


def test_differences_are_named() -> None:
    assert differences(recipe(), recipe()) == []
    made = MADE.model_copy(update={"torch": "2.13", "device": "a \x1b card"})
    assert differences(recipe(), recipe(made=made)) == [
        "torch 2.12 then, 2.13 now",
        r"device cpu then, 'a \x1b card' now",
    ]
    other: list[tuple[Recipe, str]] = [
        (
            recipe(model={"name": "x", "family": "sd1", "weights": "f" * 64}),
            "the model has other weights than mini had",
        ),
        (recipe(loras=(LoraUse(file="a", sha256=HASH),)), "the LoRAs are not the same"),
        (recipe(words=(FileUse(file="a", sha256=HASH),)), "the new words are not the same"),
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
    assert verdict(first, same, one, one) == f"{same}: the same bytes as {first}"
    told = save_picture(tmp_path / "c.png", image(), elsewhere)
    assert verdict(first, told, one, elsewhere) == (
        f"{told}: the same pixels as {first}, other metadata: device cpu then, cuda now"
    )
    changed = image()
    changed.putpixel((3, 4), (2, 0, 1))
    drawn = save_picture(tmp_path / "d.png", changed, elsewhere)
    said = verdict(first, drawn, one, elsewhere)
    assert (
        said
        == f"{drawn}: differs from {first} in under 0.1 % of the pixels, by 2 of 255 at most: device cpu then, cuda now"
    )
    drawn = save_picture(tmp_path / "e.png", image(200), one)
    said = verdict(first, drawn, one, one)
    assert said.startswith(
        f"{drawn}: differs from {first} in 100.0 % of the pixels, by 200 of 255 at most: it was changed"
    )
    small = save_picture(tmp_path / "f.png", image().resize((32, 24)), one)
    assert "32 x 24 pixels, but" in verdict(first, small, one, one)
    first.write_bytes(first.read_bytes()[:-40])
    assert "cannot be compared" in verdict(first, same, one, one)
    assert "cannot be compared" in verdict(tmp_path / "nowhere.png", same, one, one)
