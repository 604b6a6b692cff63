"""The classifier of real and drawn pictures."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from sdtune.core.evaluation.intervals import Array, Refused, Value, interval, resampled
from sdtune.core.evaluation.measures import measures
from sdtune.core.evaluation.measures.two_sample import cross_validated, nearest_neighbour
from tests.core.evaluation.measures.handmade import cloud, seen, unit

TEST = measures()["c2st_accuracy"]


def accuracy(drawn: Array, references: Array, seeds: int = 1, **more: Any) -> float:
    case = seen(drawn, references, seeds=seeds, **more)
    value = TEST.value(case, resampled([int(one) for one in case.prompt], len(references), 100))
    assert isinstance(value, Value)
    return value.estimate


def neighbours(drawn: Array, references: Array) -> float:
    found: float = TEST.detail(seen(drawn, references))["nearest_neighbour_accuracy"]
    return found


@pytest.mark.parametrize(("prompts", "seeds", "references"), [(20, 1, 20), (10, 3, 12), (8, 1, 40)])
def test_one_distribution_cannot_be_told_apart(prompts: int, seeds: int, references: int) -> None:
    """About 0.5 over many sets, however unequal, and though drawings of one prompt are alike."""
    random = numpy.random.default_rng(prompts)
    found = []
    for _ in range(150):
        content = numpy.repeat(cloud(random, prompts, 32), seeds, axis=0)
        drawn = unit(content + 0.5 * cloud(random, prompts * seeds, 32))
        real = unit(cloud(random, references, 32) + 0.5 * cloud(random, references, 32))
        found.append(accuracy(drawn, real, seeds))
    assert numpy.mean(found) == pytest.approx(0.5, abs=0.03)  # about three standard errors


def test_described_references_give_nothing_away() -> None:
    """Drawings and references that show the same contents, one by one: about 0.5 as well."""
    random = numpy.random.default_rng(1)
    found = []
    for _ in range(150):
        content = cloud(random, 15, 32)
        drawn, real = (unit(content + 0.3 * cloud(random, 15, 32)) for _ in range(2))
        order = random.permutation(15)
        found.append(accuracy(drawn, real[order], of_reference=numpy.argsort(order)))
    assert numpy.mean(found) == pytest.approx(0.5, abs=0.03)


def test_shifted_set_is_told_apart() -> None:
    """Near 1, with all four figures."""
    random = numpy.random.default_rng(2)
    drawn, real = cloud(random, 20, shift=2.0), cloud(random, 20)
    assert accuracy(drawn, real) > 0.95
    told = TEST.detail(seen(drawn, real))
    assert all(0.9 < told[name] <= 1 for name in ("precision", "recall", "f1", "nearest_neighbour_accuracy"))


def test_memorised_set() -> None:
    """Copies cannot be told from their originals, and each lies on one: far below 0.5 by nearest neighbours."""
    real = cloud(numpy.random.default_rng(3), 20)
    assert accuracy(real, real) == 0.5
    assert neighbours(real, real) == 0
    other = cloud(numpy.random.default_rng(4), 20)
    assert 0.25 < neighbours(other, real) < 0.75


def test_collapsed_and_half_covered_sets() -> None:
    """One picture for all is told apart as far as references differ from it; a half that is drawn well is not."""
    random = numpy.random.default_rng(5)
    real = cloud(random, 40)
    assert TEST.detail(seen(numpy.repeat(real[:1], 20, axis=0), real[1:]))["recall"] == 1
    one, other = cloud(random, 20), unit(cloud(random, 20) - 2.0)
    found = accuracy(cloud(random, 40), numpy.concatenate([one, other]))
    assert 0.6 < found < 0.9  # half of the references are never drawn, the other half may be


def test_figures_from_their_counts() -> None:
    """Precision, recall and F1 where each set counts half, whatever its size."""
    random = numpy.random.default_rng(6)
    case = seen(cloud(random, 30, shift=0.3), cloud(random, 12))
    guesses = cross_validated(case.drawn, case.references, case.prompt, case.of_reference)
    right, mistaken = guesses.drawings.sum() / 30, guesses.references.sum() / 12
    told = TEST.detail(case)
    precision = right / (right + mistaken)
    assert told["recall"] == pytest.approx(right)
    assert told["precision"] == pytest.approx(precision)
    assert told["f1"] == pytest.approx(2 * precision * right / (precision + right))
    assert accuracy(case.drawn, case.references) == pytest.approx((right + 1 - mistaken) / 2)
    assert 0 < mistaken < right < 1


def test_oracle_of_ridge() -> None:
    """Each guess is that of weighted ridge regression in its normal equations, taught on the other folds."""
    random = numpy.random.default_rng(7)
    drawn, real = cloud(random, 20, 6, 0.2), cloud(random, 10, 6)
    guesses = cross_validated(drawn, real, numpy.arange(20), numpy.full(20, -1))
    fold = numpy.concatenate([numpy.arange(20) % 10, numpy.arange(10)])
    features = numpy.concatenate([drawn, real])
    label = numpy.repeat([1.0, -1.0], [20, 10])
    for one in range(10):
        taught, asked = fold != one, fold == one
        weight = numpy.where(label[taught] > 0, 0.5 / 18, 0.5 / 9)
        middle = weight @ features[taught]
        x = features[taught] - middle
        covariance = (x * weight[:, None]).T @ x
        slope = numpy.linalg.solve(
            covariance + 0.01 * numpy.trace(covariance) * numpy.eye(6), x.T @ (weight * label[taught])
        )
        expected = (features[asked] - middle) @ slope > 0
        assert numpy.concatenate([guesses.drawings, guesses.references])[asked].tolist() == expected.tolist()


def test_oracle_of_neighbours() -> None:
    """By looking at each picture's distances in turn, without drawings of its own prompt."""
    random = numpy.random.default_rng(8)
    drawn, real, prompt = cloud(random, 12), cloud(random, 9), numpy.arange(12) // 2
    found = nearest_neighbour(drawn, real, prompt)
    for place in range(12):
        others = numpy.linalg.norm(drawn - drawn[place], axis=1)
        others[prompt == prompt[place]] = numpy.inf
        assert found.drawings[place] == (others.min() < numpy.linalg.norm(real - drawn[place], axis=1).min())
    for place in range(9):
        others = numpy.linalg.norm(real - real[place], axis=1)
        others[place] = numpy.inf
        assert found.references[place] == (numpy.linalg.norm(drawn - real[place], axis=1).min() < others.min())


