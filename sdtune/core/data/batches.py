"""Batches: what a step sees of its images, as a pure function of (seed, step) and the plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

from sdtune.core.data.cache import Store
from sdtune.core.data.conditioning import Conditioning, entry, moved, stack
from sdtune.core.data.encode import Encoded, Version
from sdtune.core.data.plan import Stream
from sdtune.core.data.wordings import worded, wordings
from sdtune.core.draws import Draws, generator
from sdtune.tables import Captions

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Batch:
    """Images of one size for one pass through the denoiser."""

    latents: Tensor
    """[B, C, h, w] x_0, drawn afresh from each image's distribution"""
    conditioning: Conditioning
    """{argument name of the denoiser: [B, ...]}; without what captions tell where they are read at each step"""
    weights: Tensor
    """[B]"""
    masks: Tensor | None = None
    """[B, 1, h, w] from 0 to 1, how much each place counts; None: all alike"""
    captions: tuple[str, ...] = ()
    """as drawn, for each image"""
    names: tuple[str, ...] = field(default=(), repr=False)
    """the images' files"""

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """On a device; latents, weights and masks stay fp32, the conditioning takes the denoiser's type."""
        conditioning = moved(self.conditioning, device, dtype)
        masks = self.masks if self.masks is None else self.masks.to(device)
        return Batch(self.latents.to(device), conditioning, self.weights.to(device), masks, self.captions, self.names)


class Batches:
    """The endless stream of steps over a data set, by number."""

    def __init__(
        self,
        images: Sequence[Encoded],
        stream: Stream,
        store: Store,
        settings: Captions,
        *,
        seed: int,
        told: Callable[[str], Conditioning] | None,
        triggers: Sequence[str] = (),
    ) -> None:
        """`told` gives the conditioning of a caption; None: captions are read at each step. No trigger is dropped."""
        self.images = images
        self.stream = stream
        self.store = store
        self.settings = settings
        self.seed = seed
        self.told = told
        self.triggers = triggers
        self._wordings = cache(lambda caption: wordings(caption, settings, triggers))

    def at(
        self, number: int, draws: Draws, *, share: tuple[int, int] = (0, 1), most: int | None = None
    ) -> list[tuple[Batch, Draws]]:
        """The passes of step `number`, each of `most` images of one size at most, with the draws of its own slots.

        An image's slot is its place in the whole step. Of several processes `share` tells which (from 0), and of how
        many: each has a run of slots.
        """
        step = self.stream.at(number)
        process, processes = share
        count = sum(map(len, step))
        own = range(process * count // processes, (process + 1) * count // processes)
        passes, first = [], 0
        for places in step:
            here = range(max(own.start, first), min(own.stop, first + len(places)))
            for start in range(here.start, here.stop, most or max(len(here), 1)):
                slots = range(start, min(start + (most or len(here)), here.stop))
                chosen = places[slots.start - first : slots.stop - first]
                part = draws.part(slots.start, len(slots))
                passes.append(
                    (self._batch([self.images[one] for one, _ in chosen], [n for _, n in chosen], part), part)
                )
            first += len(places)
        return passes

    def _batch(self, images: Sequence[Encoded], which: Sequence[int], draws: Draws) -> Batch:
        shapes = [image.shapes[number] for image, number in zip(images, which, strict=True)]
        versions = [_one_of(shape, u) for shape, u in zip(shapes, _uniform(draws, "version", shapes), strict=True)]
        entries = [self._entry(version.latents) for version in versions]
        mean, std = (torch.stack([entry[name] for entry in entries]) for name in ("mean", "std"))
        latents = mean + std * draws.normal("vae", tuple(mean.shape[1:])).to(mean.device)
        captions = self._captions(images, versions, draws)
        told = [self.told(caption) if self.told else {} for caption in captions]
        holes = self._holes(versions, draws)
        conditioning = stack(
            [{**text, **hole, **version.sizes} for text, hole, version in zip(told, holes, versions, strict=True)]
        )
        weights = torch.tensor([image.weight for image in images])
        names = tuple(image.name for image in images)
        return Batch(latents, conditioning, weights, self._masks(versions, mean), captions, names)

    def _captions(self, images: Sequence[Encoded], versions: Sequence[Version], draws: Draws) -> tuple[str, ...]:
        dropped = draws.uniform("caption dropout") < self.settings.dropout
        which = _uniform(draws, "caption", [image.captions for image in images])
        drawn = []
        for image, version, drop, u, slot in zip(images, versions, dropped.tolist(), which, draws.slots, strict=True):
            if drop and not image.prior:
                drawn.append("")
                continue
            caption = _one_of(image.captions, u)
            random = generator(self.seed, "wording", draws.step, slot)
            drawn.append(_with(caption if image.prior else self._worded(caption, random), version.said))
        return tuple(drawn)

    def _worded(self, caption: str, random: torch.Generator) -> str:
        """A wording of the caption: any, where captions are read at each step, else one of those encoded."""
        if self.told is None:
            return worded(caption, self.settings, random, self.triggers)
        drawn = self._wordings(caption)
        return drawn[int(torch.randint(len(drawn), (), generator=random))] if len(drawn) > 1 else drawn[0]

    def _holes(self, versions: Sequence[Version], draws: Draws) -> list[Conditioning]:
        if not versions[0].holes:
            return [{} for _ in versions]
        drawn = _uniform(draws, "hole", [version.holes for version in versions])
        return [self._entry(_one_of(version.holes, u)) for version, u in zip(versions, drawn, strict=True)]

    def _masks(self, versions: Sequence[Version], like: Tensor) -> Tensor | None:
        if all(version.mask is None for version in versions):
            return None
        whole = torch.ones((1, *like.shape[2:]), device=like.device)
        return torch.stack([self._entry(one.mask)["mask"] if one.mask else whole for one in versions])

    def _entry(self, key: str) -> Conditioning:
        return entry(self.store, key)


def said_of(images: Sequence[Encoded], settings: Captions, triggers: Sequence[str] = ()) -> list[str]:
    """Every text that steps may draw, each once; for encoding them in advance."""
    texts = dict.fromkeys([""])
    for image in images:
        said = dict.fromkeys(version.said for shape in image.shapes for version in shape)
        for caption in image.captions:
            # Those of priors are literal, as their pictures were drawn.
            told = (caption,) if image.prior else wordings(caption, settings, triggers)
            texts.update(dict.fromkeys(_with(text, more) for text in told for more in said))
    return list(texts)


def _uniform(draws: Draws, purpose: str, choices: Sequence[Sequence[object]]) -> list[float]:
    """A number in [0, 1) for each image; none are drawn where there is nothing to choose."""
    if all(len(one) == 1 for one in choices):
        return [0.0] * len(choices)
    return draws.uniform(purpose).tolist()


def _one_of(things: Sequence[Thing], u: float) -> Thing:
    return things[int(u * len(things))]


def _with(caption: str, said: str) -> str:
    """The caption with what a version adds, ", mirrored"; of an empty one nothing but that."""
    return (caption + said).removeprefix(", ")
