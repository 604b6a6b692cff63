"""Blocks of a model, by which LoRAs are weighted and told of, and the strength of a LoRA in each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Strength:
    """How strongly a LoRA acts on each module."""

    usual: float = 1.0
    blocks: Mapping[str, float] = field(default_factory=dict)
    """{"text_encoder": 0.0, "unet.up_blocks.1": 0.5, "mid_block": 1.2}: the longest that fits a module counts, in place
    of the usual one"""

    def __call__(self, module: str) -> float:
        """Of a module by part and diffusers' path: unet.mid_block.attentions.0.proj_in."""
        raise NotImplementedError
