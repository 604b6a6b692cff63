"""Means of cosines: text alignment, image similarity, likeness to the truth, drift."""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest

from sdtune.core.evaluation.intervals import Array, Refused, Value, resampled
from sdtune.core.evaluation.measures import Seen, measures
from tests.core.evaluation.measures.handmade import cloud, seen, unit

NAMES = ("text_alignment", "image_similarity", "truth_similarity", "drift")


def given(random: numpy.random.Generator, pictures: int = 12, references: int = 6, seeds: int = 1) -> Seen:
    """A third from captions, a third in new contexts, a third generic."""
    kind = numpy.arange(pictures) // seeds % 3
    prompt = numpy.arange(pictures) // seeds
    return replace(
        seen(cloud(random, pictures), cloud(random, references), seeds),
        base=cloud(random, pictures),
        texts=cloud(random, pictures),
        in_distribution=kind == 0,
        new_context=kind == 1,
        generic=kind == 2,
        has_concept=kind != 2,
        of_reference=numpy.where(kind == 0, prompt // 3 % references, -1),
    )


def value(name: str, one: Seen, resamples: int = 200, seed: int = 0) -> Value | Refused:
    weights = resampled([int(prompt) for prompt in one.prompt], len(one.references), resamples, seed)
    return measures()[name].value(one, weights)


def estimate(name: str, one: Seen) -> float:
    found = value(name, one)
    assert isinstance(found, Value)
    return found.estimate


def test_each_is_the_mean_that_it_says() -> None:
    one = given(numpy.random.default_rng(0))
    pairs = [float(a @ b) for a in one.drawn[one.fair] for b in one.references]
    assert estimate("image_similarity", one) == pytest.approx(numpy.mean(pairs), abs=1e-12)
    assert one.texts is not None
    texts = [float(one.drawn[i] @ one.texts[i]) for i in range(12) if not one.generic[i]]
    assert estimate("text_alignment", one) == pytest.approx(numpy.mean(texts), abs=1e-12)
    truths = [float(one.drawn[i] @ one.references[one.of_reference[i]]) for i in range(12) if one.of_reference[i] >= 0]
    assert estimate("truth_similarity", one) == pytest.approx(numpy.mean(truths), abs=1e-12)
    moved = [1 - float(one.drawn[i] @ one.base[i]) for i in range(12) if one.generic[i]]
    assert estimate("drift", one) == pytest.approx(numpy.mean(moved), abs=1e-12)


def test_constructed_cells_have_their_known_figures() -> None:
    one = given(numpy.random.default_rng(1))
    assert estimate("drift", replace(one, drawn=one.base)) == 0.0
    assert estimate("drift", replace(one, drawn=-one.base)) == pytest.approx(2)
    assert one.texts is not None
    assert estimate("text_alignment", replace(one, drawn=one.texts)) == pytest.approx(1)
    drawn = numpy.where((one.of_reference >= 0)[:, None], one.references[one.of_reference], one.drawn)
    assert estimate("truth_similarity", replace(one, drawn=drawn)) == pytest.approx(1)
    collapsed = numpy.repeat(one.references[:1], 12, axis=0)
    same = replace(one, drawn=collapsed, references=one.references[:1].repeat(6, axis=0))
    assert estimate("image_similarity", same) == pytest.approx(1)


def test_what_cannot_be_told_is_refused_with_what_helps() -> None:
    one = given(numpy.random.default_rng(2))
    none = numpy.zeros(12, numpy.bool_)
    for name, other, remedy in (
        ("text_alignment", replace(one, texts=None), "--encoder"),
        ("text_alignment", replace(one, in_distribution=none, new_context=none), "--trigger"),
        ("image_similarity", replace(one, references=one.references[:0]), "--reference"),
        ("image_similarity", replace(one, in_distribution=none), "captions"),
        ("truth_similarity", replace(one, of_reference=numpy.full(12, -1)), "captions"),
        ("drift", replace(one, generic=none), "--prompts"),
    ):
        found = value(name, other)
        assert isinstance(found, Refused), name
        assert remedy in found.reason


def test_copying_is_warned_of() -> None:
    assert "copying" in measures()["image_similarity"].says


def of_one_reference(one: Seen) -> Seen:
    """Its interval is unknown: nothing tells how another reference would do."""
    return replace(one, references=one.references[:1], of_reference=numpy.minimum(one.of_reference, 0))


def test_one_reference_has_a_figure_and_no_interval() -> None:
    found = value("image_similarity", of_one_reference(given(numpy.random.default_rng(3))))
    assert isinstance(found, Value)
    assert numpy.isfinite(found.estimate)
    assert numpy.isnan(found.low)


def _alike(random: numpy.random.Generator) -> tuple[Seen, dict[str, float]]:
    """Drawings, two a prompt that resemble each other, whose mean figures in the whole population are known."""
    width, prompts, references = 8, 24, 12
    middle = numpy.eye(width)[0]

    def turned(amounts: Array) -> Array:
        """Unit vectors whose cosine to the middle is that of the angle."""
        sides = unit(numpy.concatenate([numpy.zeros((len(amounts), 1)), random.standard_normal((len(amounts), 7))], 1))
        found: Array = numpy.cos(amounts)[:, None] * middle + numpy.sin(amounts)[:, None] * sides
        return found

    own = random.uniform(0.1, 0.9, prompts).repeat(2) + random.uniform(-0.1, 0.1, 2 * prompts)
    one = replace(given(random, 2 * prompts, references, seeds=2), drawn=turned(own))
    steady = numpy.repeat(middle[None], 2 * prompts, axis=0)
    mean = (numpy.sin(0.9) - numpy.sin(0.1)) / 0.8 * numpy.sin(0.1) / 0.1
    aside = random.uniform(0.1, 0.9, references)
    one = replace(one, base=steady, texts=steady, references=turned(aside))
    to_references = (numpy.sin(0.9) - numpy.sin(0.1)) / 0.8 * mean
    return one, {"drift": 1 - mean, "text_alignment": mean, "image_similarity": to_references}


@pytest.mark.parametrize("name", ["drift", "text_alignment", "image_similarity"])
def test_intervals_cover_the_truth(name: str) -> None:
    covered = 0
    for round_ in range(200):
        one, truth = _alike(numpy.random.default_rng((7, round_)))
        found = value(name, one, seed=round_)
        assert isinstance(found, Value)
        covered += found.low <= truth[name] <= found.high
    assert 0.91 <= covered / 200 <= 0.985


def test_pictures_beside_change_nothing() -> None:
    """Generic drawings have no part in alignment, nor those that ask for the concept in drift."""
    one = given(numpy.random.default_rng(5))
    for name, mask in (("text_alignment", one.generic), ("drift", ~one.generic), ("image_similarity", ~one.fair)):
        drawn = numpy.where(mask[:, None], -one.drawn, one.drawn)
        assert estimate(name, replace(one, drawn=drawn)) == pytest.approx(estimate(name, one), abs=1e-12)
