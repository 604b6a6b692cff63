"""KID and CMMD: how far drawings are from references as sets, by the maximum mean discrepancy (MMD).

MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y) for drawings x and references y that have nothing to do with each other
(Gretton et al. 2012, JMLR 13, lemma 6). A mean over pairs estimates it without bias if it leaves out all pairs that do
have to do with each other: a picture and itself, two drawings of one prompt, and a drawing and the reference that its
prompt describes. In a resample these stay out however often they count. Both are told times 1000, as is usual.

Replicates are the figure and its change to the first order (sets.py). Where two sets are nearly alike, that is what a
jackknife gives, which has twice the true variance there: intervals are up to 1.4 times too wide and hold the truth in
0.97 and more; of sets that are apart 0.87 to 1.08 times, and 0.91 to 0.97 (10 and 20 of 30 and 60 prompts, 7 and 20
references, some described, 1 and 3 seeds).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import numpy

from sdtune.core.evaluation.intervals import Array, Weights
from sdtune.core.evaluation.measures.averages import prompts
from sdtune.core.evaluation.measures.base import Seen
from sdtune.core.evaluation.measures.sets import OfSets, Slopes, mean_of_pairs

SCALE = 1000.0


def polynomial(x: Array, y: Array, gamma: float) -> Array:
    """[n, m] (gamma x.y + 1)^3 of [n, d] and [m, d] (Binkowski et al. 2018, sec. 4)."""
    values: Array = (gamma * (x @ y.T) + 1) ** 3
    return values


def gaussian(x: Array, y: Array, sigma: float) -> Array:
    """[n, m] exp(-|x - y|^2 / (2 sigma^2)) of [n, d] and [m, d] (Jayasumana et al. 2024, sec. 4)."""
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * (x @ y.T)
    values: Array = numpy.exp(-squares / (2 * sigma**2))
    return values


class Discrepancy(OfSets):
    """MMD^2 by a kernel, times 1000."""

    better: ClassVar[Literal["lower", "higher", "none"]] = "lower"

    @abstractmethod
    def kernel(self, x: Array, y: Array) -> Array:
        """[n, m] of unit vectors."""

    def refusal(self, seen: Seen) -> str | None:
        """Fewer than two prompts or two references."""
        count = prompts(seen, seen.fair)
        if count < 2:
            return (
                f"{self.title} takes drawings of 2 prompts from captions, and there are {count}; raise --prompts-each"
            )
        if len(seen.references) < 2:
            return f"{self.title} takes 2 references, and there are {len(seen.references)}; give more by --reference"
        return None

    def replicates(self, seen: Seen, weights: Weights) -> Array:
        """[R] MMD^2, to the first order."""
        drawn, references, prompt = seen.drawn[seen.fair], seen.references, seen.prompt[seen.fair]
        apart = seen.of_reference[seen.fair][:, None] != numpy.arange(len(references))
        within = mean_of_pairs(self.kernel(drawn, drawn), prompt[:, None] != prompt)
        around = mean_of_pairs(self.kernel(references, references), ~numpy.eye(len(references), dtype=numpy.bool_))
        between = mean_of_pairs(self.kernel(drawn, references), apart)
        slopes = Slopes(
            within.figure + around.figure - 2 * between.figure,
            2 * (within.of_drawings - between.of_drawings),
            2 * (around.of_references - between.of_references),
        )
        return SCALE * slopes.under(seen, weights)


class KID(Discrepancy):
    """The kernel inception distance (Binkowski et al. 2018, arXiv:1801.01401) of unit features, times 1000.

    The paper's kernel is (x.y / d + 1)^3 on features whose squares are about 1 on the average. Unit vectors times
    sqrt(d) are such, and then x.y / d is their cosine: hence gamma = 1. With 1 / d on the unit vectors themselves all
    values would be about 1 and tell the means apart alone, rather than spread and skew.
    """

    name: ClassVar[str] = "kid"
    title: ClassVar[str] = "KID"
    says: ClassVar[str] = (
        "How different drawings and references are as sets, in look and variety; about 0, and by chance below it, where"
        " the two could be one."
    )
    digits: ClassVar[int] = 0
    order: ClassVar[int] = 31
    source: ClassVar[str] = "Binkowski et al. 2018, arXiv:1801.01401"

    def kernel(self, x: Array, y: Array) -> Array:
        """The cubic polynomial with gamma = 1."""
        return polynomial(x, y, 1.0)


class CMMD(Discrepancy):
    """The maximum mean discrepancy of image embeddings (Jayasumana et al. 2024, arXiv:2401.09603), times 1000.

    As in the authors' program with unit vectors and sigma = 10, where it is nearly 10 |mean x - mean y|^2; unlike it
    without bias, which at 20 pictures would be most of the figure.
    """

    name: ClassVar[str] = "cmmd"
    title: ClassVar[str] = "CMMD"
    says: ClassVar[str] = (
        "How different the average drawing is from the average reference; about 0, and by chance below it, where the"
        " two sets look alike."
    )
    digits: ClassVar[int] = 2
    order: ClassVar[int] = 30
    source: ClassVar[str] = "Jayasumana et al. 2024, arXiv:2401.09603"

    def kernel(self, x: Array, y: Array) -> Array:
        """The Gaussian with sigma = 10."""
        return gaussian(x, y, 10.0)
