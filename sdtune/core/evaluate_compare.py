"""The command `sdtune eval compare`: which of two LoRAs is better, measure by measure."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from sdtune.config import eval_settings, refine
from sdtune.core.evaluation.case import case_of_pair
from sdtune.core.evaluation.comparison_page import write_comparison_page
from sdtune.core.evaluation.differences import differences_of, sentence_of
from sdtune.core.evaluation.intervals import Refused
from sdtune.core.evaluation.outcome import Comparison, Cost, Side
from sdtune.core.evaluation.recommend import alarms_of
from sdtune.core.evaluation.record import write_comparison_record
from sdtune.core.evaluation.subject import BASE, Case, Cell
from sdtune.core.evaluation.thresholds import failed, thresholds_of
from sdtune.core.evaluation.trial import Measured, measured, trial_of, versions, write
from sdtune.core.evaluation_reports import Compared
from sdtune.core.home import paths_from_home
from sdtune.core.reports import Telling
from sdtune.core.run_folder import safe_name
from sdtune.errors import SdtuneError
from sdtune.evaluate_config import EvaluateCompare

PAGE = "compare.html"
RECORD = "compare.json"


def evaluate_compare(config: EvaluateCompare) -> Telling[None]:
    """Draws every prompt with both, measures the same of both, and tells the paired differences."""
    began = time.monotonic()
    config = paths_from_home(config)
    thresholds = thresholds_of(config)
    case, strengths = yield from case_of_pair(config)
    config = refine(config, eval_settings(case.model))
    cells = [Cell(place, strength) for place, strength in strengths]
    first, second, *twins = cells
    every = tuple(dict.fromkeys((BASE, *cells)))
    names = [_named(case, one) for one in (first, second)]
    out = config.out or Path("eval") / safe_name("-and-".join(names))
    trial = yield from trial_of(config, case, every, out, (PAGE, RECORD))
    found = yield from measured(trial)
    marks = found.marks
    differences = tuple(differences_of(marks, first, second, twins))
    comparison = Comparison(
        title=" and ".join(names),
        case=case,
        units=trial.units,
        first=_side(case, first, found),
        second=_side(case, second, found),
        base=found.drawings.pictures[BASE],
        encoder=trial.encoder.label,
        sentence=sentence_of(differences, *names),
        differences=differences,
        refused={
            name: one.reason
            for cell in (second, first)
            for name, one in marks[cell].values.items()
            if isinstance(one, Refused)
        },
        settings=config.model_dump(mode="json", exclude={"out", "cache", "memory"}),
        versions=versions(),
        cost=Cost(found.drawings.drawn, found.drawings.there, time.monotonic() - began, found.drawings.device),
        resize=trial.encoder.resize,
    )
    write(trial.out / PAGE, partial(write_comparison_page, comparison))
    write(trial.out / RECORD, partial(write_comparison_record, comparison))
    missed = failed(thresholds, marks[first].values)
    yield Compared(
        sentence=comparison.sentence,
        first=names[0],
        second=names[1],
        encoder=comparison.encoder,
        drawings=len(trial.units),
        references=len(case.references),
        differences=differences,
        alarms=tuple(
            f"{_named(case, one)}: {line}" for one in (first, second) for line in alarms_of(case, one, marks[one])
        ),
        page=trial.out / PAGE,
        record=trial.out / RECORD,
        failed=missed,
    )
    if missed:
        raise SdtuneError(*missed)


def _side(case: Case, cell: Cell, found: Measured) -> Side:
    """One of both, with what was drawn of it."""
    assert cell.candidate is not None, "the base model is compared with nothing"
    one = case.candidates[cell.candidate]
    pictures, copies = found.drawings.pictures[cell], found.marks[cell].copies
    return Side(one.name, one.path, one.step, cell.strength, one.subject, pictures, copies)


def _named(case: Case, cell: Cell) -> str:
    """A LoRA with its strength, as tables name it."""
    assert cell.candidate is not None, "the base model is compared with nothing"
    return f"{case.candidates[cell.candidate].name} at {cell.strength:g}"
