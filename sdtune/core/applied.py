"""LoRAs as users name them: a file or a run folder, with a strength, and strengths of blocks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sdtune.core.blocks import Strength
from sdtune.core.lora import Lora


@dataclass(frozen=True)
class Applied:
    """A LoRA with the strength at which it is used."""

    path: Path
    lora: Lora
    strength: Strength
