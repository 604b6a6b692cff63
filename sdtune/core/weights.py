"""A base model's weights on disk, read one at a time and never all at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from sdtune.core.families import Family
from sdtune.core.identity import Identity


class Weights(ABC):
    """Weights by part and diffusers' name (unet.conv_in.weight; text encoders' with text_model.), packed ones unpacked."""

    family: Family
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    """as safetensors names them: F16; of packed weights that of what they unpack to"""

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """One of them, as stored (fp8 too), packed ones in float32."""


def open_weights(identity: Identity) -> Weights:
    """Of a folder, a single file or a model from the hub."""
    raise NotImplementedError


__all__ = ["Path", "Weights", "open_weights"]