def test_all_prompts_describe_one_reference() -> None:
    """Nothing is left to learn drawings from in their fold; no classifier, no failure."""
    pictures = cloud(numpy.random.default_rng(9), 9)
    guesses = cross_validated(pictures[:4], pictures[4:], numpy.arange(4), numpy.zeros(4, numpy.int64))
    assert (guesses.drawings == 0.5).all()
    assert numpy.isfinite(guesses.references).all()


def test_refused_of_few() -> None:
    """With what would help."""
    pictures = cloud(numpy.random.default_rng(10), 8)
    told = TEST.value(seen(pictures, pictures[:2]), resampled(range(8), 2, 100))
    assert isinstance(told, Refused)
    assert told.reason.endswith("there are 2; give more by --reference")
    told = TEST.value(seen(pictures, pictures, seeds=4), resampled([0, 1], 8, 100))
    assert isinstance(told, Refused)
    assert told.reason.endswith("there are 2; raise --prompts-each")


def test_intervals_hold_the_truth() -> None:
    """95 % of 200 hold 0.5 where sets are of one distribution: they allow for other classifiers."""
    random = numpy.random.default_rng(11)
    held = []
    for number in range(200):
        case = seen(cloud(random, 40, 64), cloud(random, 40, 64))
        weights = resampled(range(40), 40, 200, number)
        low, high = interval(TEST.replicates(case, weights), TEST.groups(case), share=True)
        held.append(low <= 0.5 <= high)
    assert 0.91 <= numpy.mean(held) <= 0.985
