"""Measures: a class each, found by being there."""

from __future__ import annotations

from functools import cache

from sdtune.core.evaluation.measures.base import Measure, Seen
from sdtune.core.found import classes_in

__all__ = ["Measure", "Seen", "measures"]


@cache
def measures() -> dict[str, Measure]:
    """Every measure by its name, in the order of the page."""
    found = [one() for one in classes_in(__name__, __path__, Measure)]  # type: ignore[type-abstract]
    return {one.name: one for one in sorted(found, key=lambda one: (one.order, one.name))}
