"""Asked: a picture that is wanted, before what its prompt names is looked up."""

from __future__ import annotations

from dataclasses import dataclass

from sdtune.choices.samplers import AnySampler
from sdtune.core.applied import Applied


@dataclass(frozen=True)
class Asked:
    """The settings of one picture, in which the cells of a grid differ."""

    text: str
    negative: str
    seed: int
    size: tuple[int, int]
    """(width, height) in pixels"""
    steps: int
    guidance: float
    sampler: AnySampler
    loras: tuple[Applied, ...] = ()
    """those for every prompt; a prompt may name more"""
    strength: float | None = None
    """share of a picture to begin with that is drawn anew"""
    line: int = 1
    """which prompt it is of, from 1"""
    where: str = "--prompt"
    """where its prompt stands, for messages: "prompts.txt, line 3" """
    cell: tuple[int, ...] = ()
    """its place on the axes of a grid"""
