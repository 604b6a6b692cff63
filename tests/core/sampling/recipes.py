"""Recipes to test with."""

from __future__ import annotations

from typing import Any

from sdtune.choices.samplers import DPMpp2M
from sdtune.core.sampling.recipe import LoraUse, Made, ModelUse, Recipe

MADE = Made(sdtune="0.1.0", torch="2.12", diffusers="0.39", device="cpu", precision="float32", threads=2)
HASH = "0123456789abcdef" * 4


def recipe(**told: Any) -> Recipe:
    """A recipe with some things otherwise."""
    usual: dict[str, Any] = {
        "prompt": "a red apple",
        "seed": 7,
        "width": 64,
        "height": 48,
        "steps": 20,
        "guidance": 7.5,
        "sampler": DPMpp2M(),
        "model": ModelUse(name="mini", family="sd1", weights=HASH),
        "made": MADE,
    }
    return Recipe(**(usual | told))


def lora(name: str, **told: Any) -> LoraUse:
    """A LoRA by its file's name."""
    return LoraUse(**({"file": f"runs/{name}.safetensors", "sha256": HASH} | told))
