"""Batches: which images a step sees, as a pure function of (seed, step), and what it sees of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from sdtune.core.data.encode import Conditioning, Encoded, stack
from sdtune.core.draws import Draws, generator


@dataclass(frozen=True)
class Batch:
    """Images of one size for one pass through the denoiser."""

    latents: Tensor
    """[B, C, h, w] x_0, drawn afresh from each image's distribution"""
    conditioning: Conditioning
    """{argument name of the denoiser: [B, ...]}"""
    weights: Tensor
    """[B]"""

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """On a device; the latents and weights stay fp32, the conditioning takes the denoiser's type."""
        conditioning = {name: value.to(device, dtype) for name, value in self.conditioning.items()}
        return Batch(self.latents.to(device), conditioning, self.weights.to(device))


class Batches:
    """The endless stream of batches over a data set, by number."""

    def __init__(
        self, images: Sequence[Encoded], blank: Conditioning, *, batch_size: int, seed: int, caption_dropout: float
    ) -> None:
        self.images = images
        self.blank = blank
        self.batch_size = batch_size
        self.seed = seed
        self.caption_dropout = caption_dropout
        self._by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, image in enumerate(images):
            self._by_size[tuple(image.mean.shape)] += [index] * image.repeats
        self._plan = lru_cache(maxsize=2)(self._plan_epoch)
        self.an_epoch = sum(-(-len(group) // batch_size) for group in self._by_size.values())

    def members(self, number: int) -> list[int]:
        """Which images the batch of this number holds: every image once an epoch, one size a batch."""
        epoch, place = divmod(number, self.an_epoch)
        return self._plan(epoch)[place]

    def at(self, number: int, draws: Draws) -> Batch:
        """The batch of this number, with its latents and dropped captions drawn for the step of `draws`."""
        chosen = [self.images[index] for index in self.members(number)]
        draws = draws.first(len(chosen))
        mean, std = (torch.stack([getattr(image, name) for image in chosen]) for name in ("mean", "std"))
        latents = mean + std * draws.normal("vae", tuple(mean.shape[1:]))
        dropped = draws.uniform("caption dropout") < self.caption_dropout
        which = draws.uniform("caption")
        told = [
            {**(self.blank if drop else image.conditionings[int(u * len(image.conditionings))]), **image.sizes}
            for image, drop, u in zip(chosen, dropped.tolist(), which.tolist(), strict=True)
        ]
        return Batch(latents, stack(told), torch.tensor([image.weight for image in chosen]))

    def _plan_epoch(self, epoch: int) -> list[list[int]]:
        random = generator(self.seed, "order", epoch)
        batches = []
        for _, group in sorted(self._by_size.items()):
            shuffled = [group[place] for place in torch.randperm(len(group), generator=random).tolist()]
            batches += [shuffled[start : start + self.batch_size] for start in range(0, len(shuffled), self.batch_size)]
        return [batches[place] for place in torch.randperm(len(batches), generator=random).tolist()]
