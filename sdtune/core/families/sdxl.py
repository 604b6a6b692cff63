"""Stable Diffusion XL: a U-Net that reads captions through two CLIPs and is told of sizes and crops.

Podell et al. 2023, arXiv:2307.01952, sec. 2.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from sdtune.core.families import clip
from sdtune.core.families.base import Shapes
from sdtune.core.families.unet import UNetFamily, caption_widths

if TYPE_CHECKING:
    from torch import Tensor


class SDXL(UNetFamily):
    """The family at 1024 pixels that most people train today."""

    name = "sdxl"
    title = "Stable Diffusion XL"
    pipeline = "StableDiffusionXLPipeline"
    text_encoders = ("text_encoder", "text_encoder_2")
    optional_parts = ("feature_extractor", "image_encoder")
    kohya_prefixes: ClassVar[dict[str, str]] = {
        "unet": "lora_unet",
        "text_encoder": "lora_te1",
        "text_encoder_2": "lora_te2",
    }
    numbered_blocks = True
    base_version = "sdxl_base_v1-0"
    marks = ("sdxl", "stable-diffusion-xl")
    models: ClassVar[dict[str, str]] = {"sdxl": "stabilityai/stable-diffusion-xl-base-1.0"}
    inpainting_model = "diffusers/stable-diffusion-xl-1.0-inpainting-0.1"
    resolution = 1024

    @override
    def recognises_config(self, config: Mapping[str, Any]) -> bool:
        return super().recognises_config(config) and config.get("addition_embed_type") == "text_time"

    @override
    def recognises(self, shapes: Shapes) -> bool:
        in_first_level = (
            "model.diffusion_model.input_blocks.1.1."  # SD2's unCLIP has label_emb, too, and attention here
        )
        return any(key.startswith("model.diffusion_model.label_emb.") for key in shapes) and not any(
            key.startswith(in_first_level) for key in shapes
        )

    @override
    def recognises_lora(self, shapes: Shapes) -> bool:
        deeper = any(module.startswith("unet.") and ".transformer_blocks.1." in module for module in shapes)
        second = any(module.startswith("text_encoder_2.") for module in shapes)
        of_sd3 = any(module.startswith("transformer.") for module in shapes)
        return caption_widths(shapes) == {2048} or deeper or (second and not of_sd3)

    @override
    def architecture(self, prediction: str) -> str:
        return "stable-diffusion-xl-v1-base"

    @override
    def encode_captions(
        self,
        pipe: Any,
        captions: Sequence[str],
        *,
        chunks: int = 1,
        clip_skip: int | None = None,
        weighted: bool = False,
        breaks: bool = False,
    ) -> dict[str, Tensor]:
        states, pooled = clip.encode_both(pipe, captions, chunks=chunks, weighted=weighted, breaks=breaks)
        return {"encoder_hidden_states": states, "text_embeds": pooled[-1]}

    @override
    def unread_layers(self, part: str, clip_skip: int | None) -> int:
        return 1 if part == "text_encoder" else 0  # the second's last is projected

    @override
    def condition_on_size(
        self, original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int]
    ) -> dict[str, Tensor]:
        import torch

        pairs = (original, crop, target)
        return {"time_ids": torch.tensor([float(value) for width, height in pairs for value in (height, width)])}
