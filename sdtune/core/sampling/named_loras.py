"""LoRAs that prompts name: <lora:cats:0.8> is cats.safetensors or the run cats in one of a few folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sdtune.core.applied import Applied
from sdtune.core.sampling.grammar import LoraTag


class NamedLoras:
    """Where names lead, each file read once."""

    def __init__(self, folder: Path | None, known: Sequence[Applied]) -> None:
        self.folder, self.known = folder, tuple(known)

    def find(self, tag: LoraTag, where: str) -> Applied:
        """The LoRA that a prompt names; ConfigError tells the nearest name where there is none."""
        raise NotImplementedError
