"""Precision, recall, F1, density and coverage: which drawings lie among references, and which of these they reach.

A set's manifold is the union of balls about its pictures, each as large as the distance to the k-th nearest of the same
set (Kynkaanniemi et al. 2019, arXiv:1904.06991, sec. 2). In resamples the manifolds stay those of the sample as it is;
how often a drawing lies in that of the references is weighted by drawings, how often a reference is reached by
references. So intervals of precision and density are given these references, those of recall and coverage given these
drawings, and that of F1, which is made of both, is given the balls.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy

from sdtune.core.evaluation.intervals import Array, Weights, mean_under
from sdtune.core.evaluation.measures.averages import prompts
from sdtune.core.evaluation.measures.base import Mask, Seen, once
from sdtune.core.evaluation.measures.sets import OfSets

NEAREST = 5
"""k of Naeem et al. 2020, sec. 4"""
SHARE_OF_SET = 3
"""k is at most one in so many of the smaller set: a ball that reaches to its farthest picture would hold everything"""
FEWEST = 3
TIE = 1e-9
"""what is nearer by a smaller part is as near: sums in another order, not another place"""


@dataclass(frozen=True)
class Manifolds:
    """Two sets of pictures in each other's manifolds."""

    drawings_inside: Mask  # [m, n] whether the ball of each reference holds each drawing
    references_inside: Mask  # [m, n] whether the ball of each drawing holds each reference
    k: int

    def precise(self) -> Array:
        """[n] 1 where a drawing lies in the manifold of the references."""
        found: Array = self.drawings_inside.max(0).astype(numpy.float64)
        return found

    def recalled(self) -> Array:
        """[m] 1 where a reference lies in the manifold of the drawings."""
        found: Array = self.references_inside.max(1).astype(numpy.float64)
        return found

    def dense(self) -> Array:
        """[n] how many balls of references hold a drawing, over k (Naeem et al. 2020, arXiv:2002.09797, eq. 4)."""
        found: Array = self.drawings_inside.sum(0) / self.k
        return found

    def covered(self) -> Array:
        """[m] 1 where the ball of a reference holds any drawing (Naeem et al. 2020, eq. 5)."""
        found: Array = self.drawings_inside.max(1).astype(numpy.float64)
        return found


def manifolds(references: Array, drawings: Array, k: int) -> Manifolds:
    """Of features [m, d] and [n, d]; k is less than m and n."""
    across = squares(references, drawings)
    of_references = numpy.partition(squares(references, references), k, axis=1)[:, k]
    of_drawings = numpy.partition(squares(drawings, drawings), k, axis=1)[:, k]
    return Manifolds(
        across < of_references[:, None] * (1 - TIE),
        across < of_drawings[None] * (1 - TIE),
        k,
    )


def squares(x: Array, y: Array) -> Array:
    """[n, m] squared distances of features [n, d] and [m, d]; of the same picture exactly 0."""
    sizes = (x**2).sum(1)[:, None] + (y**2).sum(1)[None]
    found: Array = sizes - 2 * (x @ y.T)
    found[found < 1e-12 * sizes] = 0.0  # rounding of the sums, which is no distance
    return found


