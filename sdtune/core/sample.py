"""Drawing pictures from prompts, with or without LoRAs."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from sdtune.config import Sample, drawing_settings, refine
from sdtune.core import memory, model
from sdtune.core.applied import Applied
from sdtune.core.applied import read as applied_lora
from sdtune.core.autoencoder import native_side, pixels_a_patch
from sdtune.core.data.cache import Store
from sdtune.core.data.conditioning import LONGEST, encode_captions, let_go, reading_for
from sdtune.core.drawing import Wish, draw
from sdtune.core.embedding import embeddings_into, load_embedding
from sdtune.core.families import Family, family_named
from sdtune.core.lora import check_family, load_all
from sdtune.core.lora_metadata import prompt_of
from sdtune.core.picture_file import Names, parameters, save_png
from sdtune.core.reports import Drawn, Note, Saved, Telling, Warned
from sdtune.core.run_folder import embeddings_beside, write_atomically
from sdtune.core.sheet import sheet
from sdtune.errors import ConfigError, LoraError

GRID = range(2, 101)  # so many pictures get a sheet of all, too


@dataclass(frozen=True)
class RunSettings:
    """What a run tells of how its LoRA is to be used."""

    model: str | None = None
    clip_skip: int | None = None
    weighted: bool = False
    """whether brackets weigh words"""


def sample(config: Sample) -> Telling[None]:
    """Draws every prompt `count` times, telling each picture when it is complete on disk."""
    applied = [applied_lora(text) for text in config.lora]
    of_run = _settings_of_run(applied, config.model)
    asked = config.model or of_run.model or "mini"
    identity = model.identify(asked)
    family = family_named(identity.family)
    config = refine(config, drawing_settings(asked))
    for one in applied:
        check_family(one.lora, family, one.path)
        for line in one.idle():
            yield Warned(line)
    if config.seed + config.count > 2**63:
        raise ConfigError(f"--seed {config.seed}: with --count {config.count} the last seed would be over {2**63 - 1}")
    names = Names(config)
    device = memory.device_for(config.memory)
    dtype = memory.dtype_for(config.memory, device)
    yield Note(f"model: {identity.name} ({family.title})" + "".join(_told(one) for one in applied))

    if not model.is_here(identity):
        yield Note("the model is fetched from the hub: some GB, kept for later")
    pipe = model.load(identity, dtype)
    load_all(pipe, applied)
    for one in applied:
        for bundled in _words_of(one, pipe, family):
            yield Note(f'new word: "{bundled}" (bundled with {one.path.name})')
    for path in sorted({path for one in applied for path in embeddings_beside(one.path)}):
        word = load_embedding(pipe, family, path)
        yield Note(f'new word: "{word}" ({path.name})')
    texts = [*config.prompt, config.negative]
    family.check_clip_skip(pipe, of_run.clip_skip)
    skip, weighted = of_run.clip_skip, of_run.weighted
    reading = reading_for(texts, family, pipe, longest=LONGEST, clip_skip=skip, weighted=weighted)
    told_of = yield from encode_captions(texts, family, pipe, device, reading, Store(None, 0))
    let_go(family, pipe)
    negative = told_of(config.negative)
    net = getattr(pipe, family.denoiser).to(device)
    pipe.vae.to(device)
    memory.use_attention(net, config.memory.attention, device, dtype)
    side = native_side(net.config, pipe.vae, family.resolution)
    size = (config.width or side, config.height or side)
    _must_fit(size, pixels_a_patch(net.config, pipe.vae), family.title)
    jobs = [(prompt, told_of(prompt), config.seed + n) for prompt in config.prompt for n in range(config.count)]
    sampler = config.sampler.title_for(pipe.scheduler)
    yield Note(
        f"drawing with {sampler}, {config.steps} steps, guidance {config.guidance:g}, {size[0]} x {size[1]} pixels"
    )
    images: list[Image.Image] = []
    for start in range(0, len(jobs), config.batch_size):
        chunk = jobs[start : start + config.batch_size]
        began = time.monotonic()
        phase = f"drawing {start + 1}-{start + len(chunk)} of {len(jobs)}" if len(jobs) > 1 else "drawing"
        wishes = [Wish(told, negative, seed, size) for _, told, seed in chunk]
        scheduler = config.sampler.build(pipe.scheduler)
        steps, guidance = config.steps, config.guidance
        drawn = yield from draw(family, net, pipe.vae, scheduler, wishes, steps=steps, guidance=guidance, phase=phase)
        seconds = (time.monotonic() - began) / len(chunk)
        for (prompt, _, seed), image in zip(chunk, drawn, strict=True):
            path = names.next(prompt, seed)
            tags = "".join(f" <lora:{one.path.stem}:{one.strength.usual:g}>" for one in applied)
            save_png(path, image, parameters(config, prompt + tags, seed, size, identity.name, sampler))
            yield Drawn(path, prompt, seed, seconds)
        images += drawn if len(jobs) in GRID else []
    if len(images) in GRID:
        rows = [images[start : start + config.count] for start in range(0, len(images), config.count)]
        columns = [f"seed {config.seed + n}" for n in range(config.count)]
        grid = names.grid()
        write_atomically(grid, sheet(rows, columns, config.prompt).save)
        yield Saved("sheet", grid)


def _settings_of_run(applied: Sequence[Applied], asked: str | None) -> RunSettings:
    """What the first LoRA in a run folder was trained on, and how captions were read."""
    for one in applied:
        settings = one.path.parent / "run.toml"
        if settings.is_file():
            try:
                told = tomllib.loads(settings.read_text(encoding="utf-8"))
                clip_skip = told.get("text", {}).get("clip_skip")
                return RunSettings(
                    str(told["model"]),
                    int(clip_skip) if clip_skip is not None else None,
                    weighted=bool(told.get("captions", {}).get("weights")),
                )
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                if asked:
                    break
                raise LoraError(f"{settings}: cannot be read; say with --model what the LoRA was trained on") from None
    return RunSettings()


def _words_of(one: Applied, pipe: Any, family: Family) -> list[str]:
    """The words that are bundled with a LoRA, which the pipeline knows from now on."""
    try:
        return embeddings_into(pipe, family, one.lora)
    except LoraError as problem:
        raise LoraError(f"{one.path}: {problem}") from None


def _told(one: Applied) -> str:
    trigger = prompt_of(one.lora.metadata.get("modelspec.trigger_phrase"))
    return f", with {one.shown} at {one.strength}" + (f" (trigger: {trigger})" if trigger else "")


def _must_fit(size: tuple[int, int], unit: int, title: str) -> None:
    if size[0] % unit or size[1] % unit:
        raise ConfigError(f"{size[0]} x {size[1]}: the sides of pictures of {title} are multiples of {unit} pixels")
