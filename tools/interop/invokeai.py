"""InvokeAI's own code: keys told apart, modules found, and each layer's change."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

from safetensors.torch import load_file
from torch import Tensor
from typing_extensions import override

from tools.interop.borrowed import importing
from tools.interop.outcome import STRENGTH, Changes, Program, Weight
from tools.interop.released import Released
from tools.interop.sd_scripts import wrapped

UNUSED = frozenset(
    {
        "invokeai.app",
        "invokeai.backend.model_manager",
        "invokeai.backend.util.logging",
        "invokeai.backend.util.devices",
        "invokeai.backend.util.fp8",
        "invokeai.backend.util.original_weights_storage",
    }
)
PREFIXES = {
    "sd1": {"unet": "lora_unet_", "text_encoder": "lora_te_"},
    "sd2": {"unet": "lora_unet_", "text_encoder": "lora_te_"},
    "sdxl": {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"},
}
"""family -> part -> what it takes for the start of its keys"""


class InvokeAI(Program):
    """Its package `invokeai.backend.patches`."""

    families: ClassVar[frozenset[str]] = frozenset({"sd1", "sd2", "sdxl"})

    def __init__(self, repository: Path, version: str) -> None:
        self.name = f"InvokeAI {version}"
        patches = "invokeai.backend.patches"
        with importing(repository, UNUSED):
            self._patcher = importlib.import_module(f"{patches}.layer_patcher").LayerPatcher
            self._sd = importlib.import_module(f"{patches}.lora_conversions.sd_lora_conversion_utils")
            self._sdxl = importlib.import_module(f"{patches}.lora_conversions.sdxl_lora_conversion_utils")
            dora: Any = importlib.import_module(f"{patches}.layers.dora_layer")
        dora.cast_to_device = lambda tensor, _: tensor  # lies among the unused; all is on the CPU

    @override
    def changes(self, path: Path, released: Released, modules: Collection[str], weight: Weight) -> Changes:
        tensors: dict[str, Tensor] = load_file(path)
        if released.family == "sdxl":
            tensors = self._sdxl.convert_sdxl_keys_to_diffusers_format(tensors)
        layers = self._sd.lora_model_from_sd_state_dict(tensors).layers
        found: dict[str, Any] = {}
        lost = set(layers)
        for part, prefix in PREFIXES[released.family].items():
            net = released.parts()[part]
            net = wrapped(net) if part.startswith("text_") else net
            for key in [key for key in layers if key.startswith(prefix)]:
                try:
                    where, _ = self._patcher._get_submodule(net, key.removeprefix(prefix), layer_key_is_flattened=True)
                except AttributeError:
                    continue
                found[f"{part}.{where}"] = layers[key]
                lost.discard(key)

        def change(module: str) -> tuple[Tensor, Tensor] | None:
            if module not in found:
                return None
            before = weight(module, released.shapes[f"{module}.weight"])
            added = found[module].get_parameters({"weight": before}, weight=STRENGTH)["weight"]
            return before.flatten(1), added.flatten(1)

        surplus = len(found.keys() - set(modules))
        return Changes(change, surplus, tuple(f"no module for {key}" for key in sorted(lost)))
