"""Figures as pages say them: with sensible digits, their interval, and what it says against the base."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sdtune.core.evaluation.intervals import Refused, Value
from sdtune.core.evaluation.measures import measures
from sdtune.core.evaluation.subject import Case, Cell
from sdtune.core.evaluation_reports import Figure

DIRECTIONS = {"lower": "lower is better", "higher": "higher is better", "none": "neither way is better"}


Interval = Value | Figure


@dataclass(frozen=True)
class Meaning:
    """How a measure is told to people."""

    name: str
    title: str
    says: str = ""
    better: str = "none"
    digits: int = 3
    source: str = ""
    share: bool = False


def meanings(found: Sequence[Mapping[str, Value | Refused]]) -> tuple[Meaning, ...]:
    """Of every measure that any cell has, the most telling first."""
    return meanings_of([name for values in found for name in values])


def meanings_of(names: Sequence[str]) -> tuple[Meaning, ...]:
    """Of these measures, the most telling first; one that is not known is told by its name."""
    known = measures()
    ordered = [
        *(name for name in known if name in names),
        *(name for name in dict.fromkeys(names) if name not in known),
    ]
    return tuple(
        Meaning(name, one.title, one.says, one.better, one.digits, one.source, one.share)
        if (one := known.get(name))
        else Meaning(name, name.replace("_", " "))
        for name in ordered
    )


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


def against(change: Interval, better: str, floor: float | None) -> str:
    """What a paired difference says: better, worse, higher, lower; "" where it says nothing."""
    if not (math.isfinite(change.low) and math.isfinite(change.high)) or change.low <= 0 <= change.high:
        return ""
    if floor is not None and abs(change.estimate) <= floor:
        return ""
    higher = change.estimate > 0
    if better == "none":
        return "higher" if higher else "lower"
    return "better" if higher == (better == "higher") else "worse"


def strength_of(strength: float) -> str:
    """0.8, 1"""
    return f"{strength:g}"


def cell_name(case: Case, cell: Cell) -> str:
    """ "step 900 at strength 0.8", "base" """
    if cell.candidate is None:
        return "base"
    return f"{case.candidates[cell.candidate].name} at strength {strength_of(cell.strength)}"


def counted(count: int, one: str, many: str = "") -> str:
    """ "1 drawing", "1,200 drawings" """
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
