"""Encoding once: each image as the mean and spread of its latents, each caption as what the denoiser is told."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from sdtune.core.autoencoder import encode_images
from sdtune.core.data.buckets import bucket_for
from sdtune.core.data.folder import Example
from sdtune.core.data.images import fit, open_image
from sdtune.core.families import Family
from sdtune.core.reports import Progress

Conditioning = dict[str, Tensor]
PIXELS_AT_ONCE = 2**20  # four images of 512 x 512, one of 1024 x 1024: encoding shall not need more than training
CAPTIONS_AT_ONCE = 16


@dataclass(frozen=True)
class Encoded:
    """One image as training sees it, on the CPU in fp32."""

    mean: Tensor
    """[C, h, w] of the latents' distribution"""
    std: Tensor
    """[C, h, w]"""
    conditionings: tuple[Conditioning, ...]
    """{argument name of the denoiser: [...]} of each caption"""
    sizes: Conditioning
    """the same of the image's sizes and crop, which a dropped caption leaves standing"""
    weight: float = 1.0
    repeats: int = 1
    """how often it comes in an epoch"""


def encode_examples(
    examples: Sequence[Example], told: dict[str, Conditioning], family: Family, vae: Any, resolution: int
) -> Generator[Progress, None, list[Encoded]]:
    """Tells how many images are encoded; returns one Encoded an example, in the examples' order.

    `told` holds the conditioning of each caption.
    """
    sizes = [bucket_for(example.width, example.height, resolution) for example in examples]
    order = sorted(range(len(examples)), key=lambda index: sizes[index])
    encoded: dict[int, Encoded] = {}
    for size, group in groupby(order, key=lambda index: sizes[index]):
        indices = list(group)
        at_once = max(1, PIXELS_AT_ONCE // (size[0] * size[1]))
        for start in range(0, len(indices), at_once):
            chunk = indices[start : start + at_once]
            fitted = [fit(open_image(examples[index].path), size) for index in chunk]
            means, stds = encode_images(vae, [image for image, _ in fitted])
            for index, (_, crop), mean, std in zip(chunk, fitted, means, stds, strict=True):
                example = examples[index]
                sizes_told = family.condition_on_size((example.width, example.height), crop, size)
                conditionings = tuple(told[caption] for caption in example.captions)
                encoded[index] = Encoded(mean, std, conditionings, sizes_told, example.weight, example.repeats)
            yield Progress("encoding images", len(encoded), len(examples))
    return [encoded[index] for index in range(len(examples))]


def encode_captions(
    captions: Sequence[str], family: Family, pipe: Any, device: torch.device
) -> Generator[Progress, None, list[Conditioning]]:
    """Tells how many captions are encoded; returns one conditioning a caption, equal captions encoded once.

    The text encoders are needed for nothing else, so they are put on the device and then let go, out of the pipeline.
    """
    for part in family.text_encoders:
        if getattr(pipe, part) is not None:
            getattr(pipe, part).to(device)
    unique = list(dict.fromkeys(captions))
    found: dict[str, Conditioning] = {}
    for start in range(0, len(unique), CAPTIONS_AT_ONCE):
        chunk = unique[start : start + CAPTIONS_AT_ONCE]
        told = {name: value.float().cpu() for name, value in family.encode_captions(pipe, chunk).items()}
        for index, caption in enumerate(chunk):
            found[caption] = {name: value[index].clone() for name, value in told.items()}
        yield Progress("encoding captions", len(found), len(unique))
    for part in family.text_encoders:
        setattr(pipe, part, None)
    return [found[caption] for caption in captions]


def stack(conditionings: Sequence[Conditioning]) -> Conditioning:
    """{name: [...]} of several as {name: [B, ...]}."""
    return {name: torch.stack([one[name] for one in conditionings]) for name in conditionings[0]}
