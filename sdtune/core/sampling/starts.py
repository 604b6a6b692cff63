"""Starts: pictures to begin with as latents, how much noise is put over them, and what of them is known to stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdtune.core.inpainting import is_told_of_holes
from sdtune.core.sampling.structure import hold


@dataclass(frozen=True)
class Start:
    """A source as the denoiser's latents."""

    latents: Tensor  # [C, h, w] clean, in the denoiser's scale, float32
    strength: float
    """share of the steps that are taken"""
    mask: Tensor | None = None  # [1, h, w], 1 is drawn anew
    structure: float = 0.0
    """share of the steps in which coarse shapes are held"""


def first_taken(scheduler: Any, steps: int, strength: float) -> int:
    """Which of the scheduler's timesteps is the first to be taken, as diffusers' pipelines for img2img have it."""
    skipped = steps - min(int(steps * strength), steps)
    return min(skipped * int(getattr(scheduler, "order", 1)), len(scheduler.timesteps))


@dataclass(frozen=True)
class Starts:
    """The starts of images that are drawn together."""

    scheduler: Any
    begin: int
    """the first of the scheduler's timesteps that is taken"""
    from_noise: bool
    clean: Tensor  # [B, C, h, w]
    anew: Tensor | None  # [B, 1, h, w]; None where nothing is known to stay, or the model itself is told of it
    held: float
    """share of the taken steps in which coarse shapes are held"""

    @classmethod
    def of(cls, starts: Sequence[Start], net: Any, scheduler: Any, steps: int) -> Starts:
        """Those of pictures of one size; the scheduler, whose timesteps are set, is told where it begins."""
        strength, structure = starts[0].strength, starts[0].structure
        assert all((one.strength, one.structure) == (strength, structure) for one in starts), "by the same strength"
        masks = [one.mask for one in starts if one.mask is not None]
        clean = torch.stack([one.latents for one in starts]).to(net.device)
        blended = masks and not is_told_of_holes(net, clean.shape[1])
        assert not masks or len(masks) == len(starts), "images that are drawn together have masks, or have none"
        begin = first_taken(scheduler, steps, strength)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(begin)
        anew = torch.stack(masks).to(net.device) if blended else None
        return cls(scheduler, begin, strength == 1, clean, anew, structure)

    def first(self, noise: Tensor) -> Tensor:
        """x_t at which drawing begins; at strength 1 noise alone, after no steps the picture itself."""
        if self.from_noise:
            return noise * float(getattr(self.scheduler, "init_noise_sigma", 1.0))
        if self.begin == len(self.scheduler.timesteps):
            return self.clean
        return self._noised(self.clean, noise, self.scheduler.timesteps[self.begin])

    def with_the_known(self, latents: Tensor, noise: Tensor, timestep: Tensor | None) -> Tensor:
        """What is known as it is at the level of the next step, beside what is drawn anew.

        Lugmayr et al. 2022, arXiv:2201.09865, eq. 8; after the last step, None, it is clean.
        """
        if self.anew is None:
            return latents
        known = self.clean if timestep is None else self._noised(self.clean, noise, timestep)
        return (1 - self.anew) * known + self.anew * latents

    def hold(self, prediction: Tensor, latents: Tensor, timestep: Tensor) -> Tensor:
        """The prediction with the coarse shapes of the pictures."""
        one, none = torch.ones(1, 1, 1, 1, device=latents.device), torch.zeros(1, 1, 1, 1, device=latents.device)
        level = (float(self._noised(one, none, timestep)), float(self._noised(none, one, timestep)))
        return hold(prediction, latents, self.clean, level, self.scheduler)

    def _noised(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """At the level of the step that comes next."""
        when = timestep.reshape(1)
        if hasattr(self.scheduler, "scale_noise"):
            noised: Tensor = self.scheduler.scale_noise(clean, when, noise)
        else:
            noised = self.scheduler.add_noise(clean, noise, when)
        return noised
