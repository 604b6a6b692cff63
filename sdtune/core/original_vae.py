"""The autoencoder in the original layout, whose decoder counts its levels from the image inwards."""

from __future__ import annotations

from collections.abc import Collection

from sdtune.core.original_room import How, Room, numbers, rooms_of

PREFIX = "first_stage_model."
_RESNET = (
    ("norm1", "norm1"),
    ("conv1", "conv1"),
    ("norm2", "norm2"),
    ("conv2", "conv2"),
    ("conv_shortcut", "nin_shortcut"),
)
_ATTENTION = (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out"))
OLDER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""what diffusers called the layers of an attention before, as folders of that time have it"""


def rooms(names: Collection[str]) -> list[Room]:
    """Of an autoencoder whose tensors diffusers names so."""
    downs = numbers(names, r"encoder\.down_blocks\.(\d+)\.")
    ups = numbers(names, r"decoder\.up_blocks\.(\d+)\.")
    layers = numbers(names, r"(?:encoder\.down|decoder\.up)_blocks\.\d+\.resnets\.(\d+)\.")
    return _rooms(len(downs), len(ups), max(layers, default=-1) + 1, flat=True)


def rooms_of_file(keys: Collection[str], *, flat: bool) -> list[Room]:
    """Of one whose tensors have these names in the original layout, without what all begin with.

    `flat` is whether its attention is of 1x1 convolutions, as it was published, or of matrices.
    """
    downs = numbers(keys, r"encoder\.down\.(\d+)\.")
    ups = numbers(keys, r"decoder\.up\.(\d+)\.")
    layers = numbers(keys, r"(?:encoder\.down|decoder\.up)\.\d+\.block\.(\d+)\.")
    return _rooms(len(downs), len(ups), max(layers, default=-1) + 1, flat=flat)


def _rooms(downs: int, ups: int, layers: int, *, flat: bool) -> list[Room]:
    pairs = [(name, name) for name in ("quant_conv", "post_quant_conv")]
    attentions = []
    for side in ("encoder", "decoder"):
        pairs += [(f"{side}.{name}", f"{side}.{name}") for name in ("conv_in", "conv_out")]
        pairs.append((f"{side}.conv_norm_out", f"{side}.norm_out"))
        for middle in (0, 1):
            pairs += _resnet(f"{side}.mid_block.resnets.{middle}", f"{side}.mid.block_{middle + 1}")
        name, key = f"{side}.mid_block.attentions.0", f"{side}.mid.attn_1"
        pairs.append((f"{name}.group_norm", f"{key}.norm"))
        attentions += [(f"{name}.{own}", f"{key}.{original}") for own, original in _ATTENTION]
    for block in range(downs):
        name, key = f"encoder.down_blocks.{block}", f"encoder.down.{block}"
        pairs.append((f"{name}.downsamplers.0", f"{key}.downsample"))
        for layer in range(layers):
            pairs += _resnet(f"{name}.resnets.{layer}", f"{key}.block.{layer}")
    for block in range(ups):
        name, key = f"decoder.up_blocks.{block}", f"decoder.up.{ups - 1 - block}"
        pairs.append((f"{name}.upsamplers.0", f"{key}.upsample"))
        for layer in range(layers):
            pairs += _resnet(f"{name}.resnets.{layer}", f"{key}.block.{layer}")
    how: How = "flat" if flat else "plain"
    return rooms_of(pairs, "vae", PREFIX) + [Room((f"vae.{name}",), f"{PREFIX}{key}", how) for name, key in attentions]


def _resnet(name: str, key: str) -> list[tuple[str, str]]:
    return [(f"{name}.{own}", f"{key}.{original}") for own, original in _RESNET]
