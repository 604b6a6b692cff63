"""Drawing: from noise to latents and images, step by step, with any family and any sampler.

The noise of an image comes from its seed on the CPU, so it depends neither on its neighbours nor on the device.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Generator, Tensor

from sdtune.core.autoencoder import Tiles, decode_latents, in_tiles, pixels_a_latent
from sdtune.core.data.conditioning import Conditioning, moved, stack
from sdtune.core.draws import generator
from sdtune.core.families import Family
from sdtune.core.inpainting import all_anew, is_told_of_holes
from sdtune.core.reports import Drawing, Progress, Telling, Warned
from sdtune.core.room import free, is_out_of_memory
from sdtune.core.sampling.starts import Start, Starts
from sdtune.errors import SdtuneError

FEWER = "close other programs that use the card"
IN_TILES = (
    "memory does not suffice to decode it whole, so it is decoded in tiles, and its colours differ a little from those "
    "that --again makes of it where there is more; --tiles on makes the same everywhere"
)
NO_NUMBERS = "lower --guidance or a LoRA's strength, or use --memory.precision fp32"
Guide = tuple[tuple[int, Conditioning], ...]
"""((last step for which it holds, from 1; what the denoiser is told), ...)"""
Telltale = Callable[[int, int], Progress | Drawing]
"""The report of a step: (its number from 1, of so many)."""


@dataclass(frozen=True)
class Wish:
    """One image to draw."""

    prompt: Guide
    negative: Guide
    seed: int
    size: tuple[int, int]
    """(width, height) in pixels"""
    start: Start | None = None
    """a picture to begin with; None: noise alone"""
    holes: Tensor | None = None  # [1 + C, h, w]
    """what a model for inpainting is told, mask and masked picture; None: all is drawn anew"""
    stream: str = ""
    """which of the seed's noises it is drawn from; the second pass over a picture has another than the first"""


@dataclass(frozen=True)
class Way:
    """How images are drawn that are drawn together."""

    steps: int
    guidance: float
    rescale: float = 0.0
    """guidance rescale, 0 to 1 (Lin et al. 2023, arXiv:2305.08891, sec. 3.4)"""
    options: Mapping[str, Any] | None = None
    """what scheduler.step is told besides, such as churn"""


def always(conditioning: Conditioning) -> Guide:
    """A guide that says the same at every step."""
    return ((1, conditioning),)


def draw(
    family: Family,
    net: Any,
    vae: Any,
    scheduler: Any,
    wishes: Sequence[Wish],
    *,
    steps: int,
    guidance: float,
    phase: str,
    rescale: float = 0.0,
    options: Mapping[str, Any] | None = None,
    tiles: Tiles = "auto",
) -> Telling[list[Image.Image]]:
    """Draw images of one size together, telling each step; returns them in order.

    Where the memory does not hold them all, one half follows the other. Raises SdtuneError where it does not hold one,
    or where what is drawn is no numbers.
    """
    way = Way(steps, guidance, rescale, options)
    latents = yield from denoise(
        family, net, vae, scheduler, wishes, way, lambda number, of: Progress(phase, number, of), phase
    )
    if not latents.isfinite().all():
        raise SdtuneError(f"{phase}: what was drawn is no numbers; {NO_NUMBERS}")
    images = []
    for latent in latents:
        image = yield from decoded(vae, latent, tiles, phase)
        images.append(image)
    return images


def decoded(vae: Any, latent: Tensor, tiles: Tiles, what: str) -> Telling[Image.Image]:
    """The image of latents [C, h, w], in tiles where memory does not suffice for the whole, which is told."""
    height, width = (side * pixels_a_latent(vae) for side in latent.shape[1:])
    attempts: tuple[Tiles, ...] = ("on",) if in_tiles(tiles, width, height) else ("off", "on")
    for attempt in attempts:
        try:
            return decode_latents(vae, latent[None], tiles=attempt)[0]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        free()
        if attempt == "off":
            yield Warned(f"{what}: {IN_TILES}")
    raise _too_large(what)


def denoise(
    family: Family,
    net: Any,
    vae: Any,
    scheduler: Any,
    wishes: Sequence[Wish],
    way: Way,
    tell: Telltale,
    what: str,
) -> Telling[Tensor]:
    """Latents [B, C, h, w] of images of one size; where the memory does not hold all, one half follows the other."""
    together = _denoise(family, net, vae, scheduler, wishes, way, tell)
    latents = yield from _within_memory(together, len(wishes), what)
    if latents is not None:
        return latents
    free()
    half = (len(wishes) + 1) // 2
    one = yield from denoise(family, net, vae, scheduler, wishes[:half], way, tell, what)
    other = yield from denoise(family, net, vae, scheduler, wishes[half:], way, tell, what)
    return torch.cat([one, other])


def _within_memory(work: Telling[Tensor], count: int, what: str) -> Telling[Tensor | None]:
    """What the work returns; None where so many are too much for the memory, and fewer might not be."""
    try:
        return (yield from work)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if count == 1:
            raise _too_large(what) from error
    return None


def _too_large(what: str) -> SdtuneError:
    return SdtuneError(f"{what}: out of memory with a single image; draw a smaller one, or {FEWER}")


