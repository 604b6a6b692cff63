"""Prompts as they are given: on the command line, in a file or on standard input, one a line, with flags of their own.

The flags are those of kohya's programs: --n negative, --w and --h pixels, --d seed, --l guidance, --s steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Line:
    """A prompt with what it says of itself; None where it says nothing."""

    text: str
    where: str
    """for messages: "--prompt", "prompts.txt, line 3" """
    negative: str | None = None
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    guidance: float | None = None
    steps: int | None = None


def lines_of(prompts: tuple[str, ...], file: Path | None) -> list[Line]:
    """All prompts in order: those given one by one, then those of the file (-: standard input).

    Empty lines and those that begin with # are left out of files. Raises ConfigError.
    """
    raise NotImplementedError
