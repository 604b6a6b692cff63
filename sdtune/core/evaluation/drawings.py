"""Drawings: every prompt with every seed in every cell, drawn once and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdtune.core import memory, model
from sdtune.core.applied import Applied
from sdtune.core.blocks import Strength
from sdtune.core.evaluation.subject import Case, Cell, Unit
from sdtune.core.families import family_named
from sdtune.core.lora import Lora, check_family
from sdtune.core.relay import retold
from sdtune.core.reports import Drawn, Note, Report, Telling, There, Warned
from sdtune.core.sample import pictures_of, plan_of
from sdtune.core.sampling.asked import MOST, Asked
from sdtune.core.sampling.order import Order
from sdtune.core.sampling.overviews import Finished
from sdtune.core.sampling.shelf import Shelf
from sdtune.errors import ConfigError, cut
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


def acting(case: Case, cell: Cell, loras: Sequence[Lora]) -> tuple[Applied, ...]:
    """What acts in a cell; `loras` are those of the candidates."""
    if cell.candidate is None:
        return ()
    return (Applied(case.candidates[cell.candidate].path, loras[cell.candidate], Strength(cell.strength, {})),)


def draw(
    config: Protocol, case: Case, cells: Sequence[Cell], units: Sequence[Unit], loras: Sequence[Lora], folder: Path
) -> Telling[Drawings]:
    """Draws what is not there yet, telling how far it has come."""
    count = len(cells) * len(units)
    if count > MOST:
        raise ConfigError(
            f"{len(cells):,} LoRAs and strengths of {len(units):,} pictures each: over {MOST:,} pictures; give smaller "
            "--seeds or --prompts-each"
        )
    order = yield from _order(config, case, cells, units, loras, folder)
    shelf = Shelf(order.config, count)
    plan = yield from retold(plan_of(order, shelf), _without_pictures)
    there = len(plan.finished)
    if there:
        yield Note(f"{there:,} of {count:,} pictures are there already")
    try:
        finished = yield from retold(pictures_of(order, shelf, plan), _without_pictures)
    except KeyboardInterrupt as asked:
        told = f"{len(plan.finished):,} of {count:,} pictures are there; the same command goes on"
        raise KeyboardInterrupt(str(asked) or told) from None
    return Drawings(_by_cell(finished, cells, len(units)), count - there, there, order.device.type)


def _without_pictures(report: Report) -> Report | None:
    """All but a report for each of hundreds of pictures; how far it has come is told step by step anyway."""
    return None if isinstance(report, Drawn | There) else report


def _order(
    config: Protocol, case: Case, cells: Sequence[Cell], units: Sequence[Unit], loras: Sequence[Lora], folder: Path
) -> Telling[Order]:
    """What `sample` would be asked for."""
    identity = model.identify(case.model)
    family = family_named(identity.family)
    for candidate, lora in zip(case.candidates, loras, strict=True):
        check_family(lora, family, candidate.path)
    device = memory.device_for(config.memory)
    memory.make_deterministic(config.memory, device)
    dtype = memory.dtype_for(config.memory, device)
    attention = memory.attention_for(config.memory.attention, device, dtype)
    if config.memory.attention not in ("auto", attention.used):
        yield Warned(attention.told)
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
            loras=acting(case, cell, loras),
            line=unit.prompt + 1,
            where=f'the prompt "{cut(case.prompts[unit.prompt].text)}"',
        )
        for cell in cells
        for unit in units
    ]
    return Order(
        config=settings,
        recipe=None,
        identity=identity,
        family=family,
        device=device,
        dtype=dtype,
        attention=attention,
        clip_skip=case.clip_skip,
        everywhere=(),
        axes=(),
        asked=asked,
        own=None,
    )


def _by_cell(finished: Sequence[Finished], cells: Sequence[Cell], units: int) -> dict[Cell, tuple[Path, ...]]:
    paths = [one.path for one in finished]
    return {cell: tuple(paths[place * units : (place + 1) * units]) for place, cell in enumerate(cells)}
