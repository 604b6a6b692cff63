"""What came of giving a LoRA file of ours to another program."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from tools.interop.released import Released
from tools.interop.subject import Subject

STRENGTH = 0.8
"""at which every program puts the LoRA in"""
CLOSE = 1e-3
"""relative difference up to which a module changes as it must; what is wrong is wrong by far more"""

Weight = Callable[[str, tuple[int, ...]], Tensor]
"""the model's weight of this name and shape"""


@dataclass(frozen=True)
class Changes:
    """What a program makes of a file."""

    change: Callable[[str], tuple[Tensor, Tensor] | None]
    """a module's weights before, and what they change by, both flat [out, in]; None where it leaves them"""
    surplus: int = 0
    """weights that it changes and the file does not"""
    told: tuple[str, ...] = ()
    """its warnings"""


class Program(ABC):
    """Another program's own code, at work on the released models' shapes."""

    name: str
    """with version or commit"""
    families: ClassVar[frozenset[str]] = frozenset({"sd1", "sd2", "sdxl", "sd3"})
    """that it has"""

    @abstractmethod
    def changes(self, path: Path, released: Released, modules: Collection[str], weight: Weight) -> Changes:
        """What it does to a model's weights with a LoRA of these modules at STRENGTH."""


@dataclass(frozen=True)
class Outcome:
    """What a program made of one file, beside what it should have."""

    program: str
    family: str
    form: str
    network: str
    right: int
    """modules whose weights change as they must"""
    wrong: int
    """modules whose weights change otherwise"""
    of: int
    difference: float
    """the largest among the right ones: |change - due| by the largest |due|"""
    surplus: int
    told: tuple[str, ...]

    @property
    def row(self) -> str:
        """A row of a table in Markdown."""
        wrong = f", {self.wrong} wrongly" if self.wrong else ""
        difference = f"{self.difference:.1e}" if self.right else "-"
        told = f"{self.program} | {self.family} | {self.network} | {self.form}"
        return f"| {told} | {self.right} of {self.of}{wrong} | {difference} |"


def outcome(program: Program, path: Path, subject: Subject, form: str, released: Released) -> Outcome:
    """Give the file to the program, and hold each change of a weight against what is due."""
    told: list[str] = []
    differences = []
    try:
        changes = program.changes(path, released, subject.lora.modules, _random if subject.needs_base else _zeros)
        told += changes.told
    except Exception as problem:  # whatever the program says of the file
        changes = Changes(lambda _: None)
        told.append(f"{type(problem).__name__}: {problem}")
    for module in subject.lora.modules:
        try:
            found = changes.change(module)
        except Exception as problem:  # likewise of the module
            told.append(f"{module}: {type(problem).__name__}: {problem}")
            continue
        if found is not None:
            due = STRENGTH * subject.delta(module, found[0])
            size = due.abs().max().clamp(min=torch.finfo(due.dtype).tiny)  # a module may add nothing
            differences.append(float((found[1] - due).abs().max() / size))
    right = [one for one in differences if one <= CLOSE]
    return Outcome(
        program=program.name,
        family=subject.family,
        form=form,
        network=subject.network,
        right=len(right),
        wrong=len(differences) - len(right),
        of=len(subject.lora.modules),
        difference=max(right, default=0.0),
        surplus=changes.surplus,
        told=tuple(told),
    )


def _zeros(name: str, shape: tuple[int, ...]) -> Tensor:  # noqa: ARG001 (all alike)
    return torch.zeros(shape)


def _random(name: str, shape: tuple[int, ...]) -> Tensor:
    """The same for the same name."""
    return torch.empty(shape).normal_(0, 0.05, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
