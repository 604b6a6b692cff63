"""The Vendi score, and distances between drawings."""

from __future__ import annotations

import math

import numpy
import pytest

from sdtune.core.evaluation.intervals import Array, Refused, Value, interval, resampled
from sdtune.core.evaluation.measures import Seen, measures
from sdtune.core.evaluation.measures.diversity import vendi
from tests.core.evaluation.measures.handmade import cloud, seen, unit

NONE = numpy.zeros((0, 16))
VENDI, DIVERSITY = measures()["vendi"], measures()["diversity"]


def figure(name: str, one: Seen) -> float:
    value = measures()[name].value(one, resampled([int(prompt) for prompt in one.prompt], len(one.references), 100))
    assert isinstance(value, Value)
    return value.estimate


def test_closed_forms_of_vendi() -> None:
    """All alike: 1. Nothing in common: as many as there are. A few kinds: exp of the entropy of their shares."""
    assert vendi(numpy.repeat(cloud(numpy.random.default_rng(0), 1), 20, axis=0)) == pytest.approx(1, abs=1e-6)
    assert vendi(numpy.eye(12)) == pytest.approx(12, abs=1e-6)
    kinds = numpy.eye(3)[[0, 0, 0, 0, 1, 1, 2, 2]]
    assert vendi(kinds) == pytest.approx(math.exp(-(0.5 * math.log(0.5) + 0.5 * math.log(0.25))), abs=1e-6)
    cosine = 0.6  # of two pictures the eigenvalues are (1 + c) / 2 and (1 - c) / 2
    pair = numpy.array([[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]])
    assert vendi(pair) == pytest.approx(math.exp(-(0.8 * math.log(0.8) + 0.2 * math.log(0.2))), abs=1e-6)


@pytest.mark.parametrize("width", [8, 200])
def test_oracle_of_vendi(width: int) -> None:
    """By all eigenvalues of the n x n matrix, whichever side is the smaller."""
    features = cloud(numpy.random.default_rng(1), 40, width)
    values = numpy.linalg.eig(features @ features.T / 40).eigenvalues.real
    values = values[values > 1e-12]
    assert vendi(features) == pytest.approx(math.exp(-(values * numpy.log(values)).sum()), abs=1e-6)


def test_collapsed_set() -> None:
    """One picture for all prompts."""
    case = seen(numpy.repeat(numpy.eye(16)[:1], 20, axis=0), NONE, base=unit(numpy.eye(20, 16) + 1e-3), seeds=2)
    assert figure("vendi", case) == pytest.approx(1)
    assert figure("diversity", case) == pytest.approx(0)
    assert VENDI.detail(case)["base"] > 10


def test_drawings_of_the_concept_alone() -> None:
    """From captions and in new contexts, not the generic ones; beside the base model's."""
    random = numpy.random.default_rng(2)
    drawn, base = cloud(random, 30), cloud(random, 30)
    kind = numpy.arange(30) // 10
    case = seen(drawn, NONE, base=base, in_distribution=kind == 0, new_context=kind == 1, generic=kind == 2)
    assert figure("vendi", case) == pytest.approx(vendi(drawn[:20]))
    assert VENDI.detail(case) == {"base": pytest.approx(vendi(base[:20]))}
    assert VENDI.counts(case) == DIVERSITY.counts(case) == (20, 0)
    assert VENDI.groups(case) == 20


def test_distance_of_drawings_of_the_same_prompt() -> None:
    """The mean over prompts; different prompts where each is drawn once."""
    drawn = unit(numpy.array([[1.0, 0], [1, 0], [0, 1], [1, 1], [1, 0], [0, 1]]))
    half = 1 - math.sqrt(0.5)
    case = seen(drawn, NONE, seeds=2)
    assert figure("diversity", case) == pytest.approx((0 + half + 1) / 3)
    assert DIVERSITY.detail(case) == {"pairs": "same prompt", "base": pytest.approx((0 + half + 1) / 3)}
    case = seen(drawn[[0, 2, 3]], NONE)
    assert figure("diversity", case) == pytest.approx((1 + half + half) / 3)
    assert DIVERSITY.detail(case)["pairs"] == "different prompts"


def test_prompts_that_weigh_more() -> None:
    """A prompt that a resample has twice counts twice; it makes no pair with itself."""
    case = seen(unit(numpy.array([[1.0, 0], [0, 1], [1, 1], [1, 1]])), NONE, seeds=2)
    weights = resampled([0, 0, 1, 1], 0, 100)
    shares = weights.units[:, 0] / (weights.units[:, 0] + weights.units[:, 2])
    assert DIVERSITY.replicates(case, weights) == pytest.approx(shares)
    case = seen(unit(numpy.array([[1.0, 0], [0, 1], [1, 1]])), NONE)
    weights = resampled([0, 1, 2], 0, 100)
    found = DIVERSITY.replicates(case, weights)
    both = (weights.units == [2, 1, 0]).all(1)
    assert both.any()
    assert found[both] == pytest.approx(1)  # of these two alone
    assert numpy.isnan(found[(weights.units == [3, 0, 0]).all(1)]).all()


def test_vendi_of_one_prompt_has_no_interval() -> None:
    """Nothing tells how far another prompt would be from it."""
    case = seen(cloud(numpy.random.default_rng(3), 4), NONE, seeds=4)
    value = VENDI.value(case, resampled([0] * 4, 0, 100))
    assert isinstance(value, Value)
    assert value.estimate == pytest.approx(vendi(case.drawn))
    assert math.isnan(value.low)


@pytest.mark.parametrize("name", ["vendi", "diversity"])
def test_refused_of_one_drawing(name: str) -> None:
    """With what would help."""
    one = cloud(numpy.random.default_rng(4), 1)
    told = measures()[name].value(seen(one, NONE), resampled([0], 0, 100))
    assert isinstance(told, Refused)
    assert told.reason.endswith("there is 1; raise --prompts-each or --seeds")


@pytest.mark.parametrize("seeds", [1, 2])
def test_intervals_hold_the_truth(seeds: int) -> None:
    """95 % of 200 hold the mean difference from the base model that as many other prompts would have.

    That mean is known by drawing 2000 more sets; the score of endlessly many drawings is another number, for which
    there is no interval.
    """
    random, prompts = numpy.random.default_rng(5), 14

    def pair() -> tuple[Array, Array]:
        """(base, LoRA): the LoRA's drawings are nearer to each other, and beside the base's."""
        content = numpy.repeat(cloud(random, prompts), seeds, axis=0)
        base = unit(content + 0.6 * cloud(random, prompts * seeds))
        return base, unit(0.7 * base + 0.5 * cloud(random, prompts * seeds) + 0.2)

    truth = numpy.mean([vendi(lora) - vendi(base) for base, lora in (pair() for _ in range(2000))])
    held = []
    for number in range(200):
        base, lora = pair()
        case, other = seen(lora, NONE, seeds=seeds), seen(base, NONE, seeds=seeds)
        weights = resampled([int(one) for one in case.prompt], 0, 200, number)
        paired = VENDI.replicates(case, weights) - VENDI.replicates(other, weights)
        assert paired[0] == pytest.approx(vendi(lora) - vendi(base))
        low, high = interval(paired, prompts)
        held.append(low <= truth <= high)
    assert 0.91 <= numpy.mean(held) <= 0.985
