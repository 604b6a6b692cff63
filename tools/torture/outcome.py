"""What came of an experiment: how often it was tried, how often it passed, and what went wrong."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

TOLD = 20  # problems that are kept; the others are counted


@dataclass(frozen=True)
class Outcome:
    """The result of an experiment, a row of the table."""

    name: str
    """R1"""
    what: str
    tried: int
    passed: int
    seconds: float
    found: str = ""
    """a figure, such as the largest difference"""
    problems: tuple[str, ...] = ()
    """the first ones, a line each"""


@dataclass
class Tally:
    """Trials as they are counted."""

    name: str
    what: str
    tried: int = 0
    passed: int = 0
    problems: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def count(self, *problems: str) -> None:
        """One more trial, which passed if there are no problems."""
        self.tried += 1
        self.passed += not problems
        self.problems += [" ".join(problem.split())[:500] for problem in problems][: TOLD - len(self.problems)]

    def outcome(self, found: str = "") -> Outcome:
        """All that was counted."""
        seconds = time.monotonic() - self.began
        return Outcome(self.name, self.what, self.tried, self.passed, seconds, found, tuple(self.problems))


def scaled(count: int, share: float) -> int:
    """A share of so many, one at least."""
    return max(1, round(count * share))
