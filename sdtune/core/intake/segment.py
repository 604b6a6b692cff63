"""Masks of what a text describes, by CLIPSeg (Lüddecke & Ecker 2022, arXiv:2112.10003)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sdtune.choices.masks import MaskClipSeg
from sdtune.core.captioners.models import folder_of, load_image_processor, load_model, load_tokenizer, trying
from sdtune.core.memory import device_for, dtype_for
from sdtune.tables import Memory

INSTEAD = "give its folder as --mask.model, or draw the masks yourself and take --mask files"
"""what else can be done where the model cannot be fetched"""


def find_model(settings: MaskClipSeg) -> Path:
    """The folder of CLIPSeg, fetched where it is not on this machine."""
    return folder_of(settings.model, instead=INSTEAD)


class Segmenter:
    """CLIPSeg with its text, asked image by image or in batches."""

    def __init__(self, settings: MaskClipSeg, memory: Memory) -> None:
        device = device_for(memory)
        folder = find_model(settings)
        self.folder, self.works = folder, False
        self.threshold = settings.threshold
        self.image_processor = load_image_processor(folder)
        tokenizer = load_tokenizer(folder)
        self.model = load_model("CLIPSegForImageSegmentation", folder, device, dtype_for(memory, device))
        self.batch = 16 if device.type == "cuda" else 2
        longest = self.model.config.text_config.max_position_embeddings
        self.text = tokenizer(settings.prompt, truncation=True, max_length=longest, return_tensors="pt").to(device)

    def mask(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        """For each RGB image one of its size in grey levels: white is what was found, black is not."""
        return [
            Image.fromarray(np.where(np.asarray(found) >= self.threshold, np.uint8(255), np.uint8(0)))
            for found in self.probabilities(images)
        ]

    @torch.inference_mode()
    def probabilities(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        """For each image one of its size (mode F): the probability that a pixel belongs to it."""
        found = []
        for start in range(0, len(images), self.batch):
            some = list(images[start : start + self.batch])
            with contextlib.nullcontext() if self.works else trying(self.folder):
                pixels = self.image_processor(some, return_tensors="pt").pixel_values
                texts = {name: value.expand(len(some), -1) for name, value in self.text.items()}
                logits = self.model(pixel_values=pixels.to(self.model.device, self.model.dtype), **texts).logits
                maps = logits.reshape(len(some), *logits.shape[-2:]).float().sigmoid().cpu().numpy()  # [n, side, side]
            self.works = True
            found += [
                Image.fromarray(one, mode="F").resize(image.size, Image.Resampling.BILINEAR)
                for one, image in zip(maps, some, strict=True)
            ]
        return found
