"""Forge's own code: the keys that it looks for in a LoRA, and the weights that it makes of them."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from safetensors.torch import load_file
from torch import Tensor
from typing_extensions import override

from tools.interop.borrowed import importing
from tools.interop.comfyui import place_of
from tools.interop.outcome import STRENGTH, Changes, Program, Weight
from tools.interop.released import Released

_DEEP = {"num_res_blocks": [2] * 4, "channel_mult": [1, 2, 4, 4], "transformer_depth_middle": 1}
_DEEP |= {"transformer_depth": [1] * 6 + [0] * 2, "transformer_depth_output": [1] * 9 + [0] * 3}
CONFIGS: dict[str, dict[str, Any]] = {
    "sd1": _DEEP,
    "sd2": _DEEP,
    "sdxl": {
        "num_res_blocks": [2] * 3,
        "channel_mult": [1, 2, 4],
        "transformer_depth_middle": 10,
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    },
    "sd3": {},
}
"""what it knows of the U-Nets"""


class Forge(Program):
    """Its package `backend`, on the CPU."""

    def __init__(self, repository: Path, version: str) -> None:
        self.name = f"Forge {version}"
        with importing(repository, frozenset({"gguf"}), ["--always-cpu"]), contextlib.redirect_stdout(io.StringIO()):
            self._lora = importlib.import_module("backend.patcher.lora")

    @override
    def changes(self, path: Path, released: Released, modules: Collection[str], weight: Weight) -> Changes:
        shapes = {}
        for name, shape in released.shapes.items():
            module = name.removesuffix(".weight")
            if module.startswith("text_encoder") and module != name:
                shapes[place_of(released, module).key] = shape
        clip = SimpleNamespace(state_dict=lambda: shapes)
        inside = {key.removeprefix("model."): tuple(value.shape) for key, value in released.checkpoint.items()}
        inside = {key: shape for key, shape in inside.items() if key.startswith("diffusion_model.")}
        unet = SimpleNamespace(
            state_dict=lambda: inside,
            diffusion_model=SimpleNamespace(config=CONFIGS[released.family]),
            config=SimpleNamespace(huggingface_repo=released.family),
        )
        shapes |= inside
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            patches, rest = self._lora.load_lora(load_file(path), self._lora.model_lora_keys_unet(unet, {}))
            others, rest = self._lora.load_lora(rest, self._lora.model_lora_keys_clip(clip, {}))
        patches = patches | others

        def change(module: str) -> tuple[Tensor, Tensor] | None:
            place = place_of(released, module)
            if place.key not in patches:
                return None
            before = weight(place.key, shapes[place.key])
            told = [(STRENGTH, patches[place.key], 1.0, None, None)]
            after = self._lora.merge_lora_to_weight(told, before.clone(), place.key)
            return place.rows(before), place.rows(after) - place.rows(before)

        meant = {place_of(released, module).key for module in modules}
        return Changes(change, len(patches.keys() - meant), tuple(f"key not loaded: {key}" for key in rest))
