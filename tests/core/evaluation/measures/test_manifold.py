"""Manifolds: precision, recall, F1, density, coverage."""

from __future__ import annotations

import numpy
import pytest
from prdc import compute_prdc

from sdtune.core.evaluation.intervals import Array, Refused, Value, Weights, interval, resampled
from sdtune.core.evaluation.measures import Seen, measures
from sdtune.core.evaluation.measures.manifold import (
    expected_coverage,
    harmonic,
    manifolds,
    mean_under,
    nearest_of,
    squares,
)
from tests.core.evaluation.measures.handmade import cloud, seen, unit

NAMES = ("f1", "precision", "recall", "density", "coverage")


def figures(one: Seen) -> dict[str, float]:
    weights = resampled([int(prompt) for prompt in one.prompt], len(one.references), 100)
    found = {}
    for name in NAMES:
        value = measures()[name].value(one, weights)
        assert isinstance(value, Value)
        found[name] = value.estimate
    return found


@pytest.mark.parametrize(("references", "drawings", "width", "k"), [(30, 20, 8, 5), (15, 60, 64, 3), (9, 9, 512, 2)])
@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_oracle(references: int, drawings: int, width: int, k: int, shift: float) -> None:
    """As the authors' package of Naeem et al. has them, unit vectors or not."""
    random = numpy.random.default_rng(references)
    for scale in (1.0, 7.0):
        real = cloud(random, references, width) * scale
        drawn = cloud(random, drawings, width, shift) * scale
        found = manifolds(real, drawn, k)
        oracle = compute_prdc(real, drawn, k)
        assert found.precise().mean() == pytest.approx(oracle["precision"], abs=1e-6)
        assert found.recalled().mean() == pytest.approx(oracle["recall"], abs=1e-6)
        assert found.dense().mean() == pytest.approx(oracle["density"], abs=1e-6)
        assert found.covered().mean() == pytest.approx(oracle["coverage"], abs=1e-6)


def test_oracle_of_a_cell() -> None:
    """A measure looks at fair drawings alone, with k for so many."""
    random = numpy.random.default_rng(1)
    drawn, references = cloud(random, 24, 32, 0.2), cloud(random, 12, 32)
    inside = numpy.arange(24) < 16
    case = seen(drawn, references, seeds=2, in_distribution=inside, new_context=~inside)
    oracle = compute_prdc(references, drawn[:16], 4)
    oracle["f1"] = 2 * oracle["precision"] * oracle["recall"] / (oracle["precision"] + oracle["recall"])
    assert figures(case) == pytest.approx(oracle, abs=1e-6)
    assert measures()["f1"].detail(case) == {"k": 4}
    value = measures()["recall"].value(case, resampled([int(one) for one in case.prompt], 12, 100))
    assert isinstance(value, Value)
    assert (value.n, value.references) == (16, 12)


def test_identical_and_memorised_sets() -> None:
    """Copies of all references are all of them, and nothing else."""
    references = cloud(numpy.random.default_rng(2), 20)
    assert figures(seen(references, references)) == pytest.approx(dict.fromkeys(NAMES, 1.0))


def test_shifted_set() -> None:
    """Far from all references, and far more alike: nothing is shared."""
    random = numpy.random.default_rng(3)
    drawn = unit(cloud(random, 20) * 0.01 - 1.0)
    assert figures(seen(drawn, cloud(random, 20))) == dict.fromkeys(NAMES, 0.0)


def test_collapsed_set() -> None:
    """All one reference: precise, and reaches none but those whose ball has it."""
    references = cloud(numpy.random.default_rng(4), 30)
    found = figures(seen(numpy.repeat(references[:1], 20, axis=0), references))
    assert found["precision"] == 1
    assert found["recall"] == found["f1"] == 0  # balls about one point have no size
    near = (squares(references, references) < numpy.sort(squares(references, references), 1)[:, [5]])[:, 0]
    assert found["coverage"] == near.mean() < 0.5


def test_half_covered_set() -> None:
    """Two kinds of references, one of which is drawn."""
    random = numpy.random.default_rng(5)
    one, other = cloud(random, 30), unit(cloud(random, 15) - 2.0)
    found = figures(seen(one[15:], numpy.concatenate([one[:15], other])))
    assert found["precision"] > 0.9
    assert 0.4 < found["recall"] <= 0.5
    assert 0.4 < found["coverage"] <= 0.5
    assert found["f1"] == pytest.approx(
        2 * found["precision"] * found["recall"] / sum([found["precision"], found["recall"]])
    )


def test_same_pictures_are_at_no_distance() -> None:
    """However their features are summed."""
    features = cloud(numpy.random.default_rng(6), 50, 700)
    assert (numpy.diag(squares(features, features[:49].copy())) == 0).all()
    assert squares(features, features)[0, 1] == pytest.approx(((features[0] - features[1]) ** 2).sum())


