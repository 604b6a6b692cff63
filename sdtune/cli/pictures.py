"""How a drawing looks: how far it has come."""

from __future__ import annotations

import time
from typing import Any

JSON_SECONDS = 1.0  # a JSON line about the steps of a drawing this often, however many steps there are


def done(report: Any) -> float:
    """Pictures that are drawn, and the share of those that are being drawn; of sdtune.core.reports.Drawing."""
    return float(report.number - 1 + report.together * report.step / report.steps)


def which(report: Any) -> str:
    """ "drawing", "drawing 3 of 8" or "drawing 5-8 of 8"."""
    if report.of == 1:
        return "drawing"
    last = report.number + report.together - 1
    return f"drawing {report.number}{f'-{last}' if report.together > 1 else ''} of {report.of}"


def step(report: Any, *, width: int = 0) -> str:
    """ "step 12/25"."""
    return f"step {report.step:>{width}}/{report.steps}"


class Pace:
    """Lets a report through when the last one is long enough ago."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._last = seconds, -seconds

    def due(self) -> bool:
        """Whether this is one to tell."""
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True
