"""Values of an axis as people write them: lists by commas, ranges by dots, texts by bars.

0, 0.5, 1           each of these
1..4                1, 2, 3, 4
0..1:0.25           0, 0.25, 0.5, 0.75, 1, as decimals, so that nothing is rounded
1..0:0.5            1, 0.5, 0
a cat | a {red|blue} dog     texts may hold commas, and bars within brackets
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

from sdtune.errors import ConfigError, cut

MOST = 10_000
"""values of one axis"""
_NUMBER = r"[+-]?(?:\d{1,30}(?:\.\d{1,30})?|\.\d{1,30})(?:e[+-]?\d{1,2})?"
NUMBER = re.compile(_NUMBER, re.IGNORECASE | re.ASCII)
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(?::({_NUMBER}))?", re.IGNORECASE | re.ASCII)
_OPEN, _CLOSED = "{[(", "}])"


def numbers_in(text: str, told: str) -> list[str]:
    """Each value of a list by commas, and those of its ranges; words that are no numbers are left as they are."""
    found: list[str] = []
    for piece in pieces_of(text, ",", told):
        if ".." in piece:
            found += _range(piece, told)
        else:
            found.append(piece)
        if len(found) > MOST:
            raise ConfigError(f"{told}: over {MOST:,} values; give fewer")
    return found


def texts_in(text: str) -> list[str]:
    """Texts by bars, of which those within brackets belong to the text."""
    found, depth, start = list[str](), 0, 0
    for place, letter in enumerate(text):
        depth = max(0, depth + (letter in _OPEN) - (letter in _CLOSED))
        if letter == "|" and not depth:
            found.append(text[start:place].strip())
            start = place + 1
    return [*found, text[start:].strip()]


def pieces_of(text: str, between: str, told: str) -> list[str]:
    """The pieces of a list, none of them empty."""
    pieces = [piece.strip() for piece in text.split(between)]
    if not all(pieces):
        what = f'"{cut(text)}" has an empty value' if text.strip() else "no values"
        raise ConfigError(f"{told}: {what}; give a list, as in 1,2,5, or a range, as in 1..4 or 0..1:0.1")
    return pieces


def _range(piece: str, told: str) -> list[str]:
    found = _RANGE.fullmatch(piece)
    if not found:
        raise ConfigError(f'{told}: "{cut(piece)}" is no range; give it as in 1..4, or with a step as in 0..1:0.1')
    if "..." in piece and found[3] is None:
        two = piece.replace("...", "..", 1)
        raise ConfigError(f'{told}: "{cut(piece)}" has three dots; a range has two, as in {cut(two)}')
    first, last = Decimal(found[1]), Decimal(found[2])
    if found[3] is None and not (first == first.to_integral_value() and last == last.to_integral_value()):
        raise ConfigError(f'{told}: "{cut(piece)}" has no step; give one behind a colon, as in {piece}:0.1')
    step = abs(Decimal(found[3] or 1))
    if not step:
        raise ConfigError(f'{told}: "{cut(piece)}" has a step of 0 and would never end; give a larger one')
    count = abs(Fraction(last) - Fraction(first)) // Fraction(step) + 1
    if count > MOST:
        made = f"{count:,}" if count < 10**12 else "over a trillion"
        raise ConfigError(f'{told}: "{cut(piece)}" makes {made} values, and {MOST:,} is the most; give a larger step')
    step = step if last >= first else -step
    return [_plain(first + number * step) for number in range(count)]


def _plain(number: Decimal) -> str:
    """0.3 rather than 0.30, 10 rather than 1E+1."""
    return f"{number.normalize():f}" if number else "0"
