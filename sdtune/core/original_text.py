"""Text encoders in the original layout: CLIP as transformers has it, OpenCLIP under names of its own."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from sdtune.core.families import Family
from sdtune.core.families.base import Shapes
from sdtune.core.original_room import Room, numbers

_OPEN_LAYER = (
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("self_attn.out_proj", "attn.out_proj"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
)
_OPEN_ENDS = (
    ("embeddings.token_embedding", "token_embedding"),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("final_layer_norm", "ln_final"),
)
_RELEASED_LAYERS = 24
"""of the OpenCLIP in SD2, the last of which nothing reads, so that diffusers has 23"""


@dataclass(frozen=True)
class _Encoder:
    """A text encoder of a family, and where files have it."""

    part: str
    prefix: str
    open_clip: bool = False
    projects: bool = False
    older: str | None = None
    """what its keys begin with in some files"""


_ENCODERS = {
    "sd1": (_Encoder("text_encoder.text_model", "cond_stage_model.transformer.text_model.", older="text_model."),),
    "sd2": (_Encoder("text_encoder", "cond_stage_model.model.", open_clip=True),),
    "sdxl": (
        _Encoder("text_encoder.text_model", "conditioner.embedders.0.transformer.text_model."),
        _Encoder("text_encoder_2", "conditioner.embedders.1.model.", open_clip=True, projects=True),
    ),
    "sd3": (
        _Encoder("text_encoder", "text_encoders.clip_l.transformer."),
        _Encoder("text_encoder_2", "text_encoders.clip_g.transformer."),
        _Encoder("text_encoder_3", "text_encoders.t5xxl.transformer."),
    ),
}


def rooms(family: Family, names: Collection[str]) -> list[Room]:
    """Of text encoders whose tensors diffusers names so (text_encoder.text_model.final_layer_norm.weight ...)."""
    found = []
    for encoder in _ENCODERS[family.name]:
        layers = numbers(names, rf"{encoder.part}\.text_model\.encoder\.layers\.(\d+)\.")
        found += _open_rooms(encoder, layers) if encoder.open_clip else _plain_rooms(encoder, encoder.prefix)
    return found


def rooms_of_file(family: Family, shapes: Shapes) -> list[Room]:
    """Of a file with these tensors, as the file names them."""
    found = []
    for encoder in _ENCODERS[family.name]:
        if encoder.open_clip:
            keys = [key.removeprefix(encoder.prefix) for key in shapes if key.startswith(encoder.prefix)]
            layers = numbers(keys, r"transformer\.resblocks\.(\d+)\.")
            if not encoder.projects and ("text_projection" in keys or len(layers) == _RELEASED_LAYERS):
                del layers[-1:]
            found += _open_rooms(encoder, layers)
        else:
            older = encoder.older and not any(key.startswith(encoder.prefix) for key in shapes)
            found += _plain_rooms(
                encoder, encoder.prefix.removesuffix(encoder.older or "") if older else encoder.prefix
            )
    return found


def copies(family: Family, keys: Collection[str]) -> dict[str, str]:
    """{key: which it copies} of the layer of SD2's OpenCLIP that nothing reads, where a file would end before it.

    stable-diffusion.cpp loads no file without (its issue 28); any other program takes it, and reads it no more.
    """
    found: dict[str, str] = {}
    for encoder in _ENCODERS[family.name]:
        stem = f"{encoder.prefix}transformer.resblocks."
        if encoder.open_clip and not encoder.projects:
            layers = numbers(keys, rf"{re.escape(stem)}(\d+)\.")
            last, unread = f"{stem}{_RELEASED_LAYERS - 2}.", f"{stem}{_RELEASED_LAYERS - 1}."
            if len(layers) == _RELEASED_LAYERS - 1:
                found |= {unread + key.removeprefix(last): key for key in keys if key.startswith(last)}
    return found


def _plain_rooms(encoder: _Encoder, prefix: str) -> list[Room]:
    return [Room((encoder.part,), prefix.removesuffix("."))]


def _open_rooms(encoder: _Encoder, layers: Collection[int]) -> list[Room]:
    """Query, key and value are one matrix there, and the projection is a matrix to multiply from the right."""
    model, prefix = f"{encoder.part}.text_model", encoder.prefix
    found = [Room((f"{model}.{name}",), f"{prefix}{key}") for name, key in _OPEN_ENDS]
    for layer in layers:
        name, key = f"{model}.encoder.layers.{layer}", f"{prefix}transformer.resblocks.{layer}"
        found += [Room((f"{name}.{own}",), f"{key}.{original}") for own, original in _OPEN_LAYER]
        for kind in ("weight", "bias"):
            inputs = tuple(f"{name}.self_attn.{one}_proj.{kind}" for one in "qkv")
            found.append(Room(inputs, f"{key}.attn.in_proj_{kind}"))
    if encoder.projects:
        found.append(Room((f"{encoder.part}.text_projection.weight",), f"{prefix}text_projection", "transposed"))
    return found
