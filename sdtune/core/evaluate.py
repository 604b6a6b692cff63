"""The command `sdtune eval`: how good LoRAs are, whether they copy, and which to use at what strength."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from sdtune.config import eval_settings, refine
from sdtune.core.data.image_file import read
from sdtune.core.evaluation.case import case_of
from sdtune.core.evaluation.encoders.base import Encoder
from sdtune.core.evaluation.intervals import Value
from sdtune.core.evaluation.judging import Marks, difference, floor_of
from sdtune.core.evaluation.measures import measures
from sdtune.core.evaluation.measures.base import Told
from sdtune.core.evaluation.outcome import Cost, Judged, Outcome, Ranked
from sdtune.core.evaluation.page import write_page
from sdtune.core.evaluation.recommend import rank
from sdtune.core.evaluation.record import write_record
from sdtune.core.evaluation.subject import BASE, Case, Cell, Subject
from sdtune.core.evaluation.thresholds import failed, thresholds_of
from sdtune.core.evaluation.trial import Measured, Trial, measured, trial_of, versions, write
from sdtune.core.evaluation_reports import Evaluated, Figure, Rated
from sdtune.core.home import paths_from_home
from sdtune.core.lora_strength import check_writable, write_strength
from sdtune.core.reports import Telling, Validated
from sdtune.core.run_folder import RunFolder, safe_name
from sdtune.core.verdict import is_falling, validated
from sdtune.earlier import RUN_SETTINGS
from sdtune.errors import DataError, SdtuneError
from sdtune.evaluate_config import Evaluate

PAGE = "report.html"
RECORD = "report.json"
COLUMNS = 6
"""measures that the table of a terminal shows"""


def evaluate(config: Evaluate) -> Telling[None]:
    """Draws every prompt with every LoRA at every strength, measures all of it, and recommends one."""
    began = time.monotonic()
    config = paths_from_home(config)
    thresholds = thresholds_of(config)
    case = yield from case_of(config)
    config = refine(config, eval_settings(case.model))
    if config.write_strength:
        for path in dict.fromkeys(one.path for one in case.candidates):
            check_writable(path)
    cells = (BASE, *(Cell(place, one) for place in range(len(case.candidates)) for one in config.strengths))
    trial = yield from trial_of(config, case, cells, _place(config, case), (PAGE, RECORD))
    found = yield from measured(trial)
    checks = [_validations(one) for one in case.subjects]
    ranking = [_with_hint(one, checks[one.subject]) for one in rank(case, found.marks)]
    outcome = _outcome(trial, found, ranking, checks, time.monotonic() - began)
    write(trial.out / PAGE, partial(write_page, outcome))
    write(trial.out / RECORD, partial(write_record, outcome))
    best = ranking[0].cell
    missed = failed(thresholds, found.marks[best].values) if best else ()
    if best is None and thresholds:
        missed = (f"nothing is recommended, so that no threshold is reached: {ranking[0].told}",)
    written = None
    if config.write_strength and best and best.candidate is not None:
        written = case.candidates[best.candidate].path
        write_strength(written, best.strength, _evaluated(found.marks[best], trial.encoder))
    yield _evaluation(outcome, found.marks, trial.out, missed, written)
    if missed:
        raise SdtuneError(*missed)


def _place(config: Evaluate, case: Case) -> Path:
    """The folder of the report."""
    if config.out:
        return config.out
    if len(case.subjects) == 1 and (case.subjects[0].place / RUN_SETTINGS).is_file():
        return case.subjects[0].place / "eval"
    return Path("eval") / safe_name("-".join(one.name for one in case.subjects))


def _outcome(
    trial: Trial, found: Measured, ranking: list[Ranked], checks: Sequence[list[Validated]], seconds: float
) -> Outcome:
    case, marks = trial.case, found.marks
    return Outcome(
        title=" and ".join(one.name for one in case.subjects),
        case=case,
        units=trial.units,
        cells=tuple(_judged(cell, one, found) for cell, one in marks.items()),
        encoder=trial.encoder.label,
        ranking=tuple(ranking),
        sentence=_sentence(case, ranking[0]),
        try_next=_try_next(case, ranking[0].cell),
        floor=floor_of(marks, [cell for cell in marks if cell != BASE]),
        settings=trial.config.model_dump(mode="json", exclude={"out", "cache", "memory"}),
        versions=versions(),
        cost=Cost(found.drawings.drawn, found.drawings.there, seconds, found.drawings.device),
        curves={
            one.name: [(check.step, check.held_out.relative, check.trained.relative) for check in its]
            for one, its in zip(case.subjects, checks, strict=True)
            if its
        },
        resize=trial.encoder.resize,
    )


def _judged(cell: Cell, marks: Marks, found: Measured) -> Judged:
    changes = {name: apart for name in marks.told if (apart := difference(marks, found.marks[BASE], name))}
    return Judged(cell, marks.values, changes, marks.details, marks.copies, found.drawings.pictures[cell])


def _validations(subject: Subject) -> list[Validated]:
    """Those of a run; none where they cannot be read."""
    try:
        lines = read(RunFolder.at(subject.place).validations).decode("utf-8").splitlines()
        return [validated(json.loads(line)) for line in lines]
    except (DataError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []


def _with_hint(one: Ranked, validations: Sequence[Validated]) -> Ranked:
    """What is recommended, with what the run's own losses say of its length."""
    if not is_falling(validations):
        return one
    hint = "its held-out loss was still falling at the last step: train longer"
    return replace(one, told=f"{one.told}; {hint}", reasons=(*one.reasons, hint) if one.reasons else ())


