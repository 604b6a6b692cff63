"""What the families with a U-Net share: its transformer blocks, and its kohya names of old."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from sdtune.core.families.base import Family, Shapes

if TYPE_CHECKING:
    from torch import Tensor, nn

_ATTENTION = r"attn[12]\.(to_q|to_k|to_v|to_out\.0)"
_FEED_FORWARD = r"ff\.net\.(0\.proj|2)"
_CONVOLUTIONS = r".*\.resnets\.\d+\.conv[12]"


class UNetFamily(Family):
    """A family whose denoiser is diffusers' UNet2DConditionModel.

    Inpainting models also see conditioning["inpainting"] [B, 5, h, w]: the mask, then the latents of the masked image.
    """

    @override
    def recognises_config(self, config: Mapping[str, Any]) -> bool:
        return bool(config.get("_class_name", "UNet2DConditionModel") == "UNet2DConditionModel")

    @override
    def lora_targets(self, layers: str) -> str:
        inside = _ATTENTION if layers == "attention" else f"({_ATTENTION}|{_FEED_FORWARD})"
        blocks = rf".*\.transformer_blocks\.\d+\.{inside}"
        return rf"{blocks}|{_CONVOLUTIONS}" if layers == "attention+ff+conv" else blocks

    @override
    def denoise(self, net: nn.Module, x_t: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        import torch

        own = ("encoder_hidden_states", "inpainting")
        added = {name: value for name, value in conditioning.items() if name not in own}
        seen = torch.cat([x_t, conditioning["inpainting"]], dim=1) if "inpainting" in conditioning else x_t
        prediction: Tensor = net(
            seen,
            timesteps,
            encoder_hidden_states=conditioning["encoder_hidden_states"],
            added_cond_kwargs=added or None,
            return_dict=False,
        )[0]
        return prediction


def has_linear_projections(shapes: Shapes) -> bool | None:
    """Whether the U-Net's transformers are entered through matrices rather than 1x1 convolutions; None: not told."""
    for key, shape in shapes.items():
        if key.startswith("model.diffusion_model.") and key.endswith(".proj_in.weight"):
            return len(shape) == 2
    return None


def caption_widths(shapes: Shapes) -> set[int]:
    """Widths of the captions that a LoRA's cross-attention layers read, from its down matrices [rank, width]."""
    readers = (".attn2.to_k", ".attn2.to_v")
    return {shape[1] for module, shape in shapes.items() if module.startswith("unet.") and module.endswith(readers)}
