"""Stable Diffusion 3 and 3.5: a transformer over image and text together, trained as a flow.

Esser et al. 2024, arXiv:2403.03206. Captions come through two CLIPs and T5; T5 may be left out, and counts as zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from sdtune.core.data.weights import without_breaks, without_weights
from sdtune.core.families import clip
from sdtune.core.families.base import Family, Shapes

if TYPE_CHECKING:
    from torch import Tensor, nn

T5_TOKENS = 256
"""that T5 reads of captions of one chunk, as diffusers has it; of longer ones as many as SD3 was trained with"""
T5_MOST = 512
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

    @property
    @override
    def clips(self) -> tuple[str, ...]:
        return self.text_encoders[:2]

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
        import torch

        states, pooled = clip.encode_both(pipe, captions, chunks=chunks, weighted=weighted, breaks=breaks)
        t5 = self._t5(pipe, captions, chunks, weighted, breaks).to(states)
        states = torch.nn.functional.pad(states, (0, t5.shape[-1] - states.shape[-1]))
        return {
            "encoder_hidden_states": torch.cat([states, t5], dim=1),
            "pooled_projections": torch.cat(pooled, dim=-1),
        }

    @override
    def count_chunks(
        self, pipe: Any, captions: Sequence[str], *, weighted: bool = False, breaks: bool = False
    ) -> list[int]:
        by_clip = super().count_chunks(pipe, captions, weighted=weighted, breaks=breaks)
        by_t5 = self._t5_lengths(pipe, captions, weighted, breaks)
        return [max(count, 1 + (length >= T5_TOKENS)) for count, length in zip(by_clip, by_t5, strict=True)]

    @override
    def most_tokens(self, pipe: Any) -> int | None:
        return None if pipe.text_encoder_3 is None else T5_MOST - 1

    @override
    def _lengths(self, pipe: Any, captions: Sequence[str], weighted: bool, breaks: bool) -> list[list[int]]:
        by_clip = super()._lengths(pipe, captions, weighted, breaks)
        return [*by_clip, self._t5_lengths(pipe, captions, weighted, breaks)]

    def _t5_lengths(self, pipe: Any, captions: Sequence[str], weighted: bool, breaks: bool) -> list[int]:
        """Tokens without the mark of the end; 0 where there is no T5."""
        if pipe.text_encoder_3 is None:
            return [0] * len(captions)
        texts = [_plain(caption, weighted, breaks) for caption in captions]
        return [len(ids) for ids in pipe.tokenizer_3(texts, add_special_tokens=False, verbose=False).input_ids]

    def _t5(self, pipe: Any, captions: Sequence[str], chunks: int, weighted: bool, breaks: bool) -> Tensor:
        """What T5 reads [n, 256 or 512, width], which no weights change; zeros where it is left out."""
        import torch

        if pipe.text_encoder_3 is None:
            return torch.zeros(len(captions), T5_TOKENS, pipe.transformer.config.joint_attention_dim)
        length = T5_TOKENS if chunks == 1 else T5_MOST
        texts = [_plain(caption, weighted, breaks) for caption in captions]
        ids = pipe.tokenizer_3(texts, padding="max_length", max_length=length, return_tensors="pt").input_ids
        assert ids.shape[1] == length, f"a caption of {ids.shape[1]} tokens was to be read by T5 in {length}"
        states: Tensor = pipe.text_encoder_3(ids.to(pipe.text_encoder_3.device))[0]
        return states

    @override
    def denoise(self, net: nn.Module, x_t: Tensor, timesteps: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        prediction: Tensor = net(x_t, timestep=timesteps, return_dict=False, **conditioning)[0]
        return prediction


def _plain(caption: str, weighted: bool, breaks: bool) -> str:
    """A caption as T5 reads it."""
    if breaks:
        return without_breaks(caption)
    return without_weights(caption) if weighted else caption
