"""Drawing: from noise to images, step by step, with any family and any sampler.

The noise of an image comes from its seed on the CPU, so it depends neither on its neighbours nor on the device.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Generator, Tensor

from sdtune.core.autoencoder import decode_latents, pixels_a_latent
from sdtune.core.data.conditioning import Conditioning, moved, stack
from sdtune.core.families import Family
from sdtune.core.inpainting import all_anew
from sdtune.core.reports import Progress, Telling
from sdtune.core.room import free, is_out_of_memory
from sdtune.errors import SdtuneError

FEWER = "close other programs that use the card"


@dataclass(frozen=True)
class Wish:
    """One image to draw."""

    prompt: Conditioning
    negative: Conditioning
    seed: int
    size: tuple[int, int]
    """(width, height) in pixels"""


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
) -> Telling[list[Image.Image]]:
    """Draw images of one size together, telling each step; returns them in order.

    Where the memory does not hold them all, one half follows the other. Raises SdtuneError where it does not hold one,
    or where what is drawn is no numbers.
    """
    together = _denoise(family, net, vae, scheduler, wishes, steps=steps, guidance=guidance, phase=phase)
    latents = yield from _within_memory(together, len(wishes), phase)
    if latents is None:
        free()
        half = (len(wishes) + 1) // 2
        images: list[Image.Image] = []
        for some in (wishes[:half], wishes[half:]):
            images += yield from draw(family, net, vae, scheduler, some, steps=steps, guidance=guidance, phase=phase)
        return images
    if not latents.isfinite().all():
        remedy = "lower --guidance or a LoRA's strength, or use --memory.precision fp32"
        raise SdtuneError(f"{phase}: what was drawn is no numbers; {remedy}")
    try:
        return decode_latents(vae, latents)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise _too_large(phase) from error


def _within_memory(work: Telling[Tensor], count: int, phase: str) -> Telling[Tensor | None]:
    """What the work returns; None where so many are too much for the memory, and fewer might not be."""
    try:
        return (yield from work)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if count == 1:
            raise _too_large(phase) from error
    return None


def _too_large(phase: str) -> SdtuneError:
    return SdtuneError(f"{phase}: out of memory with a single image; draw a smaller one, or {FEWER}")


def _denoise(
    family: Family,
    net: Any,
    vae: Any,
    scheduler: Any,
    wishes: Sequence[Wish],
    *,
    steps: int,
    guidance: float,
    phase: str,
) -> Telling[Tensor]:
    """Latents [B, C, h, w] of images of one size.

    With guidance w the prediction is negative + w (prompt - negative) (Ho & Salimans 2022, arXiv:2207.12598).
    """
    generators = [Generator().manual_seed(wish.seed) for wish in wishes]
    scheduler.set_timesteps(steps, device=net.device)
    latents: Tensor = _noise(net, vae, wishes, generators) * getattr(scheduler, "init_noise_sigma", 1.0)
    told = _conditioning(family, wishes, guidance != 1, net, vae)
    options = {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for number, timestep in enumerate(scheduler.timesteps, 1):
        with torch.no_grad():
            prediction = _predict(family, net, scheduler, latents, timestep, told, guidance)
        latents = scheduler.step(prediction, timestep, latents, return_dict=False, **options)[0]
        yield Progress(phase, number, len(scheduler.timesteps))
    return latents


def _noise(net: Any, vae: Any, wishes: Sequence[Wish], generators: Sequence[Generator]) -> Tensor:
    width, height = wishes[0].size
    side = pixels_a_latent(vae)
    shape = (vae.config.latent_channels, height // side, width // side)
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(net.device)


def _conditioning(family: Family, wishes: Sequence[Wish], guided: bool, net: Any, vae: Any) -> Conditioning:
    """Of all prompts, with all negatives before them where guidance is on: {name: [n or 2 n, ...]}.

    A model for inpainting is asked to draw all of the picture anew.
    """
    anew = net.config.in_channels == 2 * vae.config.latent_channels + 1
    holes = {"inpainting": all_anew(vae, wishes[0].size)} if anew else {}
    sizes = [family.condition_on_size(wish.size, (0, 0), wish.size) | holes for wish in wishes]
    negatives = [wish.negative for wish in wishes] if guided else []
    told = stack(
        [{**text, **size} for text, size in zip([*negatives, *(w.prompt for w in wishes)], sizes * 2, strict=False)]
    )
    return moved(told, net.device, net.dtype)


def _predict(
    family: Family, net: Any, scheduler: Any, latents: Tensor, timestep: Tensor, told: Conditioning, guidance: float
) -> Tensor:
    seen = scheduler.scale_model_input(latents, timestep) if hasattr(scheduler, "scale_model_input") else latents
    seen = torch.cat([seen, seen]) if guidance != 1 else seen
    prediction = family.denoise(net, seen.to(net.dtype), timestep.expand(len(seen)), told).float()
    if guidance == 1:
        return prediction
    negative, positive = prediction.chunk(2)
    return negative + guidance * (positive - negative)
