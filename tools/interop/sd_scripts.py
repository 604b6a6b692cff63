"""sd-scripts' own code: its networks.lora over its own U-Nets."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from tools.gpu.shapes import DENOISERS
from tools.interop.borrowed import importing
from tools.interop.outcome import STRENGTH, Changes, Program, Weight
from tools.interop.released import Released

UNUSED = frozenset({"torchvision", "cv2"})


class SdScripts(Program):
    """What its scripts load for drawing and merging."""

    families: ClassVar[frozenset[str]] = frozenset({"sd1", "sd2", "sdxl"})

    def __init__(self, repository: Path, version: str) -> None:
        self.name = f"sd-scripts {version}"
        with importing(repository, UNUSED):
            self._lora = importlib.import_module("networks.lora")
            self._unet = importlib.import_module("library.original_unet")
            self._sdxl = importlib.import_module("library.sdxl_original_unet")

    @override
    def changes(self, path: Path, released: Released, modules: Collection[str], weight: Weight) -> Changes:
        with torch.device("meta"):
            numbered = released.family == "sdxl"
            unet = (
                self._sdxl.SdxlUNet2DConditionModel()
                if numbered
                else self._unet.UNet2DConditionModel(**DENOISERS[released.family])
            )
        encoders = [wrapped(net) for part, net in released.parts().items() if part.startswith("text_")]
        with contextlib.redirect_stdout(io.StringIO()):
            network, tensors = self._lora.create_network_from_weights(
                STRENGTH, str(path), None, encoders if numbered else encoders[0], unet, for_inference=True
            )
            found = network.text_encoder_loras + network.unet_loras
            for lora in found:
                network.add_module(lora.lora_name, lora)
            told = network.load_state_dict(tensors, strict=False)
        paths = {id(net): f"unet.{path}" for path, net in unet.named_modules()}
        for number, encoder in enumerate(encoders):
            part = "text_encoder_2" if number else "text_encoder"
            paths |= {id(net): f"{part}.{path}" for path, net in encoder.named_modules()}
        loras = {paths[id(lora.org_module)]: lora for lora in found}

        def where(module: str) -> str:
            if not numbered or not module.startswith("unet."):
                return module
            return (
                released.places[f"{module}.weight"].key.removeprefix("model.diffusion_model.").removesuffix(".weight")
            )

        def change(module: str) -> tuple[Tensor, Tensor] | None:
            lora = loras.get(f"unet.{where(module)}" if module.startswith("unet.") and numbered else module)
            if lora is None:
                return None
            value: Tensor = lora.get_weight().flatten(1).detach()
            return torch.zeros_like(value), value

        lost = [key for key in (*told.missing_keys, *told.unexpected_keys) if ".org_module." not in key]
        return Changes(change, max(0, len(loras) - len(modules)), tuple(f"key not loaded: {key}" for key in lost))


def wrapped(encoder: nn.Module) -> nn.Module:
    """A text encoder as the transformers that sd-scripts asks for names its modules: text_model.encoder ..."""
    if hasattr(encoder, "text_model"):
        return encoder
    whole: Any = nn.Module()
    whole.text_model = encoder
    whole.device = torch.device("cpu")
    return whole  # type: ignore[no-any-return]
