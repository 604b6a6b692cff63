"""Diversity: how many different pictures the drawings of the concept are worth, and how far apart they are."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import numpy

from sdtune.core.evaluation.intervals import Array, Weights, mean_under
from sdtune.core.evaluation.measures.averages import prompts as prompts_of
from sdtune.core.evaluation.measures.base import Mask, Measure, Places, Seen

FEWEST = 2


def vendi(features: Array) -> float:
    """exp of the entropy of the eigenvalues of K / n, K the cosines of unit vectors [n, d]."""
    count, width = features.shape
    product = features @ features.T if count <= width else features.T @ features  # the same eigenvalues, but for zeros
    values = numpy.linalg.eigvalsh(product / count)
    values = values[values > 0]
    return float(numpy.exp(-(values * numpy.log(values)).sum()))


class OfConcept(Measure):
    """Of drawings from captions and in new contexts; neither high nor low is good of itself."""

    better: ClassVar[Literal["lower", "higher", "none"]] = "none"

    def counts(self, seen: Seen) -> tuple[int, int]:
        """These, beside nothing."""
        return int(_concept(seen).sum()), 0

    def groups(self, seen: Seen) -> int:
        """Their prompts."""
        return prompts_of(seen, _concept(seen))

    def refusal(self, seen: Seen) -> str | None:
        """Of one picture."""
        drawings, _ = self.counts(seen)
        if drawings >= FEWEST:
            return None
        return (
            f"{self.title} takes {FEWEST} drawings of what was learned, and there "
            f"{'is 1' if drawings else 'are none'}; raise --prompts-each or --seeds"
        )


class Vendi(OfConcept):
    """The Vendi score: how many pictures that have nothing in common would be as diverse.

    It grows with the number of drawings, so it compares cells of one evaluation, not evaluations. Resamples repeat
    drawings, which lowers it; so replicates are the figure plus the weighted influence of each prompt (what it changes
    to leave it out: the jackknife's pseudo-values, Efron 1982), and intervals are about the mean of what as many other
    prompts would give.
    """

    name: ClassVar[str] = "vendi"
    title: ClassVar[str] = "Vendi score"
    says: ClassVar[str] = (
        "How many entirely different pictures the drawings are worth: near 1 they are all alike; far below what it is"
        " without the LoRA, they have become alike. Noise raises it, too, so higher is not of itself better."
    )
    order: ClassVar[int] = 50
    bounds: ClassVar[tuple[float, float]] = (1.0, math.inf)
    source: ClassVar[str] = "Friedman & Dieng 2022, arXiv:2210.02410"

    def replicates(self, seen: Seen, weights: Weights) -> Array:
        """[R] by the influence of each prompt."""
        concept = _concept(seen)
        features, prompt, units = seen.drawn[concept], seen.prompt[concept], weights.units[:, concept]
        whole = vendi(features)
        prompts, first = numpy.unique(prompt, return_index=True)
        if len(prompts) == 1:
            return numpy.full(len(units), whole)
        without = numpy.array([vendi(features[prompt != one]) for one in prompts])
        return whole + (len(prompts) - 1) * mean_under(without.mean() - without, units[:, first])

    def detail(self, seen: Seen) -> dict[str, Any]:
        """That of the base model's drawings of the same prompts."""
        return {"base": vendi(seen.base[_concept(seen)])}


class Diversity(OfConcept):
    """The mean cosine distance of two drawings of the same prompt; of different prompts where each has but one."""

    name: ClassVar[str] = "diversity"
    title: ClassVar[str] = "Diversity"
    says: ClassVar[str] = (
        "How different two drawings of the same prompt are (of different prompts where each is drawn once): 0 is the"
        " same picture; far below what it is without the LoRA, they have become alike. Noise raises it, too."
    )
    order: ClassVar[int] = 51
    bounds: ClassVar[tuple[float, float]] = (0.0, 2.0)

    def replicates(self, seen: Seen, weights: Weights) -> Array:
        """[R] means over pairs, none of which is of a prompt that a resample has twice."""
        concept = _concept(seen)
        return _diversity(seen.drawn[concept], seen.prompt[concept], weights.units[:, concept])

    def groups(self, seen: Seen) -> int:
        """Prompts that have pairs."""
        count = numpy.unique(seen.prompt[_concept(seen)], return_counts=True)[1]
        return int((count > 1).sum()) or len(count)

    def detail(self, seen: Seen) -> dict[str, Any]:
        """Of which pairs, and that of the base model's drawings of the same prompts."""
        concept = _concept(seen)
        prompt = seen.prompt[concept]
        base = _diversity(seen.base[concept], prompt, numpy.ones((1, len(prompt))))
        return {"pairs": "same prompt" if _seeds(prompt) else "different prompts", "base": float(base[0])}


def _concept(seen: Seen) -> Mask:
    return seen.in_distribution | seen.new_context


def _seeds(prompt: Places) -> bool:
    """Whether any prompt was drawn more than once."""
    return len(numpy.unique(prompt)) < len(prompt)


def _diversity(features: Array, prompt: Places, units: Array) -> Array:
    """[R] of unit vectors [n, d] under weights [R, n]."""
    distance = 1 - features @ features.T
    if not _seeds(prompt):
        others = 1 - numpy.eye(len(prompt))  # a prompt that a resample has twice is no pair
        total = ((units @ others) * units).sum(1)
        found = ((units @ (distance * others)) * units).sum(1)
        mean: Array = numpy.divide(found, total, out=numpy.full(len(total), numpy.nan), where=total > 0)
        return mean
    prompts, first, count = numpy.unique(prompt, return_index=True, return_counts=True)
    means, rows = [], []
    for one, row, drawings in zip(prompts, first, count, strict=True):
        if drawings > 1:
            same = distance[numpy.ix_(prompt == one, prompt == one)]
            means.append((same.sum() - numpy.trace(same)) / (drawings * (drawings - 1)))
            rows.append(row)
    return mean_under(numpy.array(means), units[:, rows])
