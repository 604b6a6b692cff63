"""Sheets, pages and animations of pictures that are on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdtune.core.sampling.axes import Axis


@dataclass(frozen=True)
class Shown:
    """A picture on disk, with its place."""

    path: Path
    prompt: str
    seed: int
    line: int
    cell: tuple[int, ...]
    said: str
    """its A1111 parameters"""


def write_sheet(pictures: Sequence[Shown], axes: Sequence[Axis], out: Path) -> None:
    """A labelled sheet: the first axis down, the second across; without axes prompts down and seeds across."""
    raise NotImplementedError


def write_page(pictures: Sequence[Shown], axes: Sequence[Axis], out: Path) -> None:
    """An HTML page beside the pictures, without scripts, everything in it inert."""
    raise NotImplementedError


def write_animation(pictures: Sequence[Shown], axis: Axis, out: Path) -> None:
    """The pictures one after another and back, .webp or .gif, with the value written in a corner."""
    raise NotImplementedError
