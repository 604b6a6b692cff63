"""Differences: what sets two LoRAs apart, measure by measure, and which of them is better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sdtune.core.evaluation.intervals import Value
from sdtune.core.evaluation.judging import Marks, difference, is_better
from sdtune.core.evaluation.measures import measures
from sdtune.core.evaluation.subject import Cell
from sdtune.core.evaluation_reports import Difference, Figure

DECISIVE = ("copies", "closeness", "concept_f1", "loss", "text_alignment")
"""measures by which the better one is told, the first that tells them apart"""


def differences_of(
    marks: Mapping[Cell, Marks], first: Cell, second: Cell, twins: Sequence[Cell] = ()
) -> list[Difference]:
    """Every measure that both are told of; the twins' distance from the first is the floor of what counts."""
    found = []
    for measure in measures().values():
        apart = difference(marks[first], marks[second], measure.name)
        if apart is None:
            continue
        of_twins = [difference(marks[first], marks[one], measure.name) for one in twins]
        floor = max((abs(one.estimate) for one in of_twins if one), default=None)
        better = is_better(measure.name, apart, floor or 0.0)
        found.append(
            Difference(
                name=measure.name,
                title=measure.title,
                digits=measure.digits,
                better=measure.better,
                first=_figure(marks[first].values[measure.name]),
                second=_figure(marks[second].values[measure.name]),
                difference=_figure(apart),
                floor=floor,
                winner="" if better is None else "A" if better else "B",
            )
        )
    return found


def sentence_of(differences: Sequence[Difference], first: str, second: str) -> str:
    """Which is better, in plain words."""
    names = {"A": first, "B": second}
    judged = [one for one in differences if one.better != "none"]
    won = {name: sum(one.winner == name for one in judged) for name in names}
    counts = (
        f"{first} is better in {_counted(won['A'])}, {second} in {_counted(won['B'])}, and "
        f"{len(judged) - sum(won.values())} do not tell them apart"
    )
    decisive = next((one for name in DECISIVE for one in judged if one.name == name and one.winner), None)
    if decisive is None:
        return f"no difference {'in what counts most' if any(won.values()) else 'that counts'}: {counts}"
    apart = decisive.difference.estimate if decisive.winner == "A" else -decisive.difference.estimate
    return f"{names[decisive.winner]} is better ({decisive.title} {apart:+.{decisive.digits}f}): {counts}"


def _counted(count: int) -> str:
    return "1 measure" if count == 1 else f"{count} measures"


def _figure(value: object) -> Figure:
    assert isinstance(value, Value), "what differs is told of both"
    return Figure(value.estimate, value.low, value.high)
