"""What the charts of an evaluation show: each measure over checkpoints and strengths, and the losses of the runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sdtune.core.evaluation.charts import Chart, Line, Point
from sdtune.core.evaluation.figures import DIRECTIONS, begun, cell_name, strength_of, told
from sdtune.core.evaluation.intervals import Value
from sdtune.core.evaluation.measures import Measure
from sdtune.core.evaluation.outcome import Judged, Outcome
from sdtune.core.evaluation.subject import Case, Cell

LETTERS = 24  # of a name under a place
RISEN = 3.0  # points of per cent past its least, from which on a loss has risen


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


def charts(outcome: Outcome, measures: Sequence[Measure], chosen: Cell | None) -> Iterator[tuple[Measure, Chart]]:
    """A chart for each measure that any LoRA has."""
    for measure in measures:
        if any(
            isinstance(one.values.get(measure.name), Value) for one in outcome.cells if one.cell.candidate is not None
        ):
            yield measure, _chart(outcome, measure, chosen)


def _chart(outcome: Outcome, measure: Measure, chosen: Cell | None) -> Chart:
    places = places_of(outcome.case)
    points: dict[tuple[int, float], Point] = {}
    level = None
    for one in outcome.cells:
        value = one.values.get(measure.name)
        if not isinstance(value, Value):
            continue
        if one.cell.candidate is None:
            level = value.estimate
            continue
        x = one.cell.strength if places.by_strength else places.of_candidate[one.cell.candidate]
        said = f"{cell_name(outcome.case, one.cell)}: {told(value, measure.digits)}"
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
        f"{begun(measure.title)}, {DIRECTIONS[measure.better]}, over {places.across}",
        lines,
        ticks,
        places.across,
        level,
        (0.0, 1.0) if measure.share else measure.bounds,
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


def loss_charts(outcome: Outcome, chosen: Cell | None) -> Iterator[tuple[str, str, Chart]]:
    """(name of the subject, what its losses say, these against the base's in per cent: held out, then trained)."""
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
            _told(rows),
            Chart(
                f"loss of {subject.name} against the base's, lower is better, over steps",
                lines,
                tuple((row[0], f"{row[0]:.0f}") for row in rows),
                "step",
                0.0,
                upright=marked,
            ),
        )


def _told(rows: Sequence[tuple[float, float, float]]) -> str:
    """Whether the loss of what was held out has risen again, which is what over-fitting is."""
    known = [(step, held_out) for step, held_out, _ in rows if math.isfinite(held_out)]
    if not known:
        return "nothing was held out, so that this cannot tell over-fitting"
    step, least = min(known, key=lambda one: one[1])
    last, end = known[-1]
    if end - least < RISEN:
        return f"held out ends at its least, or nearly: not over-fitted ({end:+.0f} %)"
    risen = f"and rose to {end:+.0f} % at step {last:.0f}"
    return f"held out was least at step {step:.0f} ({least:+.0f} %) {risen}: over-fitted"
