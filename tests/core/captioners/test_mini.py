"""The built-in captioner, on the example pictures: a style that it was not made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sdtune.choices.captioners import Mini
from sdtune.core.captioners import Describer, Picture, load
from sdtune.core.captioners.mini import _colour, framed_pixels, with_article
from sdtune.tables import Memory

EXAMPLES = Path(__file__).parents[3] / "examples" / "fluent-3d"
CPU = Memory(device="cpu")
FILES = sorted(EXAMPLES.glob("*.png"))


@pytest.fixture(scope="module")
def describer() -> Describer:
    return load(Mini(), CPU)


def example(code: str) -> Picture:
    path = EXAMPLES / f"{code}.png"
    return Picture(path, Image.open(path).convert("RGB"))


@pytest.mark.parametrize(
    ("code", "caption"),
    [
        ("1f335", "a green cactus, plain white background"),
        ("1f3c0", "a basketball, plain white background"),
        ("1f511", "a yellow key, plain white background"),
        ("1f951", "a green avocado, plain white background"),
        ("1f4d7", "a green book, plain white background"),
        ("1f98a", "an orange fox, plain white background"),
    ],
)
def test_subject_colour_and_background(code: str, caption: str, describer: Describer) -> None:
    (told,) = describer.describe([example(code)])
    assert [one.text for one in told] == [caption]
    assert 0.5 < told[0].score <= 1


def test_half_of_the_examples_are_named(describer: Describer) -> None:
    """A caption that shares a noun with the one written by hand: 34 of 56 as measured."""
    told = describer.describe([example(path.stem) for path in FILES])
    plain = {"a", "an", "of", "with", "face", "plain", "white", "background", "fluent3d", "style"}
    colours = {"red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "grey", "gold"}
    named = 0
    for path, captions in zip(FILES, told, strict=True):
        by_hand = set(path.with_suffix(".txt").read_text().replace(",", "").split()) - plain - colours
        named += bool(by_hand & set(captions[0].text.replace(",", "").split()))
    assert named >= 28


def test_a_batch_tells_what_one_by_one_tells(describer: Describer) -> None:
    pictures = [example(path.stem) for path in FILES[:5]]
    together = describer.describe(pictures, variants=2)
    for told, picture in zip(together, pictures, strict=True):
        (alone,) = describer.describe([picture], variants=2)
        assert [one.text for one in told] == [one.text for one in alone]
        assert told[0].score == pytest.approx(alone[0].score, abs=1e-4)


def test_size_place_and_background_make_no_other_subject(describer: Describer) -> None:
    key = example("1f511").image
    assert key is not None
    mask = Image.fromarray((np.asarray(key).min(axis=2) < 250).astype(np.uint8) * 255)
    wide = Image.new("RGB", (900, 500), (60, 110, 230))
    wide.paste(key, (500, 100), mask)
    (told,) = describer.describe([Picture(Path("a.png"), wide)])
    assert told[0].text == "a yellow key, plain blue background"
    small = Picture(Path("a.png"), key.resize((60, 60)))
    assert describer.describe([small])[0][0].text == "a yellow key, plain white background"


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (3000, 20), (200, 300)])
def test_any_picture_is_told_of(size: tuple[int, int], describer: Describer) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    for image in (Image.fromarray(noise), Image.new("RGB", size, "white")):
        (told,) = describer.describe([Picture(Path("a.png"), image)])
        assert told[0].text
        assert 0 <= told[0].score <= 1


def test_a_busy_border_is_no_plain_background(describer: Describer) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    (told,) = describer.describe([Picture(Path("a.png"), Image.fromarray(noise))])
    assert "background" not in told[0].text


def test_how_much_is_told() -> None:
    cactus = example("1f335")
    for attributes, caption in enumerate(("a cactus", "a green cactus")):
        (told,) = load(Mini(attributes=attributes), CPU).describe([cactus])
        assert told[0].text == caption
    (told,) = load(Mini(), CPU).describe([cactus], variants=3)
    texts = ["a green cactus, plain white background", "an emoji of a green cactus", "a green cactus emoji"]
    assert [one.text for one in told] == texts


def test_it_says_nothing_where_it_is_less_sure_than_asked(describer: Describer) -> None:
    pictures = [example(path.stem) for path in FILES]
    all_told = describer.describe(pictures)
    sure = load(Mini(certainty=0.7), CPU).describe(pictures)
    assert sure == [told if told[0].score >= 0.7 else [] for told in all_told]
    assert 10 < sum(map(bool, sure)) < len(sure)


def test_a_subject_without_a_drawing_can_be_found(describer: Any) -> None:
    """It is likened to the drawings of those with the nearest words, so CLIP decides between them."""
    undrawn = describer.undrawn.tolist()
    assert len(undrawn) == 78
    assert not set(undrawn) & set(describer.places.tolist())
    fit = describer.fit(framed_pixels([example(path.stem).image for path in FILES]))  # type: ignore[misc]
    ranks = fit.argsort(dim=1, descending=True)[:, :5]
    assert torch.isin(ranks, describer.undrawn).any()
    down, up = (describer.subjects.index(f"thumbs {way}") for way in ("down", "up"))
    near = describer.places[describer.nearest[undrawn.index(down)]]
    assert up in near.tolist()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("red apple", "a red apple"),
        ("avocado", "an avocado"),
        ("unicorn", "a unicorn"),
        ("hourglass done", "an hourglass done"),
        ("grapes", "grapes"),
        ("face with big eyes", "a face with big eyes"),
        ("nest with eggs", "a nest with eggs"),
        ("octopus", "an octopus"),
        ("wine glass", "a wine glass"),
        ("sunglasses", "sunglasses"),
        ("Statue of Liberty", "Statue of Liberty"),
        ("two o'clock", "two o'clock"),
    ],
)
def test_article(words: str, told: str) -> None:
    assert with_article(words) == told


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ((220, 30, 30), "red"),
        ((250, 140, 20), "orange"),
        ((250, 210, 40), "yellow"),
        ((30, 160, 60), "green"),
        ((40, 90, 220), "blue"),
        ((130, 50, 200), "purple"),
        ((250, 130, 190), "pink"),
        ((120, 75, 40), "brown"),
        ((10, 10, 10), "black"),
        ((250, 250, 250), "white"),
        ((128, 128, 128), "grey"),
    ],
)
def test_colour_names(colour: tuple[int, int, int], name: str) -> None:
    assert _colour(*colour) == name
