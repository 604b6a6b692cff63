"""Outcome and Comparison: all that an evaluation has found, as report.json and the page tell it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdtune.core.evaluation.intervals import Refused, Value
from sdtune.core.evaluation.subject import Case, Cell, Unit
from sdtune.core.evaluation_reports import Difference


@dataclass(frozen=True)
class Copy:
    """A drawing that is nearly a trained picture."""

    unit: int
    trained: int
    """place among Case.trained_of the cell"""
    likeness: float
    """cosine of the features"""
    usual: float
    """that which none of the held-out pictures comes up to"""
    own_prompt: bool
    """whether it was drawn from that very picture's caption"""
    asked: bool = True
    """whether the prompt asks for what was learned"""

    @property
    def astray(self) -> bool:
        """Whether something else that was learned was asked for: what is alarming."""
        return self.asked and not self.own_prompt


@dataclass(frozen=True)
class Judged:
    """A cell with all that was measured of it."""

    cell: Cell
    values: Mapping[str, Value | Refused]
    change: Mapping[str, Value]
    """paired differences from the base model"""
    details: Mapping[str, Mapping[str, Any]]
    copies: tuple[Copy, ...]
    pictures: tuple[Path, ...]
    """one a unit"""


@dataclass(frozen=True)
class Ranked:
    """What is recommended of one subject, in the order of the ranking."""

    subject: int
    cell: Cell | None
    """None: the base model is better than any of its LoRAs"""
    score: float
    told: str
    """one sentence, in words: why"""
    alarms: tuple[str, ...] = ()
    """ "step 900 at strength 1: 3 drawings are near-copies of img_07.png" """
    reasons: tuple[str, ...] = ()
    """what `told` says, piece by piece, the weightiest first; empty where it is one piece"""


@dataclass(frozen=True)
class Cost:
    """What the evaluation took."""

    drawn: int
    """pictures that were drawn now"""
    there: int
    """those that were there already"""
    seconds: float
    device: str


@dataclass(frozen=True)
class Outcome:
    """All of it."""

    title: str
    case: Case
    units: tuple[Unit, ...]
    cells: tuple[Judged, ...]
    """the base model first, then by candidate and strength"""
    encoder: str
    ranking: tuple[Ranked, ...]
    """the best first"""
    sentence: str
    """the recommendation: "use step 900 at strength 0.8: ..." """
    try_next: str
    """a command that draws with what is recommended; empty where nothing is"""
    floor: Mapping[str, float]
    """by measure: a difference between two cells that is smaller is noise"""
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    cost: Cost
    curves: Mapping[str, Any] = field(default_factory=dict)
    """by name of a subject, of its run, where it has them: [(step, held out, trained)], relative to the base"""
    resize: str = ""
    """how pictures become what the encoder looks at, in words"""


@dataclass(frozen=True)
class Side:
    """One of two LoRAs that are compared."""

    name: str
    """as a Candidate's"""
    path: Path
    step: int | None
    strength: float
    subject: int
    """place of its Subject in the case"""
    pictures: tuple[Path, ...]
    """one a unit"""
    copies: tuple[Copy, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """All that laying one LoRA beside another has found."""

    title: str
    case: Case
    units: tuple[Unit, ...]
    first: Side
    """A"""
    second: Side
    """B"""
    base: tuple[Path, ...]
    """pictures without either, one a unit"""
    encoder: str
    sentence: str
    """which is better, and in what"""
    differences: tuple[Difference, ...]
    """the most telling measure first"""
    refused: Mapping[str, str]
    """measures that cannot be told, and why"""
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    cost: Cost
    resize: str = ""
