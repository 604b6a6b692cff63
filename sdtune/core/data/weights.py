r"""Weights of words as A1111 writes them: (word) and (word:1.3) count more, [word] less, \( is a bracket; and BREAK.

The semantics are those of its wiki, "Attention/emphasis" and "Infinite prompt length", and of the examples in its own
documentation. In brackets, too, BREAK parts: A1111 reads it there as a word with a weight below zero.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby

MORE = 1.1
"""what a pair of ( ) multiplies by, and a pair of [ ] divides by"""
HEAVIEST = 100
"""from a weight of many times as much nothing but NaN could come"""
NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
"""as weights are written"""
_BREAK = re.compile(r"\bBREAK\b")
_MARKS = re.compile(
    rf"""
      \\(?P<literal>[()\[\]\\]?)                                           # a backslash with nothing to escape is gone
    | :[ ]*(?P<weight>{NUMBER})[ ]*\)
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
    return _joined((part, weight) for part, weight, _ in _parts(text))


def broken(text: str) -> list[list[tuple[str, float]]]:
    """The same in the pieces that the word BREAK parts; what is around it is taken away with it."""
    found: list[list[tuple[str, float]]] = [[]]
    for part, weight, is_escaped in _parts(text):
        first, *others = [part] if is_escaped else _BREAK.split(part)
        found[-1].append((first.rstrip() if others else first, weight))
        for number, other in enumerate(others, 1):
            found.append([(other.strip() if number < len(others) else other.lstrip(), weight)])
    return [_joined(pieces) for pieces in found]


def without_weights(text: str) -> str:
    """The text without its brackets."""
    return "".join(part for part, _ in weighted(text))


def without_breaks(text: str) -> str:
    """The text without its brackets, and a space for each BREAK."""
    return " ".join("".join(part for part, _ in pieces) for pieces in broken(text))


def _parts(text: str) -> list[tuple[str, float, bool]]:
    """(part, weight, whether it is an escaped mark) as they stand."""
    parts: list[tuple[str, bool]] = []
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
            is_escaped = mark["literal"] is not None
            parts.append((mark["literal"] if is_escaped else mark[0], is_escaped))
            weights.append(1.0)
    for start in opened["("]:
        weigh(start, MORE)
    for start in opened["["]:
        weigh(start, 1 / MORE)
    return [(part, weight, is_escaped) for (part, is_escaped), weight in zip(parts, weights, strict=True)]


def _joined(parts: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """Neighbours of one weight as one piece."""
    pieces = [one for one in parts if one[0]]
    return [
        ("".join(part for part, _ in run), weight) for weight, run in groupby(pieces, key=lambda piece: piece[1])
    ] or [("", 1.0)]
