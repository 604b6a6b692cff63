"""Encoding once: each version of an image as the mean and spread of its latents, in a store by its content."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import groupby
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sdtune.core import inpainting
from sdtune.core.autoencoder import encode_images, pixels_a_latent
from sdtune.core.data.ahead import ahead
from sdtune.core.data.cache import Store, identity_of, key_of
from sdtune.core.data.conditioning import Conditioning, is_whole, tell_of_damaged
from sdtune.core.data.folder import Example
from sdtune.core.data.image_file import contents, read
from sdtune.core.data.images import Decoded, decode
from sdtune.core.data.masks import latent_mask, mask_for
from sdtune.core.data.seen import Seen
from sdtune.core.data.views import View, show, show_mask
from sdtune.core.families import Family
from sdtune.core.memory import maker_of
from sdtune.core.reports import Progress, Telling
from sdtune.core.room import LESS, is_out_of_memory, one_by_one
from sdtune.errors import DataError, TrainingError
from sdtune.tables import Masking

PIXELS_AT_ONCE = {"cuda": 2**20, "cpu": 1}
"""four images of 512 x 512, one of 1024 x 1024, so that encoding needs no more than training; on the CPU one image,
since that is no slower, and the last digits then do not depend on which others were encoded with it"""
LAST_IMAGES = 4  # decoded ones that are kept, as versions of one image follow each other


@dataclass(frozen=True)
class Version:
    """One way in which an image is shown: where its tensors lie in the store."""

    latents: str
    """{"mean": [C, h, w], "std": [C, h, w]} of the latents' distribution, fp32"""
    mask: str | None
    """{"mask": [1, h, w]} from 0 to 1; None: all of it counts"""
    holes: tuple[str, ...]
    """{"inpainting": [1 + C, h, w]}: masks with the latents of what they leave, of which each step draws one"""
    sizes: Conditioning
    """what the denoiser is told of the image's size and crop"""
    said: str
    """what its captions add"""

    @property
    def keys(self) -> tuple[str | None, ...]:
        """Of all its entries."""
        return self.latents, self.mask, *self.holes


@dataclass(frozen=True)
class Encoded:
    """One image as training draws from it."""

    name: str
    shapes: tuple[tuple[Version, ...], ...]
    """for each of its sizes its versions"""
    sizes: tuple[tuple[int, int], ...]
    """(width, height) of each, pixels"""
    captions: tuple[str, ...]
    weight: float = 1.0
    repeats: int = 1
    """how often it comes in an epoch"""
    prior: bool = False


@dataclass(frozen=True)
class Holes:
    """How many masks are drawn of each version for inpainting, and which share covers all of it."""

    count: int
    full: float


def encode_images_of(
    seen: Sequence[Seen], family: Family, vae: Any, store: Store, masking: Masking, holes: Holes | None
) -> Telling[list[Encoded]]:
    """Encodes what the store lacks, with the VAE in fp32, and tells how many; one Encoded for each in `seen`."""
    encoder = _Encoder(family, vae, store, masking, holes)
    damaged = len(store.damaged)
    encoded, wanted = [], []
    for one in seen:
        shapes = tuple(tuple(encoder.version(one, view) for view in views) for views in one.versions)
        example = one.example
        encoded.append(
            Encoded(
                str(example.path),
                shapes,
                tuple(one.sizes),
                example.captions,
                example.weight,
                example.repeats,
                example.prior,
            )
        )
        wanted += [
            (one, view, version)
            for views, versions in zip(one.versions, shapes, strict=True)
            for view, version in zip(views, versions, strict=True)
        ]
    # Versions may be alike, as all that are mirrored and nothing else.
    missing = [job for job in {job[2].keys: job for job in wanted}.values() if not encoder.is_there(job[2])]
    yield from tell_of_damaged(len(store.damaged) - damaged)
    yield from encoder.encode(missing, len(wanted) - len(missing))
    return encoded


Job = tuple[Seen, View, Version]


