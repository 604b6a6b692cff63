"""The losses of a step's images: how far the denoiser is off, over a mask, and how far it has gone from the base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sdtune.config import TrainLora
from sdtune.core.data.batches import Batch
from sdtune.core.data.conditioning import Conditioning, stack
from sdtune.core.data.masks import weights_of
from sdtune.core.diffusion import Noisy, Process
from sdtune.core.draws import Draws
from sdtune.core.families import Family
from sdtune.core.lora import at_strength

NOTHING = 1e-6  # of a mask's sum, whose least other value is a 255th of a pixel in a latent one


@dataclass(frozen=True)
class Lessons:
    """What a training learns from, beside the batches."""

    generic: Sequence[Conditioning] = ()
    """what everyday prompts tell the base's denoiser; one is drawn for each image"""
    everyday: Sequence[str] = ()
    """these prompts, where text encoders that are trained read them anew"""
    read: Callable[[Sequence[str]], Conditioning] | None = None
    """captions as text encoders read them that are trained too; None: batches bring their conditioning"""
    groups: tuple[dict[str, Any], ...] = ()
    """what is trained beside the denoiser: {"params": parameters, "names": theirs, "lr": rate} each"""
    parts: tuple[nn.Module, ...] = ()
    """the modules that these belong to, in the order of the family's text encoders"""


def image_losses(
    config: TrainLora,
    family: Family,
    process: Process,
    net: nn.Module,
    batch: Batch,
    draws: Draws,
    lessons: Lessons | None = None,
) -> Tensor:
    """The loss of each image of a batch, [B]: noise it, let the denoiser say what it sees, and weigh its errors."""
    u = config.timesteps.sample(draws)
    noise = config.noise.sample(batch.latents, draws)
    noisy = process.add_noise(batch.latents, noise, u)
    prediction = family.denoise(net, noisy.latents, noisy.timesteps, batch.conditioning)
    errors = config.loss(prediction.float(), noisy.target.float())
    weighting = config.weighting(noisy.snr, process.prediction)
    losses = mean_over(errors, batch.masks, config.mask.floor) * batch.weights
    if lessons and lessons.generic:
        losses = losses + config.keep_base.weight * _drift(family, net, noisy, batch, draws, lessons)
    return losses * weighting


def mean_over(errors: Tensor, masks: Tensor | None, floor: float) -> Tensor:
    """The mean of each image's errors [B, C, h, w] over its mask [B, 1, h, w], of which 0 counts as `floor`; [B]."""
    if masks is None:
        return errors.mean(dim=(1, 2, 3))
    counts = weights_of(masks, floor)
    # A crop may hold nothing of what counts: then there is nothing to learn from it.
    whole = counts.sum(dim=(1, 2, 3)).clamp(min=NOTHING)
    return (errors.mean(dim=1, keepdim=True) * counts).sum(dim=(1, 2, 3)) / whole


def _drift(family: Family, net: nn.Module, noisy: Noisy, batch: Batch, draws: Draws, lessons: Lessons) -> Tensor:
    """How far the denoiser has gone from the base model where other prompts are given, [B]."""
    drawn = [int(u * len(lessons.generic)) for u in draws.uniform("generic prompt").tolist()]
    like = batch.conditioning
    texts = stack([lessons.generic[number] for number in drawn])
    told = like | {name: value.to(like[name]) for name, value in texts.items()}
    with torch.no_grad(), at_strength(net, 0.0):
        base = family.denoise(net, noisy.latents, noisy.timesteps, told)
    if lessons.read and lessons.everyday:
        told = told | lessons.read([lessons.everyday[number] for number in drawn])
    now = family.denoise(net, noisy.latents, noisy.timesteps, told)
    return ((now.float() - base.float()) ** 2).mean(dim=(1, 2, 3))
