"""The command `sdtune eval`: how good LoRAs are, whether they copy, and which to use at what strength."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sdtune.config import eval_settings, refine
from sdtune.core import lora_file
from sdtune.core.applied import Applied
from sdtune.core.blocks import Strength
from sdtune.core.data.cache import Store
from sdtune.core.data.cache_folder import folder_of
from sdtune.core.data.image_file import read
from sdtune.core.evaluation.case import case_of
from sdtune.core.evaluation.drawings import Drawings, draw, units_of
from sdtune.core.evaluation.encoders import encoder_named
from sdtune.core.evaluation.encoders.base import Encoder
from sdtune.core.evaluation.reference_loss import losses_of
from sdtune.core.evaluation.intervals import Array, Value
from sdtune.core.evaluation.judging import Marks, difference, floor_of, marks_of
from sdtune.core.evaluation.measures import measures
from sdtune.core.evaluation.outcome import Cost, Judged, Outcome, Ranked
from sdtune.core.evaluation.page import write_page
from sdtune.core.evaluation.pairs import with_pairs
from sdtune.core.evaluation.recommend import rank
from sdtune.core.evaluation.record import write_record
from sdtune.core.evaluation.seeing import see
from sdtune.core.evaluation.subject import BASE, Case, Cell, Subject, Unit
from sdtune.core.evaluation.thresholds import failed, thresholds_of
from sdtune.core.evaluation_reports import Evaluated, Figure, Rated
from sdtune.core.home import paths_from_home
from sdtune.core.lora import Lora
from sdtune.core.recommended import check_writable, write_strength
from sdtune.core.reports import Note, Telling
from sdtune.core.run_folder import must_be_writable, safe_name
from sdtune.core.verdict import validated
from sdtune.earlier import RUN_SETTINGS
from sdtune.errors import DataError, OutputError, SdtuneError
from sdtune.evaluate_config import Evaluate, Protocol

PICTURES = "pictures"
PAGE = "report.html"
RECORD = "report.json"
COLUMNS = 6
"""measures that the table of a terminal shows"""
VALIDATIONS = "validation.jsonl"
HELD = 2**28
"""bytes of features that are held in memory"""


def evaluate(config: Evaluate) -> Telling[None]:
    """Draws every prompt with every LoRA at every strength, measures all of it, and recommends one."""
    began = time.monotonic()
    config = paths_from_home(config)
    thresholds = thresholds_of(config)
    case = yield from case_of(config)
    config = refine(config, eval_settings(case.model))
    out = _place(config, case)
    if config.write_strength:
        for path in {one.path for one in case.candidates}:
            check_writable(path)
    encoder = encoder_named(config.encoder, builtin_model=case.model == "mini", machine=config.memory)
    case, pairs = yield from with_pairs(case, config)
    strengths = sorted({one for one in config.strengths if one})
    cells = (BASE, *(Cell(place, one) for place in range(len(case.candidates)) for one in strengths))
    loras = [lora_file.read(one.path) for one in case.candidates]
    units = units_of(case, config)
    yield Note(_told(case, cells, units, encoder))
    drawings, marks = yield from looked_at(config, case, cells, units, loras, pairs, encoder, out)
    ranking = rank(case, marks)
    outcome = _outcome(config, case, units, drawings, marks, encoder, ranking, time.monotonic() - began)
    write_page(outcome, out / PAGE)
    write_record(outcome, out / RECORD)
    best = ranking[0].cell
    missed = failed(thresholds, marks[best or BASE].values)
    written = None
    if config.write_strength and best and best.candidate is not None:
        written = case.candidates[best.candidate].path
        write_strength(written, best.strength, _evaluated(marks[best], encoder))
    yield _evaluation(outcome, marks, out, missed, written)
    if missed:
        raise SdtuneError(*missed)


def looked_at(
    config: Protocol,
    case: Case,
    cells: Sequence[Cell],
    units: Sequence[Unit],
    loras: Sequence[Lora],
    pairs: Mapping[int, Path],
    encoder: Encoder,
    out: Path,
) -> Telling[tuple[Drawings, dict[Cell, Marks]]]:
    """Every cell drawn, seen and measured."""
    drawings = yield from draw(config, case, cells, units, loras, out / PICTURES)
    store = Store(folder_of(config.cache), HELD)
    losses: dict[Cell, Array] = {}
    if config.losses:
        sets = [_acting(cell, case, loras) for cell in cells]
        found = yield from losses_of(config, case.model, case.clip_skip, case.references, sets, store)
        losses = dict(zip(cells, found, strict=True)) if found else {}
    seen = yield from see(case, units, drawings.pictures, pairs, losses, encoder, store)
    marks = yield from marks_of(seen, config.resamples, force=config.force)
    return drawings, marks


def judged_of(drawings: Drawings, marks: Mapping[Cell, Marks]) -> tuple[Judged, ...]:
    """Cells as pages and records tell them."""
    found = []
    for cell, one in marks.items():
        changes = {name: told for name in one.replicates if (told := difference(one, marks[BASE], name))}
        found.append(Judged(cell, one.values, changes, one.details, one.copies, drawings.pictures[cell]))
    return tuple(found)


def versions() -> dict[str, str]:
    """What figures may depend on."""
    import diffusers
    import numpy
    import torch
    import transformers

    from sdtune import __version__

    named = {"torch": torch, "diffusers": diffusers, "transformers": transformers, "numpy": numpy}
    return {"sdtune": __version__, **{name: str(one.__version__) for name, one in named.items()}}


def _place(config: Evaluate, case: Case) -> Path:
    """The folder of the report."""
    if config.out:
        out = config.out
    elif len(case.subjects) == 1 and (case.subjects[0].place / RUN_SETTINGS).is_file():
        out = case.subjects[0].place / "eval"
    else:
        out = Path("eval") / safe_name("-".join(one.name for one in case.subjects))
    if out.is_symlink() and not out.exists():
        raise OutputError(f"{out}: a link that leads nowhere; give another folder with --out")
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: is a file; give a folder with --out")
    must_be_writable(out)
    return out


def _told(case: Case, cells: Sequence[Cell], units: Sequence[Unit], encoder: Encoder) -> str:
    """What will be done, in a line."""
    loras = f"{len(case.candidates)} LoRA{'' if len(case.candidates) == 1 else 's'}"
    strengths = len({cell.strength for cell in cells if cell != BASE})
    return (
        f"{loras} at {strengths} strengths and the base model ({case.model}), {len(units)} pictures each "
        f"({len(cells) * len(units):,} in all), beside {len(case.references)} references, as {encoder.label} sees them"
    )


def _acting(cell: Cell, case: Case, loras: Sequence[Lora]) -> tuple[Applied, ...]:
    if cell.candidate is None:
        return ()
    return (Applied(case.candidates[cell.candidate].path, loras[cell.candidate], Strength(cell.strength, {})),)


def _outcome(
    config: Evaluate,
    case: Case,
    units: Sequence[Unit],
    drawings: Drawings,
    marks: Mapping[Cell, Marks],
    encoder: Encoder,
    ranking: Sequence[Ranked],
    seconds: float,
) -> Outcome:
    return Outcome(
        title=" and ".join(one.name for one in case.subjects),
        case=case,
        units=tuple(units),
        cells=judged_of(drawings, marks),
        encoder=encoder.label,
        ranking=tuple(ranking),
        sentence=_sentence(case, ranking),
        warnings=case.told,
        floor=floor_of(marks, [cell for cell in marks if cell != BASE]),
        settings=config.model_dump(mode="json", exclude={"out", "cache", "memory"}),
        versions=versions(),
        cost=Cost(drawings.drawn, drawings.there, seconds, drawings.device),
        curves={one.name: curve for one in case.subjects if (curve := _curve(one))},
        resize=encoder.resize,
    )


def _curve(subject: Subject) -> list[tuple[int, float, float]]:
    """[(step, held out, trained)] of a run's own validations, relative to the base's."""
    try:
        lines = read(subject.place / VALIDATIONS).decode().splitlines()
        checks = [validated(json.loads(line)) for line in lines]
    except (DataError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []
    return [(one.step, one.held_out.relative, one.trained.relative) for one in checks]


def _sentence(case: Case, ranking: Sequence[Ranked]) -> str:
    """The recommendation: "use step 900 at strength 0.8: ..."."""
    first = ranking[0]
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
    best = outcome.ranking[0]
    case, chosen = outcome.case, best.cell
    shown = [one for name, one in measures().items() if name in marks[BASE].replicates][:COLUMNS]
    rows = []
    for cell, one in marks.items():
        figures = {
            measure.name: Figure(value.estimate, value.low, value.high)
            for measure in measures().values()
            if isinstance(value := one.values[measure.name], Value)
        }
        name = "base" if cell.candidate is None else case.candidates[cell.candidate].name
        rows.append(Rated(name, cell.strength, figures, len(one.copies), cell == (chosen or BASE)))
    return Evaluated(
        sentence=outcome.sentence,
        alarms=tuple(line for one in outcome.ranking for line in _alarms(case, one)),
        encoder=outcome.encoder,
        drawings=len(outcome.units),
        references=len(case.references),
        columns=tuple((one.name, one.title, one.digits, one.better) for one in shown),
        rows=tuple(rows),
        page=out / PAGE,
        record=out / RECORD,
        failed=missed,
        written=written,
        try_next=_try_next(case, chosen),
    )


def _alarms(case: Case, one: Ranked) -> list[str]:
    named = f"{case.subjects[one.subject].name}: " if len(case.subjects) > 1 else ""
    return [f"{named}{line}" for line in one.alarms]


def _try_next(case: Case, cell: Cell | None) -> str:
    """A command that draws with it."""
    if cell is None or cell.candidate is None:
        return ""
    path = case.candidates[cell.candidate].path
    place = shlex.quote(f"{os.path.relpath(path) if path.is_absolute() else path}:{cell.strength:g}")
    prompt = next((one.text for one in case.prompts if one.kind == "new context"), case.prompts[0].text)
    named = "" if case.model == "mini" else f" --model {shlex.quote(case.model)}"
    return f"sdtune sample --prompt {shlex.quote(prompt)} --lora {place}{named}"
