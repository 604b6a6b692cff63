"""Pipelines written as one .safetensors file in the layout in which Stable Diffusion was first published."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Weights = dict[str, torch.Tensor]


def save(pipe: Any, family: str, path: Path, metadata: dict[str, str] | None = None, **more: torch.Tensor) -> Path:
    """The whole pipeline (sd1, sd2 or sdxl) in one file; more are tensors to put in as they are."""
    unet = pipe.unet.state_dict()
    weights = {f"model.diffusion_model.{_unet(key, unet)}": value for key, value in unet.items()}
    for key, value in pipe.vae.state_dict().items():
        convolution = re.search(r"attentions.*(to_[qkv]|to_out\.0)\.weight$", key)
        weights[f"first_stage_model.{_vae(key)}"] = value[:, :, None, None] if convolution else value
    if family == "sd2":
        weights |= _open_clip(pipe.text_encoder, "cond_stage_model.model.")
    else:
        prefix = "conditioner.embedders.0" if family == "sdxl" else "cond_stage_model"
        for key, value in pipe.text_encoder.state_dict().items():
            weights[f"{prefix}.transformer.text_model.{key.removeprefix('text_model.')}"] = value
    if family == "sdxl":
        weights |= _open_clip(pipe.text_encoder_2, "conditioner.embedders.1.model.")
    save_file({key: value.contiguous().clone() for key, value in (weights | more).items()}, path, metadata)
    return path


def _replaced(key: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        key = re.sub(old, new, key)
    return key


def _unet(key: str, every: Weights) -> str:
    if ".resnets." in key:
        key = _replaced(
            key,
            (r"norm1", "in_layers.0"),
            (r"conv1", "in_layers.2"),
            (r"norm2", "out_layers.0"),
            (r"conv2", "out_layers.3"),
            (r"time_emb_proj", "emb_layers.1"),
            (r"conv_shortcut", "skip_connection"),
        )
    found = re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.*)", key)
    if found:
        side, block, kind, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
        if kind == "downsamplers":
            return f"input_blocks.{3 * block + 3}.0.op.{rest.removeprefix('conv.')}"
        if kind == "upsamplers":
            attends = f"up_blocks.{block}.attentions.2.norm.weight" in every
            return f"output_blocks.{3 * block + 2}.{2 if attends else 1}.{rest}"
        number = 3 * block + layer + (1 if side == "down" else 0)
        return f"{'input' if side == 'down' else 'output'}_blocks.{number}.{int(kind == 'attentions')}.{rest}"
    return _replaced(
        key,
        (r"^mid_block\.resnets\.0", "middle_block.0"),
        (r"^mid_block\.attentions\.0", "middle_block.1"),
        (r"^mid_block\.resnets\.1", "middle_block.2"),
        (r"^conv_in", "input_blocks.0.0"),
        (r"^conv_norm_out", "out.0"),
        (r"^conv_out", "out.2"),
        (r"^time_embedding\.linear_1", "time_embed.0"),
        (r"^time_embedding\.linear_2", "time_embed.2"),
        (r"^add_embedding\.linear_1", "label_emb.0.0"),
        (r"^add_embedding\.linear_2", "label_emb.0.2"),
    )


def _vae(key: str) -> str:
    key = re.sub(r"up_blocks\.(\d)", lambda found: f"up.{3 - int(found[1])}", key)
    return _replaced(
        key,
        (r"down_blocks\.(\d)", r"down.\1"),
        (r"mid_block\.resnets\.0", "mid.block_1"),
        (r"mid_block\.resnets\.1", "mid.block_2"),
        (r"mid_block\.attentions\.0", "mid.attn_1"),
        (r"resnets\.(\d)", r"block.\1"),
        (r"(down|up)samplers\.0", r"\1sample"),
        (r"conv_shortcut", "nin_shortcut"),
        (r"conv_norm_out", "norm_out"),
        (r"group_norm", "norm"),
        (r"to_([qkv])\.", r"\1."),
        (r"to_out\.0", "proj_out"),
    )


def _open_clip(encoder: Any, prefix: str) -> Weights:
    """Query, key and value in one matrix, and other names."""
    state = {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}
    weights = {}
    for key, value in state.items():
        if ".self_attn.q_proj." in key:
            parts = [state[key.replace("q_proj", f"{one}_proj")] for one in "qkv"]
            name = key.replace("self_attn.q_proj.", "attn.in_proj_")
            value = torch.cat(parts)
        elif re.search(r"\.self_attn\.[kv]_proj\.", key):
            continue
        else:
            name = key.replace("self_attn.", "attn.")
        name = _replaced(
            name,
            (r"^encoder\.layers", "transformer.resblocks"),
            (r"layer_norm([12])", r"ln_\1"),
            (r"mlp\.fc1", "mlp.c_fc"),
            (r"mlp\.fc2", "mlp.c_proj"),
            (r"^embeddings\.token_embedding", "token_embedding"),
            (r"^embeddings\.position_embedding\.weight", "positional_embedding"),
            (r"^final_layer_norm", "ln_final"),
            (r"^text_projection\.weight", "text_projection"),
        )
        weights[prefix + name] = value.T if name == "text_projection" else value
    return weights
