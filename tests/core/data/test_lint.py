"""Each problem of captions is found, told in one line with its remedy, and not found where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdtune.core.data.lint import lint, unreadable
from sdtune.core.data.tokens import Counter
from sdtune.core.reports import Problem

GOOD = ("a cat asleep on a red sofa", "two dogs in the rain", "an old house by the sea", "a bowl of green soup")


def found(*captions: str | Sequence[str] | None, trigger: str | None = None) -> dict[str, Problem]:
    """The problems of these captions and of four good ones, by their kind."""
    several = [*captions, *(f"{trigger}, {one}" if trigger else one for one in GOOD)]
    told = [[] if one is None else [one] if isinstance(one, str) else one for one in several]
    problems = lint([(f"{number}.png", one) for number, one in enumerate(told)], trigger)
    assert len({problem.kind for problem in problems}) == len(problems)
    return {problem.kind: problem for problem in problems}


def test_good_captions_have_no_problem() -> None:
    assert found() == {}
    assert found(trigger="sks") == {}
    assert lint([]) == []
    assert found(["a red fox in the snow", "a fox, winter, snow, wide shot"]) == {}


@pytest.mark.parametrize(
    ("captions", "kind", "names", "words"),
    [
        ([None, None], "missing", ("0.png", "1.png"), "2 images have no caption (0.png, 1.png)"),
        ([[" \t"]], "empty", ("0.png",), "1 image has an empty caption"),
        (["a bell\x07 rings loudly"], "letters", ("0.png",), "control characters"),
        (["read \u202ebackwards now"], "letters", ("0.png",), "control characters"),
        (["a caf\ufffd at night"], "letters", ("0.png",), "spoilt"),
        (["a cafÃ© at night", "a café at noon", "ÃÉ"], "letters", ("0.png",), "spoilt"),
        (["Two Dogs in the rain"], "identical", ("0.png", "2.png"), '2 images have the same caption, "Two Dogs in the'),
        (
            ["one dog", "ONE dog", "one dog", *GOOD[:2]],
            "identical",
            ("0.png", "1.png", "2.png", "3.png", "5.png", "4.png", "6.png"),
            '7 images share their captions with others; 3 have "one dog"',
        ),
        (["a tall man " * 30], "long", ("0.png",), "has more than 77 tokens, the longest about "),
        (["IMG_1234", "DSC00012 (2)", "3f2a9c71e0"], "name", ("0.png", "1.png", "2.png"), "the name of a file"),
        (["DSC00001.jpg", "IMG 1234.JPEG", "red_apple.png"], "name", ("0.png", "1.png", "2.png"), "the name of a file"),
        (["dog"], "short", ("0.png",), "is one word"),
        (["hat, Red_Hat, red hat"], "doubled", ("0.png",), "stands there twice"),
    ],
)
def test_each_problem_is_told_with_its_remedy(
    captions: list[str | None], kind: str, names: tuple[str, ...], words: str
) -> None:
    problem = found(*captions)[kind]
    assert problem.names == names
    assert words in problem.told
    assert problem.remedy
    assert "\n" not in problem.told + problem.remedy


def test_a_trigger_that_is_lacking_is_told_as_training_would_put_it() -> None:
    assert found("a red hat on a peg", "a SKS hat on the floor", trigger="sks")["trigger"].names == ("0.png",)
    assert "trigger" not in found("a red hat on a peg")
    assert found("sks, ", "sks, a hat", trigger="sks")["short"].names == ("0.png",)
    assert "short" not in found("sks, risksome", trigger="sks")
    assert found("many risks on a peg", trigger="sks")["trigger"].names == ("0.png",)


def test_what_stands_on_every_image_is_told_unless_it_is_the_trigger() -> None:
    captions = [(f"{number}.png", [f"{one}, Flat_Style"]) for number, one in enumerate(GOOD)]
    (problem,) = lint(captions)
    assert (problem.kind, problem.names) == ("everywhere", ())
    assert '--trigger "flat style"' in problem.remedy
    assert lint(captions, "flat_style") == []
    assert lint(captions[:3]) == []
    assert lint([*captions, ("4.png", ["a boat at dawn"])]) == []


def test_when_all_captions_are_the_same_that_alone_is_told() -> None:
    (problem,) = lint([(f"{number}.png", ["a photo, of something here"]) for number in range(9)])
    assert problem.told.startswith('all 9 images have the same caption, "a photo, of something here" (0.png')
    assert problem.told.endswith("2.png and 6 more)")


def test_the_order_of_problems_does_not_depend_on_chance() -> None:
    """Letters are hashed anew in each process, and so stand in another order in sets."""
    script = """if True:
        from sdtune.core.data.lint import lint
        tags = "one, two, three, four, five, six, seven, eight"
        captions = [(f"{number}.png", [f"{tags}, a{number}", f"{tags}, a{number}"]) for number in range(8)]
        print([(problem.kind, problem.told, problem.names) for problem in lint([*captions, *captions])])
    """
    told = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    (only,) = told
    assert only.count("everywhere") == 8


def test_a_counter_that_is_exact_says_so() -> None:
    told = lint([("a.png", ["a cat on a mat"])], None, Counter(lambda _: 78, exact=True))
    assert told[0].told.startswith("the caption of 1 image has more than 77 tokens, the longest 78")


def test_a_caption_that_cannot_be_read_is_told() -> None:
    problem = unreadable("a.png", "a.txt: not text in UTF-8; save it as UTF-8")
    assert problem == Problem("unreadable", "a.txt: not text in UTF-8", "save it as UTF-8", ("a.png",))


@given(st.lists(st.lists(st.text(max_size=30), max_size=3), max_size=8), st.none() | st.text(min_size=1, max_size=5))
def test_anything_can_be_a_caption(captions: list[list[str]], trigger: str | None) -> None:
    for problem in lint([(f"{number}.png", several) for number, several in enumerate(captions)], trigger):
        assert set(problem.names) <= {f"{number}.png" for number in range(len(captions))}