class _Encoder:
    """What all images are encoded with."""

    def __init__(self, family: Family, vae: Any, store: Store, masking: Masking, holes: Holes | None) -> None:
        self.family, self.vae, self.store, self.masking, self.holes = family, vae, store, masking, holes
        self.image = lru_cache(maxsize=LAST_IMAGES)(self._image)
        self.mask = lru_cache(maxsize=LAST_IMAGES)(self._mask)
        self.of_mask = cache(_of_mask)

    @cached_property
    def identity(self) -> tuple[str, ...]:
        """Of the VAE, its arithmetic and where it works."""
        return identity_of(self.vae), "fp32", *maker_of(self.vae.device)

    @cached_property
    def down(self) -> int:
        """Pixels a side of each latent."""
        return pixels_a_latent(self.vae)

    def version(self, one: Seen, view: View) -> Version:
        """Where the tensors of this version lie, or will lie."""
        example = one.example
        facts = (example.sha256, *view.facts())
        latents = key_of("latents", *facts, *self.identity)
        masked = self.masking.use == "alpha" or (example.mask is not None and self.masking.use == "files")
        mask = key_of("mask", *facts, self.of_mask(one.example), self.down) if masked else None
        count, full = (self.holes.count, self.holes.full) if self.holes else (0, 0.0)
        holes = [key_of("holes", *facts, *self.identity, number, count, full) for number in range(count)]
        sizes = self.family.condition_on_size((example.width, example.height), view.corner(), view.size)
        return Version(latents, mask, tuple(holes), sizes, view.said)

    def is_there(self, version: Version) -> bool:
        """Whether all of it is in the store and undamaged."""
        return all(is_whole(self.store, key) for key in version.keys if key is not None)

    def encode(self, jobs: Sequence[Job], before: int) -> Telling[None]:
        """Puts into the store what is missing, several of one size at once."""
        began, done = time.monotonic(), 0
        ordered = sorted(jobs, key=lambda job: job[1].size)
        chunks: list[list[Job]] = []
        for size, group in groupby(ordered, key=lambda job: job[1].size):
            at_once = max(1, PIXELS_AT_ONCE[self.vae.device.type] // (size[0] * size[1]))
            of_size = list(group)
            chunks += [of_size[start : start + at_once] for start in range(0, len(of_size), at_once)]
        for chunk, images in zip(chunks, ahead(self._images, chunks, depth=2), strict=True):
            latents = self._latents([one for one, _, _ in chunk], images)
            for (one, view, version), image, (mean, std) in zip(chunk, images, latents, strict=True):
                self._put_mask(one, view, version)
                self._put_holes(one, view, version, image)
                self.store.put(version.latents, {"mean": mean, "std": std})
            done += len(chunk)
            speed = done / (time.monotonic() - began)
            yield Progress("encoding images", before + done, before + len(jobs), speed)

    def _latents(self, seen: Sequence[Seen], images: Sequence[Image.Image]) -> list[tuple[Tensor, Tensor]]:
        """Mean and standard deviation of each, all of them numbers."""
        try:
            encoded = one_by_one(lambda some: list(zip(*encode_images(self.vae, some), strict=True)), images)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            width, height = images[0].size
            what = f"{seen[0].example.path}: out of memory while encoding it alone, at {width} x {height}"
            raise TrainingError(f"{what}; {LESS}") from error
        for one, (mean, std) in zip(seen, encoded, strict=True):
            if not (mean.isfinite().all() and std.isfinite().all()):
                remedy = "leave it out, or choose a model with another VAE"
                raise DataError(f"{one.example.path}: the model's VAE makes no numbers of it; {remedy}")
        return encoded

    def _images(self, chunk: Sequence[Job]) -> list[Image.Image]:
        return [show(self.image(one), view) for one, view, _ in chunk]

    def _image(self, one: Seen) -> Image.Image:
        """The whole upright image."""
        return as_looked_at(one.example).image

    def _mask(self, one: Seen) -> Image.Image | None:
        """The whole image's mask, mode L."""
        example = one.example
        mask, _ = mask_for(example.path, example.mask, self.masking.use)
        if _of_mask(example) != self.of_mask(example):
            raise DataError(
                f"{example.mask}: has changed since it was looked at; start again with the masks as they are now"
            )
        return mask

    def _put_mask(self, one: Seen, view: View, version: Version) -> None:
        if version.mask is None:
            return
        example, mask = one.example, self.mask(one)
        width, height = view.size
        shape = (1, height // self.down, width // self.down)
        if mask is None:
            self.store.put(version.mask, {"mask": torch.ones(shape)})
            return
        shown = show_mask(mask, view, (example.width, example.height))
        self.store.put(version.mask, {"mask": latent_mask(shown, self.down)})

    def _put_holes(self, one: Seen, view: View, version: Version, image: Image.Image) -> None:
        if self.holes is None:
            return
        masks = inpainting.masks_of(one.example.sha256, view.size, self.holes.count, self.holes.full)
        for key, mask in zip(version.holes, masks, strict=True):
            ((known, _),) = self._latents([one], [inpainting.masked(image, mask)])
            told = torch.cat([inpainting.mask_latent(mask, self.down), known])
            self.store.put(key, {"inpainting": told})


def as_looked_at(example: Example) -> Decoded:
    """The image; raises DataError where it is not any more what it was when its size was read."""
    what = None
    try:
        data = read(example.path)
        if hashlib.sha256(data).hexdigest() != example.sha256:
            what = "has changed"
    except FileNotFoundError:
        what = "is gone"
    except (OSError, DataError):
        what = "cannot be read any more"
    if what:
        raise DataError(f"{example.path}: {what} since it was looked at; start again with the images as they are now")
    decoded = decode(data, str(example.path))
    if (decoded.width, decoded.height) != (example.width, example.height):
        told = f"{decoded.width} x {decoded.height}, and was remembered as {example.width} x {example.height}"
        raise DataError(f"{example.path}: is {told}; remove facts.jsonl from the cache's folder, and start again")
    return decoded


def _of_mask(example: Example) -> str:
    """The mask file's hash; that of an image's own transparency is the image's."""
    if example.mask is None:
        return "alpha"
    return hashlib.sha256(contents(example.mask, str(example.mask))).hexdigest()
