"""The released models by their public configs: every tensor's name and shape, without weights."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from sdtune.core import lora_names as names
from sdtune.core.families import family_named
from sdtune.core.families.base import Shapes
from tools.gpu import shapes as configs
from tools.interop import layout

VIT_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
VIT_H = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}
VIT_BIGG = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
TEXT_ENCODERS: dict[str, dict[str, dict[str, int]]] = {
    "sd1": {"text_encoder": VIT_L},
    "sd2": {"text_encoder": VIT_H},
    "sdxl": {"text_encoder": VIT_L, "text_encoder_2": VIT_BIGG},
    "sd3": {"text_encoder": VIT_L, "text_encoder_2": VIT_BIGG},
}
"""family -> part -> what its CLIP is; sd3's T5 is left out"""


class Released:
    """A family's released model: SD 1.5, SD 2.1, SDXL, SD 3.5 medium."""

    def __init__(self, family: str) -> None:
        self.family = family

    def parts(self, device: str = "meta") -> dict[str, nn.Module]:
        """The denoiser, the text encoders and the VAE, with random weights where the device has any."""
        with torch.device(device):
            made = {family_named(self.family).denoiser: configs.denoiser(self.family), "vae": configs.vae(self.family)}
            return made | {part: self._clip(part) for part in TEXT_ENCODERS[self.family]}

    @cached_property
    def shapes(self) -> Shapes:
        """Of every tensor, by part and diffusers' name; text encoders' with text_model., as in files."""
        return {name: tuple(value.shape) for name, value in named(self.parts()).items()}

    @cached_property
    def places(self) -> dict[str, layout.Place]:
        """Where weights lie in the original layout."""
        return layout.places(self.family, self.shapes)

    @cached_property
    def checkpoint(self) -> dict[str, Tensor]:
        """The model in the original layout, without numbers."""
        return layout.tensors(self.family, self.shapes)

    def _clip(self, part: str) -> nn.Module:
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

        config: dict[str, Any] = TEXT_ENCODERS[self.family][part]
        activation = "quick_gelu" if config is VIT_L else "gelu"
        settings = CLIPTextConfig(
            vocab_size=49408, projection_dim=config["hidden_size"], hidden_act=activation, **config
        )
        projects = self.family == "sd3" or part == "text_encoder_2"
        made: nn.Module = (CLIPTextModelWithProjection if projects else CLIPTextModel)(settings)
        return made.eval()


def named(parts: dict[str, nn.Module]) -> dict[str, Tensor]:
    """Every tensor of a model by part and diffusers' name."""
    found = {}
    for part, net in parts.items():
        for key, value in net.state_dict().items():
            module, _, kind = key.rpartition(".")
            known = names.from_dotted(f"{part}.{module}") if part in names.PARTS else None
            found[f"{known or f'{part}.{module}'}.{kind}"] = value
    return found