def _sentence(case: Case, first: Ranked) -> str:
    """The recommendation: "use step 900 at strength 0.8: ..."."""
    if first.cell is None or first.cell.candidate is None:
        return f"use none of them: {first.told}"
    return f"use {case.candidates[first.cell.candidate].name} at strength {first.cell.strength:g}: {first.told}"


def _evaluated(marks: Marks, encoder: Encoder) -> dict[str, str]:
    """What the metadata of a LoRA says of its evaluation."""
    told = {name: f"{value.estimate:.4g}" for name, value in marks.values.items() if isinstance(value, Value)}
    return {**told, "encoder": encoder.label}


def _evaluation(
    outcome: Outcome, marks: Mapping[Cell, Marks], out: Path, missed: tuple[str, ...], written: Path | None
) -> Evaluated:
    """The end, for the terminal."""
    case, chosen = outcome.case, outcome.ranking[0].cell
    shown = [one for name, one in measures().items() if isinstance(marks[BASE].told[name], Told)][:COLUMNS]
    return Evaluated(
        sentence=outcome.sentence,
        alarms=tuple(line for one in outcome.ranking for line in one.alarms),
        encoder=outcome.encoder,
        drawings=len(outcome.units),
        references=len(case.references),
        columns=tuple((one.name, one.title, one.digits, one.better) for one in shown),
        rows=tuple(_rated(case, cell, one, recommended=cell == chosen) for cell, one in marks.items()),
        page=out / PAGE,
        record=out / RECORD,
        failed=missed,
        written=written,
        try_next=outcome.try_next,
    )


def _rated(case: Case, cell: Cell, marks: Marks, *, recommended: bool) -> Rated:
    figures = {
        name: Figure(value.estimate, value.low, value.high)
        for name, value in marks.values.items()
        if isinstance(value, Value)
    }
    name = "base" if cell.candidate is None else case.candidates[cell.candidate].name
    return Rated(name, cell.strength, figures, sum(one.astray for one in marks.copies), recommended)


def _try_next(case: Case, cell: Cell | None) -> str:
    """A command that draws with it."""
    if cell is None or cell.candidate is None:
        return ""
    path = case.candidates[cell.candidate].path
    place = shlex.quote(f"{os.path.relpath(path) if path.is_absolute() else path}:{cell.strength:g}")
    prompt = next((one.text for one in case.prompts if one.kind == "new context"), case.prompts[0].text)
    named = "" if case.model == "mini" else f" --model {shlex.quote(case.model)}"
    return f"sdtune sample --prompt {shlex.quote(prompt)} --lora {place}{named}"
