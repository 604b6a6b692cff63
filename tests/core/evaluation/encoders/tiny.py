"""Tiny random models of the kinds that encoders load, saved as the hub keeps them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BitImageProcessorPil,
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from tests import tiny

HEADS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
LENGTH = 16  # tokens that SigLIP reads; 64 in released ones


def saved(kind: str, folder: Path) -> Path:
    """A folder with a model of this model_type, as its hub page has it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        KINDS[kind](folder)
    return folder


def _clip(folder: Path) -> None:
    words = tiny.tokenizer()
    marks = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    text = {"vocab_size": len(words), **HEADS, **marks}
    vision = {**HEADS, "image_size": 32, "patch_size": 16}
    _save(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)), folder)
    words.save_pretrained(folder)
    pixels = {  # as they were written when processors were feature extractors
        "crop_size": 32,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "size": 32,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))


def _siglip(folder: Path) -> None:
    words = _gemma(folder)
    vision = {**HEADS, "image_size": 32, "patch_size": 16}
    _save(SiglipModel(SiglipConfig(text_config=_siglip_text(words), vision_config=vision)), folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}, resample=2).save_pretrained(folder)


def _siglip2(folder: Path) -> None:
    words = _gemma(folder)
    vision = {**HEADS, "num_patches": 16, "patch_size": 8}
    _save(Siglip2Model(Siglip2Config(text_config=_siglip_text(words), vision_config=vision)), folder)
    Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16).save_pretrained(folder)


def _siglip_text(words: int) -> dict[str, Any]:
    return {"vocab_size": words, **HEADS, "projection_size": 32, "max_position_embeddings": LENGTH}


def _dinov2(folder: Path) -> None:
    _save(Dinov2Model(Dinov2Config(**_dino())), folder)
    _dino_pixels(folder)


def _dinov2_with_registers(folder: Path) -> None:
    _save(Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**_dino(), num_register_tokens=3)), folder)
    _dino_pixels(folder)


def _dino() -> dict[str, Any]:
    heads = {name: value for name, value in HEADS.items() if name != "intermediate_size"}
    return {**heads, "mlp_ratio": 2, "image_size": 28, "patch_size": 14, "layerscale_value": 1.0}


def _dino_pixels(folder: Path) -> None:
    size, crop = {"shortest_edge": 32}, {"height": 28, "width": 28}
    BitImageProcessorPil(size=size, crop_size=crop).save_pretrained(folder)


def _save(model: Any, folder: Path) -> None:
    """With weights that tell pictures and texts apart."""
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.normal_(std=0.3)
    model.save_pretrained(folder)


def _gemma(folder: Path) -> int:
    """A tokenizer as SigLIP 2's files have it, which does not make letters small; returns how many words it has."""
    folder.mkdir(parents=True, exist_ok=True)
    marks = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ,.▁"
    vocabulary = {token: i for i, token in enumerate([*marks, *letters])}
    raw = Tokenizer(models.BPE(vocabulary, [], fuse_unk=True, unk_token="<unk>"))
    raw.normalizer = normalizers.Replace(" ", "▁")
    raw.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    raw.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    raw.add_special_tokens(marks)
    raw.save(str(folder / "tokenizer.json"))
    named = {f"{mark[1:-1]}_token": mark for mark in marks}
    told = {"add_bos_token": False, "add_eos_token": True, "do_lower_case": True, "model_input_names": ["input_ids"]}
    more = {"model_max_length": LENGTH, "padding_side": "right", "tokenizer_class": "GemmaTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**told, **more, **named}))
    return len(vocabulary)


KINDS: dict[str, Callable[[Path], None]] = {
    "clip": _clip,
    "siglip": _siglip,
    "siglip2": _siglip2,
    "dinov2": _dinov2,
    "dinov2_with_registers": _dinov2_with_registers,
}