def nearest_of(references: int, drawings: int) -> int:
    """k for so many."""
    return max(1, min(NEAREST, min(references, drawings) // SHARE_OF_SET))


def harmonic(precision: Array, recall: Array) -> Array:
    """F1 of both; 0 where both are 0."""
    total = precision + recall
    return numpy.divide(2 * precision * recall, total, out=numpy.zeros_like(total), where=total != 0)


class OfManifolds(OfSets):
    """What is read off the manifolds of in-distribution drawings and references."""

    better: ClassVar[Literal["lower", "higher", "none"]] = "higher"

    def refusal(self, seen: Seen) -> str | None:
        """Of fewer than three there are no balls."""
        drawings, references = self.counts(seen)
        if references < FEWEST:
            return f"{self.title} takes {FEWEST} references, and there are {references}; give more by --reference"
        if drawings < FEWEST:
            return (
                f"{self.title} takes {FEWEST} drawings from captions, and there are {drawings}; raise --prompts-each"
                " or --seeds"
            )
        return None

    def replicates(self, seen: Seen, weights: Weights) -> Array:
        """[R], with the balls of the sample as it is."""
        return self.under(_manifolds(seen), weights.units[:, seen.fair], weights.references)

    @abstractmethod
    def under(self, found: Manifolds, units: Array, references: Array) -> Array:
        """[R] under weights of drawings [R, n] and of references [R, m]."""


class OfDrawings(OfManifolds):
    """What is so of drawings: resampled by prompts."""

    def groups(self, seen: Seen) -> int:
        """Prompts of these drawings."""
        return prompts(seen, seen.fair)


class OfReferences(OfManifolds):
    """What is so of references."""

    def groups(self, seen: Seen) -> int:
        """References."""
        return len(seen.references)


class F1(OfManifolds):
    """The harmonic mean of precision and recall."""

    name: ClassVar[str] = "f1"
    title: ClassVar[str] = "F1"
    says: ClassVar[str] = (
        "Precision and recall in one number, which is only high where both are: the drawings look like the references,"
        " and show as much variety."
    )
    share: ClassVar[bool] = True  # twice what both sets share over all of both: its interval stays in 0 to 1
    order: ClassVar[int] = 40
    source: ClassVar[str] = "Kynkaanniemi et al. 2019, arXiv:1904.06991"

    def under(self, found: Manifolds, units: Array, references: Array) -> Array:
        """[R] of means."""
        return harmonic(mean_under(found.precise(), units), mean_under(found.recalled(), references))

    def detail(self, seen: Seen) -> dict[str, Any]:
        """How many pictures a ball reaches to."""
        return {"k": nearest_of(len(seen.references), int(seen.fair.sum()))}


class Precision(OfDrawings):
    """The share of drawings in the manifold of the references."""

    name: ClassVar[str] = "precision"
    title: ClassVar[str] = "Precision"
    says: ClassVar[str] = "The share of drawings that look as if they were among the references."
    share: ClassVar[bool] = True
    order: ClassVar[int] = 41
    source: ClassVar[str] = "Kynkaanniemi et al. 2019, arXiv:1904.06991"

    def under(self, found: Manifolds, units: Array, references: Array) -> Array:  # noqa: ARG002
        """[R] shares."""
        return mean_under(found.precise(), units)


class Recall(OfReferences):
    """The share of references in the manifold of the drawings."""

    name: ClassVar[str] = "recall"
    title: ClassVar[str] = "Recall"
    says: ClassVar[str] = (
        "The share of references that could be among the drawings; low where these are all alike. Drawings that are far"
        " apart reach much, so read it beside precision."
    )
    share: ClassVar[bool] = True
    order: ClassVar[int] = 42
    source: ClassVar[str] = "Kynkaanniemi et al. 2019, arXiv:1904.06991"

    def under(self, found: Manifolds, units: Array, references: Array) -> Array:  # noqa: ARG002
        """[R] shares."""
        return mean_under(found.recalled(), references)


class Density(OfDrawings):
    """How crowded with references the places of drawings are; precision that an odd reference cannot raise."""

    name: ClassVar[str] = "density"
    title: ClassVar[str] = "Density"
    says: ClassVar[str] = (
        "How many references look like each drawing, against how many look like each other: about 1 where drawings are"
        " no different, more where they are the most usual ones."
    )
    order: ClassVar[int] = 43
    bounds: ClassVar[tuple[float, float]] = (0.0, math.inf)
    source: ClassVar[str] = "Naeem et al. 2020, arXiv:2002.09797"

    def under(self, found: Manifolds, units: Array, references: Array) -> Array:  # noqa: ARG002
        """[R] means."""
        return mean_under(found.dense(), units)


class Coverage(OfReferences):
    """The share of references that have a drawing in their ball."""

    name: ClassVar[str] = "coverage"
    title: ClassVar[str] = "Coverage"
    says: ClassVar[str] = "The share of references that some drawing looks like; low where whole kinds are missing."
    share: ClassVar[bool] = True
    order: ClassVar[int] = 44
    source: ClassVar[str] = "Naeem et al. 2020, arXiv:2002.09797"

    def under(self, found: Manifolds, units: Array, references: Array) -> Array:  # noqa: ARG002
        """[R] shares."""
        return mean_under(found.covered(), references)

    def detail(self, seen: Seen) -> dict[str, Any]:
        """With what is to be expected of as many pictures that are truly no different."""
        drawings, references = self.counts(seen)
        k = nearest_of(references, drawings)
        return {"k": k, "of_the_same": expected_coverage(references, drawings, k)}


def expected_coverage(references: int, drawings: int, k: int) -> float:
    """Of independent pictures of one distribution: how often not all k nearest are real (Naeem et al., sec. 3.3)."""
    others = references - 1
    return 1 - float(numpy.prod([(others - one) / (others + drawings - one) for one in range(k)]))


@once
def _manifolds(seen: Seen) -> Manifolds:
    drawings = seen.drawn[seen.fair]
    return manifolds(seen.references, drawings, nearest_of(len(seen.references), len(drawings)))
