"""Asked: a picture that is wanted, with all choices made."""

from __future__ import annotations

from dataclasses import dataclass

from sdtune.choices.samplers import AnySampler
from sdtune.core.applied import Applied


@dataclass(frozen=True)
class Asked:
    """The settings of one picture, in which the cells of a grid differ."""

    text: str
    """without <lora:...>"""
    negative: str
    seed: int
    size: tuple[int | None, int | None]
    """(width, height) in pixels; None: that of the picture to begin with, or what the model was made for"""
    steps: int
    guidance: float
    sampler: AnySampler
    loras: tuple[Applied, ...] = ()
    """those for every prompt, and those that its own names"""
    strength: float | None = None
    """share of a picture to begin with that is drawn anew"""
    line: int = 1
    """which prompt it is of, from 1"""
    where: str = "--prompt"
    """where its prompt stands, for messages: "prompts.txt, line 3" """
    cell: tuple[int, ...] = ()
    """its place on the axes of a grid"""
