"""Schedules: what share of the learning rate holds at each step."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from sdtune.choices.spec import Choice, Spec


class WarmUp(Spec):
    """What every schedule begins with."""

    kind: str
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the steps over which the rate rises to its full height; never over 100 steps."""


class Constant(WarmUp):
    """The same rate throughout, after a warm-up."""

    kind: Literal["constant"] = "constant"

    def __call__(self, step: int, of: int) -> float:
        """Factor on the learning rate at step 0 .. of - 1, in [0, 1]."""
        rising = min(self.warmup * of, 100)
        return min(1.0, (step + 1) / rising) if rising >= 1 else 1.0


class Cosine(WarmUp):
    """A half cosine from the full rate to the floor, after a warm-up (Loshchilov & Hutter 2017, arXiv:1608.03983)."""

    kind: Literal["cosine"] = "cosine"
    floor: float = Field(0.0, ge=0, le=1)
    """Factor that is left at the end."""

    def __call__(self, step: int, of: int) -> float:
        """Factor on the learning rate at step 0 .. of - 1, in [floor, 1]."""
        rising = min(self.warmup * of, 100)
        if step + 1 < rising:
            return (step + 1) / rising
        done = (step - rising) / max(of - rising, 1)
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * min(max(done, 0), 1))) / 2


Schedule = Annotated[Cosine | Constant, Choice()]
