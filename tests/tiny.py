"""Whole random models of every family, in about a second, without downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils import logging as transformers_logging

for logging in (diffusers_logging, transformers_logging):
    logging.disable_progress_bar()
    logging.set_verbosity_error()

WIDTH = 32
"""of the text models, and of every level of the denoisers"""


def pipeline(family: str, *, prediction: str | None = None, seed: int = 0) -> Any:
    """A family's pipeline with random weights; prediction is a diffusers prediction_type other than the usual."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return {"sd1": _sd1, "sd2": _sd2, "sdxl": _sdxl, "sd3": _sd3}[family](prediction)


def inpainting_pipeline(family: str, *, seed: int = 0) -> Any:
    """The same of sd1 or sdxl whose U-Net has 9 channels in."""
    kind = {"sd1": StableDiffusionInpaintPipeline, "sdxl": StableDiffusionXLInpaintPipeline}[family]
    options = {"sd1": {"requires_safety_checker": False}, "sdxl": {"add_watermarker": False}}[family]
    plain = pipeline(family, seed=seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel.from_config(plain.unet.config, in_channels=9).eval()
    return kind(**(plain.components | {"unet": unet}), **options)


def saved(family: str, folder: Path, **options: Any) -> Path:
    """A family's pipeline in diffusers' layout on disk."""
    return saved_pipeline(pipeline(family, **options), folder)


def saved_pipeline(pipe: Any, folder: Path) -> Path:
    """A pipeline in diffusers' layout on disk, its text encoders keyed as files in the world are (text_model.)."""
    pipe.save_pretrained(folder)
    for file in folder.glob("text_encoder*/model.safetensors"):
        weights = {"text_model." + key.removeprefix("text_model."): value for key, value in load_file(file).items()}
        weights |= {key[11:]: weights.pop(key) for key in list(weights) if key.startswith("text_model.text_projection")}
        save_file(weights, file, {"format": "pt"})
    return folder


def tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer that knows letters, and a few merges."""
    letters = sorted(ByteLevel.alphabet())
    merges = [("a", "p"), ("ap", "p"), ("l", "e</w>"), ("app", "le</w>"), ("r", "e"), ("re", "d</w>")]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *(a + b for a, b in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer({token: i for i, token in enumerate(tokens)}, merges, model_max_length=77)


def _text_config(**options: Any) -> CLIPTextConfig:
    vocabulary = tokenizer().get_vocab()
    settings = {
        "vocab_size": len(vocabulary),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "projection_dim": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "bos_token_id": vocabulary["<|startoftext|>"],
        "eos_token_id": vocabulary["<|endoftext|>"],
        "pad_token_id": vocabulary["<|endoftext|>"],
    }
    return CLIPTextConfig(**(settings | options))


def _second_text_config() -> CLIPTextConfig:
    """OpenCLIP's, wider than the first, as in the released models."""
    return _text_config(hidden_size=2 * WIDTH, projection_dim=2 * WIDTH, hidden_act="gelu")


def _vae(channels: int = 4, **options: Any) -> AutoencoderKL:
    levels = 4  # 8x down
    return AutoencoderKL(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=channels,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=64,
        **options,
    )


def _unet(**options: Any) -> UNet2DConditionModel:
    settings = {
        "block_out_channels": (WIDTH, WIDTH),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 2,
        "cross_attention_dim": WIDTH,
        "layers_per_block": 2,  # as in every released U-Net; the original layout's numbers build on it
        "norm_num_groups": 8,
        "sample_size": 8,
    }
    return UNet2DConditionModel(**(settings | options))


def _scheduler(prediction: str) -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )


def _sd(prediction: str, text: CLIPTextConfig, **unet: Any) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=tokenizer(),
        unet=_unet(**unet),
        scheduler=_scheduler(prediction),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _sd1(prediction: str | None) -> StableDiffusionPipeline:
    return _sd(prediction or "epsilon", _text_config())


def _sd2(prediction: str | None) -> StableDiffusionPipeline:
    text = _text_config(hidden_act="gelu")
    return _sd(prediction or "v_prediction", text, use_linear_projection=True, attention_head_dim=(2, 4))


def _sdxl(prediction: str | None) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline(
        vae=_vae(scaling_factor=0.13025),
        text_encoder=CLIPTextModel(_text_config()).eval(),
        text_encoder_2=CLIPTextModelWithProjection(_second_text_config()).eval(),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=_unet(
            block_out_channels=(WIDTH, WIDTH, WIDTH),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=(2, 4, 4),
            transformer_layers_per_block=(1, 1, 2),
            cross_attention_dim=3 * WIDTH,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 2 * WIDTH,
        ),
        scheduler=_scheduler(prediction or "epsilon"),
        add_watermarker=False,
    )


def _sd3(prediction: str | None) -> StableDiffusion3Pipeline:
    assert prediction is None, "a flow has one prediction"
    return StableDiffusion3Pipeline(
        vae=_vae(16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=CLIPTextModelWithProjection(_text_config()).eval(),
        text_encoder_2=CLIPTextModelWithProjection(_second_text_config()).eval(),
        text_encoder_3=None,
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        tokenizer_3=None,
        transformer=SD3Transformer2DModel(
            sample_size=8,
            num_layers=2,
            attention_head_dim=WIDTH // 2,
            num_attention_heads=2,
            joint_attention_dim=4 * WIDTH,
            caption_projection_dim=WIDTH,
            pooled_projection_dim=3 * WIDTH,
            pos_embed_max_size=16,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
