"""Class accuracy."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from torchmetrics.functional import classification

from sdtune.core.evaluation.intervals import Refused, Value, resampled
from sdtune.core.evaluation.measures import Seen, measures
from sdtune.core.evaluation.measures.classes import confusion, macro
from tests.core.evaluation.measures.handmade import cloud, seen, unit

ACCURACY = measures()["class_accuracy"]
NAMES = ("apple", "pear", "plum")
SHOWN = numpy.arange(9) % 3


def case(asked: list[int], shows: list[int], **more: Any) -> Seen:
    """Drawings that ask for classes, and show some; each class lies along an axis of its own."""
    random = numpy.random.default_rng(0)
    drawn = unit(numpy.eye(3, 16)[shows] + 0.1 * cloud(random, len(shows)))
    references = unit(numpy.eye(3, 16)[SHOWN] + 0.1 * cloud(random, 9))
    told = {"classes": NAMES, "of_class": numpy.array(asked), "reference_classes": SHOWN}
    return seen(drawn, references, **(told | more))


def value(one: Seen) -> Value:
    found = ACCURACY.value(one, resampled([int(prompt) for prompt in one.prompt], len(one.references), 200))
    assert isinstance(found, Value)
    return found


def test_oracle() -> None:
    """torchmetrics' figures of any guesses, of classes that are missing, too."""
    random = numpy.random.default_rng(1)
    for classes, there in ((3, 3), (5, 5), (6, 4)):
        true, guess = random.integers(0, there, 40), random.integers(0, there, 40)
        true[:20] = guess[:20]
        pair = torch.tensor(guess), torch.tensor(true), classes
        matrix = confusion(true, guess, classes)
        assert matrix.tolist() == classification.multiclass_confusion_matrix(*pair).tolist()
        oracle = [
            one(*pair, average="macro").item()
            for one in (
                classification.multiclass_precision,
                classification.multiclass_recall,
                classification.multiclass_f1_score,
            )
        ]
        assert macro(matrix) == pytest.approx(oracle, abs=1e-6)


def test_figures() -> None:
    """Of drawings that name a class alone: one of four pears is an apple."""
    one = case([0, 0, 1, 1, 1, 1, 2, 2, -1], [0, 0, 1, 1, 1, 0, 2, 2, 0])
    found = value(one)
    assert (found.estimate, found.n, found.references) == (7 / 8, 8, 9)
    assert 0.4 < found.low < 7 / 8 < found.high < 1
    told = ACCURACY.detail(one)
    assert told["confusion"] == [[2, 0, 0], [1, 3, 0], [0, 0, 2]]
    assert told["precision"] == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert told["recall"] == pytest.approx((1 + 3 / 4 + 1) / 3)
    assert told["f1"] == pytest.approx((4 / 5 + 6 / 7 + 1) / 3)
    assert (told["by"], told["chance"], told["references"]) == ("references", pytest.approx(1 / 3), 1.0)


def test_known_sets() -> None:
    """The references themselves are right; all drawings of one class are right where that was asked for."""
    one = case(list(SHOWN), list(SHOWN))
    assert (
        value(seen(one.references, one.references, classes=NAMES, of_class=SHOWN, reference_classes=SHOWN)).estimate
        == 1
    )
    assert value(case(list(SHOWN), [1] * 9)).estimate == pytest.approx(1 / 3)
    found = value(case([0, 1, 2] * 3, [1, 2, 0] * 3))
    assert found.estimate == found.low == 0
    assert 0 < found.high < 0.6  # 0 of 9 is not certain


def test_nearest_mean_and_not_the_longest() -> None:
    """A class whose references differ has a short mean, which is no handicap."""
    angles = numpy.array([-1.0, 1.0, 1.2, 1.4])  # means at about (0.54, 0) and (0.27, 0.96)
    references = numpy.stack([numpy.cos(angles), numpy.sin(angles)], 1)
    drawn = numpy.array([[numpy.cos(0.7), numpy.sin(0.7)], [numpy.cos(0.4), numpy.sin(0.4)]])
    one = seen(
        drawn, references, classes=("a", "b"), of_class=numpy.array([0, 0]), reference_classes=numpy.array([0, 0, 1, 1])
    )
    means = numpy.array([references[:2].mean(0), references[2:].mean(0)])
    nearest = numpy.linalg.norm(drawn[:, None] - means[None], axis=2).argmin(1)
    assert value(one).estimate == (nearest == 0).mean()


def test_texts_where_a_class_has_no_reference() -> None:
    """All classes are told by the words of the prompts that ask for them."""
    texts = unit(numpy.eye(3, 16)[[0, 1, 2, 2]] + 3 * numpy.eye(16)[15])  # far from all pictures, as texts are
    one = case([0, 1, 2, 2], [0, 1, 2, 1], reference_classes=numpy.minimum(SHOWN, 1), texts=texts)
    found = value(one)
    assert (found.estimate, found.references) == (3 / 4, 0)
    told = ACCURACY.detail(one)
    assert told["by"] == "texts"
    assert "references" not in told


def test_references_that_are_hard_to_tell() -> None:
    """How often their own class's others tell them right; nothing where one has no other."""
    one = case([0, 1], [0, 1])
    mixed = numpy.array([0, 1, 2, 0, 1, 2, 1, 1, 2])  # an apple that is said to be a pear
    told = ACCURACY.detail(case([0, 1], [0, 1], reference_classes=mixed))
    assert told["references"] == pytest.approx(8 / 9)
    random = numpy.random.default_rng(2)
    alike = unit(numpy.eye(3, 16)[SHOWN] + 2 * cloud(random, 9))
    right = 0
    for place in range(9):
        others = numpy.arange(9) != place
        means = numpy.array([alike[others & (kind == SHOWN)].mean(0) for kind in range(3)])
        right += int(numpy.linalg.norm(means - alike[place], axis=1).argmin() == SHOWN[place])
    told = ACCURACY.detail(seen(alike, alike, classes=NAMES, of_class=SHOWN, reference_classes=SHOWN))
    assert told["references"] == pytest.approx(right / 9)
    assert 0 < right < 9
    lone = numpy.array([0, 1, -1, -1, 1, -1, -1, 1, -1])
    assert ACCURACY.detail(case([0, 1], [0, 1], reference_classes=lone))["references"] is None
    assert ACCURACY.detail(one)["references"] == 1


@pytest.mark.parametrize(
    ("one", "told"),
    [
        (case([-1, -1], [0, 1]), "no class is asked for; it is told of runs that learned classes"),
        (case([0, 1], [0, 1], classes=()), "no class is asked for"),
        (case([0, 1], [0, 1], of_class=None), "no class is asked for"),
        (case([0, 1], [0, 1], reference_classes=None), 'no reference shows "apple" and 1 more; hold out'),
        (case([0, 1, 2], [0, 1, 2], reference_classes=numpy.minimum(SHOWN, 1)), 'no reference shows "plum"; hold out'),
        (case([0, 0], [0, 1], reference_classes=numpy.zeros(9, numpy.int64)), "only one class is asked for and shown"),
    ],
)
def test_refused(one: Seen, told: str) -> None:
    """With what would help."""
    found = ACCURACY.value(one, resampled([int(prompt) for prompt in one.prompt], len(one.references), 100))
    assert isinstance(found, Refused)
    assert found.reason.startswith(told)
