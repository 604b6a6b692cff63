"""A LoRA in memory, taken out of a model and put into one.

A module's weights change by strength x alpha / rank x up @ down.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdtune.core import lora_names as names
from sdtune.core.adapters import Adapter, LoraModule
from sdtune.core.families import Family, family_named
from sdtune.errors import LoraError

SAMPLED = 64  # numbers of each weight in a fingerprint


@dataclass(frozen=True)
class Lora:
    """A LoRA in memory."""

    modules: Mapping[str, Adapter]
    """by the pipeline's part and diffusers' path in it (see lora_names.py)"""
    family: str | None
    """sd1, sd2, sdxl, sd3; None where neither names, shapes nor metadata tell sd1 from sd2"""
    metadata: Mapping[str, str] = field(default_factory=dict)
    biases: Mapping[str, Tensor] = field(default_factory=dict)
    """what is added to the biases of some modules [out], by the same names"""
    embeddings: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """new words that are bundled with it: {word: {"text_encoder": vectors [n, width]}}, by part of the pipeline"""


def from_peft(
    net: nn.Module,
    family: Family,
    metadata: Mapping[str, str] | None = None,
    adapter_name: str = "default",
    text_encoders: Mapping[str, nn.Module] | None = None,
) -> Lora:
    """The adapter that peft put into the denoiser (and text encoders, by part); each module's alpha as it acts."""
    modules = {}
    for part, trained in {family.denoiser: net, **(text_encoders or {})}.items():
        for path, layer in trained.named_modules():
            if adapter_name not in getattr(layer, "lora_A", ()):
                continue
            assert not layer.use_dora.get(adapter_name), "a DoRA is no plain LoRA"
            down = layer.lora_A[adapter_name].weight.detach()
            up = layer.lora_B[adapter_name].weight.detach()
            name = names.from_dotted(f"{part}.{path}")
            assert name, f"{part}.{path} has no name in files"
            modules[name] = LoraModule(down, up, layer.scaling[adapter_name] * down.shape[0])
    assert modules, f"there is no adapter {adapter_name}"
    return Lora(modules, family.name, metadata or {})


@contextmanager
def at_strength(net: nn.Module, strength: float, adapter_name: str = "default") -> Iterator[None]:
    """The denoiser with its adapter acting that strongly, meanwhile."""
    from peft.tuners.lora import LoraLayer

    layers = [layer for layer in net.modules() if isinstance(layer, LoraLayer)]
    for layer in layers:
        layer.set_scale(adapter_name, strength)
    try:
        yield
    finally:
        for layer in layers:
            layer.set_scale(adapter_name, 1.0)


def fingerprint(net: nn.Module) -> str:
    """A hash of some numbers of each frozen weight: another model has another."""
    digest = hashlib.sha256()
    for name, weight in net.named_parameters():
        if not weight.requires_grad:
            flat = weight.detach().flatten()
            digest.update(name.encode() + flat[:: max(1, len(flat) // SAMPLED)].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def check_family(lora: Lora, family: Family, path: Path) -> None:
    """Stop at a LoRA of another family than the model's."""
    if lora.family and lora.family != family.name:
        made_for = family_named(lora.family).title
        raise LoraError(f"{path}: a LoRA for {made_for}, but the model is {family.title}; choose one to fit the other")


def load_into(pipe: Any, lora: Lora, strength: float = 1.0, adapter_name: str = "lora") -> None:
    """Put a LoRA beside a pipeline's weights through peft, in float32.

    Several act together, each under a name of its own and at its own strength.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    for part, wanted in _in_pipeline(lora, pipe).items():
        net = getattr(pipe, part)
        config = LoraConfig(
            r=1,
            lora_alpha=1,
            rank_pattern={f"^{path}": module.rank for path, module in wanted.items()},
            alpha_pattern={f"^{path}": module.alpha for path, module in wanted.items()},
            target_modules="|".join(path.replace(".", r"\.") for path in wanted),
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several LoRAs are what is wanted
            inject_adapter_in_model(config, net, adapter_name)
        for path, module in wanted.items():
            layer = net.get_submodule(path)
            for matrices, value in ((layer.lora_A, module.down), (layer.lora_B, module.up)):
                weight = matrices[adapter_name].weight
                weight.data = value.to(weight.device, torch.float32).reshape(weight.shape)
            layer.set_scale(adapter_name, strength)
        for layer in net.modules():
            if isinstance(layer, LoraLayer):
                layer.set_adapter(list(layer.lora_A))
        net.requires_grad_(False)
        net._hf_peft_config_loaded = True  # so that diffusers knows of it, too


def _in_pipeline(lora: Lora, pipe: Any) -> dict[str, dict[str, LoraModule]]:
    """{part: {path as spelt in memory: module}}, every one of them there and of the right shape."""
    remedy = "choose the model that the LoRA was made for"
    found: dict[str, dict[str, LoraModule]] = {}
    for part in sorted({names.split(name)[0] for name in lora.modules}):
        net = getattr(pipe, part, None)
        if net is None:
            raise LoraError(f"the LoRA changes a {part}, which the model has not; {remedy}")
        layers = dict(net.named_modules())
        found[part] = {}
        for name, module in lora.modules.items():
            if names.split(name)[0] != part:
                continue
            path = names.in_model(name, layers)
            shape = _shape(layers.get(path))
            if shape is None:
                raise LoraError(f"the LoRA changes {name}, which the model has not; {remedy}")
            given = (module.up.shape[0], module.down.flatten(1).shape[1])
            if given != shape:
                raise LoraError(f"the LoRA changes {name} as {given}, but in the model it is {shape}; {remedy}")
            found[part][path] = module
    return found


def _shape(layer: Any) -> tuple[int, int] | None:
    """(out, in) of a layer that can take a LoRA, flattened for a convolution."""
    layer = getattr(layer, "base_layer", layer)
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels, layer.in_channels * math.prod(layer.kernel_size)
    if isinstance(layer, nn.Linear):  # its weight may be packed in 4 bits
        return layer.out_features, layer.in_features
    return None
