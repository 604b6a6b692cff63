"""Plain LoRAs beside the weights of a net, through peft: put in, acting more or less strongly, and taken out again."""

from __future__ import annotations

import re
import warnings
from collections.abc import Hashable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from sdtune.core.adapters import LoraModule

Beside = Mapping[str, tuple[LoraModule, float]]
"""{path as spelt in memory: plain LoRA, strength}"""
_OF_PEFT = ("peft_config", "_hf_peft_config_loaded")
"""what tells peft and diffusers of adapters in a net"""
_Value = TypeVar("_Value", bound=Hashable)


def put_beside(net: Any, wanted: Beside, adapter_name: str) -> None:
    """A LoRA under this name, in float32; those that are there already go on acting."""
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    config = LoraConfig(
        r=1,
        lora_alpha=1,
        rank_pattern=_patterns({path: module.rank for path, (module, _) in wanted.items()}),
        alpha_pattern=_patterns({path: module.alpha for path, (module, _) in wanted.items()}),
        target_modules="|".join(map(re.escape, wanted)),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several LoRAs are what is wanted
        inject_adapter_in_model(config, net, adapter_name, low_cpu_mem_usage=True)  # its own numbers are not needed
    fill_beside(net, wanted, adapter_name)
    for layer in net.modules():
        if isinstance(layer, LoraLayer):
            layer.set_adapter(list(layer.lora_A))  # peft has let all but the new one rest
    net.requires_grad_(False)
    net._hf_peft_config_loaded = True  # so that diffusers knows of it, too


def fill_beside(net: Any, wanted: Beside, adapter_name: str) -> None:
    """A LoRA in the place of one of the same `form` that is there under this name; takes a tenth of putting it in."""
    for path, (module, strength) in wanted.items():
        layer = net.get_submodule(path)
        for matrices, value in ((layer.lora_A, module.down), (layer.lora_B, module.up)):
            own = matrices[adapter_name]
            full = value.to(layer.base_layer.weight.device, torch.float32).reshape(own.weight.shape)
            own.weight = nn.Parameter(full, requires_grad=False)
        layer.set_scale(adapter_name, strength)


def form(wanted: Beside) -> dict[str, tuple[int, float]]:
    """{path: rank and alpha}, which peft is told once."""
    return {path: (module.rank, module.alpha) for path, (module, _) in wanted.items()}


def take_out(net: Any) -> None:
    """All of them; the net is what it was before the first."""
    from peft.tuners.lora import LoraLayer

    layers = {path: layer for path, layer in net.named_modules() if isinstance(layer, LoraLayer)}
    for path, layer in layers.items():
        net.set_submodule(path, layer.base_layer)
    for name in _OF_PEFT:
        if name in vars(net):
            delattr(net, name)


def _patterns(values: Mapping[str, _Value]) -> dict[str, _Value]:
    """One a value, as peft tries one after the other at each module: one a module takes half a minute."""
    paths: dict[_Value, list[str]] = {}
    for path, value in values.items():
        paths.setdefault(value, []).append(re.escape(path))
    return {f"^({'|'.join(some)})": value for value, some in paths.items()}
