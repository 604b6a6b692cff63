"""Stable Diffusion 1.x: a U-Net that reads captions through CLIP ViT-L/14 (768 wide) and predicts epsilon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from sdtune.core.families import clip
from sdtune.core.families.base import Shapes, clip_skip_told
from sdtune.core.families.unet import UNetFamily, caption_widths, has_linear_projections
from sdtune.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


class SD1(UNetFamily):
    """The family that most of the world's LoRAs belong to."""

    name = "sd1"
    title = "Stable Diffusion 1.x"
    pipeline = "StableDiffusionPipeline"
    text_encoders = ("text_encoder",)
    optional_parts = ("safety_checker", "feature_extractor", "image_encoder")
    kohya_prefixes: ClassVar[dict[str, str]] = {"unet": "lora_unet", "text_encoder": "lora_te"}
    base_version = "sd_v1"
    marks = ("sd_v1", "stable-diffusion-v1")
    models: ClassVar[dict[str, str]] = {"sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5"}
    inpainting_model = "stable-diffusion-v1-5/stable-diffusion-inpainting"
    resolution = 512
    caption_width: ClassVar[int] = 768
    linear_projections: ClassVar[bool] = False

    @override
    def recognises_config(self, config: Mapping[str, Any]) -> bool:
        linear = bool(config.get("use_linear_projection", False))
        plain = config.get("addition_embed_type") is None
        return super().recognises_config(config) and plain and linear == self.linear_projections

    @override
    def recognises(self, shapes: Shapes) -> bool:
        conditioned_on_size = any(key.startswith("model.diffusion_model.label_emb.") for key in shapes)
        return not conditioned_on_size and has_linear_projections(shapes) == self.linear_projections

    @override
    def recognises_lora(self, shapes: Shapes) -> bool:
        return caption_widths(shapes) == {self.caption_width}

    @override
    def version(self, prediction: str) -> str:
        return self.base_version + ("_v" if prediction == "v" else "")

    @override
    def architecture(self, prediction: str) -> str:
        return "stable-diffusion-v1"

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
        states, _ = clip.encode(
            pipe.text_encoder,
            pipe.tokenizer,
            captions,
            chunks=chunks,
            weighted=weighted,
            breaks=breaks,
            layer=clip_skip or 1,
        )
        return {"encoder_hidden_states": states}

    @override
    def check_clip_skip(self, pipe: Any, clip_skip: int | None) -> None:
        layers = pipe.text_encoder.config.num_hidden_layers
        if clip_skip is not None and clip_skip > layers:
            raise ConfigError(f"{clip_skip_told(clip_skip)}: the model has {layers} layers; give 1 to {layers}")

    @override
    def unread_layers(self, part: str, clip_skip: int | None) -> int:
        return (clip_skip or 1) - 1