def _denoise(
    family: Family, net: Any, vae: Any, scheduler: Any, wishes: Sequence[Wish], way: Way, tell: Telltale
) -> Telling[Tensor]:
    """Latents [B, C, h, w], each step told."""
    generators = [
        generator(wish.stream, wish.seed) if wish.stream else Generator().manual_seed(wish.seed) for wish in wishes
    ]
    scheduler.set_timesteps(way.steps, device=net.device)
    noise = _noise(net, vae, wishes, generators)
    starts = _starts(wishes, net, scheduler, way.steps)
    latents = starts.first(noise) if starts else noise * getattr(scheduler, "init_noise_sigma", 1.0)
    told = _Told(family, net, vae, wishes, way.guidance != 1)
    options = dict(way.options or {})
    if "generator" in inspect.signature(scheduler.step).parameters:
        options["generator"] = generators
    timesteps = scheduler.timesteps[starts.begin if starts else 0 :]
    before = len(scheduler.timesteps) - len(timesteps)
    for number, timestep in enumerate(timesteps, 1):
        with torch.inference_mode():
            saying = told.at((before + number - 1) / len(scheduler.timesteps))
            prediction = _predict(family, net, scheduler, latents, timestep, saying, way)
            if starts and number <= starts.held * len(timesteps):
                prediction = starts.hold(prediction, latents, timestep)
            latents = scheduler.step(prediction, timestep, latents, return_dict=False, **options)[0]
            if starts:
                following = timesteps[number] if number < len(timesteps) else None
                latents = starts.with_the_known(latents, noise, following)
        yield tell(number, len(timesteps))
    return latents


def _starts(wishes: Sequence[Wish], net: Any, scheduler: Any, steps: int) -> Starts | None:
    starts = [wish.start for wish in wishes if wish.start]
    assert len(starts) in (0, len(wishes)), "images that are drawn together begin alike"
    return Starts.of(starts, net, scheduler, steps) if starts else None


class _Told:
    """What the denoiser is told of images that are drawn together, as it changes from step to step."""

    def __init__(self, family: Family, net: Any, vae: Any, wishes: Sequence[Wish], guided: bool) -> None:
        negatives = [wish.negative for wish in wishes] if guided else []
        self.net, self.guides = net, [*negatives, *(wish.prompt for wish in wishes)]
        seen = is_told_of_holes(net, vae.config.latent_channels)
        anew = all_anew(vae, wishes[0].size) if seen and any(wish.holes is None for wish in wishes) else None
        self.besides: list[Conditioning] = []
        for wish in wishes:
            holes = anew if wish.holes is None else wish.holes
            size = family.condition_on_size(wish.size, (0, 0), wish.size)
            self.besides.append(size | ({} if holes is None else {"inpainting": holes}))
        self._parts: tuple[int, ...] = ()
        self._now: Conditioning = {}

    def at(self, gone: float) -> Conditioning:
        """{name: [n or 2 n, ...]} of all prompts, with all negatives before them where guidance is on.

        `gone` is the share of all steps that lies behind, for samplers that ask twice a step.
        """
        parts = tuple(_part_at(guide, gone) for guide in self.guides)
        if parts != self._parts:
            texts = [guide[part][1] for guide, part in zip(self.guides, parts, strict=True)]
            told = stack([{**text, **more} for text, more in zip(texts, self.besides * 2, strict=False)])
            self._parts, self._now = parts, moved(told, self.net.device, self.net.dtype)
        return self._now


def _part_at(guide: Guide, gone: float) -> int:
    """Which part of a guide holds after this share of its steps."""
    step = int(gone * guide[-1][0] + 1e-6) + 1
    return next((part for part, (last, _) in enumerate(guide) if step <= last), len(guide) - 1)


def _noise(net: Any, vae: Any, wishes: Sequence[Wish], generators: Sequence[Generator]) -> Tensor:
    width, height = wishes[0].size
    side = pixels_a_latent(vae)
    shape = (vae.config.latent_channels, height // side, width // side)
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(net.device)


def _predict(
    family: Family, net: Any, scheduler: Any, latents: Tensor, timestep: Tensor, told: Conditioning, way: Way
) -> Tensor:
    """With guidance w the prediction is negative + w (prompt - negative) (Ho & Salimans 2022, arXiv:2207.12598)."""
    seen = scheduler.scale_model_input(latents, timestep) if hasattr(scheduler, "scale_model_input") else latents
    seen = torch.cat([seen, seen]) if way.guidance != 1 else seen
    prediction = family.denoise(net, seen.to(net.dtype), timestep.expand(len(seen)), told).float()
    if way.guidance == 1:
        return prediction
    negative, positive = prediction.chunk(2)
    guided = negative + way.guidance * (positive - negative)
    return _rescaled(guided, positive, way.rescale) if way.rescale else guided


def _rescaled(guided: Tensor, positive: Tensor, rescale: float) -> Tensor:
    """Guidance at the spread that the prompt's own prediction has (Lin et al. 2023, arXiv:2305.08891, eq. 15-16)."""
    spread, wide = (one.std(dim=(1, 2, 3), keepdim=True) for one in (positive, guided))
    return rescale * guided * (spread / wide) + (1 - rescale) * guided
