"""Drawing pictures from prompts, with or without LoRAs."""

from __future__ import annotations

import re
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sdtune.config import Sample
from sdtune.core import lora_file, memory, model
from sdtune.core.autoencoder import pixels_a_latent
from sdtune.core.data.encode import encode_captions
from sdtune.core.drawing import Wish, draw
from sdtune.core.families import family_named
from sdtune.core.lora import Lora, check_family, load_into
from sdtune.core.picture_file import Names, parameters, save_png
from sdtune.core.reports import Drawn, Note, Saved, Telling
from sdtune.core.run_folder import lora_in, write_atomically
from sdtune.core.sheet import sheet
from sdtune.errors import LoraError

GRID = range(2, 101)  # so many pictures get a sheet of all, too
STRENGTH = re.compile(r"(?P<path>.+):(?P<strength>[+-]?(\d+\.?\d*|\.\d+))")


@dataclass(frozen=True)
class Applied:
    """A LoRA with the strength at which it is used."""

    path: Path
    lora: Lora
    strength: float


def sample(config: Sample) -> Telling[None]:
    """Draws every prompt `count` times, telling each picture when it is complete on disk."""
    applied = [_read(spec) for spec in config.lora]
    identity = model.identify(config.model or _model_of_run(config.lora) or "mini")
    family = family_named(identity.family)
    for one in applied:
        check_family(one.lora, family, one.path)
    names = Names(config)
    device = memory.device_for(config.memory)
    dtype = memory.dtype_for(config.memory, device)
    yield Note(f"model: {identity.name} ({family.title})" + "".join(_told(one) for one in applied))

    pipe = model.load(identity, dtype)
    for number, one in enumerate(applied):
        try:
            load_into(pipe, one.lora, one.strength, f"lora{number}")
        except LoraError as problem:
            raise LoraError(f"{one.path}: {problem}") from None
    conditionings = yield from encode_captions([*config.prompt, config.negative], family, pipe, device)
    negative = conditionings.pop()
    net = getattr(pipe, family.denoiser).to(device)
    pipe.vae.to(device)
    memory.use_attention(net, config.memory.attention, device, dtype)
    side = _native_side(net, pipe.vae, family.resolution)
    size = (config.width or side, config.height or side)
    jobs = [
        (prompt, told, config.seed + n)
        for prompt, told in zip(config.prompt, conditionings, strict=True)
        for n in range(config.count)
    ]
    sampler = config.sampler.title_for(pipe.scheduler)
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
            tags = "".join(f" <lora:{one.path.stem}:{one.strength:g}>" for one in applied)
            save_png(path, image, parameters(config, prompt + tags, seed, size, identity.name, sampler))
            yield Drawn(path, prompt, seed, seconds)
        images += drawn if len(jobs) in GRID else []
    if len(images) in GRID:
        rows = [images[start : start + config.count] for start in range(0, len(images), config.count)]
        columns = [f"seed {config.seed + n}" for n in range(config.count)]
        grid = names.grid()
        write_atomically(grid, sheet(rows, columns, config.prompt).save)
        yield Saved("sheet", grid)


def _read(spec: str) -> Applied:
    """FILE, FILE:STRENGTH, RUN or RUN:STRENGTH."""
    found = STRENGTH.fullmatch(spec)
    split = found is not None and not Path(spec).exists()
    path = Path(found["path"] if found and split else spec)
    strength = float(found["strength"]) if found and split else 1.0
    if not path.exists():
        raise LoraError(f"{path}: no such LoRA file or run folder; check --lora")
    file = lora_in(path) if path.is_dir() else path
    return Applied(file, lora_file.read(file), strength)


def _model_of_run(specs: Sequence[str]) -> str | None:
    """The base model of the first LoRA that is a run folder, or lies in one."""
    for spec in specs:
        path = Path(STRENGTH.sub(r"\g<path>", spec))
        settings = (path if path.is_dir() else path.parent) / "run.toml"
        if settings.is_file():
            try:
                told = tomllib.loads(settings.read_text(encoding="utf-8")).get("model")
            except (OSError, ValueError):
                continue
            if isinstance(told, str):
                return told
    return None


def _told(one: Applied) -> str:
    trigger = one.lora.metadata.get("modelspec.trigger_phrase")
    return f", with {one.path.name} at {one.strength:g}" + (f" (trigger: {trigger})" if trigger else "")


def _native_side(net: Any, vae: Any, otherwise: int) -> int:
    side = net.config.sample_size
    return side * pixels_a_latent(vae) if isinstance(side, int) else otherwise
