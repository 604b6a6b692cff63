"""What augmentation would spoil is found by whole words, kept from it, and told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdtune.core.data.augmentation import Guarded, guard
from sdtune.core.data.folder import Example
from sdtune.tables import Augment

FLIP = Augment(flip=True)


def guarded(*captions: str, augment: Augment = FLIP, task: str = "text-to-image") -> Guarded:
    examples = [Example(Path(f"{number}.png"), (caption,), 64, 64) for number, caption in enumerate(captions)]
    return guard(examples, augment, task)


@pytest.mark.parametrize(
    "caption",
    [
        "a shop sign",
        "Signs in a street",
        "the LOGO of a bakery",
        "a page with text",
        "a board that says open",
        "handwritten letters",
        "a speech bubble",
        "1girl, speech_bubble, english_text",
        "watermark",
        "the number 7 on a door",
        'a card with "hello" on it',
        "a card with “hello” on it",
        "a mug, 'best dad' on it",
        "license plate",
        "a dog facing left",
        "looking to the right, smiling",
        "left-handed",
        "a counter-clockwise spiral",
        "sun in the west.",
    ],
)
def test_writing_and_sides_are_not_mirrored(caption: str) -> None:
    found = guarded("a red apple", caption)
    assert found.may_flip == [True, False]
    assert len(found.warnings) >= 1
    assert found.warnings[0].startswith("augment.flip: 1 of 2 images are not mirrored, ")
    assert found.warnings[0].endswith(": 1.png")


@pytest.mark.parametrize(
    "caption",
    [
        "a textured wall",
        "a bright design",
        "designs of lighthouses",
        "cleft rock",
        "leftovers on a plate",
        "the cat's and the dogs' bowls",
        "a swordfish, sketchbook",
        "restaurant",
        "",
    ],
)
def test_words_within_words_are_none(caption: str) -> None:
    assert guarded(caption) == Guarded([True], [], [])


def test_any_of_several_captions_is_heeded() -> None:
    example = Example(Path("a.png"), ("a house", "a house with a sign"), 64, 64)
    assert guard([example], FLIP, "text-to-image").may_flip == [False]


def test_the_warning_counts_and_names_images_and_words() -> None:
    captions = ["a sign", "a sign", 'says "no"', "text", "a map", "left", "an apple"]
    (warning,) = guarded(*captions).warnings
    assert warning == (
        "augment.flip: 6 of 7 images are not mirrored, since captions speak of writing or of sides "
        '("sign", "says", "text" and 2 more): 0.png, 1.png, 2.png and 3 more'
    )
    assert "no image is mirrored" in guarded("a sign").warnings[0]


@pytest.mark.parametrize(
    "caption", ["a man in a hat", "Portrait of a dog", "1girl, solo", "2boys", "selfie", "two women", "her face_paint"]
)
def test_faces_are_mirrored_and_told(caption: str) -> None:
    found = guarded("an apple", caption)
    assert found.may_flip == [True, True]
    assert found.refusals == []
    (warning,) = found.warnings
    assert warning.startswith("augment.flip: captions of 1 image speak of faces or persons (1.png); ")
    assert "leave flip out" in warning
    assert guarded("a mandarin, a surface, humane, girlish").warnings == []
    assert len(guarded("a man with a sign").warnings) == 1


def test_nothing_is_told_of_mirroring_that_is_off() -> None:
    assert guarded("a sign", "a man", augment=Augment(crop=0.1)) == Guarded([True, True], [], [])


def test_images_of_the_class_are_not_augmented_and_not_told_of() -> None:
    priors = [Example(Path("p.png"), (caption,), 64, 64, prior=True) for caption in ("a man", "a sign")]
    assert guard(priors, FLIP, "text-to-image").warnings == []


def test_a_style_keeps_its_colours() -> None:
    (refusal,) = guarded("an apple", augment=Augment(colour=0.1, tag=True), task="style").refusals
    assert refusal == "augment.colour: changes the colours that a style is made of; leave it out with --task style"
    assert guarded("an apple", augment=Augment(colour=0.1, tag=True)) == Guarded([True], [], [])
    assert guarded("an apple", augment=Augment(rotate=3, tag=True), task="style") == Guarded([True], [], [])


@pytest.mark.parametrize("settings", [{"rotate": 3.0}, {"colour": 0.1}, {"rotate": 3.0, "colour": 0.1}])
def test_what_leaks_into_samples_is_told_once_with_the_remedy(settings: dict[str, float]) -> None:
    (warning,) = guarded(*["an apple"] * 50, augment=Augment.model_validate(settings)).warnings
    assert all(f"augment.{name}" in warning for name in settings)
    assert "--augment.tag" in warning
    (of_none,) = guarded("an apple", augment=Augment.model_validate(settings), task="unconditional").warnings
    assert "--augment.tag" not in of_none
    assert guarded("an apple", augment=Augment.model_validate({**settings, "tag": True})).warnings == []
