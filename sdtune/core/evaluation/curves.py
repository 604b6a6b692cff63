"""What the charts of an evaluation show: each measure over checkpoints and strengths, and the losses of the runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sdtune.core.evaluation.charts import Chart, Line, Point
from sdtune.core.evaluation.figures import DIRECTIONS, Meaning, cell_name, strength_of, told
from sdtune.core.evaluation.intervals import Value
from sdtune.core.evaluation.outcome import Judged, Outcome
from sdtune.core.evaluation.subject import Case, Cell

LETTERS = 24  # of a name under a place


@dataclass(frozen=True)
class Places:
    """Where the cells of an evaluation lie across its charts."""

    across: str
    ticks: tuple[tuple[float, str], ...]
    by_strength: bool
    """whether strengths lie across, since there is only one LoRA"""
    of_candidate: tuple[float, ...]


def places_of(case: Case) -> Places:
    """Steps of the one run; else LoRAs one after another, each run by its name; of one LoRA its strengths."""
    if len(case.candidates) == 1:
        return Places("strength", (), True, (0.0,))
    steps = [one.step for one in case.candidates]
    if len({one.subject for one in case.candidates}) == 1 and None not in steps and len(set(steps)) == len(steps):
        numbers = [float(step) for step in steps if step is not None]
        return Places("step", tuple((step, f"{step:.0f}") for step in sorted(numbers)), False, tuple(numbers))
    of = [one.subject for one in case.candidates]
    labels = [
        case.subjects[subject].name if place == of.index(subject) + of.count(subject) // 2 else ""
        for place, subject in enumerate(of)
    ]
    if len(set(of)) == 1:
        labels = [one.name for one in case.candidates]
    return Places("LoRA", tuple(enumerate(map(_short, labels))), False, tuple(map(float, range(len(labels)))))


def _short(name: str) -> str:
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"


def strengths_of(cells: Sequence[Judged]) -> tuple[float, ...]:
    """Strengths at which LoRAs are drawn; a line each, in the order of their colours."""
    return tuple(sorted({one.cell.strength for one in cells if one.cell.candidate is not None}))


def charts(outcome: Outcome, measures: Sequence[Meaning], chosen: Cell | None) -> Iterator[tuple[Meaning, Chart]]:
    """A chart for each measure that any LoRA has."""
    for meaning in measures:
        if any(
            isinstance(one.values.get(meaning.name), Value) for one in outcome.cells if one.cell.candidate is not None
        ):
            yield meaning, _chart(outcome, meaning, chosen)


def _chart(outcome: Outcome, meaning: Meaning, chosen: Cell | None) -> Chart:
    places = places_of(outcome.case)
    points: dict[tuple[int, float], Point] = {}
    level = None
    for one in outcome.cells:
        value = one.values.get(meaning.name)
        if not isinstance(value, Value):
            continue
        if one.cell.candidate is None:
            level = value.estimate
            continue
        x = one.cell.strength if places.by_strength else places.of_candidate[one.cell.candidate]
        said = f"{cell_name(outcome.case, one.cell)}: {told(value, meaning.digits)}"
        points[one.cell.candidate, one.cell.strength] = Point(
            x, value.estimate, value.low, value.high, said, one.cell == chosen
        )
    strengths = strengths_of(outcome.cells)
    if places.by_strength:
        lines: tuple[Line, ...] = (Line(0, (tuple(points[key] for key in sorted(points)),)),)
        ticks = tuple((strength, strength_of(strength)) for strength in strengths)
    else:
        lines = tuple(
            Line(kind, tuple(_stretches(outcome.case, points, strength)))
            for kind, strength in enumerate(strengths)
            if any(key[1] == strength for key in points)
        )
        ticks = places.ticks
    return Chart(
        f"{meaning.title}, {DIRECTIONS[meaning.better]}, over {places.across}",
        lines,
        ticks,
        places.across,
        level,
        (0.0, 1.0) if meaning.share else (-math.inf, math.inf),
    )


def _stretches(case: Case, points: dict[tuple[int, float], Point], strength: float) -> Iterator[tuple[Point, ...]]:
    """Points of one strength, those of each training in a stretch of their own."""
    for subject in dict.fromkeys(one.subject for one in case.candidates):
        of = [
            points[place, strength]
            for place, one in enumerate(case.candidates)
            if one.subject == subject and (place, strength) in points
        ]
        if of:
            yield tuple(sorted(of, key=lambda point: point.x))


def loss_charts(outcome: Outcome, chosen: Cell | None) -> Iterator[tuple[str, Chart]]:
    """(name of the subject, losses of its run against the base's, in per cent); held out first, then trained."""
    for number, subject in enumerate(outcome.case.subjects):
        rows = [
            (float(step), 100 * (held_out - 1), 100 * (trained - 1))
            for step, held_out, trained in outcome.curves.get(subject.name, ())
        ]
        if not rows:
            continue
        lines = tuple(
            Line(
                kind,
                (
                    tuple(
                        Point(
                            row[0],
                            row[kind + 1],
                            math.nan,
                            math.nan,
                            f"step {row[0]:.0f}, {what}: {row[kind + 1]:+.1f} %",
                        )
                        for row in rows
                        if math.isfinite(row[kind + 1])
                    ),
                ),
            )
            for kind, what in enumerate(("held out", "trained"))
        )
        marked = None
        if chosen is not None and chosen.candidate is not None:
            candidate = outcome.case.candidates[chosen.candidate]
            marked = float(candidate.step) if candidate.step is not None and candidate.subject == number else None
        yield (
            subject.name,
            Chart(
                f"loss of {subject.name} against the base's, lower is better, over steps",
                lines,
                tuple((row[0], f"{row[0]:.0f}") for row in rows),
                "step",
                0.0,
                upright=marked,
            ),
        )
