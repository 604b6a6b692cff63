"""The order: what is asked for, read and checked before anything large is loaded."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sdtune.config import drawing_settings, refine
from sdtune.core import memory
from sdtune.core.applied import Applied, named, read
from sdtune.core.families import Family, family_named
from sdtune.core.identity import Identity
from sdtune.core.lora import check_family
from sdtune.core.lora_metadata import strength_of
from sdtune.core.reports import Note, Telling, Warned
from sdtune.core.sampling import again
from sdtune.core.sampling.advice import advice
from sdtune.core.sampling.asked import Asked, lines_for, wanted, wanted_again
from sdtune.core.sampling.axes import Axis, axes_of, crossed
from sdtune.core.sampling.named_loras import NamedLoras
from sdtune.core.sampling.prompt_lines import is_typed
from sdtune.core.sampling.recipe import Recipe
from sdtune.core.sampling.run_of import RunUse, identified, run_use
from sdtune.core.sampling.source import read_source
from sdtune.core.sampling.unused import unused_settings
from sdtune.sample_config import Sample


@dataclass(frozen=True)
class Order:
    """Which pictures are wanted, of which model, and where they are drawn."""

    config: Sample
    """with what the model or the picture that is drawn again needs otherwise"""
    recipe: Recipe | None
    """of the picture that is drawn again"""
    identity: Identity
    family: Family
    device: torch.device
    dtype: torch.dtype
    attention: memory.Attention
    clip_skip: int | None
    everywhere: tuple[Applied, ...]
    """LoRAs for every prompt"""
    axes: tuple[Axis, ...]
    asked: list[Asked]
    own: tuple[int, int] | None
    """(width, height) of the picture to begin with, in pixels"""


def order_of(config: Sample) -> Telling[Order]:
    """The order of a command, with what there is to tell of it; raises what is wrong with it."""
    for line in unused_settings(config):
        yield Warned(line)
    recipe = again.recipe_in(config.again) if config.again else None
    if recipe and config.again:
        config = again.config_of(recipe, config.again, config)
    given = [read(text) for text in config.lora]
    run = run_use(config.run, given, config.model)
    if run.told:
        yield Note(run.told)
    if run.lora:
        given.insert(0, read(run.lora, "--run"))
    if not recipe:
        by_run = [(run.lora, f"--run {config.run}")] if run.lora else []
        told = [*by_run, *((text, f"--lora {text}") for text in config.lora)]
        for one, (text, asked_by) in zip(given, told, strict=True):
            yield from _recommended(one, text, asked_by)
    loras = tuple(given)
    if recipe and config.again:
        loras = again.loras_of(recipe, config.again, given, config.lora_folder)
    name = config.model or run.model or "mini"
    identity = identified(name, run if name == run.model != config.model else None)
    family = family_named(identity.family)
    axes: tuple[Axis, ...] = ()
    if recipe:
        asked = [wanted_again(recipe, loras, str(config.again))]
    else:
        config = refine(config, drawing_settings(name))
        asked, axes = yield from _asked(config, run, loras)
    for one in {str(one.path): one for each in asked for one in each.loras}.values():
        check_family(one.lora, family, one.path)
    for one in loras:
        for line in one.idle():
            yield Warned(line)
    if config.run and config.add_trigger and run.trigger:
        yield Note(f'the trigger "{run.trigger}" stands in front of prompts that lack it')
    device = memory.device_for(config.memory, mps=True)
    memory.make_deterministic(config.memory, device)
    own = read_source(config.init, config.mask).image.size if config.init else None
    clip_skip = recipe.clip_skip if recipe else run.layer(config.clip_skip)
    dtype = memory.dtype_for(config.memory, device)
    attention = memory.attention_for(config.memory.attention, device, dtype)
    if config.memory.attention not in ("auto", attention.used):
        yield Warned(attention.told)
    return Order(config, recipe, identity, family, device, dtype, attention, clip_skip, loras, axes, asked, own)


def _recommended(one: Applied, text: str, asked_by: str) -> Telling[None]:
    """Tells of a LoRA that says itself how strong it is best, where no strength stands behind it in `text`."""
    best, given = strength_of(one.lora.metadata), named(text)
    if best is not None and best != 1 and given.usual is None and given.blocks is None:
        yield Note(f"{one.path.name}: {best:g} is its recommended strength; {asked_by}:{best:g} uses it")


def _asked(config: Sample, run: RunUse, loras: tuple[Applied, ...]) -> Telling[tuple[list[Asked], tuple[Axis, ...]]]:
    """Every picture that is wanted, and the axes on which it lies."""
    if is_typed(config.prompts):
        yield Note("reading prompts, one a line; Ctrl-D ends them")
    lines = lines_for(config, run)
    one_each = wanted(config, lines, run, loras, NamedLoras(config.lora_folder, loras))
    axes = axes_of(config, one_each, run)
    for line in advice(config, lines, one_each, axes):
        yield Warned(line)
    return crossed(one_each, axes), axes
