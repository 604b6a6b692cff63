"""The command `sdtune eval compare`: which of two LoRAs is better, measure by measure."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sdtune.config import eval_settings, refine
from sdtune.core import lora_file
from sdtune.core.evaluate import looked_at, versions
from sdtune.core.evaluation.case import case_of_pair
from sdtune.core.evaluation.drawings import Drawings, units_of
from sdtune.core.evaluation.encoders import encoder_named
from sdtune.core.evaluation.intervals import Refused, Value
from sdtune.core.evaluation.judging import Marks, difference
from sdtune.core.evaluation.measures import Measure, measures
from sdtune.core.evaluation.outcome import Comparison, Cost, Side
from sdtune.core.evaluation.page import write_comparison_page
from sdtune.core.evaluation.pairs import with_pairs
from sdtune.core.evaluation.recommend import alarms_of
from sdtune.core.evaluation.record import write_comparison_record
from sdtune.core.evaluation.subject import BASE, Case, Cell
from sdtune.core.evaluation.thresholds import failed, thresholds_of
from sdtune.core.evaluation_reports import Compared, Difference, Figure
from sdtune.core.home import paths_from_home
from sdtune.core.reports import Note, Telling
from sdtune.core.run_folder import must_be_writable, safe_name
from sdtune.errors import SdtuneError
from sdtune.evaluate_config import EvaluateCompare

PAGE = "compare.html"
RECORD = "compare.json"
FIRST, SECOND = 0, 1
DECISIVE = ("copies", "concept_f1", "truth_similarity", "cmmd", "text_alignment")
"""measures by which the better one is told, the first that tells them apart"""


def evaluate_compare(config: EvaluateCompare) -> Telling[None]:
    """Draws every prompt with both, measures the same of both, and tells the paired differences."""
    began = time.monotonic()
    config = paths_from_home(config)
    thresholds = thresholds_of(config)
    case, strengths = yield from case_of_pair(config)
    config = refine(config, eval_settings(case.model))
    out = _place(config, case)
    encoder = encoder_named(config.encoder, builtin_model=case.model == "mini", machine=config.memory)
    case, pairs = yield from with_pairs(case, config)
    cells = (BASE, *(Cell(place, strength) for place, strength in strengths))
    loras = [lora_file.read(one.path) for one in case.candidates]
    units = units_of(case, config)
    yield Note(
        f"{len(cells) - 1} LoRAs and the base model ({case.model}), {len(units)} pictures each, beside "
        f"{len(case.references)} references, as {encoder.label} sees them"
    )
    drawings, marks = yield from looked_at(config, case, cells, units, loras, pairs, encoder, out)
    first, second = cells[1], cells[2]
    differences = differences_of(marks, first, second, cells[3:])
    alarms = [(one, line) for one in (first, second) for line in alarms_of(case, one, marks[one])]
    names = [_named(case, one) for one in (first, second)]
    comparison = Comparison(
        title=" and ".join(names),
        case=case,
        units=tuple(units),
        first=_side(case, first, drawings, marks),
        second=_side(case, second, drawings, marks),
        base=drawings.pictures[BASE],
        encoder=encoder.label,
        sentence=sentence_of(differences, *names),
        differences=tuple(differences),
        refused={name: one.reason for name, one in marks[first].values.items() if isinstance(one, Refused)},
        warnings=case.told,
        settings=config.model_dump(mode="json", exclude={"out", "cache", "memory"}),
        versions=versions(),
        cost=Cost(drawings.drawn, drawings.there, time.monotonic() - began, drawings.device),
        resize=encoder.resize,
    )
    write_comparison_page(comparison, out / PAGE)
    write_comparison_record(comparison, out / RECORD)
    missed = failed(thresholds, marks[first].values)
    yield Compared(
        sentence=comparison.sentence,
        first=names[FIRST],
        second=names[SECOND],
        encoder=encoder.label,
        drawings=len(units),
        references=len(case.references),
        differences=comparison.differences,
        alarms=tuple(f"{_named(case, one)}: {line}" for one, line in alarms),
        page=out / PAGE,
        record=out / RECORD,
        failed=missed,
    )
    if missed:
        raise SdtuneError(*missed)


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
                winner=winner_of(measure, apart, floor),
            )
        )
    return found


def winner_of(measure: Measure, apart: Value, floor: float | None) -> str:
    """A or B, where the interval of the difference leaves 0 out and it is more than noise; else ""."""
    if measure.better == "none" or not (apart.low > 0 or apart.high < 0) or abs(apart.estimate) <= (floor or 0):
        return ""
    return "A" if (apart.estimate > 0) == (measure.better == "higher") else "B"


def sentence_of(differences: Sequence[Difference], first: str, second: str) -> str:
    """Which is better, in plain words."""
    names = {"A": first, "B": second}
    won = {name: sum(one.winner == name for one in differences) for name in names}
    same = len(differences) - sum(won.values())
    counts = f"{first} is better in {won['A']} measures, {second} in {won['B']}, {same} do not tell them apart"
    by_name = {one.name: one for one in differences if one.winner}
    decisive = next((by_name[name] for name in DECISIVE if name in by_name), None)
    if decisive is None:
        told = "no difference that counts" if not any(won.values()) else "no difference in what counts most"
        return f"{told}: {counts}"
    told = f"{decisive.title} {_signed(decisive)}"
    return f"{names[decisive.winner]} is better ({told}): {counts}"


def _signed(one: Difference) -> str:
    apart = one.difference.estimate if one.winner == "A" else -one.difference.estimate
    return f"{apart:+.{one.digits}f}"


def _figure(value: object) -> Figure:
    assert isinstance(value, Value), "what differs is told of both"
    return Figure(value.estimate, value.low, value.high)


def _side(case: Case, cell: Cell, drawings: Drawings, marks: Mapping[Cell, Marks]) -> Side:
    """One of both, with what was drawn of it."""
    assert cell.candidate is not None, "the base model is compared with nothing"
    one = case.candidates[cell.candidate]
    pictures, copies = drawings.pictures[cell], marks[cell].copies
    return Side(one.name, one.path, one.step, cell.strength, one.subject, pictures, copies)


def _place(config: EvaluateCompare, case: Case) -> Path:
    out = config.out or Path("eval") / safe_name("-and-".join(one.name for one in case.candidates[:2]))
    must_be_writable(out)
    return out


def _named(case: Case, cell: Cell) -> str:
    """A LoRA with its strength, as tables name it."""
    assert cell.candidate is not None, "the base model is compared with nothing"
    name = case.candidates[cell.candidate].name
    return name if math.isclose(cell.strength, 1) else f"{name} at {cell.strength:g}"
