"""What an evaluation is about: LoRAs, pictures to lay them beside, prompts, and the cells in which all are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["in-distribution", "new context", "generic", "pair"]
"""as in captions, what was learned in new contexts, anything without it; and what --pairs adds, which measures of sets
and means leave out"""


@dataclass(frozen=True)
class Reference:
    """A picture that drawings are laid beside."""

    path: Path
    name: str
    """below its folder, as people know it"""
    sha256: str
    caption: str | None = None
    of_class: int | None = None
    """place among the classes of what it shows, of a run that learned them"""


@dataclass(frozen=True)
class Subject:
    """A training, or a LoRA of which no more is known."""

    name: str
    """of the run's folder, or of the file or folder of files, with folders before it where others have the same"""
    place: Path
    """the run's folder, or the file or folder of files"""
    trained: tuple[Reference, ...] = ()
    """empty where they are not known"""
    held_out: tuple[Reference, ...] = ()


@dataclass(frozen=True)
class Candidate:
    """A LoRA that may be recommended."""

    subject: int
    """place of its Subject"""
    name: str
    """in words that tell it from all others: "step 300", "cats-1 step 300" where there are several subjects"""
    path: Path
    step: int | None


@dataclass(frozen=True)
class Prompt:
    """A text that is drawn."""

    text: str
    """as it is drawn"""
    plain: str
    """without the words that call up what was learned, as an encoder of texts may know it"""
    kind: Kind
    has_concept: bool
    """whether it asks for what was learned, and is judged by that: pairs are by their true pictures alone"""
    held_out: int | None = None
    """place among the references of the picture that it describes"""
    trained: tuple[int, int] | None = None
    """(subject, place among its trained pictures) of the picture that it describes"""
    of_class: int | None = None
    """place among the classes of the one that it names"""
    truth: Path | None = None
    """a picture that its drawings should equal, of --pairs"""


@dataclass(frozen=True)
class Cell:
    """One LoRA at one strength, for which every prompt is drawn with every seed."""

    candidate: int | None
    """its place; None: the base model"""
    strength: float


BASE = Cell(None, 0.0)


@dataclass(frozen=True)
class Unit:
    """One picture of every cell: the same prompt, from the same noise."""

    prompt: int
    """its place"""
    seed: int


@dataclass(frozen=True)
class Case:
    """All that an evaluation is about."""

    model: str
    subjects: tuple[Subject, ...]
    candidates: tuple[Candidate, ...]
    references: tuple[Reference, ...]
    """held out from all of them, or given"""
    prompts: tuple[Prompt, ...]
    trigger: str | None
    """the words that call up what was learned; None: none are known"""
    clip_skip: int | None
    told: tuple[str, ...] = ()
    """what there is to know of it, a line each: for the terminal and for the page"""
    classes: tuple[str, ...] = ()
    """names of classes, of a run that learned them"""
    references_are_trained: bool = False
    """whether too few are held out, so that trained ones stand for them"""

    def trained_of(self, cell: Cell) -> tuple[Reference, ...]:
        """The pictures that a cell may copy: those of its own training; of the base model those of all, each once."""
        if cell.candidate is not None:
            return self.subjects[self.candidates[cell.candidate].subject].trained
        every = (one for subject in self.subjects for one in subject.trained)
        return tuple({one.sha256: one for one in every}.values())
