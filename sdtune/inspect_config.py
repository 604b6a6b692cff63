"""What the commands that look into LoRA files can be told, apart from all else, so that they answer at once."""

from __future__ import annotations

from pathlib import Path

from sdtune.choices.spec import Spec, setting


class LoraInspect(Spec):
    """Tell what a LoRA file is."""

    lora: Path = setting(..., metavar="LORA", place=0, example="sdtune lora inspect cats.safetensors")
    """A LoRA file or a run folder."""
    weights: bool = setting(False, "--weights", "-w", place=1)
    """Read the weights, too: norm and singular values by block, dead and exploding layers, whether the hash holds."""
    metadata: bool = setting(False, "--metadata", place=2)
    """Tell all metadata."""


class LoraDiff(Spec):
    """Tell what sets two LoRAs apart."""

    first: Path = setting(
        ..., metavar="FIRST", place=0, example="sdtune lora diff cats.safetensors cats-small.safetensors"
    )
    """A LoRA file of any form, or a run folder."""
    second: Path = setting(
        ..., metavar="SECOND", place=1, example="sdtune lora diff cats.safetensors cats-small.safetensors"
    )
    """The LoRA to compare it with, likewise."""
    model: str | None = setting(None, "--model", "-m", place=2, min_length=1)
    """Base model, for networks whose change depends on it (DoRA, OFT)."""
