"""FID: the Frechet distance between drawings and references, each taken for a Gaussian of features.

FD^2 = |mean x - mean y|^2 + tr C_x + tr C_y - 2 tr (C_x C_y)^(1/2) (Dowson and Landau 1982). With the centred
features as rows of A and B, so that C_x = A'A and C_y = B'B, the last trace is the sum of the singular values of A B'.
That needs no root of a matrix, and takes few pictures of many features as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy

from sdtune.core.evaluation.intervals import Array, Weights
from sdtune.core.evaluation.measures.base import Seen
from sdtune.core.evaluation.measures.sets import OfSets, Slopes

ENOUGH = 256
"""drawings and references; papers take 5000 and more, and of fewer its bias always is to be seen beside it"""


@dataclass(frozen=True)
class Frechet:
    """A squared Frechet distance, and how it changes with each picture."""

    squared: float
    of_x: Array  # [n] its derivatives by how often each counts
    of_y: Array  # [m]


def frechet(x: Array, y: Array) -> Frechet:
    """The squared Frechet distance of [n, d] and [m, d], two rows of each at the least."""
    mean_x, mean_y = x.mean(0), y.mean(0)
    a = (x - mean_x) / math.sqrt(len(x) - 1)
    b = (y - mean_y) / math.sqrt(len(y) - 1)
    left, inner_a = _short(a)
    right, inner_b = _short(b)
    u, values, v = numpy.linalg.svd(inner_a @ inner_b.T, full_matrices=False)
    u, v = left @ u, right @ v.T
    apart = mean_x - mean_y
    squared = float(apart @ apart + (a**2).sum() + (b**2).sum() - 2 * values.sum())
    return Frechet(
        squared,
        2 * (x - mean_x) @ apart / len(x) + (a**2).sum(1) - (u**2) @ values,
        -2 * (y - mean_y) @ apart / len(y) + (b**2).sum(1) - (v**2) @ values,
    )


def _short(rows: Array) -> tuple[Array, Array]:
    """(q, r) with q r = rows, q's columns orthonormal, and r no longer than wide."""
    return numpy.linalg.qr(rows) if len(rows) > rows.shape[1] else (numpy.eye(len(rows)), rows)


class FID(OfSets):
    """The Frechet distance of Heusel et al. 2017 (arXiv:1706.08500), here of unit features of the encoder at hand.

    So it is not to be laid beside figures of papers, which are of Inception's features as they are. Resamples take its
    change to the first order, which is exact in the limit of many pictures and costs one decomposition instead of one
    for each.
    """

    name: ClassVar[str] = "fid"
    title: ClassVar[str] = "FID"
    says: ClassVar[str] = (
        "How far the drawings are from the references in mean and spread; too high for few pictures, so compare it only"
        " among as many, and trust KID and CMMD first."
    )
    better: ClassVar[Literal["lower", "higher", "none"]] = "lower"
    order: ClassVar[int] = 90
    bounds: ClassVar[tuple[float, float]] = (0.0, math.inf)
    source: ClassVar[str] = "Heusel et al. 2017, arXiv:1706.08500"

    def refusal(self, seen: Seen) -> str | None:
        """Too few for a covariance."""
        drawings, references = self.counts(seen)
        if min(drawings, references) < 2:
            return (
                f"FID takes 2 drawings from captions and 2 references, and there are {drawings} and {references}; raise"
                " --prompts-each and give more by --reference"
            )
        return None

    def doubt(self, seen: Seen) -> str | None:
        """Too few for it not to be bias."""
        drawings, references = self.counts(seen)
        if min(drawings, references) < ENOUGH:
            return (
                f"FID of {drawings} drawings and {references} references would be bias for the most part; KID and CMMD"
                f" tell the same of so few, FID takes {ENOUGH} of each; --force prints it with its bias"
            )
        return None

    def replicates(self, seen: Seen, weights: Weights) -> Array:
        """[R] FD^2, to the first order."""
        found = frechet(seen.drawn[seen.fair], seen.references)
        centred = (one - one.mean() for one in (found.of_x, found.of_y))
        return Slopes(found.squared, *centred).under(seen, weights)

    def detail(self, seen: Seen) -> dict[str, Any]:
        """What FID is of two random halves of the references, which should be 0 apart."""
        drawings, references = self.counts(seen)
        told: dict[str, Any] = {"drawings": drawings, "references": references}
        if references >= 4:
            order = numpy.random.default_rng(0).permutation(references)
            one, other = seen.references[order[::2]], seen.references[order[1::2]]
            told["bias"] = frechet(one, other).squared
            told["bias_is"] = f"FID of {len(one)} of the references to the other {len(other)}"
        return told
