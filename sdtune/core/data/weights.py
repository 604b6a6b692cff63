r"""Weights of words as A1111 writes them: (word) and (word:1.3) count more, [word] less, \( is a bracket.

The semantics are those of its wiki, "Attention/emphasis", and of the examples in its own documentation.
"""

from __future__ import annotations

import re
from itertools import groupby

MORE = 1.1
"""what a pair of ( ) multiplies by, and a pair of [ ] divides by"""
_MARKS = re.compile(
    r"""
      \\(?P<literal>[()\[\]\\]?)                                           # a backslash with nothing to escape is gone
    | :[ ]*(?P<weight>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))[ ]*\)
    | (?P<bracket>[()\[\]])
    | (?P<text>[^\\()\[\]:]+|:)
    """,
    re.VERBOSE,
)


def weighted(text: str) -> list[tuple[str, float]]:
    """The text without its brackets, in pieces of one weight; there is always one piece.

    Brackets nest and multiply. One that is never closed weighs all that follows; one that was never opened is text, and
    so is a weight that is no number, or behind no open bracket.
    """
    parts: list[str] = []
    weights: list[float] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def weigh(start: int, factor: float) -> None:
        weights[start:] = [weight * factor for weight in weights[start:]]

    for mark in _MARKS.finditer(text):
        bracket, weight = mark["bracket"], mark["weight"]
        if bracket in opened:
            opened[bracket].append(len(parts))
        elif weight and opened["("]:
            weigh(opened["("].pop(), float(weight))
        elif bracket == ")" and opened["("]:
            weigh(opened["("].pop(), MORE)
        elif bracket == "]" and opened["["]:
            weigh(opened["["].pop(), 1 / MORE)
        else:
            parts.append(mark[0] if mark["literal"] is None else mark["literal"])
            weights.append(1.0)
    for start in opened["("]:
        weigh(start, MORE)
    for start in opened["["]:
        weigh(start, 1 / MORE)
    pieces = [(part, weight) for part, weight in zip(parts, weights, strict=True) if part]
    return [
        ("".join(part for part, _ in run), weight) for weight, run in groupby(pieces, key=lambda piece: piece[1])
    ] or [("", 1.0)]


def without_weights(text: str) -> str:
    """The text without its brackets."""
    return "".join(part for part, _ in weighted(text))
