"""A LoRA of ours at real shapes, and what it must add to each weight."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from sdtune.core import lora_file
from sdtune.core import lora_names as names
from sdtune.core.adapters import Adapter
from sdtune.core.families import family_named
from sdtune.core.lora_file import Lora

RANK, ALPHA = 8, 4.0
ODD_ALPHA = {"mlp.fc1": 3.0, "attn1.to_k": 3.0, "attn.to_k": 3.0}
"""ends of the names of modules whose alpha is another than the others'"""
TEXT_LAYERS = r".*(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"


class Subject(ABC):
    """A LoRA, and what must come of it."""

    lora: Lora
    network: str
    needs_base = False
    """whether what it adds depends on the weights"""

    @property
    def family(self) -> str:
        """sd1, sd2, sdxl, sd3"""
        assert self.lora.family
        return self.lora.family

    @abstractmethod
    def delta(self, module: str, base: Tensor) -> Tensor:
        """What a module's weights change by at strength 1, flat [out, in x k x k], in float32."""


class Trained(Subject):
    """peft's LoRA of random numbers on attention, feed-forward and convolutions, and on text encoders."""

    network = "LoRA"

    def __init__(self, family: str, parts: Mapping[str, nn.Module]) -> None:
        about = family_named(family)
        encoders = {part: net for part, net in parts.items() if part.startswith("text_encoder")}
        targets = {about.denoiser: about.lora_targets("attention+ff+conv")} | dict.fromkeys(encoders, TEXT_LAYERS)
        self._layers: dict[str, Any] = {}
        for seed, (part, wanted) in enumerate(sorted(targets.items())):
            _inject(parts[part], wanted, torch.Generator().manual_seed(seed))
            for path, layer in adapted(parts[part]):
                self._layers[names.from_dotted(f"{part}.{path}") or ""] = layer
        self.lora = lora_file.from_peft(parts[about.denoiser], about, text_encoders=encoders)

    @override
    def delta(self, module: str, base: Tensor) -> Tensor:
        change: Tensor = self._layers[module].get_delta_weight("default").detach()
        return change.flatten(1)


class Made(Subject):
    """A network that is no plain LoRA, of random numbers, on the same modules."""

    def __init__(self, network: str, family: str, modules: Mapping[str, Adapter]) -> None:
        self.network = network
        self.lora = Lora(modules, family)
        self.needs_base = any(module.needs_base for module in modules.values())

    @override
    def delta(self, module: str, base: Tensor) -> Tensor:
        return self.lora.modules[module].delta(base)


def adapted(net: nn.Module) -> list[tuple[str, Any]]:
    """The layers that peft has changed, by path."""
    from peft.tuners.lora import LoraLayer

    return [(path, layer) for path, layer in net.named_modules() if isinstance(layer, LoraLayer)]


def _inject(net: nn.Module, targets: str, generator: torch.Generator) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets, alpha_pattern=ODD_ALPHA)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The following alpha_pattern keys")  # each part has some of them
        inject_adapter_in_model(config, net, "default")
    for _, layer in adapted(net):
        for matrices in (layer.lora_A, layer.lora_B):
            shape = matrices["default"].weight.shape
            matrices["default"].weight = nn.Parameter(torch.empty(shape).normal_(0, 0.1, generator=generator))
