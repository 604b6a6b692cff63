"""CLIP (Radford et al. 2021, arXiv:2103.00020): pictures and what people say of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from sdtune.core.evaluation.encoders.pretrained import Pretrained
from sdtune.core.evaluation.encoders.tower import Given


class Clip(Pretrained):
    """What CMMD (Jayasumana et al. 2024, arXiv:2401.09603) and most figures of papers are told by."""

    name: ClassVar[str] = "clip"
    title: ClassVar[str] = "CLIP"
    usual: ClassVar[str] = "openai/clip-vit-large-patch14"
    kinds: ClassVar[Mapping[str, str]] = {"clip": "CLIPModel"}
    reads_texts = True

    def see(self, given: Given) -> Tensor:
        """[n, d] where texts lie, too."""
        found: Tensor = self.model.get_image_features(**given).pooler_output
        return found

    def read(self, text: str) -> Tensor:
        """[1, d]; what does not fit into 77 tokens is not read."""
        most = self.model.config.text_config.max_position_embeddings
        ids = self.tokenizer(text, truncation=True, max_length=most, return_tensors="pt").input_ids
        found: Tensor = self.model.get_text_features(self.to_network(ids)).pooler_output
        return found
