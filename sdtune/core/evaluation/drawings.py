"""Drawings: every prompt with every seed in every cell, drawn once and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sdtune.core import memory, model
from sdtune.core.applied import Applied
from sdtune.core.blocks import Strength
from sdtune.core.evaluation.subject import Case, Cell, Unit
from sdtune.core.families import family_named
from sdtune.core.lora import Lora, check_family
from sdtune.core.reports import Drawn, Note, Progress, Telling, There
from sdtune.core.sample import pictures_of
from sdtune.core.sampling.asked import MOST, Asked
from sdtune.core.sampling.order import Order
from sdtune.core.sampling.overviews import Finished
from sdtune.core.sampling.shelf import Shelf
from sdtune.errors import ConfigError
from sdtune.evaluate_config import Protocol
from sdtune.sample_config import Sample

NAMES = "{number}-{lora}-{strength}-{seed}-{prompt}"
"""of the files"""


@dataclass(frozen=True)
class Drawings:
    """What was drawn."""

    pictures: Mapping[Cell, tuple[Path, ...]]
    """one a unit"""
    drawn: int
    """now"""
    there: int
    """those that an earlier evaluation had drawn"""
    device: str


def units_of(case: Case, config: Protocol) -> tuple[Unit, ...]:
    """The pictures of every cell: each prompt with each seed."""
    seeds = range(config.seed, config.seed + config.seeds)
    return tuple(Unit(number, seed) for number in range(len(case.prompts)) for seed in seeds)


def draw(
    config: Protocol,
    case: Case,
    cells: Sequence[Cell],
    units: Sequence[Unit],
    loras: Sequence[Lora],
    folder: Path,
) -> Telling[Drawings]:
    """Draws what is not there yet; `loras` are those of the candidates."""
    if len(cells) * len(units) > MOST:
        raise ConfigError(
            f"{len(cells):,} LoRAs and strengths of {len(units):,} pictures each: over {MOST:,} pictures; give smaller "
            "--seeds or --prompts-each"
        )
    order = _order(config, case, cells, units, loras, folder)
    shelf = Shelf(order.config, len(order.asked))
    there, ready = 0, 0
    yield Progress("drawing", 0, len(order.asked))
    with closing(pictures_of(order, shelf)) as work:
        while True:
            try:
                report = next(work)
            except StopIteration as end:
                finished, drawn = end.value
                break
            match report:
                case There():
                    there += 1
                    ready += 1
                case Drawn():
                    ready += 1
                    yield Progress("drawing", ready, len(order.asked))
                case Note() if "there already" in report.text:
                    yield Note(f"{there:,} of {len(order.asked):,} pictures are there already")
                case _:
                    yield report
    return Drawings(_by_cell(finished, cells, len(units)), drawn, there, order.device.type)


def _order(
    config: Protocol, case: Case, cells: Sequence[Cell], units: Sequence[Unit], loras: Sequence[Lora], folder: Path
) -> Order:
    """What `sample` would be asked for."""
    identity = model.identify(case.model)
    family = family_named(identity.family)
    for candidate, lora in zip(case.candidates, loras, strict=True):
        check_family(lora, family, candidate.path)
    device = memory.device_for(config.memory)
    memory.make_deterministic(config.memory, device)
    dtype = memory.dtype_for(config.memory, device)
    settings = Sample(
        prompt=("",),
        syntax="plain",
        out=folder,
        name=NAMES,
        steps=config.steps,
        guidance=config.guidance,
        sampler=config.sampler,
        batch_size=config.batch_size,
        memory=config.memory,
    )
    asked = [
        Asked(
            text=case.prompts[unit.prompt].text,
            negative="",
            seed=unit.seed,
            size=(None, None),
            steps=config.steps,
            guidance=config.guidance,
            sampler=config.sampler,
            loras=_acting(cell, case, loras),
            line=unit.prompt + 1,
            where=f'the prompt "{case.prompts[unit.prompt].text}"',
        )
        for cell in cells
        for unit in units
    ]
    attention = memory.attention_for(config.memory.attention, device, dtype)
    return Order(settings, None, identity, family, device, dtype, attention, case.clip_skip, (), (), asked, None)


def _acting(cell: Cell, case: Case, loras: Sequence[Lora]) -> tuple[Applied, ...]:
    if cell.candidate is None:
        return ()
    return (Applied(case.candidates[cell.candidate].path, loras[cell.candidate], Strength(cell.strength, {})),)


def _by_cell(finished: Sequence[Finished], cells: Sequence[Cell], units: int) -> dict[Cell, tuple[Path, ...]]:
    paths = [one.path for one in finished]
    return {cell: tuple(paths[place * units : (place + 1) * units]) for place, cell in enumerate(cells)}
