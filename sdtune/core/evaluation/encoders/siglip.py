"""SigLIP (Zhai et al. 2023, arXiv:2303.15343) and SigLIP 2 (Tschannen et al. 2025, arXiv:2502.14786)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from sdtune.core.evaluation.encoders.pretrained import Pretrained
from sdtune.core.evaluation.encoders.tower import Given


class Siglip(Pretrained):
    """Pictures and texts in many languages.

    SigLIP 2 of one size says that it is a siglip; those for any proportions (NaFlex) are siglip2.
    """

    name: ClassVar[str] = "siglip2"
    title: ClassVar[str] = "SigLIP"
    usual: ClassVar[str] = "google/siglip2-base-patch16-224"
    kinds: ClassVar[Mapping[str, str]] = {"siglip": "SiglipModel", "siglip2": "Siglip2Model"}
    reads_texts = True

    def see(self, given: Given) -> Tensor:
        """[n, d] where texts lie, too."""
        found: Tensor = self.model.get_image_features(**given).pooler_output
        return found

    def read(self, text: str) -> Tensor:
        """[1, d]; it learned texts in small letters, always filled up to as many tokens as it can read."""
        length = self.model.config.text_config.max_position_embeddings
        words = self.tokenizer(
            text.lower(), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        found: Tensor = self.model.get_text_features(self.to_network(words.input_ids)).pooler_output
        return found
