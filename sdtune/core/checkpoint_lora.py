"""The LoRA in a run's checkpoint: what a training would have saved after that step."""

from __future__ import annotations

from pathlib import Path

from sdtune.core import checkpoint_folder
from sdtune.core import lora_names as names
from sdtune.core.adapters import Adapter, LoraModule
from sdtune.core.lora import Lora
from sdtune.core.toml_file import toml_in
from sdtune.earlier import RUN_SETTINGS
from sdtune.errors import InputError, LoraError

DOWN, UP = ".lora_A.default.weight", ".lora_B.default.weight"
"""how peft's names of the two matrices end"""


def lora_of_checkpoint(folder: Path, family: str | None) -> Lora:
    """The LoRA of `<run>/checkpoints/step-000400`, of the averaged weights where the run keeps an average.

    Its new words stay behind, as a LoRA has no place for them.
    """
    alpha = _alpha(folder.parent.parent / RUN_SETTINGS)
    try:
        tensors = checkpoint_folder.read(folder).tensors
    except InputError as problem:
        raise LoraError(f"{problem}; move it away, or give a lower --last") from None
    weights = tensors.get("ema") or tensors["adapter"]
    modules: dict[str, Adapter] = {}
    for key, down in weights.items():
        if key.endswith(DOWN):
            path = key.removesuffix(DOWN)
            name = names.from_dotted(path)
            if name is None or path + UP not in weights:
                raise LoraError(f"{folder}: {path} is no module of a LoRA; move it away, or give a lower --last")
            modules[name] = LoraModule(down, weights[path + UP], alpha)
    return Lora(modules, family)


def _alpha(settings: Path) -> float:
    """As a run's settings tell it."""
    try:
        return float(toml_in(settings)["network"]["alpha"])
    except (OSError, ValueError, KeyError, TypeError):
        raise LoraError(f"{settings}: tells no alpha, which the run's checkpoints need; give a lower --last") from None
