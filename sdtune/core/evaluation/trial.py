"""A trial: what an evaluation works with once its case is known, and all that is measured in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdtune.core import lora_file
from sdtune.core.data.cache import Store
from sdtune.core.data.cache_folder import folder_of
from sdtune.core.evaluation.drawings import Drawings, acting, draw, units_of
from sdtune.core.evaluation.encoders import encoder_named
from sdtune.core.evaluation.encoders.base import Encoder
from sdtune.core.evaluation.judging import Marks, marks_of
from sdtune.core.evaluation.reference_loss import losses_of, of_references
from sdtune.core.evaluation.seeing import see
from sdtune.core.evaluation.subject import Case, Cell, Unit
from sdtune.core.lora import Lora
from sdtune.core.reports import Note, Telling
from sdtune.core.run_folder import must_be_writable
from sdtune.errors import OutputError, cut, why
from sdtune.evaluate_config import Protocol

PICTURES = "pictures"
HELD = 2**28
"""bytes of what the cache holds that are held in memory"""


@dataclass(frozen=True)
class Trial:
    """Everything that is drawn, with what draws it and what looks at it."""

    config: Protocol
    case: Case
    cells: tuple[Cell, ...]
    """the base model first"""
    units: tuple[Unit, ...]
    loras: tuple[Lora, ...]
    """of the candidates"""
    encoder: Encoder
    out: Path


@dataclass(frozen=True)
class Measured:
    """What came of it."""

    drawings: Drawings
    marks: dict[Cell, Marks]


def trial_of(config: Protocol, case: Case, cells: Sequence[Cell], out: Path, files: Sequence[str]) -> Telling[Trial]:
    """Stops at a folder that cannot be written and at an encoder that cannot be had, before anything is drawn.

    `files` are what will be written in the folder at the end.
    """
    _must_be_a_folder(out, files)
    encoder = encoder_named(config.encoder, builtin_model=case.model == "mini", machine=config.memory)
    loras = tuple(lora_file.read(one.path) for one in case.candidates)
    units = units_of(case, config)
    count = len(cells) - 1
    drawn = f"{count} LoRA{'' if count == 1 else 's'} and strengths" if count > 1 else "1 LoRA"
    yield Note(
        f"{drawn} and the base model ({case.model}), {len(units)} pictures each ({len(cells) * len(units):,} in all), "
        f"beside {of_references(len(case.references))}, as {encoder.label} sees them"
    )
    return Trial(config, case, tuple(cells), units, loras, encoder, out)


def measured(trial: Trial) -> Telling[Measured]:
    """Every cell drawn, seen and measured."""
    config, case, cells = trial.config, trial.case, trial.cells
    drawings = yield from draw(config, case, cells, trial.units, trial.loras, trial.out / PICTURES)
    store = Store(folder_of(config.cache), HELD)
    losses = {}
    if config.losses:
        sets = [acting(case, cell, trial.loras) for cell in cells]
        found = yield from losses_of(config, case.model, case.clip_skip, case.references, sets, store)
        losses = dict(zip(cells, found, strict=True)) if found else {}
    seen = yield from see(case, trial.units, drawings.pictures, losses, trial.encoder, store)
    marks = yield from marks_of(seen, config.resamples, force=config.force)
    return Measured(drawings, marks)


def versions() -> dict[str, str]:
    """What figures may depend on."""
    import diffusers
    import numpy
    import torch
    import transformers

    from sdtune import __version__

    named = {"torch": torch, "diffusers": diffusers, "transformers": transformers, "numpy": numpy}
    return {"sdtune": __version__, **{name: str(one.__version__) for name, one in named.items()}}


def write(place: Path, how: Callable[[Path], object]) -> None:
    """Write a report; OutputError says in one line why that cannot be."""
    try:
        how(place)
    except OSError as error:
        told = why(error)
        raise OutputError(
            f"{place}: cannot be written ({told}); all drawings are kept, and the same command goes on"
        ) from None


def _must_be_a_folder(out: Path, files: Sequence[str]) -> None:
    """Or a name at which one can be made, and none of the files in it a folder."""
    try:
        if out.is_symlink() and not out.exists():
            raise OutputError(f"{out}: a link that leads nowhere; give another folder with --out")
        if out.exists() and not out.is_dir():
            raise OutputError(f"{out}: is a file; give a folder with --out")
        for name in files:
            if (out / name).is_dir():
                raise OutputError(f"{out / name}: is a folder where the report should go; give another with --out")
    except OSError as error:
        raise OutputError(f"--out {cut(str(out))}: {why(error, 'folder')}; give another folder") from None
    must_be_writable(out)
