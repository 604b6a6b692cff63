"""Axes of a grid: settings with the values that they take on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sdtune.core.sampling.asked import Asked
from sdtune.core.sampling.run_of import RunUse
from sdtune.sample_config import Sample


@dataclass(frozen=True)
class Value:
    """One value of an axis: what is written beside it, and what it makes of a picture that is asked for."""

    label: str
    change: Callable[[Asked], Asked]


@dataclass(frozen=True)
class Axis:
    """A setting on a grid."""

    name: str
    values: tuple[Value, ...]


def axes_of(config: Sample, asked: Sequence[Asked], run: RunUse) -> tuple[Axis, ...]:
    """Those of --grid, --compare or --animate; none where none is given. ConfigError names what cannot be read.

    "prompt" and "seed" without values are those that were asked for anyway.
    """
    raise NotImplementedError


def crossed(asked: Sequence[Asked], axes: Sequence[Axis]) -> list[Asked]:
    """Every picture at every place on the axes, `cell` being the place; what an axis covers is not asked twice."""
    raise NotImplementedError
