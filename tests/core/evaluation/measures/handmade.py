"""Cells whose pictures are points, so that their figures are known."""

from __future__ import annotations

from typing import Any

import numpy

from sdtune.core.evaluation.intervals import Array
from sdtune.core.evaluation.measures import Seen


def unit(features: Array) -> Array:
    """[n, d] as unit vectors."""
    length: Array = numpy.linalg.norm(features, axis=1, keepdims=True)
    return features / length


def cloud(random: numpy.random.Generator, pictures: int, width: int = 16, shift: float = 0.0) -> Array:
    """[n, d] pictures about a place, with a spectrum as features have it; of a shift, about another."""
    spread = numpy.arange(1, width + 1) ** -0.6
    return unit(random.standard_normal((pictures, width)) * spread + 0.3 + shift * numpy.cos(numpy.arange(width)))


def seen(drawn: Array, references: Array, seeds: int = 1, **more: Any) -> Seen:
    """In-distribution drawings, so many of each prompt, none of which describes a reference."""
    n = len(drawn)
    yes, no, nowhere = numpy.ones(n, numpy.bool_), numpy.zeros(n, numpy.bool_), numpy.full(n, -1)
    told = {
        "drawn": drawn,
        "base": drawn,
        "references": references,
        "trained": references[:0],
        "prompt": numpy.arange(n) // seeds,
        "in_distribution": yes,
        "new_context": no,
        "generic": no,
        "has_concept": yes,
        "of_reference": nowhere,
        "of_trained": nowhere,
    }
    return Seen(**(told | more))
