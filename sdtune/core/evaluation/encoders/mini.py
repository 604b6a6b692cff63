"""The built-in encoder: mini's own CLIP, which knows simple drawings and their names, and needs no download."""

from __future__ import annotations

from typing import ClassVar

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from sdtune.core.captioners.mini import MEAN, SIDE, STD
from sdtune.core.captioners.models import load_model, load_tokenizer
from sdtune.core.evaluation.encoders.square import square_of, told
from sdtune.core.evaluation.encoders.tower import CPU, Given, Tower
from sdtune.mini import FOLDER


class Mini(Tower):
    """Two towers of three layers; unlike its captioner it sees pictures as they are, not cropped to their subject."""

    name: ClassVar[str] = "mini"
    reads_texts = True

    def __init__(self, device: torch.device) -> None:
        self.label = "CLIP of mini"
        self.resize = told(SIDE)
        self.pictures = load_model("CLIPVisionModelWithProjection", FOLDER / "clip_image", CPU, torch.float32)
        self.words = load_model("CLIPTextModel", FOLDER / "text_encoder", CPU, torch.float32)
        self.tokenizer = load_tokenizer(FOLDER / "tokenizer")
        weight = load_file(FOLDER / "clip_image" / "text_projection.safetensors")["text_projection.weight"].float()
        self.projection = nn.Linear(weight.shape[1], weight.shape[0], bias=False).requires_grad_(False)
        self.projection.weight.copy_(weight)
        super().__init__(device, (self.pictures, self.words, self.projection), self.resize)

    def given(self, image: Image.Image) -> Given:
        """Colours as CLIP's."""
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (MEAN, STD))
        return {"pixel_values": (square_of(image, SIDE) / 255 - mean) / std}

    def see(self, given: Given) -> Tensor:
        """[n, 192]."""
        found: Tensor = self.pictures(**given).image_embeds
        return found

    def read(self, text: str) -> Tensor:
        """[1, 192]; what does not fit into 77 tokens is not read."""
        ids = self.tokenizer(text, truncation=True, return_tensors="pt").input_ids
        found: Tensor = self.projection(self.words(self.to_network(ids)).pooler_output)
        return found
