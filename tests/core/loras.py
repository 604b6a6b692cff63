"""LoRAs of random A and B on tiny models, and what peft itself makes of them."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer

from sdtune.core import lora_file, lora_names
from sdtune.core.families import family_named
from sdtune.core.lora_file import Lora
from tests import tiny

RANK, ALPHA, ODD_ALPHA = 4, 2.0, 3.0
TEXT_LAYERS = r".*(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"
Deltas = dict[str, torch.Tensor]


def inject(net: Any, targets: str, odd: str, adapter: str = "default") -> None:
    """A LoRA of random A and B, in which the modules whose names end so have an alpha of their own."""
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets, alpha_pattern={odd: ODD_ALPHA})
    inject_adapter_in_model(config, net, adapter)
    generator = torch.Generator().manual_seed(1)
    for layer in net.modules():
        if isinstance(layer, LoraLayer):
            for matrices in (layer.lora_A, layer.lora_B):
                matrices[adapter].weight.data.normal_(0, 0.1, generator=generator)


def deltas(pipe: Any, parts: list[str], adapter: str) -> Deltas:
    """What peft itself would add to each module's weights."""
    found = {}
    for part in parts:
        for path, layer in getattr(pipe, part).named_modules():
            if isinstance(layer, LoraLayer) and adapter in layer.lora_A:
                found[lora_names.from_dotted(f"{part}.{path}") or ""] = layer.get_delta_weight(adapter).detach().clone()
    return found


def odd_module(name: str) -> str:
    """A module that is given an alpha of its own."""
    return (
        "transformer_blocks.1.attn.to_k" if name == "sd3" else "mid_block.attentions.0.transformer_blocks.0.attn1.to_k"
    )


def trained(name: str, text: bool = True) -> tuple[Lora, Deltas, list[str]]:
    """A LoRA on a tiny denoiser (and its text encoders), peft's deltas, and the parts."""
    family, pipe = family_named(name), tiny.pipeline(name)
    inject(getattr(pipe, family.denoiser), family.lora_targets("attention+ff+conv"), odd_module(name))
    encoders = {part: getattr(pipe, part) for part in family.text_encoders if getattr(pipe, part)} if text else {}
    for encoder in encoders.values():
        inject(encoder, TEXT_LAYERS, "layers.1.mlp.fc1")
    lora = lora_file.from_peft(getattr(pipe, family.denoiser), family, text_encoders=encoders)
    parts = [family.denoiser, *encoders]
    return lora, deltas(pipe, parts, "default"), parts


def agree(mine: Deltas, theirs: Deltas, dtype: str) -> None:
    assert mine.keys() == theirs.keys()
    for name, delta in theirs.items():
        exact = {"rtol": 1e-6, "atol": 1e-8} if dtype == "fp32" else {"rtol": 5e-3, "atol": 5e-5}
        torch.testing.assert_close(mine[name], delta, msg=lambda told, name=name: f"{name}: {told}", **exact)
