"""What an evaluation tells at its end: plain values, no tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """A measure, or a difference of one, with its interval."""

    estimate: float
    low: float
    """NaN: no interval is known"""
    high: float


@dataclass(frozen=True)
class Rated:
    """A LoRA at a strength."""

    name: str
    """ "step 300"; "base" """
    strength: float
    figures: dict[str, Figure]
    """by measure; those that cannot be told are left out"""
    copies: int
    """drawings that are nearly a trained picture though another was asked for"""
    recommended: bool


@dataclass(frozen=True)
class Evaluated:
    """The end of `eval`."""

    sentence: str
    """the recommendation"""
    alarms: tuple[str, ...]
    """of copies, a line each"""
    encoder: str
    drawings: int
    """of each LoRA at each strength"""
    references: int
    columns: tuple[tuple[str, str, int, str], ...]
    """(name, title, digits, better) of the measures that a table shows, the most telling first"""
    rows: tuple[Rated, ...]
    page: Path
    record: Path
    """report.json"""
    failed: tuple[str, ...]
    """what --fail-under and --fail-over asked and was not so, a line each"""
    written: Path | None
    """the LoRA whose metadata has the recommended strength now"""
    try_next: str
    """a command that uses what is recommended"""


@dataclass(frozen=True)
class Difference:
    """One measure of two LoRAs."""

    name: str
    title: str
    digits: int
    better: str
    """lower, higher or none"""
    first: Figure
    second: Figure
    difference: Figure
    """first - second, paired"""
    floor: float | None
    """differences of no more are noise, by the twins"""
    winner: str
    """A, B, or "" where neither is better"""


@dataclass(frozen=True)
class Compared:
    """The end of `eval compare`."""

    sentence: str
    first: str
    second: str
    encoder: str
    drawings: int
    references: int
    differences: tuple[Difference, ...]
    alarms: tuple[str, ...]
    page: Path
    record: Path
    """report.json"""
    failed: tuple[str, ...]
