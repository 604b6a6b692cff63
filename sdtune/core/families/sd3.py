"""Stable Diffusion 3 and 3.5: a transformer over image and text together, trained as a flow.

Esser et al. 2024, arXiv:2403.03206. Captions come through two CLIPs and T5; T5 may be left out, and counts as zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from sdtune.core.families.base import Family, Shapes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sdtune.core.diffusion import Noisy

_ATTENTION = r"attn2?\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
_FEED_FORWARD = r"ff(_context)?\.net\.(0\.proj|2)"


class SD3(Family):
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
    reference = "sd35-medium"
    resolution = 1024
    defaults: ClassVar[dict[str, Any]] = {
        "network": {"alpha": 16, "layers": "attention"},
        "timesteps": {"kind": "logit-normal"},
        "weighting": {"kind": "constant"},
        "schedule": {"kind": "constant"},
    }

    def recognises_config(self, config: Mapping[str, Any]) -> bool:
        return config.get("_class_name") == "SD3Transformer2DModel"

    def recognises(self, shapes: Shapes) -> bool:
        return any(key.startswith("model.diffusion_model.joint_blocks.") for key in shapes)

    def recognises_lora(self, shapes: Shapes) -> bool:
        return any(module.startswith("transformer.") for module in shapes)

    def architecture(self, prediction: str) -> str:
        return "stable-diffusion-3"

    def lora_targets(self, layers: str) -> str:
        inside = {"attention": _ATTENTION, "attention+ff": f"({_ATTENTION}|{_FEED_FORWARD})"}[layers]
        return rf"transformer_blocks\.\d+\.{inside}"

    def encode_captions(self, pipe: Any, captions: Sequence[str]) -> dict[str, Tensor]:
        import torch

        texts = list(captions)
        with torch.no_grad():
            states, _, pooled, _ = pipe.encode_prompt(
                texts, texts, texts, device=pipe.text_encoder_2.device, do_classifier_free_guidance=False
            )
        return {"encoder_hidden_states": states, "pooled_projections": pooled}

    def denoise(self, net: nn.Module, noisy: Noisy, conditioning: Mapping[str, Tensor]) -> Tensor:
        prediction: Tensor = net(noisy.latents, timestep=noisy.timesteps, return_dict=False, **conditioning)[0]
        return prediction
