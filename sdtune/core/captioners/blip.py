"""BLIP: one short sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from PIL import Image

from sdtune.core.captioners.speaker import Speaker


class Blip(Speaker):
    """A sentence, begun as one likes."""

    kind: ClassVar[str] = "blip"
    architecture: ClassVar[str] = "BlipForConditionalGeneration"
    batch_on_card: ClassVar[int] = 32

    def inputs(self, images: Sequence[Image.Image]) -> Mapping[str, torch.Tensor]:
        """Pixels, and how the sentence begins."""
        given = {"pixel_values": self.image_processor(list(images), return_tensors="pt").pixel_values}
        if self.settings.prompt:
            prompts = self.tokenizer([self.settings.prompt] * len(images), return_tensors="pt")
            given |= {name: prompts[name] for name in ("input_ids", "attention_mask")}
        return given
