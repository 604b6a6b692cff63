"""What work tells of itself while it runs: plain values, no tensors."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar


@dataclass(frozen=True)
class Note:
    """A fact about the run, in one line."""

    text: str


@dataclass(frozen=True)
class Warned:
    """Something that the user should know and may want to change, in one line."""

    text: str


@dataclass(frozen=True)
class Skipped:
    """A file that is left out, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Progress:
    """How far a phase before or after training has come."""

    phase: str
    number: int
    of: int


@dataclass(frozen=True)
class Step:
    """One optimizer step."""

    number: int
    """1 .. of"""
    of: int
    loss: float
    loss_average: float
    """mean over the last steps, weighted towards the newest"""
    lr: float
    images_per_second: float
    seconds: float
    """since the first step began"""


@dataclass(frozen=True)
class Saved:
    """A file that is now complete on disk."""

    what: str
    path: Path


@dataclass(frozen=True)
class Drawn:
    """An image that is now complete on disk."""

    path: Path
    prompt: str
    seed: int
    seconds: float
    """time for this image, its share of a batch"""


@dataclass(frozen=True)
class Trained:
    """The end of a training."""

    lora: Path
    sheet: Path | None
    """samples before and after"""
    seconds: float
    """from the first step to the last"""
    try_next: str
    """a command that uses the result"""


@dataclass(frozen=True)
class Problem:
    """Something about captions that training would suffer from."""

    kind: str
    """missing, empty, unreadable, letters, identical, long, trigger, everywhere, name, short or doubled"""
    told: str
    """one line"""
    remedy: str
    names: tuple[str, ...]
    """the images that it is about"""


Report = Note | Warned | Skipped | Progress | Step | Saved | Drawn | Trained | Problem

Result = TypeVar("Result")
Telling = Generator[Report, None, Result]
"""Work that tells reports on its way and then returns its result: `result = yield from work`."""
