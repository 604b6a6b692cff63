"""The words that call up what was learned, out of captions, and prompts with them in the captions' own form."""

from __future__ import annotations

import pytest

from sdtune.core.evaluation.trigger import Trigger, trigger_for

STYLE = ["a green cactus, fluent3d style", "purple grapes, fluent3d style", "a red rose, fluent3d style", "an owl"]
SUBJECT = ["sks cat on a sofa", "sks cat in a garden", "a photo of sks cat", "sks cat asleep on a wall"]


def found(captions: list[str], known: str | None = None, *, style: bool = False) -> Trigger:
    trigger = trigger_for(captions, known, style=style)
    assert trigger is not None
    return trigger


@pytest.mark.parametrize("known", [None, "fluent3d", "Fluent3D"])
def test_a_style_stands_behind_whatever_is_seen_in_it(known: str | None) -> None:
    trigger = found(STYLE[:3] * 2 + STYLE[3:], known)
    assert (trigger.phrase, trigger.is_style) == ("fluent3d style", True)
    assert trigger.asking("a rocket") == "a rocket, fluent3d style"
    assert trigger.without("a rocket, fluent3d style") == "a rocket"
    assert trigger.stands_in("A rocket, Fluent3D style")
    assert not trigger.stands_in("a rocket, unfluent3d styles")


@pytest.mark.parametrize("known", [None, "sks"])
def test_a_subject_stands_before_where_it_is(known: str | None) -> None:
    trigger = found(SUBJECT, known)
    assert (trigger.phrase, trigger.is_style) == ("sks cat", False)
    assert trigger.where("on a beach") == "sks cat on a beach"
    assert trigger.without("sks cat on a beach") == "cat on a beach"


@pytest.mark.parametrize(
    ("captions", "known", "phrase", "asks"),
    [
        (["a cup in the style of xyz", "a dog in the style of xyz", "grapes in the style of xyz"], None, "style of xyz",
         "a rocket in the style of xyz"),
        (["blob3d, a cup", "blob3d, a red dog", "blob3d, an owl"], "blob3d", "blob3d", "blob3d, a rocket"),
        (["a photo of sks cup, red", "a photo of sks cup here", "a photo of sks cup"], None, "sks cup",
         "a photo of sks cup on a beach"),
        (["sks, a man in a suit", "sks, portrait of a young man", "sks, a man", "sks, a hat"], "sks", "sks",
         "sks, a man on a beach"),
        (["sks, a cat on a mat", "sks, a cat", "sks, a cat in a box"], "sks", "sks, a cat", "sks, a cat on a beach"),
        (["sks cat"] * 5, "sks", "sks cat", "sks cat on a beach"),
        ([], "sks cat", "sks cat", "sks cat on a beach"),
        ([], "ink style", "ink style", "a rocket, ink style"),
        (["only one caption of sks cat"], "sks", "sks", "sks on a beach"),
    ],
)  # fmt: skip
def test_the_form_of_prompts_is_that_of_the_captions(
    captions: list[str], known: str | None, phrase: str, asks: str
) -> None:
    trigger = found(captions, known)
    assert trigger.phrase == phrase
    assert (trigger.asking("a rocket") if trigger.is_style else trigger.where("on a beach")) == asks


def test_what_is_known_to_be_a_style_is_one_wherever_it_stands() -> None:
    captions = ["blob3d, cups", "blob3d, dogs", "blob3d, owls"]
    assert [found(captions, "blob3d", style=style).is_style for style in (True, False)] == [True, False]


@pytest.mark.parametrize(
    "captions",
    [[], ["a cat"], ["a dog", "a cat on a mat", "an owl"], ["a", "the", "a photo of"], ["", "", ""]],
)
def test_what_says_nothing_is_no_trigger(captions: list[str]) -> None:
    assert trigger_for(captions, None) is None


def test_captions_that_lack_the_trigger_are_made_to_ask_for_it() -> None:
    assert found(STYLE, "fluent3d").asking("a red apple") == "a red apple, fluent3d style"
    assert found(SUBJECT, "sks").asking("asleep on a chair") == "sks cat, asleep on a chair"
    assert found(SUBJECT, "sks").asking("one with sks on it") == "one with sks on it"


def test_marks_of_patterns_mean_themselves_and_long_captions_cost_no_time() -> None:
    trigger = found(["a (x+)+ [b", "a dog (x+)+ [b", "an owl (x+)+ [b"], "(x+)+ [b")
    assert trigger.without("a cup, (x+)+ [b") == "a cup"
    assert found([f"a{',. ' * 200}z sks" for _ in range(3)], "sks").is_style  # tried in all ways it would take years
