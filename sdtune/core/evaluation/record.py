"""report.json: all that an evaluation has found, for programs; found again, it is the same but for the cost."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sdtune.core.evaluation.figures import Interval, cell_name, shown
from sdtune.core.evaluation.intervals import Refused, Value
from sdtune.core.evaluation.measures import Measure
from sdtune.core.evaluation.outcome import Comparison, Copy, Judged, Outcome, Ranked, Side
from sdtune.core.evaluation.page_frame import write_pieces
from sdtune.core.evaluation.subject import BASE, Case, Cell, Reference, Unit
from sdtune.core.evaluation_reports import Difference

FORMAT = 1


def write_record(outcome: Outcome, out: Path) -> None:
    """report.json of an evaluation, whole or not at all."""
    _write(record(outcome, out.parent), out)


def write_comparison_record(comparison: Comparison, out: Path) -> None:
    """compare.json of a comparison, whole or not at all."""
    _write(comparison_record(comparison, out.parent), out)


def _write(told: Mapping[str, Any], out: Path) -> None:
    write_pieces(iter((json.dumps(_plain(told), indent=1, allow_nan=False), "\n")), out)


def record(outcome: Outcome, folder: Path) -> dict[str, Any]:
    """What report.json in that folder holds: plain values, but for numbers that are none."""
    case = outcome.case
    best = outcome.ranking[0].cell if outcome.ranking else None
    measures = shown(name for one in outcome.cells for name in one.values)
    return {
        "format": FORMAT,
        "kind": "evaluation",
        "title": outcome.title,
        "sentence": outcome.sentence,
        "recommendation": _cell(case, best, folder) if best is not None else None,
        "ranking": [_ranked(case, one, folder) for one in outcome.ranking],
        **_about(case, outcome.units, outcome.encoder, outcome.resize),
        "measures": _measures(measures, outcome.floor),
        "cells": [_judged(outcome, one, [measure.name for measure in measures], folder) for one in outcome.cells],
        "losses": {
            name: [{"step": step, "held_out": held_out, "trained": trained} for step, held_out, trained in rows]
            for name, rows in outcome.curves.items()
        },
        "settings": outcome.settings,
        "versions": outcome.versions,
        "cost": asdict(outcome.cost),
    }


def comparison_record(comparison: Comparison, folder: Path) -> dict[str, Any]:
    """The same of a comparison."""
    names = [one.name for one in comparison.differences]
    floor = {one.name: one.floor for one in comparison.differences if one.floor is not None}
    return {
        "format": FORMAT,
        "kind": "comparison",
        "title": comparison.title,
        "sentence": comparison.sentence,
        "A": _side(comparison, comparison.first, folder),
        "B": _side(comparison, comparison.second, folder),
        "base": {"pictures": [_place(path, folder) for path in comparison.base]},
        **_about(comparison.case, comparison.units, comparison.encoder, comparison.resize),
        "measures": _measures(shown([*names, *comparison.refused]), floor),
        "differences": [_difference(one) for one in comparison.differences],
        "refused": comparison.refused,
        "settings": comparison.settings,
        "versions": comparison.versions,
        "cost": asdict(comparison.cost),
    }


def _about(case: Case, units: Sequence[Unit], encoder: str, resize: str) -> dict[str, Any]:
    """What was drawn, looked at, and by what."""
    return {
        "told": case.told,
        "model": case.model,
        "trigger": case.trigger,
        "encoder": encoder,
        "resize": resize,
        "references": [one.name for one in case.references],
        "references_are_trained": case.references_are_trained,
        "prompts": [
            {
                "text": prompt.text,
                "plain": prompt.plain,
                "kind": prompt.kind,
                "has_concept": prompt.has_concept,
                "reference": case.references[prompt.held_out].name if prompt.held_out is not None else None,
                "trained": (
                    case.subjects[prompt.trained[0]].trained[prompt.trained[1]].name
                    if prompt.trained is not None
                    else None
                ),
            }
            for prompt in case.prompts
        ],
        "seeds": sorted({unit.seed for unit in units}),
        "drawings": [asdict(unit) for unit in units],
    }


def _measures(measures: Sequence[Measure], floor: Mapping[str, float]) -> dict[str, Any]:
    return {
        one.name: {
            "title": one.title,
            "says": one.says,
            "better": one.better,
            "source": one.source,
            "noise": floor.get(one.name),
        }
        for one in measures
    }


def _cell(case: Case, cell: Cell, folder: Path) -> dict[str, Any]:
    """The LoRA and its strength."""
    if cell.candidate is None:
        return {"lora": None, "run": None, "step": None, "strength": 0.0}
    candidate = case.candidates[cell.candidate]
    return {
        "lora": _place(candidate.path, folder),
        "run": case.subjects[candidate.subject].name,
        "step": candidate.step,
        "strength": cell.strength,
    }


def _ranked(case: Case, one: Ranked, folder: Path) -> dict[str, Any]:
    return {
        "run": case.subjects[one.subject].name,
        "recommendation": _cell(case, one.cell, folder) if one.cell is not None else None,
        "score": one.score,
        "told": one.told,
        "alarms": one.alarms,
    }


def _judged(outcome: Outcome, one: Judged, names: Sequence[str], folder: Path) -> dict[str, Any]:
    case = outcome.case
    trained = case.trained_of(one.cell)
    known = [(name, one.values[name]) for name in names if name in one.values]
    return {
        "name": "base" if one.cell == BASE else cell_name(case, one.cell),
        **_cell(case, one.cell, folder),
        "values": {name: asdict(value) for name, value in known if isinstance(value, Value)},
        "changes": {name: _interval(one.change[name]) for name in names if name in one.change},
        "refused": {name: value.reason for name, value in known if isinstance(value, Refused)},
        "details": one.details,
        "copies": [_copy(case, outcome.units, copy, trained, one.pictures, folder) for copy in one.copies],
        "pictures": [_place(path, folder) for path in one.pictures],
    }


def _side(comparison: Comparison, side: Side, folder: Path) -> dict[str, Any]:
    case = comparison.case
    trained = case.subjects[side.subject].trained
    return {
        "name": side.name,
        "lora": _place(side.path, folder),
        "run": case.subjects[side.subject].name,
        "step": side.step,
        "strength": side.strength,
        "copies": [_copy(case, comparison.units, copy, trained, side.pictures, folder) for copy in side.copies],
        "pictures": [_place(path, folder) for path in side.pictures],
    }


def _copy(
    case: Case, units: Sequence[Unit], copy: Copy, trained: Sequence[Reference], pictures: Sequence[Path], folder: Path
) -> dict[str, Any]:
    unit = units[copy.unit]
    return {
        "drawing": _place(pictures[copy.unit], folder),
        "trained": trained[copy.trained].name,
        "prompt": case.prompts[unit.prompt].text,
        "seed": unit.seed,
        "likeness": copy.likeness,
        "usual": copy.usual,
        "own_prompt": copy.own_prompt,
        "asked": copy.asked,
        "astray": copy.astray,
    }


def _difference(one: Difference) -> dict[str, Any]:
    return {
        "name": one.name,
        "A": _interval(one.first),
        "B": _interval(one.second),
        "difference": _interval(one.difference),
        "winner": one.winner,
    }


def _interval(one: Interval) -> dict[str, float]:
    return {"estimate": one.estimate, "low": one.low, "high": one.high}


def _place(path: Path, folder: Path) -> str:
    """A file as it is found from the folder, where it is below it or beside it; else its name alone."""
    beside = Path(os.path.relpath(path, folder))
    return beside.as_posix() if beside.parts[:2].count("..") < 2 else path.name


def _plain(told: Any) -> Any:
    """Values as JSON has them: no NaN, no tuples, no paths that lead out of a machine."""
    if isinstance(told, Mapping):
        return {str(name): _plain(value) for name, value in told.items()}
    if isinstance(told, list | tuple):
        return [_plain(one) for one in told]
    if isinstance(told, Path):
        return told.name if told.is_absolute() else told.as_posix()
    if hasattr(told, "tolist"):  # of numpy
        return _plain(told.tolist())
    if isinstance(told, float):
        return told if math.isfinite(told) else None
    return told
