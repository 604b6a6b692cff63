"""Networks that peft trains do to weights what peft's own layers do."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from torch import Tensor, nn

from sdtune.core.adapters import adapters
from sdtune.core.adapters.base import flat

LAYERS: dict[str, nn.Module] = {
    "linear": nn.Linear(24, 32),
    "conv1": nn.Conv2d(24, 32, 1),
    "conv3": nn.Conv2d(24, 32, 3, padding=1),
}
CONFIGS: dict[str, tuple[str, Any]] = {
    "LoHa": ("LoHa", LoHaConfig(r=4, alpha=6, init_weights=False)),
    "LoHa of Tucker's form": ("LoHa", LoHaConfig(r=4, alpha=6, init_weights=False, use_effective_conv2d=True)),
    "LoKr": ("LoKr", LoKrConfig(r=2, alpha=6, init_weights=False)),
    "LoKr of small factors": ("LoKr", LoKrConfig(r=2, alpha=6, init_weights=False, decompose_factor=2)),
    "LoKr, both products": ("LoKr", LoKrConfig(r=2, alpha=6, init_weights=False, decompose_both=True)),
    "LoKr of Tucker's form": ("LoKr", LoKrConfig(r=2, alpha=6, init_weights=False, use_effective_conv2d=True)),
    "LoKr, both whole": ("LoKr", LoKrConfig(r=64, alpha=64, init_weights=False)),
    "LoRA": ("LoRA", LoraConfig(r=4, lora_alpha=6, init_lora_weights=False)),
    "DoRA": ("DoRA", LoraConfig(r=4, lora_alpha=6, init_lora_weights=False, use_dora=True)),
}
ROLES = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight"}
ROLES["lora_magnitude_vector.weight"] = "lora_magnitude_vector"


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", CONFIGS)
def test_it_makes_of_weights_what_peft_makes(name: str, layer: str) -> None:
    kind, config = CONFIGS[name]
    config = copy.deepcopy(config)
    config.target_modules = ["0"]
    plain = nn.Sequential(copy.deepcopy(LAYERS[layer]))
    model: Any = get_peft_model(copy.deepcopy(plain), config)
    tensors: dict[str, Tensor] = {}
    for key, value in model.base_model.model[0].named_parameters():
        role = key.replace(".default", "")
        if not role.startswith("base_layer."):
            value.data = torch.randn(value.shape)
            tensors[ROLES.get(role, role)] = value.detach().clone()
    weight = plain[0].weight.detach()
    merged = model.merge_and_unload()[0].weight.detach()
    rows = weight.reshape(flat(weight.shape))
    delta = adapters()[kind].from_tensors(tensors, 64.0 if "whole" in name else 6.0).delta(rows)
    assert merged.sub(weight).abs().max() > 0.1
    torch.testing.assert_close(delta, (merged - weight).reshape(rows.shape), rtol=1e-4, atol=1e-4)
