"""Figures as pages say them: with sensible digits, their interval, and what they say against the base model's."""

from __future__ import annotations

import math
from collections.abc import Iterable

from sdtune.core.evaluation.intervals import Value
from sdtune.core.evaluation.judging import is_better
from sdtune.core.evaluation.measures import Measure, measures
from sdtune.core.evaluation.subject import Case, Cell
from sdtune.core.evaluation_reports import Figure

FIRST = ("closeness", "copies", "class_accuracy", "concept_f1", "text_alignment", "drift", "loss")
"""measures that tell the most, in their order on a page"""
DIRECTIONS = {"lower": "lower is better", "higher": "higher is better", "none": "neither way is better"}
SCALE_ENDS = ("copies", "concept_f1", "concept_precision", "concept_recall", "concept_accuracy", "drift")
"""measures whose scale begins at the base model, so that being apart from it is neither good nor bad"""
BY_CONSTRUCTION = (*SCALE_ENDS, "loss")
"""measures of which the base model's figure is given, whatever it draws"""

Interval = Value | Figure


def shown(names: Iterable[str]) -> tuple[Measure, ...]:
    """The measures of these names, the most telling first."""
    wanted, known = set(names), measures()
    ordered = dict.fromkeys((*FIRST, *known))
    return tuple(known[name] for name in ordered if name in wanted)


def begun(told: str) -> str:
    """With a capital letter, as sentences and headings begin."""
    return f"{told[:1].upper()}{told[1:]}"


def number(value: float, digits: int, *, signed: bool = False) -> str:
    """0.82, +0.31, 1,204.5; "no figure" where there is none."""
    if not math.isfinite(value):
        return "no figure"
    return f"{value:{'+' if signed else ''}z,.{digits}f}"


def between(one: Interval, digits: int, *, signed: bool = False) -> str:
    """ "0.71 to 0.90", "no interval" """
    if not (math.isfinite(one.low) and math.isfinite(one.high)):
        return "no interval"
    return f"{number(one.low, digits, signed=signed)} to {number(one.high, digits, signed=signed)}"


def told(one: Interval, digits: int, *, signed: bool = False) -> str:
    """ "0.82 (0.71 to 0.90)" """
    return f"{number(one.estimate, digits, signed=signed)} ({between(one, digits, signed=signed)})"


def against_base(measure: Measure, change: Value | None, floor: float | None) -> str:
    """What a paired difference from the base model says: "better", "worse"; "" where it says nothing."""
    better = None if measure.name in SCALE_ENDS else is_better(measure.name, change, floor or 0.0)
    return "" if better is None else "better" if better else "worse"


def strength_of(strength: float) -> str:
    """0.8, 1"""
    return f"{strength:g}"


def cell_name(case: Case, cell: Cell) -> str:
    """ "step 900 at strength 0.8", "base model" """
    if cell.candidate is None:
        return "base model"
    return f"{case.candidates[cell.candidate].name} at strength {strength_of(cell.strength)}"


def counted(count: int, one: str, many: str = "") -> str:
    """ "1 drawing", "1,200 drawings" """
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
