"""A1111's prompt grammar: what of a prompt holds at which step, which LoRAs it names, and where it breaks.

Weights of words are read in data.weights. Semantics: A1111's wiki, "Features" (attention, prompt editing, alternating
words, BREAK), and the examples in its own documentation.
"""

from __future__ import annotations

from dataclasses import dataclass

BREAK = "BREAK"
Schedule = tuple[tuple[int, str], ...]
"""((last step for which it holds, from 1; text), ...) in order; the last one's step is the number of steps"""


@dataclass(frozen=True)
class LoraTag:
    """<lora:name:weight>, with strengths of blocks behind another colon as in --lora."""

    name: str
    strength: str
    """as written; "1" where nothing is"""
    blocks: str | None
    column: int


def without_loras(text: str, where: str) -> tuple[str, tuple[LoraTag, ...]]:
    """The prompt without its <lora:...>, and those; ConfigError names the column of one that cannot be read."""
    raise NotImplementedError


def schedule(text: str, steps: int) -> Schedule:
    """What of it holds at which step: [from:to:when], [to:when], [from::when], [a|b]."""
    raise NotImplementedError


def check(text: str, where: str) -> None:
    """Stop at weights that do not parse, naming the column; at a prompt that is far too long."""
    raise NotImplementedError
