"""diffusers' own code: load_lora_weights over pipelines whose weights are never touched, and peft's merge by layers."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import diffusers
import peft
import torch
import transformers
from torch import Tensor, nn
from typing_extensions import override

from sdtune.core import lora_names as names
from sdtune.core.families import family_named
from tools.interop.outcome import STRENGTH, Changes, Program, Weight
from tools.interop.released import Released


class Diffusers(Program):
    """As it is installed."""

    name = f"diffusers {diffusers.__version__}, peft {peft.__version__}, transformers {transformers.__version__}"

    @override
    def changes(self, path: Path, released: Released, modules: Collection[str], weight: Weight) -> Changes:
        parts = {part: net.to_empty(device="cpu") for part, net in released.parts().items()}
        pipe = _pipeline(released.family, parts)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            pipe.load_lora_weights(path.parent, weight_name=path.name, adapter_name="ours")
            pipe.set_adapters("ours", STRENGTH)
        layers = {}
        for part, net in parts.items():
            for where, layer in net.named_modules():
                if "ours" in getattr(layer, "lora_A", ()):
                    layers[names.from_dotted(f"{part}.{where}") or where] = layer

        def change(module: str) -> tuple[Tensor, Tensor] | None:
            if module not in layers:
                return None
            layer: Any = layers[module]
            before = weight(module, released.shapes[f"{module}.weight"])
            inside = layer.get_base_layer()
            inside.weight, given = nn.Parameter(before.clone(), requires_grad=False), inside.weight
            layer.merge(adapter_names=["ours"])
            after = inside.weight.detach()
            layer.merged_adapters.clear()
            inside.weight = given
            return before.flatten(1), (after - before).flatten(1)

        return Changes(change, len(layers.keys() - set(modules)), tuple(str(one.message) for one in told))


def _pipeline(family: str, parts: dict[str, nn.Module]) -> Any:
    kind = getattr(diffusers, family_named(family).pipeline)
    scheduler = (
        diffusers.FlowMatchEulerDiscreteScheduler()
        if family == "sd3"
        else diffusers.EulerDiscreteScheduler(steps_offset=1)
    )
    wanted = dict.fromkeys(kind._get_signature_keys(kind)[0])
    options: dict[str, Any] = {"add_watermarker": False} if family == "sdxl" else {}
    options |= {"requires_safety_checker": False} if family in ("sd1", "sd2") else {}
    with torch.device("meta"):
        return kind(**(wanted | parts | {"scheduler": scheduler}), **options)
