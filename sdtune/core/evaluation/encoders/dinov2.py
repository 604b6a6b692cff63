"""DINOv2 (Oquab et al. 2023, arXiv:2304.07193): learned from pictures alone.

Of all encoders that Stein et al. compared (2023, arXiv:2306.04675) its distances agree best with what people say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from sdtune.core.evaluation.encoders.pretrained import Pretrained
from sdtune.core.evaluation.encoders.tower import Given


class DinoV2(Pretrained):
    """With registers (Darcet et al. 2023, arXiv:2309.16588) or without; it reads no texts."""

    name: ClassVar[str] = "dinov2"
    title: ClassVar[str] = "DINOv2"
    usual: ClassVar[str] = "facebook/dinov2-base"
    kinds: ClassVar[Mapping[str, str]] = {
        "dinov2": "Dinov2Model",
        "dinov2_with_registers": "Dinov2WithRegistersModel",
    }

    def see(self, given: Given) -> Tensor:
        """[n, d] of the token that stands for the whole picture."""
        found: Tensor = self.model(**given).pooler_output
        return found
