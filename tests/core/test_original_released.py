"""The original layout of models of the released shapes, without their weights: as many tensors as were published."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from diffusers.loaders import single_file_utils
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from sdtune.core.families import families
from tests.core.test_original import DENOISER, as_diffusers, as_file, named, shapes_of
from tools.gpu.shapes import DENOISERS

SD1_UNET = {"block_out_channels": (320, 640, 1280, 1280), **DENOISERS["sd1"]}
SD2_UNET = SD1_UNET | DENOISERS["sd2"]
SDXL_UNET = DENOISERS["sdxl"]
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
SD3_VAE = VAE | {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
SD3_MEDIUM = {
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "in_channels": 16,
    "out_channels": 16,
    "pos_embed_max_size": 192,
}
SD35_MEDIUM = SD3_MEDIUM | {
    "dual_attention_layers": tuple(range(13)),
    "qk_norm": "rms_norm",
    "pos_embed_max_size": 384,
}
SD35_LARGE = SD3_MEDIUM | {
    "num_layers": 38,
    "num_attention_heads": 38,
    "caption_projection_dim": 2432,
    "qk_norm": "rms_norm",
}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768}
CLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
}
CLIP_H = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 23}
T5 = {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "feed_forward_proj": "gated-gelu"}


@cache
def released(model: str) -> tuple[str, dict[str, Any]]:
    """A released model's family and its parts without their weights."""
    with torch.device("meta"):
        return _released(model)


def _released(model: str) -> tuple[str, dict[str, Any]]:
    if model in ("sd15", "sd21"):
        unet, text = (SD1_UNET, CLIP_L) if model == "sd15" else (SD2_UNET, CLIP_H)
        parts = {"unet": UNet2DConditionModel(**unet), "text_encoder": CLIPTextModel(CLIPTextConfig(**text))}
        return ("sd1" if model == "sd15" else "sd2"), parts | {"vae": AutoencoderKL(**VAE)}
    both = {"text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**CLIP_G))}
    if model == "sdxl":
        both["text_encoder"] = CLIPTextModel(CLIPTextConfig(**CLIP_L))
        return "sdxl", both | {"unet": UNet2DConditionModel(**SDXL_UNET), "vae": AutoencoderKL(**VAE)}
    both["text_encoder"] = CLIPTextModelWithProjection(CLIPTextConfig(**CLIP_L))
    transformer = {"sd3": SD3_MEDIUM, "sd35-medium": SD35_MEDIUM, "sd35-large": SD35_LARGE}[model]
    parts = {"transformer": SD3Transformer2DModel(**transformer), "vae": AutoencoderKL(**SD3_VAE)}
    return "sd3", both | parts | {"text_encoder_3": T5EncoderModel(T5Config(**T5))}


@pytest.mark.parametrize(
    ("model", "counts"),
    [
        ("sd15", {DENOISER: 686, "first_stage_model.": 248, "cond_stage_model.transformer.text_model.": 196}),
        ("sd21", {DENOISER: 686, "first_stage_model.": 248, "cond_stage_model.model.": 292}),
        (
            "sdxl",
            {
                DENOISER: 1680,
                "first_stage_model.": 248,
                "conditioner.embedders.0.transformer.text_model.": 196,
                "conditioner.embedders.1.model.": 389,
            },
        ),
        ("sd3", {DENOISER: 491, "first_stage_model.": 244, "text_encoders.clip_l.": 197, "text_encoders.clip_g.": 517}),
        ("sd35-medium", {DENOISER: 665, "first_stage_model.": 244, "text_encoders.t5xxl.transformer.": 219}),
        ("sd35-large", {DENOISER: 923, "first_stage_model.": 244, "text_encoders.t5xxl.transformer.": 219}),
    ],
)
def test_released_models_have_the_tensors_that_were_published(model: str, counts: dict[str, int]) -> None:
    family, parts = released(model)
    weights = named(parts)
    tensors = as_file(family, weights)
    for prefix, count in counts.items():
        assert sum(key.startswith(prefix) for key in tensors) == count, prefix
    assert shapes_of(as_diffusers(family, tensors)) == shapes_of(weights)
    assert families()[family].recognises(shapes_of(tensors))
    if family == "sd3":
        theirs = single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers(dict(tensors))
        assert shapes_of(theirs) == shapes_of(parts["transformer"].state_dict())
    else:
        theirs = single_file_utils.convert_ldm_unet_checkpoint(dict(tensors), dict(parts["unet"].config))
        assert shapes_of(theirs) == shapes_of(parts["unet"].state_dict())
    theirs = single_file_utils.convert_ldm_vae_checkpoint(dict(tensors), dict(parts["vae"].config))
    assert shapes_of(theirs) == shapes_of(parts["vae"].state_dict())


def test_released_names_by_example() -> None:
    sd15, sdxl = (as_file(family, named(parts)) for family, parts in map(released, ("sd15", "sdxl")))
    assert sd15[f"{DENOISER}output_blocks.2.1.conv.weight"].shape == (1280, 1280, 3, 3)
    assert sd15[f"{DENOISER}output_blocks.8.2.conv.weight"].shape == (640, 640, 3, 3)
    assert sd15[f"{DENOISER}input_blocks.1.1.proj_in.weight"].shape == (320, 320, 1, 1)
    assert sdxl[f"{DENOISER}input_blocks.4.1.proj_in.weight"].shape == (640, 640)
    assert sdxl[f"{DENOISER}input_blocks.3.0.op.weight"].shape == (320, 320, 3, 3)
    assert sdxl[f"{DENOISER}output_blocks.5.2.conv.weight"].shape == (640, 640, 3, 3)
    assert sdxl["conditioner.embedders.1.model.transformer.resblocks.31.attn.in_proj_weight"].shape == (3840, 1280)
    assert sdxl["conditioner.embedders.1.model.positional_embedding"].shape == (77, 1280)
    assert sdxl["first_stage_model.decoder.up.3.upsample.conv.weight"].shape == (512, 512, 3, 3)
