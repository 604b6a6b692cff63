"""Drawing pictures from prompts, with or without LoRAs."""

from __future__ import annotations

import re
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sdtune import __version__
from sdtune.config import Sample
from sdtune.core import lora_file, memory, model
from sdtune.core.autoencoder import pixels_a_latent
from sdtune.core.data.encode import Conditioning, encode_captions
from sdtune.core.drawing import Wish, draw
from sdtune.core.families import family_named
from sdtune.core.lora_file import Lora
from sdtune.core.reports import Drawn, Note, Report, Saved
from sdtune.core.run_folder import lora_in, write_atomically
from sdtune.core.sheet import sheet
from sdtune.errors import ConfigError, LoraError, OutputError

GRID_FROM = 2  # pictures from which a sheet of all is drawn too
STRENGTH = re.compile(r"(?P<path>.+):(?P<strength>[+-]?(\d+\.?\d*|\.\d+))")


@dataclass(frozen=True)
class Applied:
    """A LoRA with the strength at which it is used."""

    path: Path
    lora: Lora
    strength: float


def sample(config: Sample) -> Iterator[Report]:
    """Draws every prompt `count` times, telling each picture when it is complete on disk."""
    applied = [_read(spec) for spec in config.lora]
    identity = model.identify(config.model or _model_of_run(config.lora) or "mini")
    family = family_named(identity.family)
    for one in applied:
        lora_file.check_family(one.lora, family, one.path)
    names = _Names(config)
    device = memory.device_for(config.memory)
    dtype = memory.dtype_for(config.memory, device)
    yield Note(f"model: {identity.name} ({family.title})" + "".join(_told(one) for one in applied))

    pipe = model.load(identity, dtype, device)
    net = getattr(pipe, family.denoiser)
    for number, one in enumerate(applied):
        lora_file.load_into(pipe, one.lora, one.strength, f"lora{number}")
    if applied:
        lora_file.activate(pipe, family, [one.strength for one in applied])
    memory.use_attention(net, config.memory.attention, device, dtype)
    side = _native_side(net, pipe.vae, family.resolution)
    size = (config.width or side, config.height or side)

    conditionings = yield from encode_captions([*config.prompt, config.negative], family, pipe)
    negative = conditionings.pop()
    jobs = [(prompt, told, config.seed + n) for prompt, told in zip(config.prompt, conditionings, strict=True) for n in range(config.count)]
    images: list[Image.Image] = []
    for start in range(0, len(jobs), config.batch_size):
        chunk = jobs[start : start + config.batch_size]
        began = time.monotonic()
        phase = f"drawing {start + 1}-{start + len(chunk)} of {len(jobs)}" if len(jobs) > 1 else "drawing"
        drawn = yield from _draw(config, family, pipe, net, chunk, negative, size, phase)
        seconds = (time.monotonic() - began) / len(chunk)
        for (prompt, _, seed), image in zip(chunk, drawn, strict=True):
            text = parameters(config, prompt, seed, size, identity.name, applied)
            path = names.next(prompt, seed)
            save_png(path, image, text)
            yield Drawn(path, prompt, seed, seconds)
        images += drawn
    if len(images) >= GRID_FROM:
        rows = [images[start : start + config.count] for start in range(0, len(images), config.count)]
        columns = [f"seed {config.seed + n}" for n in range(config.count)]
        grid = names.grid()
        write_atomically(grid, sheet(rows, columns, config.prompt).save)
        yield Saved("sheet", grid)


def parameters(
    config: Sample, prompt: str, seed: int, size: tuple[int, int], model_name: str, applied: Sequence[Applied]
) -> str:
    """The text that A1111 writes into its pictures and that others read: prompt, negative, settings."""
    tags = "".join(f" <lora:{one.path.stem}:{one.strength:g}>" for one in applied)
    settings = {
        "Steps": config.steps,
        "Sampler": config.sampler.title,
        "CFG scale": f"{config.guidance:g}",
        "Seed": seed,
        "Size": f"{size[0]}x{size[1]}",
        "Model": model_name,
        "Version": f"sdtune {__version__}",
    }
    lines = [prompt + tags]
    if config.negative:
        lines.append(f"Negative prompt: {config.negative}")
    return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in settings.items())])


def save_png(path: Path, image: Image.Image, text: str) -> None:
    """The picture with its parameters, whole or not at all."""
    info = PngInfo()
    info.add_itxt("parameters", text) if not text.isascii() else info.add_text("parameters", text)
    try:
        write_atomically(path, lambda place: image.save(place, pnginfo=info))
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); give another place with --out") from None


class _Names:
    """Free names for pictures: 00001-0-a-red-apple.png, never one that exists."""

    def __init__(self, config: Sample) -> None:
        pictures = len(config.prompt) * config.count
        self.single = config.out if config.out.suffix.lower() == ".png" else None
        if self.single and pictures > 1:
            raise ConfigError(f"--out {config.out}: names one picture, but {pictures} are asked for; give a folder")
        if self.single and self.single.exists():
            raise OutputError(f"{self.single}: exists already; give another name with --out")
        self.folder = config.out.parent if self.single else config.out
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            taken = [int(found[1]) for path in self.folder.iterdir() if (found := re.match(r"(?:grid-)?(\d{5})", path.name))]
            probe = self.folder / ".sdtune-can-write"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be written ({error.strerror}); give another place with --out") from None
        self.number = max(taken, default=0)

    def next(self, prompt: str, seed: int) -> Path:
        """The name of the next picture."""
        if self.single:
            return self.single
        self.number += 1
        words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40].strip("-")
        return self.folder / f"{self.number:05d}-{seed}{'-' * bool(words)}{words}.png"

    def grid(self) -> Path:
        """The name of the sheet of all."""
        self.number += 1
        return self.folder / f"grid-{self.number:05d}.png"


def _draw(
    config: Sample,
    family: Any,
    pipe: Any,
    net: Any,
    chunk: Sequence[tuple[str, Conditioning, int]],
    negative: Conditioning,
    size: tuple[int, int],
    phase: str,
) -> Iterator[Report]:
    wishes = [Wish(told, negative, seed, size) for _, told, seed in chunk]
    scheduler = config.sampler.build(pipe.scheduler)
    return (
        yield from draw(family, net, pipe.vae, scheduler, wishes, steps=config.steps, guidance=config.guidance, phase=phase)
    )


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