def test_k_of_few_pictures() -> None:
    """Five, and no more than a third of the smaller set."""
    assert [nearest_of(m, n) for m, n in ((3, 40), (6, 40), (40, 9), (15, 40), (500, 500))] == [1, 2, 3, 5, 5]


def test_coverage_that_is_to_be_expected() -> None:
    """Of sets of one distribution, by drawing many."""
    random = numpy.random.default_rng(7)
    found = [
        manifolds(random.standard_normal((9, 4)), random.standard_normal((6, 4)), 2).covered().mean()
        for _ in range(2000)
    ]
    assert numpy.mean(found) == pytest.approx(expected_coverage(9, 6, 2), abs=0.01)


def test_weights_of_either_side() -> None:
    """Drawings weigh in precision and density, references in recall and coverage, both in F1."""
    random = numpy.random.default_rng(8)
    case = seen(cloud(random, 20, shift=0.4), cloud(random, 20))
    ones = numpy.ones((4, 20))
    some = numpy.concatenate([numpy.ones((1, 20)), resampled(range(20), 20, 3).units[1:]])
    replicates = {
        side: {name: measures()[name].replicates(case, weights) for name in NAMES}
        for side, weights in (("drawings", Weights(some, ones, 20)), ("references", Weights(ones, some, 20)))
    }
    moved = {side: {name for name in NAMES if numpy.ptp(told[name]) > 0} for side, told in replicates.items()}
    assert moved == {"drawings": {"f1", "precision", "density"}, "references": {"f1", "recall", "coverage"}}
    found = manifolds(case.references, case.drawn, 5)
    expected = [(row * found.precise()).sum() / 20 for row in some]
    assert replicates["drawings"]["precision"] == pytest.approx(expected)
    assert replicates["drawings"]["f1"] == pytest.approx(
        [2 * one * found.recalled().mean() / (one + found.recalled().mean()) for one in expected]
    )


def test_means_of_nothing() -> None:
    """No number, and no warning; F1 of nothing right is 0."""
    found = mean_under(numpy.array([1.0, 3.0]), numpy.array([[1.0, 1.0], [0.0, 0.0], [0.0, 2.0]]))
    assert found[[0, 2]].tolist() == [2, 3]
    assert numpy.isnan(found[1])
    assert harmonic(numpy.array([0.0, 0.5]), numpy.array([0.0, 1.0])).tolist() == pytest.approx([0, 2 / 3])


@pytest.mark.parametrize("name", NAMES)
def test_refused_of_few(name: str) -> None:
    """With what would help."""
    pictures = cloud(numpy.random.default_rng(9), 8)
    weights = resampled(range(8), 2, 100)
    few = measures()[name].value(seen(pictures, pictures[:2]), weights)
    assert isinstance(few, Refused)
    assert "3 references, and there are 2; give more by --reference" in few.reason
    few = measures()[name].value(seen(pictures[:2], pictures), resampled(range(2), 8, 100))
    assert isinstance(few, Refused)
    assert "3 drawings from captions, and there are 2; raise --prompts-each" in few.reason
    assert isinstance(measures()[name].value(seen(pictures[:3], pictures[3:6]), resampled(range(3), 3, 100)), Value)


def test_intervals_hold_the_truth() -> None:
    """95 % of 200 hold the share that many more drawings, or references, would have with the same balls."""
    random = numpy.random.default_rng(10)

    def drawings(prompts: int, seeds: int) -> Array:
        """Two of a prompt are alike."""
        return unit(
            0.7 * numpy.repeat(cloud(random, prompts, 6), seeds, axis=0) + 0.6 * cloud(random, prompts * seeds, 6, 0.5)
        )

    held: dict[str, list[bool]] = {name: [] for name in ("precision", "recall")}
    for number in range(200):
        drawn, references = drawings(12, 2), cloud(random, 15, 6)
        case = seen(drawn, references, seeds=2)
        weights = resampled([int(one) for one in case.prompt], 15, 200, number)
        own = numpy.sort(squares(references, references), 1)[:, 5]
        reach = numpy.sort(squares(drawn, drawn), 1)[:, 5]
        many = cloud(random, 600, 6)
        truth = {
            "precision": (squares(references, drawings(600, 1)) < own[:, None]).any(0).mean(),
            "recall": (squares(many, drawn) < reach[None]).any(1).mean(),
        }
        for name, share in truth.items():
            measure = measures()[name]
            low, high = interval(measure.replicates(case, weights), measure.groups(case), share=True)
            held[name].append(bool(low <= share <= high))
    for name, times in held.items():
        assert 0.91 <= numpy.mean(times) <= 0.985, name
