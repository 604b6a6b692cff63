"""Thresholds: what an evaluation is failed for, as --fail-under and --fail-over name it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sdtune.core.evaluation.intervals import Refused, Value
from sdtune.core.evaluation.measures import Measure, measures
from sdtune.errors import ConfigError, cut, nearest
from sdtune.evaluate_config import Protocol

LISTED = 12
"""names of measures, in a message"""
NOTHING = '""'
"""a name that is empty, as it is typed"""
DIGITS = 12
"""after the point, at the most, of figures that differ from their bound by little"""


@dataclass(frozen=True)
class Threshold:
    """A bound of one measure."""

    name: str
    bound: float
    under: bool
    """whether less than the bound is a failure; else more is"""


def thresholds_of(config: Protocol) -> tuple[Threshold, ...]:
    """Those of the settings; raises ConfigError with all that is wrong with them."""
    found: dict[tuple[str, bool], Threshold] = {}
    problems: list[str] = []
    for flag, under, given in (("--fail-under", True, config.fail_under), ("--fail-over", False, config.fail_over)):
        for text in given:
            try:
                one = _read(text, under)
                if (one.name, under) in found:
                    raise ConfigError(f"{one.name} is given twice; give it once")
                found[one.name, under] = one
            except ConfigError as problem:
                problems.append(f"{flag} {cut(text) or NOTHING}: {problem}")
    if problems:
        raise ConfigError(*problems)
    return tuple(found.values())


def failed(thresholds: Sequence[Threshold], values: Mapping[str, Value | Refused]) -> tuple[str, ...]:
    """What is not as it was asked for, a line each; what cannot be told is not."""
    return tuple(line for one in thresholds if (line := _failure(one, values.get(one.name))))


def _read(text: str, under: bool) -> Threshold:
    """One of them; raises ConfigError with the rest of a line."""
    asked, sign, number = (part.strip() for part in text.partition("="))
    if not sign or not asked or not number:
        raise ConfigError("should be a measure and a number, as in concept_f1=0.8")
    name = asked.lower().replace("-", "_")
    if name not in measures():
        near = nearest(name, measures())
        listed = ", ".join(list(measures())[:LISTED]) + (" ..." if len(measures()) > LISTED else "")
        raise ConfigError(f"no such measure; {f'did you mean {near}?' if near else f'choose one of {listed}'}")
    bound = _number(number)
    if bound is None:
        raise ConfigError(f"{cut(number)} is no number; give one, as in {name}=0.8")
    _must_be_sensible(measures()[name], bound, under, number)
    return Threshold(name, bound, under)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _must_be_sensible(measure: Measure, bound: float, under: bool, given: str) -> None:
    """Stop at a bound that nobody can mean."""
    name = measure.name
    if measure.better == ("lower" if under else "higher"):
        other = "--fail-over" if under else "--fail-under"
        raise ConfigError(f"of {name} {measure.better} is better; did you mean {other} {name}={given}?")
    if measure.share and not 0 <= bound <= 1:
        remedy = f"did you mean {name}={bound / 100:g}?" if 1 < bound <= 100 else "give a number between 0 and 1"
        raise ConfigError(f"{name} is a share, from 0 to 1; {remedy}")


def _failure(one: Threshold, value: Value | Refused | None) -> str | None:
    if value is None:
        return f"{one.name} was not measured"
    if isinstance(value, Refused):
        return f"{one.name} cannot be told: {value.reason}"
    if math.isnan(value.estimate):
        return f"{one.name} is no number"
    if not (value.estimate < one.bound if one.under else value.estimate > one.bound):
        return None
    digits = measures()[one.name].digits
    while digits < DIGITS and float(f"{value.estimate:.{digits}f}") == one.bound:
        digits += 1
    within = f" ({value.low:.{digits}f} to {value.high:.{digits}f})" if not math.isnan(value.low) else ""
    return f"{one.name} is {value.estimate:.{digits}f}{within}, {'under' if one.under else 'over'} {one.bound:.12g}"
