"""Stable Diffusion 3 and 3.5: a transformer over image and text together, trained as a flow.

Esser et al. 2024, arXiv:2403.03206. Captions come through two CLIPs and T5; T5 may be left out, and counts as zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from sdtune.core.families.base import Family, Shapes

if TYPE_CHECKING:
    from torch import Tensor, nn

_ATTENTION = r"attn2?\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
_FEED_FORWARD = r"ff(_context)?\.net\.(0\.proj|2)"


class SD3(Family):
    """The family without a U-Net."""

    name = "sd3"
    title = "Stable Diffusion 3"
    pipeline = "StableDiffusion3Pipeline"
    denoiser = "transformer"
    text_encoders = ("text_encoder", "text_encoder_2", "text_encoder_3")
    optional_parts = ("text_encoder_3", "tokenizer_3", "feature_extractor", "image_encoder")
    kohya_prefixes: ClassVar[dict[str, str]] = {
        "transformer": "lora_unet",
        "text_encoder": "lora_te1",
        "text_encoder_2": "lora_te2",
        "text_encoder_3": "lora_te3",
    }
    lora_form = "diffusers"
    base_version = "sd3"
    marks = ("sd3", "stable-diffusion-3")
    models: ClassVar[dict[str, str]] = {
        name: f"stabilityai/stable-diffusion-{release}"
        for name, release in (("sd35-medium", "3.5-medium"), ("sd35-large", "3.5-large"), ("sd3", "3-medium-diffusers"))
    }
    resolution = 1024
    predictions = frozenset({"flow"})
    alpha_share = 1.0
    defaults: ClassVar[dict[str, Any]] = {
        "network": {"layers": "attention"},
        "timesteps": {"kind": "logit-normal"},
        "weighting": {"kind": "constant"},
        "schedule": {"kind": "constant"},
    }

    @override
    def recognises_config(self, config: Mapping[str, Any]) -> bool:
        return config.get("_class_name") == "SD3Transformer2DModel"

    @override
    def recognises(self, shapes: Shapes) -> bool:
        return any(key.startswith("model.diffusion_model.joint_blocks.") for key in shapes)

    @override
    def reference(self, shapes: Shapes) -> str:
        has_block_37 = any(key.startswith("model.diffusion_model.joint_blocks.37.") for key in shapes)
        attends_twice = any(".x_block.attn2." in key for key in shapes)
        return self.models["sd35-large" if has_block_37 else "sd35-medium" if attends_twice else "sd3"]

    @override
    def recognises_lora(self, shapes: Shapes) -> bool:
        return any(module.startswith("transformer.") for module in shapes)

    @override
    def architecture(self, prediction: str) -> str:
        return "stable-diffusion-3"

    @override
    def lora_targets(self, layers: str) -> str:
        inside = _ATTENTION if layers == "attention" else f"({_ATTENTION}|{_FEED_FORWARD})"  # it has no convolutions
        return rf"transformer_blocks\.\d+\.{inside}"

    @override
    def encode_captions(self, pipe: Any, captions: Sequence[str]) -> dict[str, Tensor]:
        import torch

        texts = list(captions)
        with torch.no_grad():
            states, _, pooled, _ = pipe.encode_prompt(
                texts, texts, texts, device=pipe.text_encoder_2.device, do_classifier_free_guidance=False
            )
        return {"encoder_hidden_states": states, "pooled_projections": pooled}

    @override
    def denoise(self, net: nn.Module, x_t: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        prediction: Tensor = net(x_t, timestep=timesteps, return_dict=False, **conditioning)[0]
        return prediction
